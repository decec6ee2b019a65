// SPDX-License-Identifier: Apache-2.0

//! A processor alone, whose node is named by the init-data that the host started it with.

use crate::world::{KINDS, OURS, Session, THEIRS, Table, World, init_data};
use kbs_protocol::init_data::InitDataToml;
use serde_json::{Value, json};

/// Name, the init-data that the machine was started with, what is sent, and why it is refused.
type Case = (
    &'static str,
    fn() -> Option<String>,
    fn() -> Value,
    &'static str,
);

const REGISTER: &str = "the init-data needs";

fn sent(text: &str) -> Value {
    json!({"format": "toml", "body": text})
}

const CASES: &[Case] = &[
    (
        "no text",
        || Some(init_data(OURS)),
        || Value::Null,
        "cpu0 instance-identity=97",
    ),
    ("no register", || None, || sent(&init_data(OURS)), REGISTER),
    (
        "another's register",
        || Some(init_data(THEIRS)),
        || sent(&init_data(OURS)),
        REGISTER,
    ),
    (
        "another's text",
        || Some(init_data(OURS)),
        || sent(&init_data(THEIRS)),
        REGISTER,
    ),
    // Genuine, and it gets its own secret only: ours is not given.
    (
        "another node",
        || Some(init_data(THEIRS)),
        || sent(&init_data(THEIRS)),
        "denied:",
    ),
    (
        "a node that nobody registered",
        || Some(init_data("7f1c0d66-6f0e-4b0e-9a53-0c1f5c5f7a03")),
        || sent(&init_data("7f1c0d66-6f0e-4b0e-9a53-0c1f5c5f7a03")),
        "cpu0 instance-identity=97",
    ),
    (
        "our name in a text that nobody registered",
        || Some(init_data(OURS) + "x = \"1\"\n"),
        || sent(&(init_data(OURS) + "x = \"1\"\n")),
        "cpu0 instance-identity=97",
    ),
    (
        "a blank more",
        || Some(init_data(OURS)),
        || sent(&(init_data(OURS) + "\n")),
        REGISTER,
    ),
    (
        "another algorithm",
        || Some(init_data(OURS)),
        || sent(&init_data(OURS).replace("sha256", "sha512")),
        REGISTER,
    ),
    (
        "an algorithm that is none",
        || Some(init_data(OURS)),
        || sent(&init_data(OURS).replace("sha256", "md5")),
        "",
    ),
    ("no TOML", || Some(init_data(OURS)), || sent("uuid"), ""),
    (
        "no data",
        || Some(init_data(OURS)),
        || sent("version = \"0.1.0\"\nalgorithm = \"sha256\"\n"),
        "",
    ),
    (
        "1 MiB",
        || Some(init_data(OURS)),
        || sent(&"#".repeat(1 << 20)),
        "",
    ),
    (
        "text as a number",
        || Some(init_data(OURS)),
        || json!({"format": "toml", "body": 1}),
        "",
    ),
];

fn evidence(world: &World, session: &Session, sent: &Value) -> Value {
    let mut body = world.signed_over(session, "");
    body["init-data"] = sent.clone();
    body
}

#[test]
fn a_node_is_what_it_was_started_as() {
    let mut table = Table::default();
    for kind in KINDS {
        let mut world = World::with_init_data(kind);
        let ours = world.launch_register;
        for (name, launched, sent, words) in CASES {
            let launched = launched().map(|text| InitDataToml::parse(&text).unwrap());
            world.launch_register =
                launched.map_or([0; 48], |init_data| init_data.launch_register());
            let session = world.session(kind.tee().as_str());
            let outcome = world.outcome(&session, &evidence(&world, &session, &sent()));
            table.refuse(&format!("{kind:?}: {name}"), words, &outcome);
        }
        world.launch_register = ours;
        let session = world.session(kind.tee().as_str());
        let good = evidence(&world, &session, &sent(&init_data(OURS)));
        assert_eq!(world.outcome(&session, &good), "given", "{kind:?}");
    }
    table.end(84);
}

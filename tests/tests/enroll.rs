// SPDX-License-Identifier: Apache-2.0

//! Enrolment as a person meets it: `trustee-agent enroll` against `sheepfold-operator register`, both
//! started as programs, on a software TPM that left its factory with certificates.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "in a test a panic is the report"
)]

use serde_json::Value;
use sheepfold_tests::process::Captured;
use sheepfold_tests::registrar::Registrar;
use sheepfold_tests::swtpm::{Authority, SoftTpm};
use sheepfold_tests::world::World;

/// A node, and a registrar that believes the node's maker. `None`, loudly, where software TPMs cannot be made.
fn world() -> Option<(World, Registrar)> {
    if let Some(program) = SoftTpm::missing().or_else(Authority::missing) {
        eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
        return None;
    }
    let (world, registrar, _) = World::with_registrar().unwrap();
    Some((world, registrar))
}

fn enroll(world: &World, args: &[&str]) -> Captured {
    let agent = world.agent(["enroll"]).args(args);
    agent.env("TSS2_LOG", "all+none").capture().unwrap()
}

fn register(registrar: &Registrar, args: &[&str]) -> Captured {
    registrar.command(args).unwrap().capture().unwrap()
}

fn json(captured: &Captured) -> Value {
    serde_json::from_slice(&captured.stdout).unwrap_or_else(|_| panic!("no JSON: {captured}"))
}

fn stderr(captured: &Captured) -> String {
    String::from_utf8(captured.stderr.clone()).unwrap()
}

#[test]
fn enrolling_twice_says_the_same_and_a_second_key_waits_for_a_person() {
    let Some((world, registrar)) = world() else {
        return;
    };
    let first = enroll(&world, &["--json"]);
    assert_eq!(first.code, Some(0), "{first}");
    let facts = json(&first);
    assert_eq!(facts["state"], "approved");
    assert_eq!(facts["ek_certificate"], true);
    let node = facts["node_id"].as_str().unwrap().to_owned();
    assert_eq!(json(&enroll(&world, &["--json"])), facts, "idempotent");
    let text = enroll(&world, &[]);
    assert!(
        text.stdout.is_empty(),
        "standard output is for programs: {text}"
    );
    assert!(stderr(&text).contains(&node), "{text}");
    let listed = json(&register(&registrar, &["--list"]));
    assert_eq!(
        (&listed["node_id"], &listed["ak_public"]),
        (&facts["node_id"], &facts["ak_public"])
    );
    assert_eq!(listed["ek_sha256"], facts["ek_sha256"]);

    // A new attestation key on the same machine.
    let tpm = &world.tpm;
    tpm.tool(&["evictcontrol", "-Q", "-C", "o", "-c", "0x81010002"])
        .unwrap();
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
    let scheme = "rsa2048:rsassa-sha256:null";
    tpm.tool(&[
        "createprimary",
        "-Q",
        "-C",
        "o",
        "-G",
        scheme,
        "-a",
        attributes,
        "-c",
        "k",
    ])
    .unwrap();
    tpm.tool(&["evictcontrol", "-Q", "-C", "o", "-c", "k", "0x81010002"])
        .unwrap();
    let held = enroll(&world, &["--json"]);
    assert_eq!(held.code, Some(14), "{held}");
    let facts = json(&held);
    assert_eq!(
        (&facts["ok"], &facts["state"]),
        (&Value::Bool(false), &"held".into())
    );
    let second = facts["node_id"].as_str().unwrap();
    assert_ne!(second, node);
    assert!(
        facts["error"]["advice"]
            .as_str()
            .unwrap()
            .contains("--approve"),
        "{facts}"
    );
    assert_eq!(register(&registrar, &["--approve", second]).code, Some(0));
    assert_eq!(json(&enroll(&world, &["--json"]))["state"], "approved");

    let unknown = "e3b0c442-98fc-8c14-9afb-f4c8996fb924";
    let refused = register(&registrar, &["--approve", unknown]);
    assert_ne!(refused.code, Some(0));
    assert!(stderr(&refused).contains(unknown), "{refused}");
}

#[test]
fn mistakes_have_an_owner_and_a_next_step() {
    let Some((world, _registrar)) = world() else {
        return;
    };
    // The endorsement hierarchy has a password, after the attestation key was made.
    enroll(&world, &[]);
    world
        .tpm
        .tool(&["changeauth", "-c", "e", "secret"])
        .unwrap();
    let locked = enroll(&world, &[]);
    assert_eq!(locked.code, Some(11), "{locked}");
    assert!(stderr(&locked).contains("tpm2_changeauth -c e"), "{locked}");
    world
        .tpm
        .tool(&["changeauth", "-c", "e", "-p", "secret"])
        .unwrap();
    assert_eq!(enroll(&world, &[]).code, Some(0));

    let file = world.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[enroll]", "[enrol]")).unwrap();
    let misspelt = enroll(&world, &[]);
    assert_eq!(misspelt.code, Some(10), "{misspelt}");
    let without: String = text
        .lines()
        .filter(|l| !l.contains("enroll") && !l.contains("registrar"))
        .map(|l| format!("{l}\n"))
        .collect();
    std::fs::write(&file, without).unwrap();
    let nowhere = enroll(&world, &[]);
    assert_eq!(nowhere.code, Some(10), "{nowhere}");
    assert!(stderr(&nowhere).contains("enroll.registrar"), "{nowhere}");
}

#[test]
fn a_registrar_that_would_let_in_nobody_or_anybody_says_so() {
    let Some((world, registrar)) = world() else {
        return;
    };
    let file = registrar.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    let key = format!("{:?}", world.lab.dir().join("tls.key"));
    for (from, to, reason) in [
        ("ek_roots_file = \"roots.pem\"\n", "", "ek_roots_file"),
        ("\"roots.pem\"", "\"nothing.pem\"", "nothing.pem"),
        ("\"roots.pem\"", key.as_str(), "no certificate"),
        ("identity", "idenity", "unknown field"),
    ] {
        std::fs::write(&file, text.replace(from, to)).unwrap();
        let refused = register(&registrar, &["--list"]);
        assert_eq!(refused.code, Some(10), "{refused}");
        assert!(stderr(&refused).contains(reason), "{reason}: {refused}");
    }
}

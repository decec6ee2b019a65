// SPDX-License-Identifier: Apache-2.0
//! `trustee-agent explain` on a node whose secret does not come: one sentence with the reason, and the facts
//! that somebody needs who was woken up by it.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sheepfold_tests::lab;
use sheepfold_tests::process::Captured;
use sheepfold_tests::world::World;

fn explain(world: &World) -> Captured {
    world.agent(["explain"]).capture().unwrap()
}

fn explain_json(world: &World) -> Value {
    let explained = world.agent(["--json", "explain"]).capture().unwrap();
    serde_json::from_slice(&explained.stdout).unwrap()
}

#[track_caller]
fn says(explained: &Captured, code: i32, parts: &[&str]) {
    assert_eq!(
        explained.code,
        Some(code),
        "{explained}\n{}",
        explained.out()
    );
    for part in parts {
        assert!(
            explained.err().contains(part),
            "{part:?} is missing in\n{}",
            explained.err()
        );
    }
}

#[test]
fn a_node_that_is_what_it_should_be() {
    let (world, _, stored) = World::enrolled().unwrap();
    let explained = explain(&world);
    says(
        &explained,
        0,
        &[
            &format!("the KBS gives {} to this node", stored.path),
            "affirming",
        ],
    );
    assert_eq!(explain_json(&world)["ok"], true);
}

/// The KBS gives what is stored, and what is stored opens no disk: the pin refuses it, so `explain` must not
/// say that all is well.
#[test]
fn a_secret_that_the_pin_would_refuse() {
    let (world, _, stored) = World::enrolled().unwrap();
    let path = stored.path.as_str();
    let somebody_elses =
        br#"{"key_type":"oct","key":"0123456789abcdef0123456789abcdef","node":"n2"}"#;
    for (content, reason) in [
        (
            &b"no key at all"[..],
            "the secret stored in the KBS is malformed",
        ),
        (somebody_elses, "the secret belongs to node \"n2\""),
    ] {
        world.lab.admin(&["set-resource", path], content).unwrap();
        says(&explain(&world), 15, &[reason, "the data"]);
        assert_eq!(explain_json(&world)["ok"], false);
    }
}

#[test]
fn another_boot() {
    let (world, node, stored) = World::enrolled().unwrap();
    world.tamper(4).unwrap();
    let explained = explain(&world);
    let fingerprint: String = Sha256::digest(STANDARD.decode(&node.ak_public).unwrap())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let pcr4: String = world.tpm.read_pcrs().unwrap()[4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    says(
        &explained,
        14,
        &[
            "the KBS does not give",
            stored.path.as_str(),
            "what it booted is not approved",
            "warning",
            "executables",
            &fingerprint,
            &pcr4,
            &node.id.to_string(),
            world.lab.url(),
            "the policy",
        ],
    );
    let facts = explain_json(&world);
    assert_eq!(facts["ok"], false);
    assert_eq!(facts["status"], "warning");
    assert_eq!(facts["pcrs"]["4"], json!(pcr4));
    assert_eq!(facts["node_id"], json!(node.id.to_string()));
    // The key is known: what is wrong is the boot alone.
    assert_eq!(facts["recognised_as"], json!(node.id.to_string()));
    assert_eq!(facts["error"]["owner"], "policy");
    assert_eq!(facts["error"]["exit_code"], 14);
}

#[test]
fn an_unknown_key() {
    let (world, node, _) = World::enrolled().unwrap();
    world
        .set_reference_value(&World::shard(&node).unwrap(), &json!({}))
        .unwrap();
    says(
        &explain(&world),
        14,
        &["its attestation key is not registered", "AK SHA-256"],
    );
    assert_eq!(explain_json(&world)["recognised_as"], Value::Null);
}

#[test]
fn a_missing_resource() {
    let (world, _, stored) = World::enrolled().unwrap();
    world
        .lab
        .admin(&["delete-resource", stored.path.as_str()], b"")
        .unwrap();
    says(
        &explain(&world),
        13,
        &["the resource does not exist", stored.path.as_str()],
    );
}

#[test]
fn a_server_of_another_authority() {
    let (mut world, _, _) = World::enrolled().unwrap();
    let other = world.dir().join("another-kbs");
    lab::init(&other).unwrap();
    world.settings.ca_file = Some(other.join("ca.pem"));
    world.configure().unwrap();
    says(
        &explain(&world),
        10,
        &["its certificate is not issued by a configured authority"],
    );
}

#[test]
fn a_machine_without_a_tpm() {
    let (mut world, _, _) = World::enrolled().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    world.settings.tcti = format!("swtpm:host=127.0.0.1,port={nobody}");
    world.configure().unwrap();
    let explained = explain(&world);
    assert_eq!(explained.code, Some(11), "{explained}");
    assert!(explained.err().contains("no TPM answers"), "{explained}");
    assert!(explained.err().contains("this machine"), "{explained}");
}

/// A script that goes on after `attest` must be able to rely on it.
#[test]
fn attest_succeeds_only_where_the_verdict_is_good() {
    let (world, _, _) = World::enrolled().unwrap();
    let attest = || world.agent(["attest"]).capture().unwrap();
    says(&attest(), 0, &["the KBS trusts what this node booted"]);
    world.tamper(4).unwrap();
    says(
        &attest(),
        14,
        &["the KBS does not trust this node", "the policy"],
    );
}

#[test]
fn a_token_from_somewhere_else() {
    let world = World::new().unwrap();
    let payload = json!({ "submods": { "cpu0": {
        "ear.status": "contraindicated",
        "ear.trustworthiness-vector": { "hardware": 97 },
    }}});
    let part = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(payload.to_string());
    let explained = world
        .agent(["explain", "--token", "-"])
        .stdin(format!("e30.{part}.AAAA\n"))
        .capture();
    says(
        &explained.unwrap(),
        0,
        &[
            "its hardware or firmware is not approved",
            "contraindicated",
        ],
    );
}

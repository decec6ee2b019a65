// SPDX-License-Identifier: Apache-2.0
//! Who waits says so, here and in the state of the boot: a Clevis pin that was refused does not ask again at once, and
//! `status` tells a person and a script for whom the node stands still.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Child;

use serde_json::{Value, json};
use sheepfold_tests::process::Captured;
use sheepfold_tests::world::World;

fn state(world: &World) -> Value {
    let text = fs::read(world.run_dir().join("state.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn set_state(world: &World, state: &Value) {
    // As the agent does it: nobody reads half of it.
    let new = world.run_dir().join("new");
    fs::write(&new, state.to_string()).unwrap();
    fs::rename(new, world.run_dir().join("state.json")).unwrap();
}

/// The refusals that the boot remembers.
fn refused(state: &Value) -> Vec<Value> {
    let refused = state["refused"].as_object().unwrap();
    refused.values().cloned().collect()
}

fn encrypt(world: &World, plaintext: &[u8]) -> Vec<u8> {
    let made = world.encrypt(["{}"]).stdin(plaintext).success();
    made.unwrap().stdout
}

fn decrypt(world: &World, token: &[u8]) -> Captured {
    world.run(world.decrypt([]).stdin(token)).unwrap()
}

fn status(world: &World) -> (Option<i32>, Value) {
    let said = world.agent(["--json", "status"]).capture().unwrap();
    let facts = serde_json::from_slice(&said.stdout).unwrap();
    (said.code, facts)
}

/// The next line of a waiting program that has this in it.
fn line_of(child: &mut Child, sentence: &str) -> (String, BufReader<std::process::ChildStderr>) {
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut all = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended: {all}");
        all += &line;
        if line.contains(sentence) {
            return (line, said);
        }
    }
}

/// As `clevis-luks-askpass` does it: again and again, a process each.
#[test]
fn a_refused_pin_does_not_ask_again_at_once() {
    let (world, node, _) = World::enrolled().unwrap();
    let [token, other] = ["a", "b"].map(|text| encrypt(&world, text.as_bytes()));
    assert_eq!(refused(&state(&world)), Vec::<Value>::new());
    world.tamper(4).unwrap();

    let first = decrypt(&world, &token);
    assert_eq!(first.code, Some(1), "{first}");
    assert!(!first.err().contains("refused before"), "{first}");
    let mut known = state(&world);
    assert_eq!(refused(&known).len(), 1);
    assert_eq!(refused(&known)[0]["times"], 1);
    assert_eq!(refused(&known)[0]["reason"]["exit_code"], 14);
    let asked = known["attested"]["at_ms"].as_u64().unwrap();
    assert!(refused(&known)[0]["until_ms"].as_u64().unwrap() > asked);

    // So that this test has time to look: not again before the machine is as old as it can get.
    let id = known["refused"].as_object().unwrap().keys().next().unwrap();
    let id = id.clone();
    known["refused"][&id]["until_ms"] = json!(u64::MAX);
    set_state(&world, &known);
    let mut child = world.decrypt([]).stdin(&*token).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&token).unwrap();
    let (line, mut said) = line_of(&mut child, "refused before");
    assert!(line.contains("asking again in 120 s"), "{line}");

    // Meanwhile: nobody was asked, and whoever looks is told.
    let (code, facts) = loop {
        let (code, facts) = status(&world);
        if facts["boot"]["state"]["waiting"] != json!({}) {
            break (code, facts);
        }
    };
    assert_eq!(code, Some(14), "{facts}");
    let path = format!("default/{}/root", node.id);
    let waiting = &facts["boot"]["state"]["waiting"][&path];
    assert_eq!(waiting["pid"], child.id(), "{facts}");
    assert_eq!(waiting["reason"]["owner"], "policy", "{facts}");
    assert_eq!(state(&world)["attested"]["at_ms"], asked);
    let told = world.agent(["status"]).capture().unwrap();
    assert_eq!(told.code, Some(14), "{told}");
    let shown = format!("waits            for {path}, for ");
    assert!(told.err().contains(&shown), "{told}");
    assert!(told.err().contains("to act           policy: "), "{told}");

    // Another volume of this node has not been refused yet, and a person who asks is answered.
    let another = decrypt(&world, &other);
    assert!(!another.err().contains("refused before"), "{another}");
    let person = world.agent(["explain"]).capture().unwrap();
    assert_eq!(person.code, Some(14), "{person}");

    // Another process has opened the volume.
    let mut known = state(&world);
    known["refused"].as_object_mut().unwrap().remove(&id);
    set_state(&world, &known);
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    let last = state(&world);
    assert_eq!(last["refused"][&id]["times"], 1, "{rest}");
    assert_eq!(last["waiting"], json!({}));
}

#[test]
fn what_was_refused_is_forgotten_with_the_first_success() {
    let (world, _, _) = World::enrolled().unwrap();
    let token = encrypt(&world, b"x");
    // Of a boot in which the door of the KBS was shut for a while.
    let mut known = state(&world);
    let digest = "0".repeat(32);
    known["refused"] = json!({ digest: {
        "times": 3, "until_ms": 0,
        "reason": { "why": "no", "owner": "policy", "exit_code": 14, "advice": "approve it" },
    }});
    set_state(&world, &known);
    assert_eq!(status(&world).0, Some(14));
    assert_eq!(decrypt(&world, &token).stdout, b"x");
    assert_eq!(refused(&state(&world)).len(), 1, "another token's");

    world.tamper(4).unwrap();
    assert_eq!(decrypt(&world, &token).code, Some(1));
    let mut known = state(&world);
    assert_eq!(refused(&known).len(), 2);
    for refused in known["refused"].as_object_mut().unwrap().values_mut() {
        refused["until_ms"] = json!(0);
    }
    set_state(&world, &known);
    let node = world.node().unwrap();
    world.enrol(&node).unwrap();
    assert_eq!(decrypt(&world, &token).stdout, b"x");
    assert_eq!(refused(&state(&world)).len(), 1);
}

/// A server that is away is waited for within each start, and never between two.
#[test]
fn a_server_that_comes_back_is_asked_by_the_next_start() {
    let (mut world, _, _) = World::enrolled().unwrap();
    let token = encrypt(&world, b"x");
    world.settings.overall = "2s";
    world.configure().unwrap();
    world.lab.stop().unwrap();
    let away = decrypt(&world, &token);
    assert_eq!(away.code, Some(1), "{away}");
    assert_eq!(refused(&state(&world)), Vec::<Value>::new());
}

#[test]
fn a_waiting_node_says_for_whom_and_a_killed_one_says_nothing() {
    let (mut world, node, _) = World::enrolled().unwrap();
    assert_eq!(status(&world).0, Some(0));
    world.settings.overall = "0s";
    world.configure().unwrap();
    world.lab.stop().unwrap();
    let mut child = world.agent(["fetch"]).spawn().unwrap();
    let (line, _said) = line_of(&mut child, "waiting for");
    let (code, facts) = status(&world);
    assert_eq!(code, Some(12), "{line}{facts}");
    let waiting = &facts["boot"]["state"]["waiting"][format!("default/{}/root", node.id)];
    assert_eq!(waiting["pid"], child.id());
    assert_eq!(waiting["reason"]["owner"], "network");
    assert!(waiting["next_ms"].as_u64() >= waiting["since_ms"].as_u64());
    let told = world.agent(["status"]).capture().unwrap();
    for sentence in [
        "no connection",
        "to act           network: ",
        "next             try ",
    ] {
        assert!(told.err().contains(sentence), "{sentence}: {told}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(state(&world)["waiting"], json!({}), "it could not say so");
    let (code, facts) = status(&world);
    assert_eq!(code, Some(0), "{facts}");
    assert_eq!(facts["boot"]["state"]["waiting"], json!({}));
}

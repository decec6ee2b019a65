// SPDX-License-Identifier: Apache-2.0
//! `trustee-agent unlock --test` on volumes that the real Clevis bound: everything but the activation, which needs a
//! kernel with a device mapper.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use serde_json::{Value, json};
use sheepfold_tests::luks::Volume;
use sheepfold_tests::process::Captured;
use sheepfold_tests::world::{Node, World};
use std::path::Path;
use std::time::Duration;

const TRUSTEE: [&str; 2] = ["trustee", "{}"];
const SSS: [&str; 2] = ["sss", r#"{"t":1,"pins":{"trustee":{}}}"#];

/// A volume with one key slot, that of Clevis.
fn bound(world: &World, name: &str, [pin, config]: [&str; 2]) -> Volume {
    world.bound_volume(name, pin, config).unwrap()
}

fn test(world: &World, volume: &Path) -> Captured {
    let device = volume.to_str().unwrap();
    world
        .agent([
            "--json", "unlock", "--test", "--name", "root", "--device", device,
        ])
        .capture()
        .unwrap()
}

fn opened(captured: &Captured) -> Value {
    assert_eq!(captured.code, Some(0), "{captured}");
    let facts: Value = serde_json::from_slice(&captured.stdout).unwrap();
    facts["volumes"][0].clone()
}

fn store_vk(world: &World, node: &Node, vk_id: &str) {
    let path = format!("default/{}/root.vk", node.id);
    let body = json!({ "vk_id": vk_id }).to_string();
    world
        .lab
        .admin(&["set-resource", &path], body.as_bytes())
        .unwrap();
}

#[test]
fn a_bound_volume_opens_under_either_pin() {
    let (world, _, _) = World::enrolled().unwrap();
    for (name, pin) in [("direct", TRUSTEE), ("wrapped", SSS)] {
        let volume = bound(&world, name, pin);
        let facts = opened(&test(&world, &volume.path));
        assert_eq!(facts["luks_uuid"].as_str().unwrap().len(), 36);
        assert_eq!(facts["vk_id"].as_str().unwrap().len(), 64);
        assert_eq!(facts["vk_id_known"], false);
    }
}

#[test]
fn an_old_or_foreign_volume_is_told_by_its_key() {
    let (mut world, node, _) = World::enrolled().unwrap();
    let (mine, other) = (
        bound(&world, "mine", TRUSTEE),
        bound(&world, "other", TRUSTEE),
    );
    let facts = opened(&test(&world, &mine.path));
    store_vk(&world, &node, facts["vk_id"].as_str().unwrap());
    assert_eq!(opened(&test(&world, &mine.path))["vk_id_known"], true);
    let swapped = test(&world, &other.path);
    assert_eq!(swapped.code, Some(15), "{swapped}");
    assert!(swapped.err().contains("it is not this node's"), "{swapped}");
    world.settings.unlock = "vk_id = \"required\"\n";
    world.configure().unwrap();
    opened(&test(&world, &mine.path));
    store_vk(&world, &node, "");
    assert_eq!(test(&world, &mine.path).code, Some(15));
}

/// Whoever holds the wire cannot make a volume key unknown that the KBS knows.
#[test]
fn a_record_that_does_not_come_is_not_one_that_is_not_kept() {
    let (mut world, _, _) = World::enrolled().unwrap();
    world.settings.overall = "8s";
    let slow = ["--fault", "delay=resource:2s"];
    world.restart_lab(&slow).unwrap();
    let volume = bound(&world, "volume", TRUSTEE);
    let (quoted, attests) = std::sync::mpsc::channel();
    world.tpm.on_response(move |_, command, _| {
        if command == "Quote" {
            // Nobody listens any more to the quotes of later handshakes.
            let _ = quoted.send(());
        }
    });
    let device = volume.path.to_str().unwrap();
    let agent = world.agent(["unlock", "--test", "--name", "root", "--device", device]);
    let stopped = std::thread::scope(|scope| {
        let agent = scope.spawn(|| agent.capture().unwrap());
        let _ = attests.recv_timeout(Duration::from_secs(20));
        // The secret has come by then, and the record beside it has not.
        std::thread::sleep(Duration::from_secs(3));
        world.lab.stop().unwrap();
        agent.join().unwrap()
    });
    assert_eq!(stopped.code, Some(12), "{stopped}");
}

/// As after a power cut while a volume was bound anew.
#[test]
fn of_two_bindings_the_one_that_opens_counts() {
    let (world, node, _) = World::enrolled().unwrap();
    let volume = Volume::format(&world.node_dir(), "twice").unwrap();
    let [pin, config] = TRUSTEE;
    // In the order in which they lie there, the second one is for what the KBS has.
    for _ in 0..2 {
        world.store_secret(&node).unwrap();
        world.bind(&volume, pin, config).success().unwrap();
    }
    volume.remove_first_key().unwrap();
    opened(&test(&world, &volume.path));
    world.store_secret(&node).unwrap();
    let neither = test(&world, &volume.path);
    assert_eq!(neither.code, Some(15), "{neither}");
}

#[test]
fn a_key_that_must_be_known_is_not_taken_on_trust() {
    let (mut world, _, _) = World::enrolled().unwrap();
    let volume = bound(&world, "volume", TRUSTEE);
    world.settings.unlock = "vk_id = \"required\"\n";
    world.configure().unwrap();
    let refused = test(&world, &volume.path);
    assert_eq!(refused.code, Some(13), "{refused}");
    assert!(
        refused.err().contains("keeps no volume key id"),
        "{refused}"
    );
}

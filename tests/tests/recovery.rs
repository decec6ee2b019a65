// SPDX-License-Identifier: Apache-2.0
//! A passphrase for people: the KBS keeps it, the agent gives it a key slot, and stock tools open the volume with it.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use kbs_protocol::Secret;
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::resource_secret::ResourceSecret;
use serde_json::Value;
use sheepfold_tests::luks::Volume;
use sheepfold_tests::process::{Captured, Run};
use sheepfold_tests::world::{Node, World};
use std::fs;

/// A node whose volume is bound and has no other key slot.
fn bound() -> (World, Node, Volume) {
    let (mut world, node, _) = World::enrolled().unwrap();
    world.settings.unlock =
        "other_keyslots = true\nrecovery = true\n\n[boot]\nconfidential = false\n";
    world.configure().unwrap();
    let volume = world.bound_volume("volume", "trustee", "{}").unwrap();
    (world, node, volume)
}

/// Stores a passphrase as the operator does. What a person finds there, and what is to be hunted for.
fn escrow(world: &World, node: &Node) -> Secret {
    let path: ResourcePath = format!("default/{}/recovery", node.id).parse().unwrap();
    let secret = ResourceSecret::generate(&node.id, &path).unwrap();
    let json = secret.to_json().unwrap();
    let stored = world
        .lab
        .admin(&["set-resource", path.as_str()], json.expose());
    assert_eq!(stored.unwrap().code, Some(0));
    let json: Value = serde_json::from_slice(json.expose()).unwrap();
    Secret::new(json["key"].as_str().unwrap().as_bytes().to_vec())
}

fn recovery(world: &World, volume: &Volume) -> Run {
    let device = volume.path.to_str().unwrap();
    world.agent(["--json", "recovery", "--name", "root", "--device", device])
}

/// Which key slot was made, if one was.
fn added(world: &World, volume: &Volume) -> Option<u64> {
    let run = recovery(world, volume).success().unwrap();
    let facts: Value = serde_json::from_slice(&run.stdout).unwrap();
    facts["volumes"][0]["added_keyslot"].as_u64()
}

fn slots(volume: &Volume) -> Vec<String> {
    let header = volume.header().unwrap();
    let slots = header["keyslots"].as_object().unwrap();
    slots.keys().cloned().collect()
}

fn opens_with(volume: &Volume, passphrase: &Secret) -> Captured {
    volume.test_passphrase(passphrase.expose(), None).unwrap()
}

fn the_node_opens_it(world: &World, volume: &Volume) {
    let device = volume.path.to_str().unwrap();
    let unlock = ["unlock", "--test", "--name", "root", "--device", device];
    let opened = world.agent(unlock).capture().unwrap();
    assert_eq!(opened.code, Some(0), "{opened}");
}

#[test]
fn a_person_opens_the_volume_with_what_the_kbs_keeps() {
    let (world, node, volume) = bound();
    let before = fs::read(&volume.path).unwrap();
    let none = recovery(&world, &volume).capture().unwrap();
    assert_eq!(none.code, Some(13), "{none}");
    assert!(
        none.err().contains("keeps no recovery passphrase"),
        "{none}"
    );
    assert_eq!(
        before,
        fs::read(&volume.path).unwrap(),
        "nothing is written"
    );

    let first = escrow(&world, &node);
    let bound = slots(&volume);
    assert_eq!(added(&world, &volume), Some(0));
    assert_eq!(opens_with(&volume, &first).code, Some(0));
    the_node_opens_it(&world, &volume);
    let both = slots(&volume);
    assert_eq!(both.len(), bound.len() + 1);
    assert_eq!(added(&world, &volume), None, "it has it");
    assert_eq!(slots(&volume), both);

    // A new passphrase takes the place of the old one.
    let second = escrow(&world, &node);
    assert!(added(&world, &volume).is_some());
    assert_eq!(opens_with(&volume, &second).code, Some(0));
    assert_eq!(opens_with(&volume, &first).code, Some(2), "no longer");
    assert_eq!(slots(&volume).len(), both.len());
    the_node_opens_it(&world, &volume);
}

/// A node whose host is the enemy has one way in.
#[test]
fn a_confidential_node_has_no_recovery() {
    let (mut world, node, volume) = bound();
    escrow(&world, &node);
    world.settings.unlock = "other_keyslots = false\nrecovery = true\n";
    world.configure().unwrap();
    let refused = recovery(&world, &volume).capture().unwrap();
    assert_eq!(refused.code, Some(10), "{refused}");
    assert!(refused.err().contains("unlock.recovery"), "{refused}");
    world.settings.unlock = "";
    world.configure().unwrap();
    let refused = recovery(&world, &volume).capture().unwrap();
    assert_eq!(refused.code, Some(10), "{refused}");
    assert_eq!(slots(&volume).len(), 1);
}

#[test]
fn killed_at_any_write_the_volume_opens_and_gets_its_slot() {
    if sheepfold_tests::paths::tool("strace").is_none() {
        eprintln!("SKIPPED: strace is not installed, so nothing was tested here");
        return;
    }
    let (world, node, volume) = bound();
    escrow(&world, &node);
    added(&world, &volume);
    let original = fs::read(&volume.path).unwrap();
    let passphrase = escrow(&world, &node);
    let mut kills = 0_u32;
    loop {
        kills += 1;
        fs::write(&volume.path, &original).unwrap();
        let run = recovery(&world, &volume).killed_at_write(kills).unwrap();
        let ended = run.capture().unwrap();
        the_node_opens_it(&world, &volume);
        if ended.code == Some(0) {
            break;
        }
        recovery(&world, &volume).success().unwrap();
        assert_eq!(opens_with(&volume, &passphrase).code, Some(0));
        the_node_opens_it(&world, &volume);
        assert_eq!(
            slots(&volume).len(),
            2,
            "after {kills} writes something is left over"
        );
    }
    assert!(kills > 6, "only {kills} writes were seen");
}

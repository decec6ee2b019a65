// SPDX-License-Identifier: Apache-2.0
//! A secret is rotated and the node binds its volume anew: the whole program, killed at each of its writes too.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use kbs_protocol::encoding::b64u;
use serde_json::Value;
use sheepfold_tests::luks::Volume;
use sheepfold_tests::process::{Captured, Run};
use sheepfold_tests::world::{Node, World};
use std::fs;

const RECOVERY: &str = "other_keyslots = true\n\n[boot]\nconfidential = false\n";

/// A bound volume with a recovery passphrase beside it, and a secret that was rotated since.
fn rotated() -> (World, Node, Volume, String) {
    let (mut world, node, stored) = World::enrolled().unwrap();
    world.settings.unlock = RECOVERY;
    world.configure().unwrap();
    let volume = Volume::format(&world.node_dir(), "volume").unwrap();
    world.bind(&volume, "trustee", "{}").success().unwrap();
    let kept = format!("{}.{}", stored.path, kid(&volume)[0]);
    world.store_secret(&node).unwrap();
    let stored = world
        .lab
        .admin(&["set-resource", &kept], stored.content.expose());
    assert_eq!(stored.unwrap().code, Some(0));
    (world, node, volume, kept)
}

/// What the tokens say about the key that they want.
fn kid(volume: &Volume) -> Vec<String> {
    let tokens = volume.clevis_tokens().unwrap();
    let kid = |token: &Value| {
        let header = token["jwe"]["protected"].as_str().unwrap();
        let header: Value = serde_json::from_slice(&b64u::decode(header).unwrap()).unwrap();
        header["clevis"]["trustee"]["kid"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    tokens.iter().map(kid).collect()
}

fn on(world: &World, volume: &Volume, args: &[&str]) -> Run {
    let device = volume.path.to_str().unwrap();
    let run = world.agent(args.iter().copied());
    run.args(["--name", "root", "--device", device])
}

fn opens(world: &World, volume: &Volume) -> Captured {
    let opened = on(world, volume, &["unlock", "--test"]).capture().unwrap();
    assert_eq!(opened.code, Some(0), "{opened}");
    opened
}

fn recovery_opens(volume: &Volume) {
    let passphrase = fs::read(&volume.key_file).unwrap();
    let opened = volume.test_passphrase(&passphrase, Some(0)).unwrap();
    assert_eq!(opened.code, Some(0), "{opened}");
}

#[test]
fn a_volume_follows_its_rotated_secret_and_keeps_what_is_not_ours() {
    let (world, _, volume, kept) = rotated();
    let old = kid(&volume);
    let warned = opens(&world, &volume);
    assert!(warned.err().contains("trustee-agent rebind"), "{warned}");
    let rebound = on(&world, &volume, &["--json", "rebind"])
        .success()
        .unwrap();
    let facts: Value = serde_json::from_slice(&rebound.stdout).unwrap();
    assert_eq!(facts["volumes"][0]["keyslot"], 2, "{facts}");
    assert_eq!(
        facts["volumes"][0]["removed_keyslots"],
        serde_json::json!([1])
    );
    let new = kid(&volume);
    assert_eq!(new.len(), 1);
    assert_ne!(new, old);
    recovery_opens(&volume);
    // The operator forgets the old secret.
    world.lab.admin(&["delete-resource", &kept], b"").unwrap();
    let opened = opens(&world, &volume);
    assert!(!opened.err().contains("rotated"), "{opened}");
    // Stock tools read what we wrote.
    let device = volume.path.to_str().unwrap();
    let passphrase = world
        .clevis(["luks", "pass", "-d", device, "-s", "2"])
        .success()
        .unwrap();
    let opened = volume.test_passphrase(&passphrase.stdout, Some(2)).unwrap();
    assert_eq!(opened.code, Some(0), "{opened}");
}

#[test]
fn killed_at_any_write_the_volume_opens_and_can_be_bound_anew() {
    if sheepfold_tests::paths::tool("strace").is_none() {
        eprintln!("SKIPPED: strace is not installed, so nothing was tested here");
        return;
    }
    let (world, _, volume, _) = rotated();
    let original = fs::read(&volume.path).unwrap();
    let mut kills = 0_u32;
    loop {
        kills += 1;
        fs::write(&volume.path, &original).unwrap();
        let run = on(&world, &volume, &["rebind"])
            .killed_at_write(kills)
            .unwrap();
        let ended = run.capture().unwrap();
        opens(&world, &volume);
        recovery_opens(&volume);
        if ended.code == Some(0) {
            break;
        }
        on(&world, &volume, &["rebind"]).success().unwrap();
        opens(&world, &volume);
        assert_eq!(
            kid(&volume).len(),
            1,
            "after {kills} writes something is left over"
        );
    }
    assert!(kills > 6, "only {kills} writes were seen");
}

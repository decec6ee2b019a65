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
use sha2::{Digest as _, Sha256};
use sheepfold_tests::luks::Volume;
use sheepfold_tests::process::{Captured, Run};
use sheepfold_tests::world::{Node, World};
use std::fs;
use std::path::Path;

const TRUSTEE: [&str; 2] = ["trustee", "{}"];
const SSS: [&str; 2] = ["sss", r#"{"t":1,"pins":{"trustee":{}}}"#];

/// A volume with one key slot, that of Clevis.
fn bound(world: &World, name: &str, [pin, config]: [&str; 2]) -> Volume {
    let volume = Volume::format(&world.node_dir(), name).unwrap();
    let (path, key) = (
        volume.path.to_str().unwrap(),
        volume.key_file.to_str().unwrap(),
    );
    world
        .clevis(["luks", "bind", "-f", "-k", key, "-d", path, pin, config])
        .success()
        .unwrap();
    let cryptsetup = sheepfold_tests::paths::tool("cryptsetup").unwrap();
    Run::new(cryptsetup)
        .args(["luksRemoveKey", "--batch-mode", path, key])
        .success()
        .unwrap();
    volume
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

/// Changes the metadata in both copies, and makes the checksums good.
fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut Value)) {
    let mut bytes = fs::read(from).unwrap();
    let size = usize::try_from(u64::from_be_bytes(bytes[8..16].try_into().unwrap())).unwrap();
    let end = bytes[4096..].iter().position(|&byte| byte == 0).unwrap();
    let mut json: Value = serde_json::from_slice(&bytes[4096..4096 + end]).unwrap();
    change(&mut json);
    let text = json.to_string();
    for copy in bytes.chunks_mut(size).take(2) {
        copy[4096..].fill(0);
        copy[4096..4096 + text.len()].copy_from_slice(text.as_bytes());
        copy[448..512].fill(0);
        let sum = Sha256::digest(&*copy);
        copy[448..480].copy_from_slice(&sum);
    }
    fs::write(to, bytes).unwrap();
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

/// What a host does to a header; the answer names it, and the server is not asked.
#[test]
fn a_changed_header_is_refused_before_anybody_is_asked() {
    let (world, _, _) = World::enrolled().unwrap();
    let volume = bound(&world, "volume", TRUSTEE);
    let hostile = world.node_dir().join("hostile");
    type Change = fn(&mut Value);
    let rows: [(&str, Change); 7] = [
        ("cipher_null-ecb", |json| {
            json["segments"]["0"]["encryption"] = json!("cipher_null-ecb")
        }),
        ("which would give it away", |json| {
            json["keyslots"]["1"]["area"]["encryption"] = json!("cipher_null-ecb");
        }),
        ("it has requirements", |json| {
            json["config"]["requirements"] = json!({"mandatory": ["online-reencrypt-v2"]});
        }),
        ("2 digests", |json| {
            json["digests"]["1"] = json["digests"]["0"].clone()
        }),
        ("is not a place for one", |json| {
            json["keyslots"]["1"]["area"]["offset"] = json!("16777216")
        }),
        ("unlock.pbkdf2_iterations", |json| {
            json["keyslots"]["1"]["kdf"]["iterations"] = json!(4_000_000_000_u32);
        }),
        ("unlock.other_keyslots", |json| {
            json["tokens"]["1"] = json!({"type": "systemd-tpm2", "keyslots": []});
        }),
    ];
    for (reason, change) in rows {
        rewrite(&volume.path, &hostile, change);
        let before = world.lab.log();
        let refused = test(&world, &hostile);
        assert_eq!(refused.code, Some(15), "{reason}: {refused}");
        assert!(refused.err().contains(reason), "{reason}: {refused}");
        assert_eq!(world.lab.log(), before, "{reason}: the server was asked");
    }
    // The honest one asks, or the comparison above shows nothing.
    let before = world.lab.log();
    opened(&test(&world, &volume.path));
    assert_ne!(world.lab.log(), before);
}

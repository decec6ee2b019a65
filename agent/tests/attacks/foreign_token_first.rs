// SPDX-License-Identifier: Apache-2.0

//! The host puts a token of its own before the node's, for a key slot that opens with a passphrase it knows.

use super::scene::Scene;
use super::scene::cryptsetup;
use serde_json::json;
use std::fs;

/// The key slot is one that Clevis names, so it is allowed; nobody tries it.
#[test]
fn a_token_of_another_pin_is_passed_over() {
    let scene = Scene::new();
    let device = scene.volume.path.to_str().unwrap();
    let passphrase = scene
        .world
        .clevis(["luks", "pass", "-d", device, "-s", "1"]);
    let key = scene.world.node_dir().join("present");
    fs::write(&key, passphrase.success().unwrap().stdout).unwrap();
    let own = scene.world.node_dir().join("own");
    fs::write(&own, "the host knows it").unwrap();
    let args = [
        "luksAddKey",
        "--batch-mode",
        "--key-slot",
        "0",
        "--key-file",
    ];
    cryptsetup(&args)
        .arg(&key)
        .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])
        .args([&scene.volume.path, &own])
        .success()
        .unwrap();
    // {"alg":"dir","enc":"A256GCM","clevis":{"pin":"tang"}}
    let jwe =
        json!({"protected": TANG, "encrypted_key": "", "iv": "b", "ciphertext": "c", "tag": "d"});
    let hostile = scene.rewritten(|json| {
        let ours = json["tokens"]["0"].clone();
        json["tokens"] = json!({"0": {"type": "clevis", "keyslots": ["0"], "jwe": jwe}, "1": ours});
    });
    assert_eq!(scene.opens(&hostile)["vk_id_known"], true);
    // Without ours there is none that this node would open.
    let hostile = scene.rewritten(|json| {
        json["tokens"] = json!({"0": {"type": "clevis", "keyslots": ["1"], "jwe": jwe}});
        json["keyslots"].as_object_mut().unwrap().remove("0");
        json["digests"]["0"]["keyslots"] = json!(["1"]);
    });
    scene.refused_unasked(&hostile, "for this node: the token is not for this pin");
}

const TANG: &str = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwiY2xldmlzIjp7InBpbiI6InRhbmcifX0";

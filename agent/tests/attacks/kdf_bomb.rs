// SPDX-License-Identifier: Apache-2.0

//! The host has key derivation take hours, or all memory.

use super::scene::Scene;
use serde_json::json;

#[test]
fn key_derivation_has_a_price_list() {
    let scene = Scene::new();
    let hostile = scene.rewritten(|json| {
        json["keyslots"]["1"]["kdf"]["iterations"] = json!(4_000_000_000_u32);
    });
    scene.refused_unasked(&hostile, "unlock.pbkdf2_iterations");
    let hostile = scene.rewritten(|json| {
        let salt = json["keyslots"]["1"]["kdf"]["salt"].clone();
        json["keyslots"]["1"]["kdf"] =
            json!({"type": "argon2id", "time": 4, "memory": 1 << 30, "cpus": 1, "salt": salt});
    });
    scene.refused_unasked(&hostile, "unlock.argon2_memory");
}

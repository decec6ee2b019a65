// SPDX-License-Identifier: Apache-2.0

//! The host has the key slot say that the volume key in it is not encrypted, and puts one there that it knows.

use super::scene::Scene;
use serde_json::json;

#[test]
fn a_key_slot_that_hides_nothing_is_not_opened() {
    let scene = Scene::new();
    let hostile = scene
        .rewritten(|json| json["keyslots"]["1"]["area"]["encryption"] = json!("cipher_null-ecb"));
    scene.refused_unasked(&hostile, "which would give it away");
}

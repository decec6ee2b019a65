// SPDX-License-Identifier: Apache-2.0

//! The host has a key slot lie where it does not fit: over the payload, over the header, beyond the end.

use super::scene::Scene;
use serde_json::json;

#[test]
fn a_key_slot_lies_among_key_slots() {
    let scene = Scene::new();
    for offset in ["16777216", "0", "18446744073709551104"] {
        let hostile =
            scene.rewritten(|json| json["keyslots"]["1"]["area"]["offset"] = json!(offset));
        scene.refused_unasked(&hostile, "is not a place for one");
    }
}

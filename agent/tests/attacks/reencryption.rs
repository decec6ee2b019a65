// SPDX-License-Identifier: Apache-2.0

//! The host has the header say that a re-encryption is under way, which would decrypt the volume at the next chance.

use super::scene::Scene;
use serde_json::json;

#[test]
fn a_volume_on_its_way_to_plain_text_is_not_opened() {
    let scene = Scene::new();
    let hostile = scene.rewritten(|json| {
        json["config"]["requirements"] = json!({"mandatory": ["online-reencrypt-v2"]});
    });
    scene.refused_unasked(&hostile, "it has requirements");
    let second = |flags: bool| {
        scene.rewritten(|json| {
            let mut second = json["segments"]["0"].clone();
            if flags {
                second["flags"] = json!(["backup-previous"]);
            }
            json["segments"]["1"] = second;
        })
    };
    scene.refused_unasked(&second(false), "2 segments");
    scene.refused_unasked(&second(true), "unknown field `flags`");
}

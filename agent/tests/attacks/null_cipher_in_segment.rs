// SPDX-License-Identifier: Apache-2.0

//! The host rewrites the header so that sectors are not encrypted: what the node writes, the host reads.

use super::scene::Scene;
use serde_json::json;

#[test]
fn a_volume_that_encrypts_nothing_is_not_opened() {
    let scene = Scene::new();
    let hostile =
        scene.rewritten(|json| json["segments"]["0"]["encryption"] = json!("cipher_null-ecb"));
    // By the parser's own words: libcryptsetup's view of the header is compared later, which would refuse it too.
    scene.refused_unasked(&hostile, "the volume's cipher is \"cipher_null-ecb\"");
}

// SPDX-License-Identifier: Apache-2.0

//! The host adds a digest of a volume key of its own beside the node's.

use super::scene::Scene;

#[test]
fn a_header_vouches_for_one_key() {
    let scene = Scene::new();
    let hostile = scene.rewritten(|json| json["digests"]["1"] = json["digests"]["0"].clone());
    scene.refused_unasked(&hostile, "2 digests");
}

// SPDX-License-Identifier: Apache-2.0

//! The host puts back a header of before a rotation: the old token, the old key slot.

use super::scene::Scene;
use std::fs;

#[test]
fn an_old_header_wants_a_secret_that_is_gone() {
    let scene = Scene::new();
    let old = scene.world.node_dir().join("old");
    fs::copy(&scene.volume.path, &old).unwrap();
    // `rotate` and `rebound`: the operator keeps the old secret until the volume is bound to the new one.
    let token = &scene.volume.clevis_tokens().unwrap()[0];
    let header = token["jwe"]["protected"].as_str().unwrap();
    let header = kbs_protocol::encoding::b64u::decode(header).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    let kid = header["clevis"]["trustee"]["kid"].as_str().unwrap();
    let kept = format!("{}.{kid}", scene.stored.path);
    let admin = |args: &[&str], body: &[u8]| {
        let done = scene.world.lab.admin(args, body).unwrap();
        assert_eq!(done.code, Some(0), "{done}");
    };
    admin(&["set-resource", &kept], scene.stored.content.expose());
    scene.world.store_secret(&scene.node).unwrap();
    let device = scene.volume.path.to_str().unwrap();
    let rebind = ["rebind", "--name", "root", "--device", device];
    scene.world.agent(rebind).success().unwrap();
    admin(&["delete-resource", &kept], b"");
    scene.opens(&scene.volume.path);
    scene.refused(&old, "not the one that the token was made with");
}

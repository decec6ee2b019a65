// SPDX-License-Identifier: Apache-2.0

//! The host brings a volume of its own whose token names the host's KBS and its authority: the node would attest there, and mount what the host wrote.

use super::scene::Scene;
use super::scene::bound;
use kbs_protocol::encoding::b64u;
use serde_json::{Value, json};
use sheepfold_tests::world::World;
use std::fs;

#[test]
fn the_token_does_not_choose_the_server() {
    let scene = Scene::new();
    let (host, _, _) = World::enrolled().unwrap();
    let theirs = bound(&host, "theirs");
    let asked = host.lab.log();
    scene.refused_unasked(&theirs.path, host.lab.url());
    // The node's own volume, its own path, and another server: alone, or beside the node's.
    let ca = fs::read_to_string(host.lab.ca_file()).unwrap();
    let foreign = json!({ "url": host.lab.url(), "cert": "" });
    let servers = |change: &dyn Fn(&mut Vec<Value>)| {
        scene.rewritten(|json| {
            let protected = &mut json["tokens"]["0"]["jwe"]["protected"];
            let header = b64u::decode(protected.as_str().unwrap()).unwrap();
            let mut header: Value = serde_json::from_slice(&header).unwrap();
            change(header["clevis"]["servers"].as_array_mut().unwrap());
            *protected = json!(b64u::encode(header.to_string()));
        })
    };
    let alone = servers(&|servers| *servers = vec![foreign.clone()]);
    scene.refused_unasked(&alone, host.lab.url());
    let beside = servers(&|servers| servers.push(foreign.clone()));
    scene.refused_unasked(&beside, host.lab.url());
    // The node's server, by the host's authority.
    let authority = servers(&|servers| servers[0]["cert"] = json!(ca));
    scene.refused_unasked(&authority, "certificate");
    assert_eq!(host.lab.log(), asked, "the host's server was asked");
}

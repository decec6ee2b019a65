// SPDX-License-Identifier: Apache-2.0

//! The host brings a volume of its own whose token names the host's KBS and its authority: the node would attest there, and mount what the host wrote.

use super::scene::Scene;
use super::scene::bound;
use sheepfold_tests::world::World;

#[test]
fn the_token_does_not_choose_the_server() {
    let scene = Scene::new();
    let (host, _, _) = World::enrolled().unwrap();
    let theirs = bound(&host, "theirs");
    let asked = host.lab.log();
    scene.refused_unasked(&theirs.path, host.lab.url());
    assert_eq!(host.lab.log(), asked, "the host's server was asked");
}

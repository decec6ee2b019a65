// SPDX-License-Identifier: Apache-2.0

//! The host brings a volume whose token names the right KBS, and the secret of something else there.

use super::scene::Scene;
use super::scene::bound_with;

#[test]
fn the_token_does_not_choose_the_path() {
    let mut scene = Scene::new();
    let other = scene
        .world
        .store_secret_at(&scene.node, "default/{node}/other")
        .unwrap();
    // The volume is made where the configuration allows it.
    scene.world.settings.path = "default/{node}/{volume}".to_owned();
    scene.world.configure().unwrap();
    let config = format!("{{\"path\":\"{}\"}}", other.path);
    let theirs = bound_with(&scene.world, "theirs", &config);
    // With a path for each volume it is the wrong one for this name, with one path for all it is no path of this node's.
    scene.refused_unasked(&theirs.path, "has a token for");
    scene.world.settings.path = "default/{node}/root".to_owned();
    scene.world.configure().unwrap();
    scene.refused_unasked(&theirs.path, other.path.as_str());
}

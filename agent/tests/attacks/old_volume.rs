// SPDX-License-Identifier: Apache-2.0

//! The host puts an older disk of this node in the place of the present one, or one that was made with a secret of this node: header, token and secret are as good.

use super::scene::Scene;
use super::scene::bound;

#[test]
fn a_volume_is_known_by_its_key() {
    let scene = Scene::new();
    let older = bound(&scene.world, "older");
    scene.refused(&older.path, "it is not this node's");
}

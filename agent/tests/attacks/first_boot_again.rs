// SPDX-License-Identifier: Apache-2.0

//! The host has a node that is in use boot as if for the first time: the volume is made anew, and the host may have prepared what is copied into it.

use super::scene::Scene;
use super::scene::bound;

/// The disk is lost, which a host can always do; the secret opens nothing new, and the record stays.
#[test]
fn a_second_first_boot_ends_where_the_volume_is_compared() {
    let scene = Scene::new();
    let again = bound(&scene.world, "again");
    let ended = scene.unlock(&again.path, &["--record"]);
    assert_eq!(ended.code, Some(15), "{ended}");
    assert!(ended.err().contains("it is not this node's"), "{ended}");
    assert!(
        !scene.world.run_dir().join("volumes.json").exists(),
        "nothing was signed"
    );
}

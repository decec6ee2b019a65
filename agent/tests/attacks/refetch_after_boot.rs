// SPDX-License-Identifier: Apache-2.0

//! Root of the booted system attests again and asks for the disk's secret, to open a copy of the disk elsewhere.

use super::scene::Scene;

#[test]
fn the_booted_system_is_refused() {
    let scene = Scene::new();
    let fetch = || scene.world.run(scene.world.agent(["fetch"])).unwrap();
    assert!(!fetch().stdout.is_empty(), "before the seal");
    scene.world.agent(["seal"]).success().unwrap();
    let refused = fetch();
    assert_eq!(refused.code, Some(14), "{refused}");
    assert!(refused.stdout.is_empty(), "{refused}");
    assert!(refused.err().contains("the policy"), "{refused}");
}

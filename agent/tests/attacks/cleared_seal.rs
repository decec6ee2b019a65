// SPDX-License-Identifier: Apache-2.0

//! Root of the booted system deletes or rewrites what the agent remembers of the seal.

use super::scene::Scene;
use std::fs;

#[test]
fn the_register_remembers_what_the_file_forgets() {
    let scene = Scene::new();
    let state = scene.world.run_dir().join("state.json");
    let open = fs::read(&state).unwrap();
    scene.world.agent(["seal"]).success().unwrap();
    assert_ne!(fs::read(&state).unwrap(), open);
    let forget: [&dyn Fn(); 2] = [&|| fs::remove_file(&state).unwrap(), &|| {
        fs::write(&state, &open).unwrap()
    }];
    for forget in forget {
        forget();
        let refused = scene.world.agent(["fetch"]).capture().unwrap();
        assert_eq!(refused.code, Some(14), "{refused}");
        assert!(refused.stdout.is_empty(), "{refused}");
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The host makes the boot fail, and uses the shell that an initramfs offers then. `vm-tests/tests/debug_shell.rs` has the one that is asked for on the command line.

use super::scene::Scene;
use std::fs;
use std::path::Path;

/// Whatever can become a shell is sealed first, or the machine is off; behind the seal there is nothing to fetch.
#[test]
fn a_shell_comes_after_the_seal() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let seal = fs::read_to_string(root.join("systemd/seal-first.conf")).unwrap();
    let first = seal
        .lines()
        .find(|line| line.starts_with("ExecStartPre="))
        .unwrap();
    assert!(
        first.ends_with("trustee-agent seal --or-poweroff"),
        "{first}"
    );
    let setup = fs::read_to_string(root.join("dracut/65trustee/module-setup.sh")).unwrap();
    let lines: Vec<&str> = setup.lines().collect();
    let pair = lines
        .windows(2)
        .find(|pair| pair[1].contains("/seal-first.conf\""));
    let installed: Vec<&str> = pair.unwrap()[0].split([' ', ';']).collect();
    for unit in ["emergency", "rescue", "debug-shell", "dracut-emergency"] {
        assert!(installed.contains(&unit), "{unit}.service is not sealed");
    }
    let scene = Scene::new();
    // As the drop-in does it.
    scene
        .world
        .agent(["seal", "--or-poweroff"])
        .success()
        .unwrap();
    let refused = scene.unlock(&scene.volume.path, &[]);
    assert_eq!(refused.code, Some(14), "{refused}");
    assert!(refused.err().contains("the policy"), "{refused}");
}

// SPDX-License-Identifier: Apache-2.0

//! The host makes the boot fail, and uses the shell that an initramfs offers then. `vm-tests/tests/debug_shell.rs` has the one that is asked for on the command line.

use super::scene::Scene;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use trustee_agent::generator::SHELLS;

/// Whatever can become a shell is sealed first, or the machine is off; behind the seal there is nothing to fetch.
#[test]
fn a_shell_comes_after_the_seal() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let seal = fs::read_to_string(root.join("systemd/seal-first.conf")).unwrap();
    let lines: Vec<&str> = seal.lines().collect();
    for line in [
        "ExecStartPre=/usr/bin/trustee-agent seal --or-poweroff",
        "FailureAction=poweroff-force",
    ] {
        assert!(lines.contains(&line), "{seal}");
    }
    let setup = fs::read_to_string(root.join("dracut/65trustee/module-setup.sh")).unwrap();
    let lines: Vec<&str> = setup.lines().collect();
    let pair = lines
        .windows(2)
        .find(|pair| pair[1].contains("/seal-first.conf\""))
        .unwrap();
    let (_, list) = pair[0].split_once(" in ").unwrap();
    let (list, _) = list.split_once(';').unwrap();
    let sealed: BTreeSet<String> = list
        .split_whitespace()
        .map(|unit| format!("{unit}.service"))
        .collect();
    // The generator takes the shell away from the same units; tests/tests/dracut.rs looks for others in real images.
    assert_eq!(sealed, SHELLS.map(str::to_owned).into());
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

/// The units of this machine's systemd that end in a shell without asking for a password first, but for logins.
#[test]
fn every_shell_of_systemd_is_known() {
    let dirs = ["/usr/lib/systemd/system", "/lib/systemd/system"];
    let mut found = BTreeSet::new();
    for entry in dirs
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
    {
        let path = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let ends_in_a_shell = text.lines().any(|line| {
            let program = line.strip_prefix("ExecStart=").unwrap_or_default();
            let program = program.trim_start_matches(['-', '@', '+', '!', ':']);
            let mut words = program.split_whitespace();
            let (name, more) = (words.next().unwrap_or_default(), words.next());
            let is = |what: &str| name.ends_with(what);
            // With arguments it runs a script.
            is("sulogin") || is("sulogin-shell") || (is("/sh") || is("/bash")) && more.is_none()
        });
        if ends_in_a_shell {
            found.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    if found.is_empty() {
        eprintln!("SKIPPED: this machine has no units of systemd, so nothing was tested here");
        return;
    }
    assert!(found.contains("emergency.service"), "{found:?}");
    for unit in found {
        assert!(SHELLS.contains(&&*unit), "{unit} is not in the list");
    }
}

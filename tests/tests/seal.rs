// SPDX-License-Identifier: Apache-2.0
//! What is booted cannot fetch the disk's secret again: a real agent, a real TPM, a KBS under the operator's
//! policies.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;

use kbs_protocol::Owner;
use serde_json::json;
use sheepfold_tests::paths;
use sheepfold_tests::world::{Node, World};

/// An enrolled node of a KBS that has the operator's policies.
fn world() -> (World, Node) {
    let (world, node, _) = World::enrolled().unwrap();
    let upload = |operation: &[&str], text: &str| {
        let done = world.lab.admin(operation, text.as_bytes()).unwrap();
        assert_eq!(done.code, Some(0), "{done}");
    };
    upload(&["set-attestation-policy"], ATTESTATION);
    upload(&["set-resource-policy"], RESOURCE);
    let options = json!({ "evidence": ["tpm"], "identity": "ak" });
    world
        .set_reference_value("sheepfold_options", &options)
        .unwrap();
    (world, node)
}

/// Attack f: the booted system attests again and asks for the disk's secret.
#[test]
fn after_the_seal_the_disks_secret_is_refused() {
    let (mut world, _) = world();
    let fetch = || world.run(world.agent(["fetch"])).unwrap();
    let before = fetch();
    assert_eq!(before.code, Some(0), "{before}");
    let state = fs::read_to_string(world.run_dir().join("state.json")).unwrap();
    let untouched = format!("\"pcr11\":\"{}\"", "0".repeat(64));
    assert!(state.contains(&untouched), "{state}");
    assert!(state.contains("\"verdict\":\"affirming\""), "{state}");
    let sealed = world.run(world.agent(["--json", "seal"])).unwrap();
    assert_eq!(sealed.code, Some(0), "{sealed}");
    let after = fetch();
    assert_eq!(
        after.code,
        Some(Owner::Policy.exit_code().into()),
        "{after}"
    );
    assert!(after.stdout.is_empty());
    let again = world.run(world.agent(["seal"])).unwrap();
    assert_eq!(again.code, Some(0), "{again}");
    assert!(again.err().contains("sealed already"), "{again}");
    // The next boot may.
    world.tpm.restart().unwrap();
    let next = world.run(world.agent(["fetch"])).unwrap();
    assert_eq!(next.code, Some(0), "{next}");
}

/// What a confidential node boots, the agent has opened.
#[test]
fn a_root_that_the_agent_did_not_open_is_not_booted() {
    let (world, _) = world();
    let guarded = world.run(world.agent(["guard"])).unwrap();
    assert_eq!(
        guarded.code,
        Some(Owner::Machine.exit_code().into()),
        "{guarded}"
    );
    assert!(guarded.err().contains("opened no volume"), "{guarded}");
}

/// On the way into a shell: where the register does not move, the machine is off. The kernel ends a PID namespace as it
/// ends a machine (reboot(2)), so the first process of one powers off nothing but itself.
#[test]
fn a_machine_that_cannot_be_sealed_is_off() {
    if !rustix::process::geteuid().is_root() {
        paths::skipped("only root can be the first process of an initramfs");
        return;
    }
    let (world, _) = world();
    let good = fs::read_to_string(world.config_file()).unwrap();
    let tcti = good.lines().find(|line| line.starts_with("tcti")).unwrap();
    let bad = good.replace(tcti, "tcti = \"swtpm:host=127.0.0.1,port=1\"");
    let sealed = |name: &str, config: &str| {
        let file = world.node_dir().join(name);
        fs::write(&file, config).unwrap();
        let args = ["--config", file.to_str().unwrap(), "seal", "--or-poweroff"];
        let wrapper = [
            "unshare", "--mount", "--pid", "--fork", "sh", "-c", INITRAMFS, "sh",
        ];
        let run = world.agent(args).wrapped(&wrapper).unwrap();
        world.run(run).unwrap()
    };
    let done = sealed("good.toml", &good);
    assert_eq!(done.code, Some(0), "{done}");
    assert!(!done.err().contains("powering off"), "{done}");
    let off = sealed("bad.toml", &bad);
    assert!(off.err().contains("cannot be shut"), "{off}");
    assert!(off.err().contains("powering off"), "{off}");
    // SIGINT is how the end of the namespace is told to who waits for it; with a code it would have gone on.
    assert_eq!((off.code, off.signal), (None, Some(2)), "{off}");
}

/// What systemd leaves on the way to an initramfs, as far as the agent looks; nothing unless this is a namespace of its
/// own.
const INITRAMFS: &str = "[ $$ -eq 1 ] || exit 9; mount -t tmpfs none /etc && : >/etc/initrd-release && \
                         mount -t tmpfs none /run && mount -t tmpfs none /dev && mount -t proc proc /proc && exec \"$@\"";
const ATTESTATION: &str = include_str!("../../operator/src/policy/attestation.rego");
const RESOURCE: &str = include_str!("../../operator/src/policy/resource.rego");

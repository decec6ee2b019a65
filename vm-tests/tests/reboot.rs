// SPDX-License-Identifier: Apache-2.0
//! A node that was set up earlier is switched on: Secure Boot, shim, GRUB, Debian's kernel, and a root that only
//! the KBS opens. First its boot is not approved, and the volume stays shut. Then the administrator approves it,
//! nothing else changes, and the node goes on by itself.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::machine::{Machine, NOT_APPROVED};
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::stage::{APPROVED, Stage};

#[test]
#[ignore = "boots a machine: make vm-test STORY=reboot"]
fn the_root_opens_when_the_boot_is_approved_and_not_before() {
    let mut stage = Stage::set("reboot", Kind::ShimGrub).unwrap();
    // As Ignition 2.14 binds it.
    let node = stage.encrypted_node("node", Binding::Wrapped).unwrap();
    stage.site.disapprove(APPROVED).unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "1").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let refused = machine.stays_shut(&node, NOT_APPROVED).unwrap();
    assert!(refused.contains("to act:  the policy"), "{refused}");
    let (_, explained) = machine.probe.run("trustee-agent explain").unwrap();
    assert!(
        explained.contains("what it booted is not approved"),
        "{explained}"
    );

    stage.site.approve(APPROVED, &stage.chain).unwrap();
    let facts = machine.boots(&node, &stage.chain, "1").unwrap();
    assert!(
        facts.command_line.contains("rd.luks.name="),
        "{}",
        facts.command_line
    );
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

// SPDX-License-Identifier: Apache-2.0
//! The host gives the kernel another command line, in a unified kernel image that it can even sign: its key is in
//! the firmware's list. Secure Boot starts it; the KBS does not give the secret; the node says why. Then the
//! administrator approves just that image, nothing else changes, and it is enough.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sheepfold_vm_tests::chain::{Chain, Kind, command_line};
use sheepfold_vm_tests::disk;
use sheepfold_vm_tests::machine::{Machine, NOT_APPROVED};
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::stage::Stage;

#[test]
#[ignore = "boots a machine: make vm-test STORY=command_line"]
fn another_command_line_is_refused_until_it_is_approved() {
    let mut stage = Stage::set("command_line", Kind::Uki).unwrap();
    let node = stage.encrypted_node("node", Binding::Direct).unwrap();
    let changed = format!("{} loglevel=5", command_line());
    let dir = stage.site.dir().join("changed");
    let changed = Chain::build(&dir, Kind::Uki, &stage.image, &changed).unwrap();
    disk::replace_esp(node.dir(), &changed).unwrap();

    let mut machine = Machine::power_on(&node, &changed, "1").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.stays_shut(&node, NOT_APPROVED).unwrap();
    let (_, explained) = machine.probe.run("trustee-agent explain").unwrap();
    assert!(
        explained.contains("what it booted is not approved"),
        "{explained}"
    );

    stage.site.approve("changed", &changed).unwrap();
    let facts = machine.boots(&node, &changed, "1").unwrap();
    assert!(facts.command_line.contains("loglevel=5"));
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

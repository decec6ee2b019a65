// SPDX-License-Identifier: Apache-2.0
//! The host asks for a shell on the console, on the kernel command line that GRUB reads from its disk. The node says what
//! it found there and switches itself off, before it has asked anybody for anything; without that word it boots.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sheepfold_vm_tests::chain::{Chain, Kind, command_line};
use sheepfold_vm_tests::disk;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::stage::Stage;

#[test]
#[ignore = "boots machines: make vm-test STORY=debug_shell"]
fn a_shell_on_the_command_line_is_the_end_of_the_boot() {
    let mut stage = Stage::set("debug_shell", Kind::ShimGrub).unwrap();
    let node = stage.encrypted_node("node", Binding::Direct).unwrap();
    let changed = format!("{} systemd.debug_shell", command_line());
    let dir = stage.site.dir().join("changed");
    let changed = Chain::build(&dir, Kind::ShimGrub, &stage.image, &changed).unwrap();
    disk::replace_esp(node.dir(), &changed).unwrap();

    // PCR 4, 7 and 14 are the approved ones: GRUB measures its command line elsewhere.
    let mut machine = Machine::power_on(&node, &changed, "1").unwrap();
    machine
        .expect("the kernel command line has \"systemd.debug_shell\"")
        .unwrap();
    machine.expect("this node does not boot").unwrap();
    machine.ends().unwrap();

    disk::replace_esp(node.dir(), &stage.chain).unwrap();
    let mut machine = Machine::power_on(&node, &stage.chain, "2").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.boots(&node, &stage.chain, "2").unwrap();
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

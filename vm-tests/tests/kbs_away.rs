// SPDX-License-Identifier: Apache-2.0
//! A node boots while its KBS is down. It waits, says since when and for what, and goes on by itself when the server
//! is back. The boot chain is a unified kernel image, signed with a key of our own.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::stage::Stage;

#[test]
#[ignore = "boots a machine: make vm-test STORY=kbs_away"]
fn the_boot_waits_for_the_kbs_and_goes_on_when_it_is_back() {
    let mut stage = Stage::set("kbs_away", Kind::Uki).unwrap();
    let node = stage.encrypted_node("node", Binding::Direct).unwrap();
    stage.site.stop_kbs().unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "1").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let waiting = machine
        .stays_shut(&node, "no connection: Connection refused")
        .unwrap();
    assert!(waiting.contains("trustee-agent: waiting for "));

    stage.site.start_kbs().unwrap();
    machine.boots(&node, &stage.chain, "1").unwrap();
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

// SPDX-License-Identifier: Apache-2.0
//! The disk of node A is put into node B: same image, same approved boot, another TPM. B gets no secret of A's. Then
//! the disk goes back into A, nothing else changes, and it opens.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;

use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::{Binding, Node};
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::stage::Stage;

#[test]
#[ignore = "boots machines: make vm-test STORY=foreign_disk"]
fn a_disk_opens_in_its_own_machine_only() {
    let mut stage = Stage::set("foreign_disk", Kind::Uki).unwrap();
    let a = stage.encrypted_node("a", Binding::Direct).unwrap();
    let factory = Node::manufacture(&mut stage.site, "b").unwrap();
    stage.site.provision().unwrap();
    let b = factory.leave().unwrap();
    fs::rename(a.disk(), b.disk()).unwrap();

    let mut machine = Machine::power_on(&b, &stage.chain, "1").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.stays_shut(&b, "trustee-agent: ").unwrap();
    let said = machine.stays_shut(&b, "  next:  ").unwrap();
    assert!(said.contains(&a.id), "whose secret was it? {said}");
    machine.power_cut().unwrap();

    fs::rename(b.disk(), a.disk()).unwrap();
    let mut machine = Machine::power_on(&a, &stage.chain, "2").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.boots(&a, &stage.chain, "2").unwrap();
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

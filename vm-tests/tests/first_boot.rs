// SPDX-License-Identifier: Apache-2.0
//! A machine boots for the first time. Stock Ignition formats the root, binds it through stock Clevis to the KBS and
//! throws the first key away; the system is put into it and booted. Then it is switched off and on again.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::{CONFIG, NEVER_AGAIN, Stage};

#[test]
#[ignore = "boots machines: make vm-test STORY=first_boot"]
fn ignition_encrypts_the_root_and_every_later_boot_opens_it() {
    let site = Site::open("first_boot").unwrap();
    let recipe = Recipe::with_ignition(&site);
    let mut stage = Stage::with_image(site, &recipe, Kind::ShimGrub).unwrap();
    let node = stage.new_node("node").unwrap();

    let mut machine = Machine::power_on_with(&node, &stage.chain, "1", &CONFIG).unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let facts = machine.boots(&node, &stage.chain, "1").unwrap();
    assert!(facts.command_line.contains("ignition.firstboot=1"));
    assert!(
        facts.journal.contains("Ignition finished successfully"),
        "{}",
        facts.journal
    );
    machine.probe.ask(NEVER_AGAIN).unwrap();
    machine.power_off().unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "2").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let facts = machine.boots(&node, &stage.chain, "2").unwrap();
    assert!(!facts.command_line.contains("ignition"));
    let crypttab = machine.probe.ask("cat /etc/crypttab").unwrap();
    let root = "root UUID=5eef0000-0000-4000-8000-000000000001 none luks,_netdev";
    assert!(crypttab.lines().any(|line| line == root), "{crypttab}");
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

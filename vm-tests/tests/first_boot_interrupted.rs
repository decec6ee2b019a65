// SPDX-License-Identifier: Apache-2.0
//! The power goes twice during a first boot: when Ignition has formatted the root and not bound it, and when it has bound it
//! and the system is not in it yet. Each run starts over, on what the one before left behind. The third ends, what it
//! bound opens at the next boot, and no key but the node's own does.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use serde_json::Value;
use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::disk;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::Node;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::{CONFIG, NEVER_AGAIN, Stage};

#[test]
#[ignore = "boots machines: make vm-test STORY=first_boot_interrupted"]
fn an_interrupted_first_boot_starts_over_and_ends_well() {
    let site = Site::open("first_boot_interrupted").unwrap();
    let recipe = Recipe::with_ignition(&site);
    let mut stage = Stage::with_image(site, &recipe, Kind::ShimGrub).unwrap();
    let node = stage.new_node("node").unwrap();

    let mut machine = Machine::power_on_with(&node, &stage.chain, "1", &CONFIG).unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.probe.wait_until(FORMATTED).unwrap();
    machine.power_cut().unwrap();
    assert_eq!(tokens(&node), 0, "it was cut too late");

    let mut machine = Machine::power_on_with(&node, &stage.chain, "2", &CONFIG).unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.probe.wait_until(BOUND).unwrap();
    machine.power_cut().unwrap();
    assert_eq!(tokens(&node), 1, "it was cut too early");

    let mut machine = Machine::power_on_with(&node, &stage.chain, "3", &CONFIG).unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let facts = machine.boots(&node, &stage.chain, "3").unwrap();
    assert!(facts.command_line.contains("ignition.firstboot=1"));
    machine.probe.ask(NEVER_AGAIN).unwrap();
    machine.power_off().unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "4").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let facts = machine.boots(&node, &stage.chain, "4").unwrap();
    assert!(!facts.command_line.contains("ignition"));
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

/// The Clevis tokens in the header that is on the disk.
fn tokens(node: &Node) -> usize {
    let header = disk::first_boot_header(node.dir()).unwrap();
    let tokens = header.get("tokens").and_then(Value::as_object);
    tokens.unwrap().len()
}

const FORMATTED: &str = "cryptsetup isLuks /dev/disk/by-partlabel/root";
const BOUND: &str = "cryptsetup luksDump /dev/disk/by-partlabel/root | grep -q clevis";

// SPDX-License-Identifier: Apache-2.0
//! The first boot of a node whose agent opens the root itself. What Ignition has bound is opened once more from its header
//! before the system is put into it. First the config gives the volume a second key, which Ignition leaves in: that slot is
//! found, and nothing is written. With the config of the administrator the same disk becomes a node.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};
use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::Node;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::{CONFIG, NEVER_AGAIN, Stage};

#[test]
#[ignore = "boots machines: make vm-test STORY=native_first_boot"]
fn what_was_bound_is_opened_before_anything_is_put_into_it() {
    let site = Site::open("native_first_boot").unwrap();
    let recipe = Recipe::native_with_ignition(&site);
    let mut stage = Stage::with_image(site, &recipe, Kind::ShimGrub).unwrap();
    let node = stage.new_node("node").unwrap();
    let path = node.dir().join("config.ign");
    let good = fs::read_to_string(&path).unwrap();
    let mut config: Value = serde_json::from_str(&good).unwrap();
    config["storage"]["luks"][0]["keyFile"] = json!({ "source": "data:,a%20key%20that%20stays" });
    fs::write(&path, config.to_string()).unwrap();
    let before = on_disk(&node);

    let mut machine = Machine::power_on_with(&node, &stage.chain, "1", &CONFIG).unwrap();
    machine.expect("key slot").unwrap();
    machine.ends().unwrap();
    assert!(
        on_disk(&node) < before + SYSTEM,
        "the system was put into a volume that others can open"
    );

    fs::write(&path, good).unwrap();
    let mut machine = Machine::power_on_with(&node, &stage.chain, "2", &CONFIG).unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let facts = machine.boots(&node, &stage.chain, "2").unwrap();
    assert!(facts.command_line.contains("ignition.firstboot=1"));
    let at = |text: &str| facts.journal.find(text).unwrap_or(usize::MAX);
    let (verified, put) = (at("root can be unlocked"), at("Starting vm-seed.service"));
    assert!(verified < put, "verified at {verified}, written at {put}");
    assert!(put < usize::MAX, "{}", facts.journal);
    assert!(
        facts
            .journal
            .contains("the root lies on root, opened by the agent"),
        "the guard has not looked"
    );
    machine.probe.ask(NEVER_AGAIN).unwrap();
    machine.power_off().unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "3").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let facts = machine.boots(&node, &stage.chain, "3").unwrap();
    assert!(!facts.command_line.contains("ignition"));
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

/// What the disk takes up, in bytes: what was never written does not count.
fn on_disk(node: &Node) -> u64 {
    fs::metadata(node.disk())
        .unwrap()
        .blocks()
        .saturating_mul(512)
}

/// Less than the system, more than an empty file system.
const SYSTEM: u64 = 100 * 1024 * 1024;

// SPDX-License-Identifier: Apache-2.0
//! The host takes the encrypted root away, puts a file system of its own in its place, not encrypted, and has GRUB tell
//! the kernel to mount that. What GRUB measures of it is not what was approved here. The guard sees that nothing of the node's
//! own lies under the root: the machine says so and switches itself off, and nobody gets a shell. With its own disk it boots.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;

use sheepfold_vm_tests::chain::{Chain, Kind, unencrypted_command_line};
use sheepfold_vm_tests::disk;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::Stage;

#[test]
#[ignore = "boots machines: make vm-test STORY=foreign_root"]
fn a_root_of_the_hosts_own_is_not_booted() {
    let site = Site::open("foreign_root").unwrap();
    let recipe = Recipe::native(&site);
    let mut stage = Stage::with_image(site, &recipe, Kind::ShimGrub).unwrap();
    let node = stage.encrypted_node("node", Binding::Direct).unwrap();
    let (own, aside) = (node.disk(), node.dir().join("own.raw"));
    fs::rename(&own, &aside).unwrap();
    let line = unencrypted_command_line();
    let dir = stage.site.dir().join("changed");
    let changed = Chain::build(&dir, Kind::ShimGrub, &stage.image, &line).unwrap();
    disk::plain(node.dir(), &stage.image).unwrap();
    disk::assemble(node.dir(), &changed).unwrap();

    let mut machine = Machine::power_on(&node, &changed, "1").unwrap();
    machine
        .expect("the agent has opened no volume in this boot, so the root is none of its own")
        .unwrap();
    machine.ends().unwrap();
    let console = fs::read_to_string(node.dir().join("console-1.log")).unwrap();
    assert!(!console.contains("login:"), "the system was started");
    assert!(!console.contains("root@"), "there was a shell");

    fs::rename(&aside, &own).unwrap();
    let mut machine = Machine::power_on(&node, &stage.chain, "2").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.boots(&node, &stage.chain, "2").unwrap();
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

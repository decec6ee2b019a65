// SPDX-License-Identifier: Apache-2.0
//! The host puts a file of its own into the initramfs, in a unified kernel image that it can even sign. The machine boots
//! that initramfs, the KBS does not give the secret, and the console says why. With the approved image it opens.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sheepfold_vm_tests::chain::{Chain, Kind, command_line};
use sheepfold_vm_tests::disk;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::{Machine, NOT_APPROVED};
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::Stage;

#[test]
#[ignore = "boots machines: make vm-test STORY=changed_initrd"]
fn another_initramfs_gets_no_secret() {
    let site = Site::open("changed_initrd").unwrap();
    let recipe = Recipe::native(&site);
    let mut stage = Stage::with_image(site, &recipe, Kind::Uki).unwrap();
    let node = stage.encrypted_node("node", Binding::Direct).unwrap();
    let [dir, image] = ["changed", "changed-image"].map(|name| stage.site.dir().join(name));
    let image = stage.image.with_file("from-the-host", &image).unwrap();
    let changed = Chain::build(&dir, Kind::Uki, &image, &command_line()).unwrap();
    disk::replace_esp(node.dir(), &changed).unwrap();

    let mut machine = Machine::power_on(&node, &changed, "1").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.probe.ask("cat /from-the-host").unwrap();
    machine.expect(NOT_APPROVED).unwrap();
    machine.stays_shut(&node, NOT_APPROVED).unwrap();
    machine.power_cut().unwrap();

    disk::replace_esp(node.dir(), &stage.chain).unwrap();
    let mut machine = Machine::power_on(&node, &stage.chain, "2").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.boots(&node, &stage.chain, "2").unwrap();
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

// SPDX-License-Identifier: Apache-2.0
//! A node of Debian 12: dracut 059, systemd 252, Clevis 19. Its boot is not approved at first and the volume stays shut;
//! then it is, and stock Clevis opens the root. The next initramfs of the same node leaves that to the agent, and it boots too.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use serde_json::Value;
use sheepfold_tests::node_root::Suite;
use sheepfold_vm_tests::chain::{Chain, Kind, command_line};
use sheepfold_vm_tests::disk::{self, LUKS_UUID};
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::{Machine, NOT_APPROVED};
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::{APPROVED, Stage};

#[test]
#[ignore = "boots machines: make vm-test STORY=debian_12"]
fn an_older_debian_unlocks_in_both_modes() {
    let site = Site::open("debian_12").unwrap();
    let older = |recipe: Recipe| Recipe {
        suite: Suite::Bookworm,
        ..recipe
    };
    let (clevis, native) = (older(Recipe::node(&site)), older(Recipe::native(&site)));
    let mut stage = Stage::with_image(site, &clevis, Kind::ShimGrub).unwrap();
    let node = stage.encrypted_node("node", Binding::Wrapped).unwrap();
    stage.site.disapprove(APPROVED).unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "1").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let refused = machine.stays_shut(&node, NOT_APPROVED).unwrap();
    assert!(refused.contains("systemd 252"), "{refused}");

    stage.site.approve(APPROVED, &stage.chain).unwrap();
    machine.boots(&node, &stage.chain, "1").unwrap();
    let release = machine.probe.ask("cat /etc/debian_version").unwrap();
    assert!(release.starts_with("12."), "{release}");
    machine.power_off().unwrap();

    let image = native.build(&stage.site).unwrap();
    let dir = stage.site.dir().join("native");
    let chain = Chain::build(&dir, Kind::ShimGrub, &image, &command_line()).unwrap();
    disk::replace_esp(node.dir(), &chain).unwrap();
    let mut machine = Machine::power_on(&node, &chain, "2").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.boots(&node, &chain, "2").unwrap();
    let state = machine.probe.ask("cat /run/trustee/state.json").unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["phase"], "sealed", "{state}");
    assert_eq!(state["volumes"]["root"]["luks_uuid"], LUKS_UUID, "{state}");
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

// SPDX-License-Identifier: Apache-2.0
//! A node whose sectors are authenticated: `unlock.integrity` says with what, Ignition formats the root so, and the kernel's
//! tables show it, on the first boot and when the agent opens the volume on the next. A config that makes an ordinary
//! volume is found out before anything is put into it. HMAC-SHA-256 first; then the same machine is made anew with AES-GCM.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;

use sheepfold_operator::ignition::Integrity;
use sheepfold_vm_tests::chain::{Chain, Kind, command_line};
use sheepfold_vm_tests::disk;
use sheepfold_vm_tests::facts::Sectors;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::Node;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::{CONFIG, NEVER_AGAIN, Stage, ignition_with};

#[test]
#[ignore = "boots machines: make vm-test STORY=authenticated"]
fn sectors_are_authenticated_as_the_node_demands() {
    let site = Site::open("authenticated").unwrap();
    let with = |integrity: &'static str| {
        let mut settings = site.native_settings();
        settings.unlock = integrity;
        Recipe {
            agent_toml: Some(settings.to_toml()),
            ..Recipe::with_ignition(&site)
        }
    };
    let hmac = with("mode = \"native\"\nintegrity = \"hmac-sha256\"\n");
    let aead = with("mode = \"native\"\nintegrity = \"aead\"\n");
    let mut stage = Stage::with_image(site, &hmac, Kind::ShimGrub).unwrap();
    let node = stage.new_node("node").unwrap();

    // With the config as every other node has it.
    let mut machine = Machine::power_on_with(&node, &stage.chain, "1", &CONFIG).unwrap();
    machine
        .expect("nothing authenticates the volume's sectors, not hmac-sha256")
        .unwrap();
    machine.ends().unwrap();

    format_with(&node, Integrity::HmacSha256);
    becomes_a_node(&node, &stage.chain, ["2", "3"], Sectors::Hmac);

    let image = aead.build(&stage.site).unwrap();
    let dir = stage.site.dir().join("aead");
    let chain = Chain::build(&dir, Kind::ShimGrub, &image, &command_line()).unwrap();
    disk::unencrypted(node.dir(), &image, &chain).unwrap();
    format_with(&node, Integrity::Aead);
    becomes_a_node(&node, &chain, ["4", "5"], Sectors::Gcm);
    stage.site.close().unwrap();
}

/// A first boot and the next, from a root of such sectors.
fn becomes_a_node(node: &Node, chain: &Chain, boots: [&str; 2], sectors: Sectors) {
    let [first, next] = boots;
    let mut machine = Machine::power_on_with(node, chain, first, &CONFIG).unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let facts = machine.boots_from(node, chain, first, sectors).unwrap();
    let verified = facts.journal.contains("root can be unlocked");
    assert!(verified, "{}", facts.journal);
    machine.probe.ask(NEVER_AGAIN).unwrap();
    machine.power_off().unwrap();

    let mut machine = Machine::power_on(node, chain, next).unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let facts = machine.boots_from(node, chain, next, sectors).unwrap();
    let guarded = facts
        .journal
        .contains("the root lies on root, opened by the agent");
    assert!(guarded, "{}", facts.journal);
    machine.power_off().unwrap();
}

/// Has Ignition format the volume so, as the operator writes it down.
fn format_with(node: &Node, integrity: Integrity) {
    let config = ignition_with(integrity).unwrap();
    fs::write(node.dir().join("config.ign"), config).unwrap();
}

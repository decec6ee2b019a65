// SPDX-License-Identifier: Apache-2.0
//! A node whose sectors are authenticated: `unlock.integrity` says with what, Ignition formats the root so, and the kernel's
//! tables show it, on the first boot and when the agent opens the volume on the next. A config that makes an ordinary
//! volume is found out before anything is put into it. HMAC-SHA-256 first; then the same machine is made anew with AES-GCM.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "in a test a panic is the report"
)]

use std::fs;

use serde_json::{Value, json};
use sheepfold_vm_tests::chain::{Chain, Kind, command_line};
use sheepfold_vm_tests::disk;
use sheepfold_vm_tests::facts::Sectors;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::Node;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::{CONFIG, NEVER_AGAIN, Stage};

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

    let cipher = ["--cipher", "aes-xts-plain64", "--key-size", "512"];
    format_with(&node, &cipher, "hmac-sha256");
    becomes_a_node(&node, &stage.chain, ["2", "3"], Sectors::Hmac);

    let image = aead.build(&stage.site).unwrap();
    let dir = stage.site.dir().join("aead");
    let chain = Chain::build(&dir, Kind::ShimGrub, &image, &command_line()).unwrap();
    disk::unencrypted(node.dir(), &image, &chain).unwrap();
    let cipher = ["--cipher", "aes-gcm-random", "--key-size", "256"];
    format_with(&node, &cipher, "aead");
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

/// Has Ignition format the volume with this cipher and authentication. Sectors of 4 KiB, as there is a tag for each.
fn format_with(node: &Node, cipher: &[&str], integrity: &str) {
    let path = node.dir().join("config.ign");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let rest = [
        "--integrity",
        integrity,
        "--sector-size",
        "4096",
        "--pbkdf",
        "pbkdf2",
        "--luks2-metadata-size",
        "64k",
    ];
    config["storage"]["luks"][0]["options"] = json!([cipher, &rest].concat());
    fs::write(&path, config.to_string()).unwrap();
}

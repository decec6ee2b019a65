// SPDX-License-Identifier: Apache-2.0
//! A node takes its Ignition config out of an attestation. The host has one of its own: first it points to that on the
//! command line, and the node does not boot; then it only offers it where QEMU's platform has configs, and Ignition does not
//! look there. What the administrator writes into the node's Machine, and `sheepfold-operator provision` stores at the KBS with
//! the volume to encrypt, is what the node becomes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "in a test a panic is the report"
)]

use std::fs;

use serde_json::{Value, json};
use sheepfold_vm_tests::chain::{Chain, Kind, command_line};
use sheepfold_vm_tests::disk;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::{CONFIG, NEVER_AGAIN, Stage};

#[test]
#[ignore = "boots machines: make vm-test STORY=attested_config"]
fn the_host_cannot_choose_what_a_node_becomes() {
    let site = Site::open("attested_config").unwrap();
    let mut settings = site.settings();
    settings.ignition = Some("default/{node}/ignition".to_owned());
    let recipe = Recipe {
        agent_toml: Some(settings.to_toml()),
        ..Recipe::with_ignition(&site)
    };
    let mut stage = Stage::with_image(site, &recipe, Kind::ShimGrub).unwrap();
    let node = stage.new_node("node").unwrap();
    let wanted = with_file(EMPTY, "/etc/from-the-administrator");
    stage.site.configure(&node, &wanted).unwrap();
    let path = node.dir().join("config.ign");
    let hosts = fs::read_to_string(&path).unwrap();
    fs::write(&path, with_file(&hosts, "/etc/from-the-host")).unwrap();

    let changed = format!("{} ignition.config.url=http://10.0.2.2/", command_line());
    let dir = stage.site.dir().join("changed");
    let changed = Chain::build(&dir, Kind::ShimGrub, &stage.image, &changed).unwrap();
    disk::mark_first_boot(&changed).unwrap();
    disk::replace_esp(node.dir(), &changed).unwrap();
    let mut machine = Machine::power_on_with(&node, &changed, "1", &CONFIG).unwrap();
    machine
        .expect("the kernel command line has \"ignition.config.url=http://10.0.2.2/\"")
        .unwrap();
    machine.expect("this node does not boot").unwrap();
    machine.ends().unwrap();

    disk::replace_esp(node.dir(), &stage.chain).unwrap();
    let mut machine = Machine::power_on_with(&node, &stage.chain, "2", &CONFIG).unwrap();
    machine.reach(Place::Initramfs).unwrap();
    let facts = machine.boots(&node, &stage.chain, "2").unwrap();
    assert!(facts.command_line.contains("ignition.firstboot=1"));
    let files = machine.probe.ask("ls /etc/from-*").unwrap();
    assert_eq!(files.trim(), "/etc/from-the-administrator");
    machine.probe.ask(NEVER_AGAIN).unwrap();
    machine.power_off().unwrap();

    let mut machine = Machine::power_on_with(&node, &stage.chain, "3", &CONFIG).unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.boots(&node, &stage.chain, "3").unwrap();
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

/// The config with one file more.
fn with_file(config: &str, path: &str) -> String {
    let mut config: Value = serde_json::from_str(config).unwrap();
    config["storage"]["files"] = json!([{ "path": path, "contents": { "source": "data:,here" } }]);
    config.to_string()
}

const EMPTY: &str = r#"{"ignition":{"version":"3.3.0"},"storage":{}}"#;

// SPDX-License-Identifier: Apache-2.0
//! A node whose host is not the enemy, and whose KBS is gone. While it was there the agent has given the volume a key slot
//! for the recovery passphrase. Now the console asks, a wrong answer opens nothing, and the passphrase boots the node: with a
//! warning from the guard, and sealed like any other boot.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use kbs_protocol::Secret;
use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::facts::{Facts, Sectors};
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::Stage;

#[test]
#[ignore = "boots a machine: make vm-test STORY=recovery"]
fn a_person_boots_the_node_when_the_kbs_is_gone() {
    let mut site = Site::open("recovery").unwrap();
    site.escrow().unwrap();
    let mut settings = site.native_settings();
    settings.unlock = "mode = \"native\"\nother_keyslots = true\nrecovery = true\n\n[boot]\nconfidential = false\n";
    let recipe = Recipe {
        agent_toml: Some(
            settings
                .to_toml()
                .replace("[timeouts]\n", "[timeouts]\nunlock = \"30s\"\n"),
        ),
        ..Recipe::node(&site)
    };
    let mut stage = Stage::with_image(site, &recipe, Kind::ShimGrub).unwrap();
    let node = stage.encrypted_node("node", Binding::Direct).unwrap();
    let passphrase = stage.site.recovery(&node).unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "1").unwrap();
    machine.reach(Place::System).unwrap();
    let facts = Facts::read(&mut machine.probe, &node, "1").unwrap();
    facts.root_is_the_volume(Sectors::Encrypted).unwrap();
    assert!(
        facts
            .journal
            .contains("root opens with its recovery passphrase too"),
        "no key slot was made"
    );
    assert!(
        facts
            .journal
            .contains("the root lies on root, opened by the agent")
    );
    machine.power_off().unwrap();

    stage.site.stop_kbs().unwrap();
    let mut machine = Machine::power_on(&node, &stage.chain, "2").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.expect(PROMPT).unwrap();
    machine.types(&Secret::new(b"a guess".to_vec())).unwrap();
    machine.expect(PROMPT).unwrap();
    machine.types(&passphrase).unwrap();
    machine.reach(Place::System).unwrap();
    let facts = Facts::read(&mut machine.probe, &node, "2").unwrap();
    facts.root_is_the_volume(Sectors::Encrypted).unwrap();
    facts.pcrs_are_as_predicted(&stage.chain).unwrap();
    assert!(
        facts
            .journal
            .contains("the root lies on root, opened with a passphrase and not by the agent"),
        "the guard has not said so"
    );
    assert_ne!(facts.pcrs[&11], [0; 32], "the boot is not sealed");
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

/// What systemd asks at a console.
const PROMPT: &str = "Please enter passphrase";

// SPDX-License-Identifier: Apache-2.0
//! systemd opens the root, and asks the agent for the passphrase where it looks for a key file. The boot is not approved at
//! first: systemd waits for the agent and the agent for an approval, nobody is prompted, and the console says why. Then it is
//! approved, and nothing else changes. The system that runs is refused the secret.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::facts::PROMPTS;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::{JOURNAL, Machine, NOT_APPROVED};
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::{APPROVED, Stage};

#[test]
#[ignore = "boots a machine: make vm-test STORY=socket"]
fn systemd_is_told_the_passphrase_of_an_approved_boot_only() {
    let site = Site::open("socket").unwrap();
    let mut settings = site.settings();
    settings.unlock = "mode = \"socket\"\n";
    let recipe = Recipe {
        agent_toml: Some(settings.to_toml()),
        ..Recipe::node(&site)
    };
    let mut stage = Stage::with_image(site, &recipe, Kind::ShimGrub).unwrap();
    let node = stage.encrypted_node("node", Binding::Direct).unwrap();
    stage.site.disapprove(APPROVED).unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "1").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.stays_shut(&node, NOT_APPROVED).unwrap();
    machine.expect(NOT_APPROVED).unwrap();
    let waiting = machine.probe.ask(WAITING).unwrap();
    assert_eq!(
        waiting.trim(),
        "trustee-key@root.socket trustee-key@root.service systemd-cryptsetup@root.service"
    );
    let (code, prompts) = machine.probe.run(PROMPTS).unwrap();
    assert_eq!((code, prompts.trim()), (1, "0"), "somebody was prompted");

    stage.site.approve(APPROVED, &stage.chain).unwrap();
    let facts = machine.boots(&node, &stage.chain, "1").unwrap();
    let told = "systemd-cryptsetup has its passphrase";
    assert!(facts.journal.contains(told), "{}", facts.journal);
    assert!(
        !facts.journal.contains("clevis-luks-askpass.service"),
        "Clevis was there as well: {}",
        facts.journal
    );
    let (code, refused) = machine
        .probe
        .run("trustee-agent fetch | wc -c; exit ${PIPESTATUS[0]}")
        .unwrap();
    assert_eq!(code, 14, "{refused}");
    assert!(refused.contains(NOT_APPROVED), "{refused}");
    let journal = machine.probe.ask(JOURNAL).unwrap();
    assert_eq!(journal.matches(told).count(), 1, "{journal}");
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

/// Which of them are at work.
const WAITING: &str = "for unit in trustee-key@root.socket trustee-key@root.service systemd-cryptsetup@root.service; do \
     case $(systemctl is-active $unit) in active | activating) echo -n \"$unit \" ;; esac; done; echo";

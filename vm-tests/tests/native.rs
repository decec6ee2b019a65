// SPDX-License-Identifier: Apache-2.0
//! A node whose agent opens the root itself, from a header that it has judged. Before its boot is approved the root stays
//! shut and the console says why. Afterwards the node goes on by itself; what it mounted is what was opened, and the
//! system that runs then is refused the secret that its own initramfs was given.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use serde_json::Value;
use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::disk::LUKS_UUID;
use sheepfold_vm_tests::facts::PROMPTS;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::{Machine, NOT_APPROVED};
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::{REGISTRAR, Site};
use sheepfold_vm_tests::stage::{APPROVED, Stage};

#[test]
#[ignore = "boots a machine: make vm-test STORY=native"]
fn the_agent_opens_the_root_and_shuts_the_door_behind_itself() {
    let site = Site::open("native").unwrap();
    let recipe = Recipe::native(&site);
    let mut stage = Stage::with_image(site, &recipe, Kind::ShimGrub).unwrap();
    let node = stage.encrypted_node("node", Binding::Wrapped).unwrap();
    stage.site.disapprove(APPROVED).unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "1").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.stays_shut(&node, NOT_APPROVED).unwrap();
    machine.expect(NOT_APPROVED).unwrap();
    let (code, secret) = machine.probe.run(PROMPTS).unwrap();
    assert_eq!(
        (code, secret.trim()),
        (1, "0"),
        "nobody may be asked for a passphrase"
    );

    stage.site.approve(APPROVED, &stage.chain).unwrap();
    let facts = machine.boots(&node, &stage.chain, "1").unwrap();
    assert!(
        facts.tables.contains(":logon:cryptsetup:"),
        "{}",
        facts.tables
    );
    let state = machine.probe.ask("cat /run/trustee/state.json").unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["phase"], "sealed", "{state}");
    assert_eq!(state["volumes"]["root"]["luks_uuid"], LUKS_UUID, "{state}");
    assert!(
        facts
            .journal
            .contains("the root lies on root, opened by the agent"),
        "the guard has not looked"
    );
    let recorded = format!("root recorded by {}", Site::url_at(REGISTRAR));
    assert!(
        facts.journal.contains(&recorded),
        "the registrar was not told"
    );
    let zero = [0; 32];
    assert_ne!(facts.pcrs[&11], zero, "PCR 11 has not moved");
    assert_ne!(facts.pcrs[&15], zero, "the volume key is not measured");

    let (code, refused) = machine
        .probe
        .run("trustee-agent fetch | wc -c; exit ${PIPESTATUS[0]}")
        .unwrap();
    assert_eq!(code, 14, "{refused}");
    assert!(refused.contains(NOT_APPROVED), "{refused}");
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

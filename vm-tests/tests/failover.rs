// SPDX-License-Identifier: Apache-2.0
//! Three servers in `agent.toml`: nobody listens at the first, the second takes connections and says nothing, the third is
//! the KBS. While that is down too the node waits and names them all. When it is back the node unlocks from it, and the
//! console says past whom.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::net::{Ipv4Addr, TcpListener};

use sheepfold_vm_tests::chain::Kind;
use sheepfold_vm_tests::image::Recipe;
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::Binding;
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::site::{PORT, Site};
use sheepfold_vm_tests::stage::Stage;

#[test]
#[ignore = "boots a machine: make vm-test STORY=failover"]
fn dead_servers_are_passed_by() {
    let site = Site::open("failover").unwrap();
    let (closed, silent) = (PORT + 1, PORT + 2);
    // The kernel accepts for it; nobody reads.
    let _silent = TcpListener::bind((Ipv4Addr::LOCALHOST, silent)).unwrap();
    let (closed, silent) = (Site::url_at(closed), Site::url_at(silent));
    let mut settings = site.native_settings();
    settings.servers = vec![closed.clone(), silent.clone(), site.url()];
    let recipe = Recipe {
        agent_toml: Some(settings.to_toml()),
        ..Recipe::node(&site)
    };
    let mut stage = Stage::with_image(site, &recipe, Kind::ShimGrub).unwrap();
    let node = stage.encrypted_node("node", Binding::Direct).unwrap();
    stage.site.stop_kbs().unwrap();

    let mut machine = Machine::power_on(&node, &stage.chain, "1").unwrap();
    machine.reach(Place::Initramfs).unwrap();
    machine.expect("trustee-agent: waiting for ").unwrap();
    let kbs = stage.site.url();
    let refused = |url: &str| format!("{url}: no connection: Connection refused");
    let waiting = machine.stays_shut(&node, &refused(&kbs)).unwrap();
    assert!(waiting.contains(&refused(&closed)), "{waiting}");
    let nothing = format!("{silent}: no connection: operation timed out");
    assert!(waiting.contains(&nothing), "{waiting}");

    stage.site.start_kbs().unwrap();
    machine
        .expect(&format!("warning: {}", refused(&closed)))
        .unwrap();
    machine.expect(&format!("; using {kbs}")).unwrap();
    // Not yet, or not within its time: that depends on how slow this machine is.
    machine.expect(&format!("warning: {silent}: no ")).unwrap();
    machine.expect(&format!("; using {kbs}")).unwrap();
    machine.boots(&node, &stage.chain, "1").unwrap();
    machine.power_off().unwrap();
    stage.site.close().unwrap();
}

// SPDX-License-Identifier: Apache-2.0

//! A node is revoked while it attests, everything real: the agent has its challenge and waits for its TPM when the
//! administrator says no. Every moment of a handshake: `operator/tests/quotes.rs`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sheepfold_tests::cluster::Cluster;
use sheepfold_tests::swtpm::{Authority, SoftTpm};
use sheepfold_tests::world::World;

#[test]
fn a_node_that_is_revoked_while_it_attests_gets_nothing() {
    if let Some(program) = SoftTpm::missing().or_else(Authority::missing) {
        eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
        return;
    }
    let (world, registrar, _) = World::with_registrar().unwrap();
    world.agent(["enroll"]).success().unwrap();
    let node = world.node().unwrap();
    let cluster = Cluster::new(&world.dir().join("cluster"), &world.lab).unwrap();
    cluster
        .approve("image", &world.tpm.read_pcrs().unwrap())
        .unwrap();
    let record = registrar.record_file(&node.id.to_string()).unwrap();
    cluster.add("node", &record).unwrap();
    cluster.provision(&[]).unwrap().success().unwrap();
    assert!(!world.agent(["fetch"]).success().unwrap().stdout.is_empty());

    let mut revoke = Some(cluster.revoke("node").unwrap());
    world.tpm.on_response(move |_, command, _| {
        if command == "Quote"
            && let Some(revoke) = revoke.take()
        {
            revoke.success().unwrap();
        }
    });
    let refused = world.agent(["fetch"]).capture().unwrap();
    assert_eq!(refused.code, Some(14), "{refused}");
    assert!(refused.stdout.is_empty(), "{refused}");
    let later = world.agent(["explain"]).capture().unwrap();
    assert_eq!(later.code, Some(14), "{later}");
    assert!(later.err().contains(&node.id.to_string()), "{later}");
}

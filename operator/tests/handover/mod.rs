// SPDX-License-Identifier: Apache-2.0

//! The first node of a cluster: provisioned from outside, its disk bound and opened, then handed over to the operator
//! inside. The disk does not notice.

use crate::control_plane::{Place, eventually, object};
use crate::first_node::opens;
use kbs_protocol::encoding::hex;
use serde_json::{Value, json};
use sheepfold_operator::controllers::api::{ApprovedImage, Machine, Phase};
use sheepfold_tests::luks::Volume;
use sheepfold_tests::process::Run;
use sheepfold_tests::scan::Scanner;
use sheepfold_tests::swtpm::SoftTpm;
use sheepfold_tests::world::World;
use std::fs;

/// A directory for `provision`, about this node and nothing else.
fn directory(world: &World) -> std::path::PathBuf {
    let dir = world.dir().join("cluster");
    fs::create_dir(&dir).unwrap();
    let api = "apiVersion: trusted-execution-clusters.io/v1alpha1";
    let lab = world.lab.dir().display();
    let cluster = format!(
        "{api}\nkind: Cluster\nmetadata: {{name: first}}\nspec:\n  kbs: {{url: {:?}, laboratory: {lab}}}\n",
        world.lab.url()
    );
    fs::write(dir.join("cluster.yaml"), cluster).unwrap();
    let pcrs = world.tpm.read_pcrs().unwrap();
    let value = |index: usize| hex::encode(pcrs[index]);
    let tuple = json!({"pcr04": value(4), "pcr07": value(7), "pcr14": value(14)});
    let image = format!(
        "{api}\nkind: ApprovedImage\nmetadata: {{name: os-1}}\nspec:\n  referenceValues:\n    bootTuples: [{tuple}]\n"
    );
    fs::write(dir.join("image.yaml"), image).unwrap();
    let config = json!({"ignition": {"version": "3.4.0"}}).to_string();
    let machine = format!(
        "{api}\nkind: Machine\nmetadata: {{name: node-0}}\nspec:\n  attestationKey: {}\n  state: approved\n  \
         ignition: {{config: {config:?}}}\n  runtime: [{{name: join-token, file: token}}]\n",
        world.node().unwrap().ak_public
    );
    fs::write(dir.join("machine.yaml"), machine).unwrap();
    fs::write(dir.join("token"), "a token with which a node joins").unwrap();
    dir
}

/// What the KBS stores, to the byte.
fn stored(world: &World) -> Value {
    let text = fs::read_to_string(world.lab.dir().join("state.json")).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    state["resources"].clone()
}

#[test]
fn the_first_node_is_handed_over_with_its_disk() {
    let Some(place) = Place::new() else { return };
    if let Some(program) = SoftTpm::missing() {
        eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
        return;
    }
    let world = World::new().unwrap();
    // Its first attestation makes its key; nobody knows it yet.
    world.run(world.agent(["attest"])).unwrap();
    let dir = directory(&world);
    let program = sheepfold_tests::paths::binary("sheepfold-operator").unwrap();
    let run = |arguments: &[&str]| {
        let run = Run::new(&program).args(arguments.iter().copied()).arg(&dir);
        run.capture().unwrap()
    };

    // From a laptop, without a cluster.
    run(&["bootstrap"]).success().unwrap();
    let volume = Volume::format(&world.node_dir(), "disk.img").unwrap();
    let bind = world.bind(&volume, "trustee", "{}");
    world.run(bind).unwrap().success().unwrap();
    assert!(opens(&world, &volume));
    let before = stored(&world);
    let node = world.node().unwrap().id.to_string();
    let root = format!("default/{node}/root");
    assert!(before[&root].is_string(), "{before}");
    for beside in ["default/{node}/ignition", "runtime/{node}/join-token"] {
        assert!(before[&beside.replace("{node}", &node)].is_string());
    }

    // Somebody else's namespace is not taken over, whatever its cluster is called.
    let hand_over = ["bootstrap", "--hand-over", "--namespace", &place.namespace];
    let (other, same) = (Place::new().unwrap(), Place::new().unwrap());
    other.cluster(json!({}));
    same.apply(&object("TrustedExecutionCluster", "first", json!({})));
    let refuse = |namespace: &str, why: &str| {
        let refused = run(&["bootstrap", "--hand-over", "--namespace", namespace]);
        assert_eq!(refused.code, Some(10), "{refused}");
        assert!(refused.err().contains(why), "{refused}");
    };
    for (namespace, name) in [(&other.namespace, "cluster"), (&same.namespace, "first")] {
        let why = format!("has a TrustedExecutionCluster {name} already");
        refuse(namespace, &why);
    }

    run(&hand_over).success().unwrap();
    let why = format!("handed over to {}/first before", place.namespace);
    refuse(&other.namespace, &why);
    // The directory is done with.
    for arguments in [&["provision"][..], &["bootstrap"]] {
        let refused = run(arguments);
        assert_eq!(refused.code, Some(10), "{refused}");
        assert!(refused.err().contains("handed over"), "{refused}");
    }
    // Nothing is left to do, and nothing is done.
    let again = run(&hand_over);
    assert!(again.out().contains("nothing was done"), "{again}");

    let operator = place.installed_operator();
    place.await_phase("node-0", Phase::Served);
    assert_eq!(place.status("node-0").node, Some(node.clone()));
    assert_eq!(
        stored(&world),
        before,
        "not one byte of a secret was written"
    );
    assert!(opens(&world, &volume));
    assert!(
        operator
            .metrics()
            .contains("\nsheepfold_kbs_writes_total 0\n"),
        "{}",
        operator.metrics()
    );

    // It is the operator's now: a new secret beside the old one, refusal, deletion.
    place.change::<Machine>("node-0", &json!({"spec": {"rotation": 1}}));
    place.await_phase("node-0", Phase::Rotating);
    assert!(opens(&world, &volume), "the old secret is kept");
    assert_ne!(stored(&world)[&root], before[&root]);
    place.delete::<ApprovedImage>("os-1");
    eventually("its boot is refused", || !opens(&world, &volume));
    place.delete::<Machine>("node-0");
    assert_eq!(stored(&world), json!({}), "what lay beside it went with it");

    let mut scanner = Scanner::new();
    for (path, secret) in before.as_object().unwrap() {
        let content = kbs_protocol::encoding::b64::decode(secret.as_str().unwrap()).unwrap();
        match serde_json::from_slice::<Value>(&content) {
            Ok(object) => {
                if let Some(key) = object["key"].as_str() {
                    scanner.add(path, key.as_bytes()).unwrap();
                }
            }
            // What the running system may read is no object.
            Err(_) => scanner.add(path, &content).unwrap(),
        }
    }
    for (where_, text) in [
        ("the API server", place.everything_readable()),
        ("the operator's log", operator.end()),
    ] {
        let leaks = scanner.bytes(where_, text.as_bytes());
        assert!(leaks.is_empty(), "{leaks:?}");
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The operator on a real API server, before the laboratory KBS: each test is one sentence that a user would
//! say. Run with `make operator-test`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod bootable;
mod capi;
mod common;
mod control_plane;
mod first_node;
mod handover;
mod scanned;
mod state;

use common::Tpm;
use control_plane::{Place, eventually, object};
use serde_json::{Value, json};
use sheepfold_operator::controllers::api::{
    ApprovedImage, AttestationKey, Machine, Phase, TrustedExecutionCluster,
};
use std::process::{Command, Stdio};

fn tpms() -> [Tpm; 3] {
    [0, 1, 2].map(Tpm::number)
}

/// A boot that nobody made.
fn other_boot() -> Value {
    json!({"pcr04": "0".repeat(64), "pcr07": "0".repeat(64), "pcr14": "0".repeat(64)})
}

#[test]
fn each_node_reads_its_own_secret_until_its_image_or_its_machine_is_deleted() {
    let Some(place) = Place::new() else { return };
    let [a, b, stranger] = tpms();
    let _operator = place.operator("one");
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({"volumes": ["root", "data"]}));
    place.await_phase("a", Phase::Served);
    place.await_phase("b", Phase::Served);
    let stored = place.lab.resources();
    for path in stored.keys() {
        let owner = path.split('/').nth(1).unwrap();
        assert_eq!(
            place.lab.fetch(&a, path).is_some(),
            owner == a.node(),
            "{path}"
        );
        assert_eq!(
            place.lab.fetch(&b, path).is_some(),
            owner == b.node(),
            "{path}"
        );
        assert_eq!(place.lab.fetch(&stranger, path), None, "{path}");
    }
    assert!(stored.contains_key(&format!("default/{}/data", b.node())));
    assert_eq!(place.status("a").node, Some(a.node()));

    // An image more refuses nobody; without the one that they booted, nobody is served.
    place.image("other", json!([other_boot()]));
    eventually("the other image is committed", || {
        let image: ApprovedImage = place.get("other");
        let status = image.status.unwrap_or_default();
        status
            .conditions
            .iter()
            .any(|one| one.type_ == "Committed" && one.status == "True")
    });
    assert!(place.lab.fetch(&a, &a.root()).is_some());
    place.delete::<ApprovedImage>("good");
    eventually("a is refused", || place.lab.fetch(&a, &a.root()).is_none());
    assert_eq!(place.lab.resources(), stored, "no secret was touched");
    place.image("again", json!([a.boot_tuple()]));
    eventually("a is served again", || {
        place.lab.fetch(&a, &a.root()).is_some()
    });

    // When `kubectl delete machine` returns, the KBS has forgotten it.
    place.delete::<Machine>("b");
    assert!(
        !place
            .lab
            .resources()
            .keys()
            .any(|path| path.contains(&b.node()))
    );
    assert_eq!(place.lab.fetch(&b, &b.root()), None);
    assert_eq!(
        place.lab.fetch(&a, &a.root()).as_ref(),
        stored.get(&a.root())
    );
    eventually("the cluster counts", || {
        let cluster: TrustedExecutionCluster = place.get("cluster");
        let status = cluster.status.unwrap_or_default();
        (status.machines, status.served, status.images) == (1, 1, 2)
    });
}

#[test]
fn manifests_of_the_reference_project_and_our_examples_apply() {
    let Some(place) = Place::new() else { return };
    let api = "apiVersion: trusted-execution-clusters.io/v1alpha1";
    let digest = "a".repeat(64);
    // The fields of its getting-started guide and of its definitions, early and late.
    place.apply_manifest(&format!(
        "{api}\nkind: TrustedExecutionCluster\nmetadata:\n  name: trusted-execution-cluster\nspec:\n  \
         pcrsComputeImage: quay.io/x/compute-pcrs:0.1.0\n  registerServerImage: quay.io/x/register:0.1.0\n  \
         trusteeImage: quay.io/x/kbs:1\n  attestationKeyRegisterImage: quay.io/x/ak:1\n  \
         publicTrusteeAddr: kbs.example:8080\n  publicAttestationKeyRegisterAddr: ak.example:8001\n  \
         trusteeKbsPort: 8080\n  registerServerPort: 8000\n  attestationKeyRegisterPort: 8001\n  \
         trusteeSecret: kbs-tls\n  registerServerSecret: rs-tls\n  attestationKeyRegisterSecret: ak-tls\n\
         ---\n{api}\nkind: ApprovedImage\nmetadata:\n  name: coreos\n  namespace: trusted-execution-clusters\n\
         spec:\n  image: quay.io/x/fedora-coreos@sha256:{digest}\n\
         ---\n{api}\nkind: ApprovedImage\nmetadata:\n  name: talk\nspec:\n  \
         reference: quay.io/x/fedora-coreos@sha256:{digest}\n\
         ---\n{api}\nkind: Machine\nmetadata:\n  name: m\nspec:\n  id: 12345678-1234-1234-1234-123456789abc\n\
         ---\n{api}\nkind: AttestationKey\nmetadata:\n  name: k\nspec:\n  publicKey: {}\n  \
         uuid: 12345678-1234-1234-1234-123456789abc",
        Tpm::number(0).ak_public()
    ));
    let cluster: TrustedExecutionCluster = place.get("trusted-execution-cluster");
    assert_eq!(
        cluster.spec.trustee_kbs_port,
        Some(8080),
        "nothing is pruned"
    );
    assert_eq!(
        cluster.spec.register_server_secret.as_deref(),
        Some("rs-tls")
    );
    let image: ApprovedImage = place.get("talk");
    assert!(image.spec.reference.unwrap().ends_with(&digest));
    place.apply_manifest(include_str!("../examples/cluster/image.yaml"));
    place.apply_manifest(include_str!("../examples/cluster/machines.yaml"));

    let _operator = place.operator("one");
    let ready = |why: &str| {
        eventually(why, || {
            let cluster: TrustedExecutionCluster = place.get("trusted-execution-cluster");
            let conditions = cluster.status.unwrap_or_default().conditions;
            let ready = conditions.into_iter().find(|one| one.type_ == "Ready");
            ready.is_some_and(|ready| ready.status == "False" && ready.message.contains(why))
        });
    };
    ready("there is no Secret \"kbs-tls\"");
    let nothing = json!({"spec": {"trusteeImage": null}});
    place.change::<TrustedExecutionCluster>("trusted-execution-cluster", &nothing);
    ready("spec.kbs and spec.trusteeImage are missing");
}

#[test]
fn an_attestation_key_stands_for_the_key_of_its_machine() {
    let Some(place) = Place::new() else { return };
    let [a, _, _] = tpms();
    let _operator = place.operator("one");
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));
    place.apply(&object("Machine", "a", json!({"id": a.node()})));
    let reason = place.await_phase("a", Phase::Refused);
    assert!(reason.contains("it has no attestation key"), "{reason}");
    let key = json!({"publicKey": a.ak_public(), "uuid": a.node()});
    place.apply(&object("AttestationKey", "a", key.clone()));
    place.await_phase("a", Phase::Served);
    let secret = place.lab.fetch(&a, &a.root()).unwrap();
    eventually("the key is approved", || {
        let key: AttestationKey = place.get("a");
        let conditions = key.status.unwrap_or_default().conditions;
        conditions
            .iter()
            .any(|one| one.type_ == "Approved" && one.status == "True")
    });
    // A key that is deleted by mistake costs the machine its access and not its disk.
    place.delete::<AttestationKey>("a");
    place.await_phase("a", Phase::Refused);
    assert_eq!(place.lab.fetch(&a, &a.root()), None);
    place.apply(&object("AttestationKey", "a", key));
    place.await_phase("a", Phase::Served);
    assert_eq!(place.lab.fetch(&a, &a.root()), Some(secret));
}

#[test]
fn two_machines_that_are_one_node_get_nothing_and_lose_nothing() {
    let Some(place) = Place::new() else { return };
    let [a, b, _] = tpms();
    let _operator = place.operator("one");
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({}));
    place.await_phase("a", Phase::Served);
    place.await_phase("b", Phase::Served);
    let secret = place.lab.fetch(&a, &a.root()).unwrap();
    place.machine("twin", &a, json!({}));
    let reason = place.await_phase("a", Phase::Refused);
    assert!(
        reason.contains("Machines a and twin are both node"),
        "{reason}"
    );
    assert_eq!(place.lab.fetch(&a, &a.root()), None);
    assert!(place.lab.fetch(&b, &b.root()).is_some());
    assert!(
        place
            .events()
            .iter()
            .any(|event| event.note.as_deref() == Some(&reason)),
        "it is said aloud"
    );
    place.delete::<Machine>("twin");
    place.await_phase("a", Phase::Served);
    assert_eq!(place.lab.fetch(&a, &a.root()), Some(secret));
}

#[test]
fn held_revoked_rotated_and_rebound() {
    let Some(place) = Place::new() else { return };
    let [a, _, _] = tpms();
    let _operator = place.operator("one");
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.await_phase("a", Phase::Served);
    let first = place.lab.fetch(&a, &a.root()).unwrap();

    place.machine("a", &a, json!({"rotation": 1}));
    place.await_phase("a", Phase::Rotating);
    let second = place.lab.fetch(&a, &a.root()).unwrap();
    assert_ne!(first, second);
    assert!(
        place
            .lab
            .resources()
            .values()
            .any(|secret| *secret == first),
        "kept"
    );
    place.machine("a", &a, json!({"rotation": 2}));
    eventually("another rotation has to wait", || {
        let reason = place.status("a").reason.unwrap_or_default();
        reason.contains("raise spec.rebound")
    });
    assert_eq!(place.lab.fetch(&a, &a.root()).as_ref(), Some(&second));
    place.machine("a", &a, json!({"rotation": 1, "rebound": 1}));
    place.await_phase("a", Phase::Served);
    assert!(
        !place
            .lab
            .resources()
            .values()
            .any(|secret| *secret == first),
        "gone"
    );
    assert_eq!(place.lab.fetch(&a, &a.root()).as_ref(), Some(&second));

    // Who is held gets nothing and loses nothing; what is wished meanwhile is done when it is approved again.
    let is_stored = |wanted: &Vec<u8>| place.lab.resources().values().any(|one| one == wanted);
    place.machine("a", &a, json!({"rotation": 2, "rebound": 1}));
    place.await_phase("a", Phase::Rotating);
    let third = place.lab.fetch(&a, &a.root()).unwrap();
    let held = json!({"rotation": 2, "rebound": 2, "state": "held"});
    place.machine("a", &a, held);
    place.await_phase("a", Phase::Held);
    assert_eq!(place.lab.fetch(&a, &a.root()), None);
    assert!(is_stored(&second) && is_stored(&third), "kept");
    place.machine("a", &a, json!({"rotation": 2, "rebound": 2}));
    place.await_phase("a", Phase::Served);
    assert_eq!(place.lab.fetch(&a, &a.root()).as_ref(), Some(&third));
    assert!(!is_stored(&second), "gone");
    let revoked = json!({"rotation": 2, "rebound": 2, "state": "revoked"});
    place.machine("a", &a, revoked);
    place.await_phase("a", Phase::Revoked);
    assert_eq!(place.lab.resources().len(), 0);
}

#[test]
fn a_kbs_that_lost_its_storage_is_filled_again_from_copies() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let [a, b, _] = tpms();
    let _operator = place.operator("one");
    place.cluster(json!({"copies": "Namespace"}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({}));
    place.await_phase("a", Phase::Served);
    place.await_phase("b", Phase::Served);
    place.machine("a", &a, json!({"rotation": 1}));
    place.await_phase("a", Phase::Rotating);
    let (before, shape) = (place.lab.resources(), place.lab.shape());
    assert_eq!(
        before.len(),
        5,
        "a: root, and two kept; b: root, and one kept"
    );
    place.lab.lose_storage();
    eventually("everything is there again", || place.lab.shape() == shape);
    assert_eq!(
        place.lab.resources(),
        before,
        "the same secrets: disks open"
    );
    assert_eq!(
        place.lab.fetch(&a, &a.root()).as_ref(),
        before.get(&a.root())
    );
    assert_eq!(place.lab.fetch(&b, &a.root()), None, "and closed to others");

    let copies = || {
        let secrets = place.secrets().into_iter();
        secrets.filter(|secret| {
            secret.type_.as_deref() == Some("trusted-execution-clusters.io/machine-secrets")
        })
    };
    assert_eq!(copies().count(), 2);
    place.delete::<Machine>("a");
    if std::env::var_os("SHEEPFOLD_CONTROLLER_MANAGER").is_some() {
        eventually("the copy goes with its machine", || copies().count() == 1);
    }
}

#[test]
fn without_copies_lost_secrets_are_reported_and_no_new_ones_made() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let [a, b, _] = tpms();
    let _operator = place.operator("one");
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.await_phase("a", Phase::Served);
    place.lab.lose_storage();
    let reason = place.await_phase("a", Phase::Lost);
    assert!(
        reason.contains("restore the storage from its backup"),
        "{reason}"
    );
    assert_eq!(
        place.lab.resources().len(),
        0,
        "a new secret would open no disk"
    );
    // What can be made again is there again: a new machine is served, and only with its own secret.
    place.machine("b", &b, json!({}));
    place.await_phase("b", Phase::Served);
    assert!(place.lab.fetch(&b, &b.root()).is_some());
    assert_eq!(place.lab.fetch(&a, &b.root()), None);
    place.machine("a", &a, json!({"rotation": 1}));
    eventually("an installation anew gets a new secret", || {
        place.lab.fetch(&a, &a.root()).is_some()
    });
}

#[test]
fn what_somebody_else_writes_to_the_kbs_is_written_over() {
    let Some(place) = Place::new() else { return };
    let [a, b, _] = tpms();
    let _operator = place.operator("one");
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({}));
    place.await_phase("a", Phase::Served);
    place.await_phase("b", Phase::Served);
    let shape = place.lab.shape();
    let admin = place.lab.administrator();
    admin
        .set_resource_policy(sheepfold_operator::policy::DENY_ALL)
        .unwrap();
    admin
        .set_reference_values([("boot_tuples", json!([other_boot()]))])
        .unwrap();
    assert_ne!(place.lab.shape(), shape);
    eventually("both are as they were", || place.lab.shape() == shape);
}

#[test]
fn one_of_two_operators_works_and_the_other_takes_over() {
    let Some(place) = Place::new() else { return };
    let [a, b, _] = tpms();
    let first = place.operator("first");
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.await_phase("a", Phase::Served);
    let second = place.operator("second");
    place.machine("b", &b, json!({}));
    place.await_phase("b", Phase::Served);
    let secrets = place.lab.resources();
    assert_eq!(place.holder(), Some("first".to_owned()));
    drop(first);
    place.delete::<Machine>("b");
    assert_eq!(place.holder(), Some("second".to_owned()));
    assert_eq!(
        place.lab.fetch(&a, &a.root()).as_ref(),
        secrets.get(&a.root())
    );
    drop(second);
    assert_eq!(place.holder(), None, "given back");
}

#[test]
fn nothing_secret_is_where_anybody_can_read() {
    let Some(place) = Place::new() else { return };
    let [a, b, _] = tpms();
    let _operator = place.operator("one");
    place.cluster(json!({"copies": "Namespace"}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({"rotation": 1, "volumes": ["root", "data"]}));
    place.await_phase("a", Phase::Served);
    place.await_phase("b", Phase::Served);
    let text = place.everything_readable();
    assert!(text.contains(&a.node()), "the record names machines");
    for secret in place.lab.resources().values() {
        let secret: Value = serde_json::from_slice(secret).unwrap();
        assert!(!text.contains(secret["key"].as_str().unwrap()));
    }
}

/// The service account of the installation, with the rights that come with it.
#[test]
fn the_rights_of_the_installation_are_enough() {
    let Some(place) = Place::new() else { return };
    let [a, b, _] = tpms();
    place.apply_manifest(include_str!("../deploy/deployment.yaml"));
    place.cluster(json!({"copies": "Namespace"}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({}));
    let installed = place.installed_operator();
    place.await_phase("a", Phase::Served);
    place.machine("a", &a, json!({"rotation": 1}));
    place.await_phase("a", Phase::Rotating);
    let key = json!({"publicKey": b.ak_public(), "uuid": b.node()});
    place.apply(&object("AttestationKey", "b", key));
    place.apply(&object("TrustedExecutionCluster", "second", json!({})));
    eventually("the second cluster is told that it is one", || {
        let cluster: TrustedExecutionCluster = place.get("second");
        let conditions = cluster.status.unwrap_or_default().conditions;
        conditions.iter().any(|one| one.reason == "NonUnique")
    });
    place.delete::<Machine>("a");
    let log = installed.end();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
}

/// A process and a signal, after each few answers of the KBS. Which write that is, the scheduler decides; what
/// holds at each is tested for files (killed.rs), and here that the record in the API server is as true.
#[test]
fn an_operator_that_is_killed_twenty_times_converges() {
    let Some(place) = Place::new() else { return };
    let [a, b, c] = tpms();
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({}));
    let mut bound = None;
    for round in 0..20_usize {
        // Something new each time, so that there is something to be interrupted in.
        place.machine(
            "a",
            &a,
            json!({"rotation": round / 4, "rebound": round / 4}),
        );
        if round % 2 == 0 {
            place.machine("c", &c, json!({}));
        } else {
            place.begin_deletion("c");
        }
        let before = place.lab.server.requests().len();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sheepfold-operator"))
            .args([
                "run",
                "--namespace",
                &place.namespace,
                "--identity",
                "killed",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The inspection is a handful of requests; then come the writes.
        eventually("it works, or has nothing to do", || {
            place.lab.server.requests().len() >= before + 8 + round % 7
        });
        child.kill().unwrap();
        child.wait().unwrap();
        // Nobody reads what is another's, at any of these moments.
        for path in place.lab.resources().keys() {
            for tpm in [&a, &b, &c] {
                let own = path.split('/').nth(1) == Some(&*tpm.node());
                assert!(
                    own || place.lab.fetch(tpm, path).is_none(),
                    "round {round}: {path}"
                );
            }
        }
        // The node boots and binds its disk to whatever it gets.
        bound = place.lab.fetch(&b, &b.root()).or(bound);
    }
    let _operator = place.operator("killed");
    place.begin_deletion("c");
    eventually("c is gone", || !place.has_machine("c"));
    place.machine("c", &c, json!({}));
    for (name, tpm) in [("b", &b), ("c", &c)] {
        place.await_phase(name, Phase::Served);
        eventually("its secret can be read", || {
            place.lab.fetch(tpm, &tpm.root()).is_some()
        });
    }
    eventually("a too", || place.lab.fetch(&a, &a.root()).is_some());
    let bound = bound.expect("b was served in between");
    assert!(
        place
            .lab
            .resources()
            .values()
            .any(|secret| *secret == bound),
        "what b may have bound its disk to is kept"
    );
}

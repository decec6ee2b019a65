// SPDX-License-Identifier: Apache-2.0

//! How a machine stands, from what a round has planned for it.

use super::super::tests::worker;
use super::{Findings, judge};
use crate::controllers::Error;
use crate::controllers::api::Phase;
use crate::controllers::inventory::{Dirty, Inventory};
use crate::controllers::parse;
use crate::controllers::record::{Counters, Record};
use crate::controllers::status::FINALIZER;
use crate::controllers::testing::Server;
use crate::model::{RUNTIME, SecretId, Tag};
use crate::plan::{Observed, Write};
use crate::provision::apply::Memory as _;
use crate::testing::{ak, node};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// What the KBS has for the machine's root.
#[derive(Clone, Copy)]
enum Stored {
    Nothing,
    Unknown,
    Secret,
}

fn record(server: &Server, stored: Stored, counters: Counters) -> Record {
    let root: Tag = "root".parse().unwrap();
    let path = root.path(&node(1)).unwrap();
    let write = Write::Resource {
        path: path.clone(),
        secret: SecretId("one".to_owned()),
    };
    let mut observed = Observed::default();
    match stored {
        Stored::Nothing => {}
        Stored::Unknown => observed.begin(&write),
        Stored::Secret => observed.finish(&write),
    }
    let mut record = server.record();
    record.adopt("number", true, &observed).unwrap();
    record.count(&node(1), path.as_str(), counters);
    record
}

/// A machine with this spec beside its key.
fn inventory(spec: Value) -> Inventory {
    let object = |kind: &str, spec: Value| {
        json!({"apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": kind,
            "metadata": {"name": "a"}, "spec": spec})
    };
    let (mut inventory, mut dirty) = (Inventory::default(), Dirty::default());
    let cluster = object("TrustedExecutionCluster", json!({}));
    inventory.set_cluster(
        "a",
        Some(serde_json::from_value(cluster).unwrap()),
        &mut dirty,
    );
    let mut own = json!({"attestationKey": ak(1)});
    for (field, value) in spec.as_object().unwrap() {
        own[field] = value.clone();
    }
    let own = object("Machine", own);
    inventory.set_machine("a", Some(serde_json::from_value(own).unwrap()), &mut dirty);
    inventory
}

#[test]
fn a_machine_stands_as_the_first_of_these_says() {
    use Stored::{Nothing, Secret, Unknown};
    let none = Counters::default();
    let rotating = Counters {
        rotating: true,
        ..none
    };
    let lost = Counters { lost: true, ..none };
    let both = Counters {
        lost: true,
        ..rotating
    };
    let (refusal, remark) = (Some("refused"), Some("remarked"));
    for (spec, stored, counters, refused, remarked, approves, phase, reason) in [
        (
            json!({"attestationKey": "x"}),
            Secret,
            none,
            None,
            remark,
            true,
            Phase::Refused,
            "an attestation key must be",
        ),
        (
            json!({"state": "held"}),
            Secret,
            lost,
            refusal,
            remark,
            true,
            Phase::Held,
            "spec.state is held",
        ),
        (
            json!({"state": "revoked"}),
            Secret,
            lost,
            refusal,
            remark,
            true,
            Phase::Revoked,
            "spec.state is revoked",
        ),
        (
            json!({}),
            Secret,
            lost,
            refusal,
            remark,
            true,
            Phase::Refused,
            "refused",
        ),
        (
            json!({}),
            Nothing,
            lost,
            None,
            remark,
            true,
            Phase::Lost,
            "restore the storage from its backup",
        ),
        (
            json!({}),
            Secret,
            both,
            None,
            remark,
            true,
            Phase::Lost,
            "restore the storage from its backup",
        ),
        (
            json!({}),
            Nothing,
            none,
            None,
            remark,
            true,
            Phase::Registered,
            "are not in the KBS yet",
        ),
        (
            json!({}),
            Unknown,
            none,
            None,
            remark,
            true,
            Phase::Registered,
            "are not in the KBS yet",
        ),
        (
            json!({"volumes": ["root", "data"]}),
            Secret,
            none,
            None,
            remark,
            true,
            Phase::Registered,
            "are not in the KBS yet",
        ),
        (
            json!({}),
            Secret,
            rotating,
            None,
            remark,
            false,
            Phase::Registered,
            "no image is approved",
        ),
        (
            json!({"rotation": 1}),
            Secret,
            rotating,
            None,
            remark,
            true,
            Phase::Rotating,
            "raise spec.rebound",
        ),
        (
            json!({}),
            Secret,
            rotating,
            None,
            remark,
            true,
            Phase::Rotating,
            "remarked",
        ),
        (
            json!({}),
            Secret,
            none,
            None,
            remark,
            true,
            Phase::Served,
            "remarked",
        ),
        (json!({}), Secret, none, None, None, true, Phase::Served, ""),
    ] {
        let server = Server::start();
        let (record, inventory) = (record(&server, stored, counters), inventory(spec.clone()));
        let mut findings = Findings::default();
        let said = |said: Option<&str>| said.map(|said| (node(1), said.to_owned()));
        findings.refusals.extend(said(refused));
        findings.remarks.extend(said(remarked));
        let verdict = judge(&inventory.machines()["a"], &findings, &record, approves);
        assert_eq!(verdict.phase, phase, "{spec}: {verdict:?}");
        let says = verdict.reason.unwrap_or_default();
        assert!(
            says.contains(reason) && says.is_empty() == reason.is_empty(),
            "{spec}: {says}"
        );
    }
}

#[test]
fn a_machine_that_is_deleted_stays_until_nothing_of_it_is_stored() {
    use Stored::{Nothing, Secret, Unknown};
    let deleted = json!("2026-01-01T00:00:00Z");
    let alive = Value::Null;
    // Another one that says it is the same node, and when that was deleted.
    for (what, stored, for_its_system, twin, may_go) in [
        ("nothing is stored", Nothing, false, None, true),
        ("its secret is stored", Secret, false, None, false),
        ("nobody knows", Unknown, false, None, false),
        ("something for its system is", Nothing, true, None, false),
        (
            "its secret is another one's",
            Secret,
            false,
            Some(&alive),
            true,
        ),
        ("both are deleted", Secret, false, Some(&deleted), false),
    ] {
        let server = Server::start();
        let mut worker = worker(&server);
        let mut dirty = Dirty::default();
        let cluster = inventory(json!({})).clusters().next().cloned();
        server.put(json!(cluster));
        worker.inventory.set_cluster("a", cluster, &mut dirty);
        let mut machine = |name: &str, deleted: &Value| {
            let object = json!({
                "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "Machine",
                "metadata": {
                    "name": name, "uid": name, "deletionTimestamp": deleted, "finalizers": [FINALIZER],
                },
                "spec": {"attestationKey": ak(1)},
            });
            server.put(object.clone());
            let object = serde_json::from_value(object).unwrap();
            worker.inventory.set_machine(name, Some(object), &mut dirty);
        };
        machine("m", &deleted);
        twin.into_iter().for_each(|twin| machine("twin", twin));
        let mut record = record(&server, stored, Counters::default());
        if for_its_system {
            let path = format!("{RUNTIME}/{}/token", node(1));
            let write = Write::Resource {
                path: path.parse().unwrap(),
                secret: SecretId("runtime-1".to_owned()),
            };
            record.begin(std::slice::from_ref(&write), 1).unwrap();
            record.finish(std::slice::from_ref(&write)).unwrap();
        }
        worker.record = Some(("a".to_owned(), record));
        let of_cluster = worker.inventory.clusters().next().unwrap().clone();
        let of_cluster = parse::cluster(&of_cluster).unwrap();
        worker
            .report(&of_cluster, &dirty, &Findings::default())
            .unwrap();
        let freed = server.writes().into_iter().any(|write| {
            let metadata = &write.body["metadata"];
            metadata["uid"] == "m" && metadata["finalizers"] == json!([])
        });
        assert_eq!(freed, may_go, "{what}");
    }
}

/// A KBS that is away says nothing new about a machine that stood somehow before.
#[test]
fn while_nothing_can_be_done_new_machines_wait_and_the_others_stand_as_they_stood() {
    let server = Server::start();
    let mut worker = worker(&server);
    let mut dirty = Dirty::default();
    for (number, name, phase, deleted) in [
        (1, "new", Value::Null, Value::Null),
        (2, "served", json!("Served"), Value::Null),
        (3, "going", Value::Null, json!("2026-01-01T00:00:00Z")),
    ] {
        let object = json!({
            "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "Machine",
            "metadata": {"name": name, "uid": name, "deletionTimestamp": deleted},
            "spec": {"attestationKey": ak(number)}, "status": {"phase": phase},
        });
        server.put(object.clone());
        let object = serde_json::from_value(object).unwrap();
        worker.inventory.set_machine(name, Some(object), &mut dirty);
    }
    let away = Error::Cluster("it is away".to_owned());
    worker.held.store(false, Ordering::Release);
    worker.report_waiting(&dirty, &away);
    assert_eq!(server.writes().len(), 0, "another operator has the say");
    worker.held.store(true, Ordering::Release);
    worker.report_waiting(&dirty, &away);
    let writes = server.writes();
    let [write] = writes.as_slice() else {
        panic!("{writes:?}")
    };
    assert_eq!(write.body["metadata"]["name"], "new");
    let status = &write.body["status"];
    assert_eq!(status["phase"], "Registered");
    assert!(status["reason"].as_str().unwrap().contains("it is away"));
    // Said once.
    worker.report_waiting(&dirty, &away);
    assert_eq!(server.writes().len(), 0);
}

#[test]
fn whoever_has_lost_the_lease_says_nothing_of_anybody() {
    let server = Server::start();
    let mut worker = worker(&server);
    let mut dirty = Dirty::everything();
    worker.inventory = inventory(json!({}));
    server.put(json!(worker.inventory.clusters().next()));
    server.put(json!(worker.inventory.machines()["a"].object));
    dirty.machines.insert("a".to_owned());
    worker.record = Some((
        "a".to_owned(),
        record(&server, Stored::Secret, Counters::default()),
    ));
    let object = worker.inventory.clusters().next().unwrap().clone();
    let cluster = parse::cluster(&object).unwrap();
    let away = Error::Cluster("it is away".to_owned());
    drop(server.writes());
    let mut says = |held: bool| {
        worker.held.store(held, Ordering::Release);
        let reported = worker.report(&cluster, &dirty, &Findings::default());
        assert_eq!(reported.is_ok(), held, "{reported:?}");
        let of_round = server.writes().len();
        worker.report_failure(&away);
        let of_failure = server.writes().len();
        (of_round > 0, of_failure > 0)
    };
    assert_eq!(says(false), (false, false));
    assert_eq!(says(true), (true, true));
}

// SPDX-License-Identifier: Apache-2.0

//! Who gets a pointer, and which Machine of ours gets what was wrapped for which one of Cluster API.

use super::super::{Name, work};
use super::{LINK, Provider};
use crate::controllers::testing::{NAMESPACE, Server, Write};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const OURS: &str = "trusted-execution-clusters.io/v1alpha1";
const THEIRS: &str = "cluster.x-k8s.io/v1beta2";

fn config(spec: Value, metadata: &Value) -> Value {
    let mut object = json!({
        "apiVersion": OURS, "kind": "AttestedConfig", "metadata": {"name": "worker"}, "spec": spec,
    });
    for (name, value) in metadata.as_object().unwrap() {
        object["metadata"][name] = value.clone();
    }
    object
}

fn owner(version: &str, kind: &str) -> Value {
    json!({"ownerReferences": [{"apiVersion": version, "kind": kind, "name": "worker", "uid": "1"}]})
}

/// A Machine of Cluster API whose bootstrap config is this.
fn theirs(version: &str, kind: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": version, "kind": "Machine",
        "metadata": {"name": "worker", "annotations": annotations},
        "spec": {"bootstrap": {"configRef": {"kind": kind, "name": "worker"}}},
    })
}

/// What a config of `worker` was brought to, and whether nothing is left to do.
fn configured(object: Option<Value>) -> (bool, Vec<Write>) {
    let server = Server::start();
    object.into_iter().for_each(|object| server.put(object));
    let provider = Provider::new(&server.client, NAMESPACE);
    let done = server.runtime.block_on(provider.config("worker")).unwrap();
    (done, server.writes())
}

/// The same of a Machine of ours, beside these objects.
fn linked(ours: Value, others: &[Value]) -> (bool, Vec<Write>) {
    let server = Server::start();
    server.put(ours);
    server.put(config(json!({"config": {"secret": "join"}}), &json!({})));
    others.iter().for_each(|object| server.put(object.clone()));
    let provider = Provider::new(&server.client, NAMESPACE);
    let done = server.runtime.block_on(provider.machine("a")).unwrap();
    (done, server.writes())
}

#[test]
fn a_config_gets_its_pointer_when_a_machine_of_cluster_api_owns_it() {
    let good = json!({"registrar": "https://registrar:8443"});
    let plain = json!({"registrar": "http://registrar:8443"});
    let is_theirs = owner(THEIRS, "Machine");
    for (spec, metadata, reason) in [
        (&good, json!({}), "WaitingForMachine"),
        (&good, is_theirs.clone(), "Available"),
        (
            &json!({}),
            owner("cluster.x-k8s.io/v1beta1", "Machine"),
            "Available",
        ),
        // Machines of ours, and whatever else Cluster API has.
        (&good, owner(OURS, "Machine"), "WaitingForMachine"),
        (&good, owner(THEIRS, "MachineSet"), "WaitingForMachine"),
        (&plain, is_theirs.clone(), "InvalidSpec"),
    ] {
        let (done, writes) = configured(Some(config(spec.clone(), &metadata)));
        assert!(done);
        let of = |plural: &'static str| {
            writes
                .iter()
                .filter(move |write| write.path.contains(plural))
        };
        let available = reason == "Available";
        assert_eq!(
            of("/secrets/worker-pointer").count(),
            usize::from(available)
        );
        let status = &of("/attestedconfigs/worker/status").next().unwrap().body["status"];
        assert_eq!(status["conditions"][0]["reason"], reason, "{metadata}");
        assert_eq!(status["ready"] == true, available, "{metadata}");
    }
    let mut paused = is_theirs.clone();
    paused["annotations"] = json!({"cluster.x-k8s.io/paused": ""});
    let mut deleted = is_theirs;
    deleted["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for (object, left) in [
        (Some(config(good.clone(), &paused)), true),
        (Some(config(good, &deleted)), true),
        (None, false),
    ] {
        let (done, writes) = configured(object);
        assert_eq!(done, !left);
        assert_eq!(writes.len(), 0, "{writes:?}");
    }
}

#[test]
fn whoever_has_not_the_lease_does_nothing() {
    for held in [true, false] {
        let server = Server::start();
        server.put(config(json!({}), &owner(THEIRS, "Machine")));
        let provider = Provider::new(&server.client, NAMESPACE);
        let (sender, changed) = tokio::sync::mpsc::unbounded_channel();
        sender.send(Name::Config("worker".to_owned())).unwrap();
        // It ends with the watches.
        drop(sender);
        let held_now = Arc::new(AtomicBool::new(held));
        server.runtime.block_on(work(provider, changed, held_now));
        assert_eq!(server.writes().is_empty(), !held);
    }
}

#[test]
fn a_machine_of_ours_gets_what_was_wrapped_for_the_one_that_it_is() {
    let ours = |metadata: Value, ignition: Value| {
        let mut object = json!({
            "apiVersion": OURS, "kind": "Machine",
            "metadata": {"name": "a", "annotations": {LINK: "worker"}},
            "spec": {"id": "n1", "ignition": ignition},
        });
        for (name, value) in metadata.as_object().unwrap() {
            object["metadata"][name] = value.clone();
        }
        object
    };
    let bare = || ours(json!({}), Value::Null);
    let wrapped = json!({"secret": "join", "key": "value"});
    let is_theirs = |kind: &str| theirs(THEIRS, kind, &json!({}));
    let old_version = theirs("cluster.x-k8s.io/v1beta1", "AttestedConfig", &json!({}));
    let is_linked = json!({"ownerReferences": [{
        "apiVersion": THEIRS, "kind": "Machine", "name": "worker", "uid": "uid-of-worker",
    }]});
    let other = json!({"secret": "other"});
    // With the config that it then has.
    for (what, ours, theirs, ignition, done) in [
        (
            "new",
            bare(),
            is_theirs("AttestedConfig"),
            wrapped.clone(),
            true,
        ),
        (
            "another version",
            bare(),
            old_version,
            wrapped.clone(),
            true,
        ),
        (
            "another provider's",
            bare(),
            is_theirs("KubeadmConfig"),
            Value::Null,
            false,
        ),
        (
            "changed",
            ours(is_linked.clone(), other),
            is_theirs("AttestedConfig"),
            wrapped.clone(),
            true,
        ),
    ] {
        let (is_done, writes) = linked(ours, std::slice::from_ref(&theirs));
        assert_eq!(is_done, done, "{what}");
        let [write] = writes.as_slice() else {
            panic!("{what}: {writes:?}")
        };
        let (method, path) = (write.method.as_str(), write.path.as_str());
        assert!(
            method == "PATCH" && path.ends_with("/machines/a"),
            "{what}: {path}"
        );
        // One that was deleted meanwhile is not made again.
        assert_eq!(write.body["metadata"]["uid"], "uid-of-a", "{what}");
        let owner = &write.body["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], "uid-of-worker", "{what}");
        assert_eq!(owner["apiVersion"], theirs["apiVersion"], "{what}");
        assert_eq!(write.body["spec"]["ignition"], ignition, "{what}");
    }
    let paused = theirs(
        THEIRS,
        "AttestedConfig",
        &json!({"cluster.x-k8s.io/paused": ""}),
    );
    let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    let nobodys = json!({"annotations": {}});
    for (what, ours, theirs, done) in [
        (
            "nobody says so",
            ours(nobodys, Value::Null),
            Some(is_theirs("AttestedConfig")),
            true,
        ),
        ("there is none", bare(), None, false),
        ("paused", bare(), Some(paused), false),
        (
            "deleted",
            ours(deleted, Value::Null),
            Some(is_theirs("AttestedConfig")),
            true,
        ),
        (
            "as it should be",
            ours(is_linked, wrapped),
            Some(is_theirs("AttestedConfig")),
            true,
        ),
    ] {
        let (is_done, writes) = linked(ours, theirs.as_slice());
        assert_eq!((is_done, writes.len()), (done, 0), "{what}: {writes:?}");
    }
}

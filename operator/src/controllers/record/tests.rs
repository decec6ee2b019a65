// SPDX-License-Identifier: Apache-2.0

//! What the API server has of a record at each step, and what the next operator makes of it.

use super::{Counters, VolumeKey};
use crate::controllers::testing::Server;
use crate::model::{SecretId, Tag};
use crate::plan::{Observed, Write};
use crate::provision::Error;
use crate::provision::apply::Memory as _;
use crate::testing::node;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn path(number: u32) -> String {
    let root: Tag = "root".parse().unwrap();
    root.path(&node(number)).unwrap().to_string()
}

fn store(number: u32, secret: &str) -> Write {
    Write::Resource {
        path: path(number).parse().unwrap(),
        secret: SecretId(secret.to_owned()),
    }
}

fn delete(number: u32) -> Write {
    Write::DeleteResource {
        path: path(number).parse().unwrap(),
    }
}

/// What was last written of the piece in which machine 1 is.
fn kept(server: &Server) -> Value {
    let writes = server.writes().into_iter().rev();
    let mut pieces = writes.filter(|write| {
        let name = write.body["metadata"]["name"].as_str().unwrap();
        name.contains("-node-")
    });
    let text = pieces.next().unwrap().body["data"]["record.json"].clone();
    serde_json::from_str(text.as_str().unwrap()).unwrap()
}

#[test]
fn a_write_is_on_record_before_it_is_sent_and_the_next_operator_knows() {
    let server = Server::start();
    let mut record = server.record();
    let counters = Counters {
        rotation: 3,
        ..Counters::default()
    };
    record.expect(&path(1), counters);
    let writes = [store(1, "one")];
    record.begin(&writes, 1).unwrap();
    let begun = kept(&server);
    let resources = begun["observed"]["resources"].as_object().unwrap();
    assert_eq!(resources.get(&path(1)), Some(&Value::Null));
    assert_eq!(begun["counters"][path(1)], json!(counters));
    // Whoever takes over now does not know what the KBS has.
    assert_eq!(server.record().observed().secret(&path(1)), Some(None));
    record.finish(&writes).unwrap();
    assert_eq!(server.record().observed().secret(&path(1)), Some(None));
    let key = VolumeKey {
        id: Some(SecretId("vk:aa:1:1".to_owned())),
        renewal: 2,
    };
    record.set_volume_key(&node(1), &path(1), key.clone());
    record.settle_all().unwrap();
    let next = server.record();
    assert_eq!(next.observed(), record.observed());
    assert_eq!(next.id(), record.id());
    assert_eq!(next.counters(&node(1), &path(1)), Some(counters));
    assert_eq!(next.volume_key(&node(1), &path(1)), key);
    // What is deleted is forgotten, with all that was known of it.
    let writes = [delete(1)];
    record.begin(&writes, 1).unwrap();
    record.finish(&writes).unwrap();
    record.settle().unwrap();
    let next = server.record();
    assert_eq!(next.observed().secret(&path(1)), None);
    assert_eq!(next.counters(&node(1), &path(1)), None);
    assert_eq!(next.volume_key(&node(1), &path(1)), VolumeKey::default());
}

#[test]
fn writes_of_one_piece_begin_together_unless_it_has_changed_since() {
    let server = Server::start();
    let mut record = server.record();
    let data: Tag = "data".parse().unwrap();
    let data = Write::Resource {
        path: data.path(&node(1)).unwrap(),
        secret: SecretId("two".to_owned()),
    };
    for changed in [false, true] {
        let writes = [store(1, "one"), data.clone()];
        record.begin(&writes, 1).unwrap();
        record.finish(&writes[..1]).unwrap();
        if changed {
            let key = VolumeKey {
                id: Some(SecretId("vk:aa:1:1".to_owned())),
                renewal: 0,
            };
            record.set_volume_key(&node(1), &path(1), key);
        }
        server.writes();
        record.begin(&writes[1..], 1).unwrap();
        assert_eq!(server.writes().len(), usize::from(changed));
        record.finish(&writes[1..]).unwrap();
        record.settle().unwrap();
    }
}

#[test]
fn a_piece_replaces_the_version_that_was_read_and_no_other() {
    let server = Server::start();
    let mut record = server.record();
    record.begin(&[store(1, "one")], 1).unwrap();
    let first = server.writes();
    assert_eq!(first[0].method, "POST");
    let created = server.record();
    assert_eq!(created.observed(), record.observed());
    record.begin(&[store(1, "two")], 1).unwrap();
    let second = server.writes();
    let version = &second[0].body["metadata"]["resourceVersion"];
    assert_eq!((second[0].method.as_str(), version), ("PUT", &json!("1")));
}

#[test]
fn whoever_has_lost_the_lease_begins_nothing() {
    let server = Server::start();
    let held = Arc::new(AtomicBool::new(true));
    let mut record = server.record_of("cluster", Arc::clone(&held)).unwrap();
    record.begin(&[store(1, "one")], 1).unwrap();
    server.writes();
    held.store(false, Ordering::Release);
    let refused = record.begin(&[store(1, "two")], 1).unwrap_err();
    assert!(
        refused.to_string().contains("the lease is lost"),
        "{refused}"
    );
    assert_eq!(server.writes().len(), 0);
}

#[test]
fn without_copies_what_was_stored_is_lost_and_with_them_uncertain() {
    for copies in [false, true] {
        let server = Server::start();
        let mut record = server.record();
        let writes = [store(1, "one"), store(2, "config-1")];
        record.begin(&writes, 2).unwrap();
        record.finish(&writes).unwrap();
        record.lose(copies).unwrap();
        let next = server.record();
        let lost = |number| next.counters(&node(number), &path(number));
        let secret = |number| next.observed().secret(&path(number)).unwrap();
        assert_eq!(lost(1).is_some_and(|one| one.lost), !copies);
        assert_eq!(
            secret(1).is_some(),
            !copies,
            "its name, to say which it was"
        );
        assert_eq!(secret(2), None, "it comes from elsewhere again");
    }
}

#[test]
fn a_damaged_record_is_not_taken_for_an_empty_one() {
    let good = json!({"version": 1, "observed": {}}).to_string();
    let other = json!({"version": 2, "observed": {}}).to_string();
    for (name, data, why) in [
        (
            "sheepfold-record-cluster-node-00",
            json!({"record.json": good}),
            None,
        ),
        (
            "sheepfold-record-cluster-node-00",
            json!({"record.json": other}),
            Some("expected version 1, got 2"),
        ),
        (
            "sheepfold-record-cluster-node-00",
            json!({"record.json": "{"}),
            Some("EOF"),
        ),
        (
            "sheepfold-record-cluster-node-00",
            json!({}),
            Some("it has no entry record.json"),
        ),
        (
            "theirs",
            json!({"record.json": good}),
            Some("its name does not begin with sheepfold-record-cluster-"),
        ),
    ] {
        let server = Server::start();
        server.put(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data,
        }));
        let read = server.record_of("cluster", Arc::new(AtomicBool::new(true)));
        match (read, why) {
            (Ok(_), None) => {}
            (Err(Error::Piece { why: said, .. }), Some(why)) => {
                assert!(said.contains(why), "{said}")
            }
            (read, _) => panic!("{name}: {:?}", read.err()),
        }
    }
}

#[test]
fn a_memory_that_was_handed_over_says_whether_a_rotation_is_under_way() {
    for (kept, rotating) in [(&["one"][..], false), (&["one", "two"][..], true)] {
        let server = Server::start();
        let mut observed = Observed::default();
        let places = kept.iter().map(|id| (format!("{}.{id}", path(1)), *id));
        for (at, id) in places.chain([(path(1), "one")]) {
            observed.finish(&Write::Resource {
                path: at.parse().unwrap(),
                secret: SecretId(id.to_owned()),
            });
        }
        let mut record = server.record();
        record.adopt("number", true, &observed).unwrap();
        let next = server.record();
        let counters = next.counters(&node(1), &path(1)).unwrap();
        assert_eq!(counters.rotating, rotating, "{kept:?}");
        assert_eq!((next.id(), next.is_stamped()), ("number", true));
        assert_eq!(next.observed(), &observed);
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Which objects an enrolment makes, and what is remembered of a node that has unlocked.

use super::{MACHINE, NODE, ObjectRegistry};
use crate::controllers::api::GROUP;
use crate::controllers::beside::RECORDS;
use crate::controllers::testing::{NAMESPACE, Server};
use crate::register::registry::{MOST_KEYS, MOST_RECORDS, NewKey, Registry as _};
use crate::register::sighting::{ANNOTATION, Sighting};
use kbs_protocol::NodeId;
use kbs_protocol::encoding::{b64, hex};
use kbs_protocol::enroll::{Refusal, RefusalKind, State};
use kbs_protocol::volume_record::SignedRecord;
use serde_json::{Value, json};
use soft_tee::tpm::SoftTpm;
use std::time::SystemTime;

fn registry(server: &Server, most: usize) -> ObjectRegistry {
    let runtime = server.runtime.handle().clone();
    let opened = ObjectRegistry::open(&server.client, NAMESPACE, most, runtime);
    server.runtime.block_on(opened).unwrap()
}

/// The key with this content appears in the TPM with this number.
fn admit(registry: &ObjectRegistry, tpm: u8, key: &[u8]) -> Result<State, Refusal> {
    registry.admit(&NewKey {
        ek_sha256: [tpm; 32],
        ak_spki: key,
        basis: "first-use",
        product: None,
        now: SystemTime::now(),
    })
}

/// The kinds of what was made, and the names.
fn made(server: &Server) -> Vec<(String, String)> {
    let writes = server.writes().into_iter();
    let made = writes.filter(|write| write.method == "POST");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    made.map(|write| {
        (
            text(&write.body["kind"]),
            text(&write.body["metadata"]["name"]),
        )
    })
    .collect()
}

fn named(tpm: u8, number: usize) -> (String, String) {
    let name = format!("tpm-{}-{number}", hex::encode([tpm; 32]));
    ("AttestationKey".to_owned(), name)
}

fn of_node(key: &[u8]) -> (String, String) {
    ("Machine".to_owned(), NodeId::from_spki_der(key).to_string())
}

fn version() -> String {
    format!("{GROUP}/v1alpha1")
}

fn machine(name: &str, spec: Value, metadata: Value) -> Value {
    let mut object = json!({
        "apiVersion": version(), "kind": "Machine", "metadata": metadata, "spec": spec,
    });
    object["metadata"]["name"] = json!(name);
    object
}

#[test]
fn the_first_key_of_a_tpm_is_approved_and_each_is_one_machine() {
    let server = Server::start();
    let registry = registry(&server, 100);
    let (first, second, other) = (b"first", b"second", b"other");
    assert_eq!(admit(&registry, 1, first).unwrap(), State::Approved);
    assert_eq!(made(&server), [named(1, 1), of_node(first)]);
    assert_eq!(admit(&registry, 1, second).unwrap(), State::Held);
    assert_eq!(made(&server), [named(1, 2), of_node(second)]);
    assert_eq!(admit(&registry, 2, other).unwrap(), State::Approved);
    assert_eq!(made(&server), [named(2, 1), of_node(other)]);
    // Each is what it was.
    for (tpm, key, state) in [
        (1, &first[..], State::Approved),
        (1, &second[..], State::Held),
        (2, &other[..], State::Approved),
    ] {
        assert_eq!(admit(&registry, tpm, key).unwrap(), state);
    }
    assert!(made(&server).is_empty());
    // What an administrator says of its Machine counts.
    let (_, name) = of_node(second);
    server.put(machine(&name, json!({"id": name}), json!({})));
    assert_eq!(admit(&registry, 1, second).unwrap(), State::Approved);
    // A Machine that was deleted, or is about to be, does not come back with the next enrolment.
    let (_, name) = of_node(first);
    let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    server.put(machine(&name, json!({"id": name}), going));
    assert_eq!(admit(&registry, 1, first).unwrap(), State::Held);
    server.remove(&version(), "Machine", &name);
    assert_eq!(admit(&registry, 1, first).unwrap(), State::Held);
    assert!(made(&server).is_empty());
}

#[test]
fn a_machine_that_somebody_wrote_before_is_the_nodes() {
    let key = b"first";
    let (_, node) = of_node(key);
    for spec in [
        json!({"attestationKey": b64::encode(key)}),
        json!({"id": node}),
    ] {
        let server = Server::start();
        server.put(machine("another", json!({"id": "n1"}), json!({})));
        server.put(machine("worker", spec, json!({})));
        let registry = registry(&server, 100);
        assert_eq!(admit(&registry, 1, key).unwrap(), State::Approved);
        let writes = server.writes();
        assert_eq!(
            writes.iter().filter(|write| write.method == "POST").count(),
            1
        );
        assert_eq!(writes[1].body["metadata"]["annotations"][MACHINE], "worker");
    }
}

#[test]
fn of_two_registrars_one_comes_second() {
    let server = Server::start();
    let registry = registry(&server, 100);
    admit(&registry, 1, b"first").unwrap();
    server.writes();
    for (key, state, objects) in [
        (&b"first"[..], State::Approved, vec![named(1, 1)]),
        (
            &b"second"[..],
            State::Held,
            vec![named(1, 1), named(1, 2), of_node(b"second")],
        ),
    ] {
        // It has looked before the other one had written.
        server.be_late();
        assert_eq!(admit(&registry, 1, key).unwrap(), state);
        assert_eq!(made(&server), objects);
    }
}

#[test]
fn keys_have_an_end_and_a_node_hears_nothing_of_the_cluster() {
    let server = Server::start();
    let registry = registry(&server, MOST_KEYS.saturating_add(1));
    for number in 0..MOST_KEYS {
        admit(&registry, 1, &number.to_be_bytes()).unwrap();
    }
    let refused = admit(&registry, 1, b"one more").unwrap_err();
    assert_eq!(refused.error, RefusalKind::TooManyKeys);
    admit(&registry, 2, b"another TPM").unwrap();
    let full = admit(&registry, 3, b"too many").unwrap_err();
    assert_eq!(full.error, RefusalKind::Failure);
    assert_eq!(full.detail, "the registrar cannot keep the result");
    assert_eq!(
        admit(&registry, 2, b"another TPM").unwrap(),
        State::Approved
    );
    // Those that are there count from the beginning.
    let opened = self::registry(&server, 1);
    assert!(admit(&opened, 3, b"too many").is_err());
}

/// A node that has enrolled, with a Machine in this state, and these annotations of its key.
struct Enrolled {
    server: Server,
    tpm: SoftTpm,
}

impl Enrolled {
    fn new(state: &str, annotations: &Value) -> Self {
        let (server, tpm) = (Server::start(), SoftTpm::number(0));
        let node = tpm.node_id().to_string();
        let mut notes = json!({MACHINE: "worker"});
        for (name, value) in annotations.as_object().unwrap() {
            notes[name] = value.clone();
        }
        let notes_of = notes.as_object_mut().unwrap();
        notes_of.retain(|_, value| !value.is_null());
        let key = |name: &str, public: String, notes: &Value| {
            server.put(json!({
                "apiVersion": version(), "kind": "AttestationKey",
                "metadata": {"name": name, "resourceVersion": "7", "labels": {NODE: node}, "annotations": notes},
                "spec": {"publicKey": public},
            }));
        };
        // One that looks alike comes first.
        key("a", "MIIB".to_owned(), &json!({MACHINE: "nowhere"}));
        key("b", tpm.ak_public(), &notes);
        server.put(machine(
            "worker",
            json!({"id": node, "state": state}),
            json!({}),
        ));
        Self { server, tpm }
    }

    fn says(&self, text: &str) -> SignedRecord {
        let record = json!({"record": text, "evidence": self.tpm.evidence(b"")});
        serde_json::from_value(record).unwrap()
    }

    /// This text comes, signed at this time of its TPM's clock.
    fn record(&self, text: &str, clock: u64) -> Result<bool, RefusalKind> {
        let registry = registry(&self.server, 100);
        let recorded = registry.record(self.tpm.node_id(), &self.says(text), &seen(clock));
        recorded.map_err(|refusal| refusal.error)
    }

    /// What was written of its key's annotations.
    fn written(&self) -> Option<Value> {
        let write = self.server.writes().pop()?;
        assert!(write.path.ends_with("/attestationkeys/b"), "{}", write.path);
        assert!(
            write.body["metadata"]["resourceVersion"].is_string(),
            "of the key that was read"
        );
        Some(write.body["metadata"]["annotations"].clone())
    }
}

fn seen(clock: u64) -> Sighting {
    let text = json!({"at": clock, "order": [1, clock], "pcrs": {}}).to_string();
    Sighting::parse(&text).unwrap()
}

#[test]
fn a_record_is_kept_once_and_the_youngest_says_when() {
    let node = Enrolled::new("approved", &json!({}));
    let mut kept = Vec::new();
    let texts = |written: &Value| -> Vec<String> {
        let records: Vec<SignedRecord> =
            serde_json::from_str(written[RECORDS].as_str().unwrap()).unwrap();
        records.into_iter().map(|record| record.record).collect()
    };
    for (text, clock, known, news) in [
        ("one", 2, false, true),
        ("one", 2, true, false),
        ("one", 3, true, true),
        // Signed before, and came late.
        ("two", 1, false, false),
        ("one", 1, true, false),
    ] {
        assert_eq!(node.record(text, clock), Ok(known), "{text} at {clock}");
        let written = node.written();
        assert_eq!(written.is_some(), !known || news, "{text} at {clock}");
        let Some(written) = written else { continue };
        if !known {
            kept.push(text.to_owned());
        }
        assert_eq!(texts(&written), kept);
        let says = written
            .get(ANNOTATION)
            .map(|text| Sighting::parse(text.as_str().unwrap()));
        assert_eq!(
            says.flatten(),
            news.then(|| seen(clock)),
            "{text} at {clock}"
        );
    }
}

#[test]
fn nothing_is_kept_of_who_is_not_approved_nor_without_end() {
    for (state, annotations, refused) in [
        (
            "approved",
            json!({MACHINE: "nowhere"}),
            RefusalKind::UnknownNode,
        ),
        ("approved", json!({MACHINE: null}), RefusalKind::UnknownNode),
        ("held", json!({}), RefusalKind::UnknownNode),
        ("revoked", json!({}), RefusalKind::UnknownNode),
        (
            "approved",
            json!({RECORDS: "damaged"}),
            RefusalKind::Failure,
        ),
    ] {
        let node = Enrolled::new(state, &annotations);
        assert_eq!(node.record("one", 1), Err(refused), "{state} {annotations}");
        assert_eq!(node.written(), None);
    }
    let node = Enrolled::new("approved", &json!({}));
    node.server.remove(&version(), "AttestationKey", "b");
    assert_eq!(node.record("one", 1), Err(RefusalKind::UnknownNode));
    let node = Enrolled::new("approved", &json!({}));
    for number in 0..MOST_RECORDS {
        node.record(&number.to_string(), 1).unwrap();
    }
    node.written();
    assert_eq!(node.record("more", 2), Err(RefusalKind::TooManyRecords));
    assert_eq!(node.written(), None);
    assert_eq!(node.record("0", 2), Ok(true), "it says that it lives");
}

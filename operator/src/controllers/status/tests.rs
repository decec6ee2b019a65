// SPDX-License-Identifier: Apache-2.0

//! What a status says, and what an API server would refuse of it.

use super::{Conditions, FINALIZER, MESSAGE, NOTE, Verdict, Writer, is_gone, key, machine};
use crate::controllers::api::{AttestationKey, Machine, Phase};
use crate::controllers::testing::{NAMESPACE, Server};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::core::Status;
use serde_json::json;

fn object(status: serde_json::Value) -> Machine {
    let object = json!({
        "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "Machine",
        "metadata": {"name": "a", "generation": 3}, "spec": {"id": "n1"}, "status": status,
    });
    serde_json::from_value(object).unwrap()
}

fn long_ago() -> Time {
    Time(Timestamp::from_second(1_500_000_000).unwrap())
}

fn condition(kind: &str, status: &str) -> Condition {
    Condition {
        last_transition_time: long_ago(),
        message: "as it was".to_owned(),
        observed_generation: None,
        reason: "Before".to_owned(),
        status: status.to_owned(),
        type_: kind.to_owned(),
    }
}

#[test]
fn a_condition_changes_its_time_when_it_changes_and_only_then() {
    let old = [condition("Same", "True"), condition("Other", "True")];
    let mut conditions = Conditions::new(&old, Some(7));
    conditions.set("Same", (true, "Fine"), "now in other words");
    conditions.set("Other", (false, "Bad"), "");
    conditions.set("New", (true, "Fine"), "");
    let [same, other, new] = conditions.0.as_slice() else {
        panic!("{:?}", conditions.0)
    };
    assert_eq!(same.last_transition_time, long_ago());
    assert_eq!(same.message, "now in other words");
    for changed in [other, new] {
        assert!(changed.last_transition_time > long_ago(), "{changed:?}");
        // What an API server gives back has no more than whole seconds.
        assert_eq!(changed.last_transition_time.0.subsec_nanosecond(), 0);
        // An empty message would be refused.
        assert_eq!(changed.message, changed.reason);
        assert_eq!(changed.observed_generation, Some(7));
    }
}

#[test]
fn a_message_has_an_end() {
    let mut conditions = Conditions::new(&[], None);
    conditions.set("Long", (false, "Bad"), &"ä".repeat(40_000));
    assert_eq!(conditions.0[0].message, "ä".repeat(MESSAGE));
    let server = Server::start();
    let writer = Writer::new(&server.client, NAMESPACE, "one", server.runtime.handle());
    let note = "ä".repeat(40_000);
    writer.say(&object(json!({})), true, "Bad", &note);
    let said = server.writes();
    assert_eq!(said[0].body["note"], "ä".repeat(NOTE));
}

#[test]
fn a_finalizer_is_that_of_one_object_and_not_of_another_one_of_its_name() {
    let server = Server::start();
    let writer = Writer::new(&server.client, NAMESPACE, "one", server.runtime.handle());
    for (set, finalizers) in [(true, json!([FINALIZER])), (false, json!([]))] {
        server.put(json!(object(json!({}))));
        let objects = [("a".to_owned(), "1234".to_owned())];
        writer.finalizer::<Machine>(&objects, set).unwrap();
        let writes = server.writes();
        let metadata = &writes[0].body["metadata"];
        assert_eq!(metadata["uid"], "1234");
        assert_eq!(metadata["finalizers"], finalizers);
    }
}

#[test]
fn a_machine_says_in_each_phase_what_it_has() {
    for phase in Phase::ALL {
        let verdict = Verdict {
            phase,
            ..Verdict::default()
        };
        let status = machine(&object(json!({"node": "n1"})), &verdict);
        let holds = |kind: &str| {
            let mut all = status.conditions.iter();
            let one = all.find(|one| one.type_ == kind).unwrap();
            one.status == "True"
        };
        let served = phase.is_served();
        assert_eq!(holds("KeyProvisioned"), served, "{phase:?}");
        let approved = served || phase == Phase::Lost;
        assert_eq!(holds("AttestationKeyApproved"), approved, "{phase:?}");
        assert_eq!(status.observed_generation, Some(3));
        // Which node it is, is not forgotten while nobody can say.
        assert_eq!(status.node.as_deref(), Some("n1"));
    }
}

#[test]
fn a_key_says_whose_it_is() {
    let object = json!({
        "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "AttestationKey",
        "metadata": {"name": "a"}, "spec": {"publicKey": "MIIB"},
    });
    let object: AttestationKey = serde_json::from_value(object).unwrap();
    let of = |machine| key(&object, machine, None).conditions.remove(0);
    let (somebodys, nobodys) = (of(Some("worker")), of(None));
    assert_eq!(
        (somebodys.status.as_str(), nobodys.status.as_str()),
        ("True", "False")
    );
    assert!(somebodys.message.contains("worker"), "{somebodys:?}");
}

#[test]
fn what_is_gone_needs_no_status_and_what_was_refused_is_told() {
    let answer = |code: u16, message: &str| {
        let status = Status {
            code,
            message: message.to_owned(),
            ..Status::default()
        };
        kube::Error::Api(Box::new(status))
    };
    let precondition = "Precondition failed: UID in precondition: x, uid in object meta: y";
    for (error, gone) in [
        (answer(404, "machines \"a\" not found"), true),
        (answer(409, precondition), true),
        (answer(409, "the object has been modified"), false),
        (answer(422, "metadata.uid: Invalid value"), false),
        (answer(500, "uid"), false),
    ] {
        assert_eq!(is_gone(&error), gone, "{error}");
    }
}

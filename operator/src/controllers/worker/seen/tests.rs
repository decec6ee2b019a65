// SPDX-License-Identifier: Apache-2.0

//! What a machine last showed, beside what is approved now.

use super::super::tests::worker;
use super::{Pictures, Seen, add};
use crate::controllers::api::Phase;
use crate::controllers::inventory::{Dirty, Inventory};
use crate::controllers::parse;
use crate::controllers::status::Verdict;
use crate::controllers::testing::Server;
use crate::register::sighting::Sighting;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

#[test]
fn a_change_of_an_image_concerns_those_that_booted_it_and_those_without_one() {
    let mut pictures = Pictures::default();
    pictures.set("a", Some(Some("os-1".to_owned())));
    pictures.set("b", Some(Some("os-2".to_owned())));
    pictures.set("c", Some(None));
    pictures.set("d", None);
    let concerned = |pictures: &Pictures, image| -> Vec<String> {
        pictures.concerned(image).cloned().collect()
    };
    assert_eq!(concerned(&pictures, "os-1"), ["a", "c"]);
    pictures.set("a", Some(Some("os-2".to_owned())));
    assert_eq!(concerned(&pictures, "os-1"), ["c"]);
    assert_eq!(concerned(&pictures, "os-2"), ["a", "b", "c"]);
    pictures.set("c", None);
    assert!(concerned(&pictures, "os-1").is_empty());
}

/// A cluster in which machines grow stale, and an image "os" with these boots.
fn inventory(stale_after_days: i64, boot_tuples: serde_json::Value) -> Inventory {
    let object = |kind: &str, name: &str, spec: serde_json::Value| {
        json!({"apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": kind,
            "metadata": {"name": name, "uid": name}, "spec": spec})
    };
    let (mut inventory, mut dirty) = (Inventory::default(), Dirty::default());
    let spec = json!({"staleAfterDays": stale_after_days});
    let cluster = serde_json::from_value(object("TrustedExecutionCluster", "c", spec));
    inventory.set_cluster("c", Some(cluster.unwrap()), &mut dirty);
    let spec = json!({"referenceValues": {"bootTuples": boot_tuples}});
    let image = serde_json::from_value(object("ApprovedImage", "os", spec));
    inventory.set_image("os", Some(image.unwrap()), &mut dirty);
    inventory
}

#[test]
fn a_boot_that_was_shown_is_compared_with_what_is_approved_and_grows_old() {
    let tuples = json!([crate::testing::boot_tuple(1)]);
    let inventory = inventory(2, tuples);
    let wanted = parse::cluster(inventory.clusters().next().unwrap()).unwrap();
    let enrolled = Time(Timestamp::from_second(1_500_000_000).unwrap());
    let now = u64::try_from(Timestamp::now().as_second()).unwrap();
    let days = |days: u64| now.saturating_sub(days.saturating_mul(86_400));
    let sighting = |at: u64, boot: u32| {
        let tuple = crate::testing::boot_tuple(boot);
        let pcrs = json!({"4": tuple["pcr04"], "7": tuple["pcr07"], "14": tuple["pcr14"]});
        let text = json!({"at": at, "order": [1, 1], "pcrs": pcrs}).to_string();
        Some(Sighting::parse(&text).unwrap())
    };
    let os = Some("os".to_owned());
    for (before, unlocked, phase, image, says) in [
        (Phase::Served, None, Phase::Served, None, ""),
        (
            Phase::Served,
            sighting(days(1), 1),
            Phase::Unlocked,
            os.clone(),
            "",
        ),
        (
            Phase::Served,
            sighting(days(3), 1),
            Phase::Stale,
            os.clone(),
            "nothing for more than 2 days",
        ),
        (
            Phase::Served,
            sighting(days(1), 2),
            Phase::Stale,
            None,
            "is not approved",
        ),
        // What stands otherwise is no better for it.
        (
            Phase::Rotating,
            sighting(days(1), 1),
            Phase::Rotating,
            os,
            "",
        ),
        (
            Phase::Refused,
            sighting(days(3), 2),
            Phase::Refused,
            None,
            "",
        ),
    ] {
        let at = unlocked
            .as_ref()
            .map(|one: &Sighting| i64::try_from(one.at).unwrap());
        let seen = Seen {
            enrolled: Some(enrolled.clone()),
            unlocked,
        };
        let mut verdict = Verdict {
            phase: before,
            ..Verdict::default()
        };
        add(&mut verdict, Some(&seen), &inventory, &wanted);
        assert_eq!((verdict.phase, verdict.image), (phase, image), "{before:?}");
        let reason = verdict.reason.unwrap_or_default();
        assert!(
            reason.contains(says) && reason.is_empty() == says.is_empty(),
            "{reason}"
        );
        let at = at.map_or(enrolled.clone(), |at| {
            Time(Timestamp::from_second(at).unwrap())
        });
        assert_eq!(verdict.last_attestation, Some(at));
    }
    let mut verdict = Verdict::default();
    add(&mut verdict, None, &inventory, &wanted);
    assert_eq!(verdict, Verdict::default(), "nobody has seen anything");
}

/// How a machine stands that was seen `at`, in a boot that is approved or in another one.
fn stands(phase: Phase, remark: Option<&str>, at: u64, is_approved: bool) -> Verdict {
    let (zero, other) = ("00".repeat(32), "01".repeat(32));
    let four = if is_approved { &zero } else { &other };
    let inventory = inventory(1, json!([{"pcr04": four, "pcr07": zero, "pcr14": zero}]));
    let mut verdict = Verdict {
        phase,
        reason: remark.map(str::to_owned),
        ..Verdict::default()
    };
    let seen = Seen {
        enrolled: None,
        unlocked: Sighting::parse(&json!({"at": at, "order": [1, 1], "pcrs": {}}).to_string()),
    };
    let cluster = inventory.cluster().unwrap().unwrap();
    add(&mut verdict, Some(&seen), &inventory, &cluster);
    verdict
}

#[test]
fn what_else_is_wrong_is_not_forgotten() {
    let now = k8s_openapi::jiff::Timestamp::now().as_second();
    let now = u64::try_from(now).unwrap();
    let remark = Some("there is no Secret");
    let fresh = stands(Phase::Served, remark, now, true);
    assert_eq!(
        (fresh.phase, fresh.reason.as_deref(), fresh.image.as_deref()),
        (Phase::Unlocked, remark, Some("os"))
    );
    let fine = stands(Phase::Served, None, now, true);
    assert_eq!((fine.phase, fine.reason), (Phase::Unlocked, None));
    let old = stands(Phase::Served, remark, 0, true);
    let says = "its TPM has shown nothing for more than 1 days; there is no Secret";
    assert_eq!(
        (old.phase, old.reason.as_deref()),
        (Phase::Stale, Some(says))
    );
    let other = stands(Phase::Served, None, now, false);
    assert_eq!((other.phase, other.image), (Phase::Stale, None));
    assert!(other.reason.unwrap().contains("approve that boot"));
    // Whoever is not served is nothing else for having been seen.
    let held = stands(Phase::Held, remark, now, true);
    assert_eq!((held.phase, held.reason.as_deref()), (Phase::Held, remark));
}

#[test]
fn only_a_key_that_was_proved_says_when_its_tpm_was_seen() {
    for (basis, proved) in [(json!("first-use"), true), (serde_json::Value::Null, false)] {
        let server = Server::start();
        let mut worker = worker(&server);
        let mut dirty = Dirty::default();
        let id = crate::testing::node(1).to_string();
        let object = |kind: &str, spec: serde_json::Value| {
            json!({"apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": kind,
                "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec})
        };
        let cluster = serde_json::from_value(object("TrustedExecutionCluster", json!({})));
        worker
            .inventory
            .set_cluster("a", Some(cluster.unwrap()), &mut dirty);
        let key = json!({"publicKey": crate::testing::ak(1), "uuid": id, "basis": basis});
        let key = serde_json::from_value(object("AttestationKey", key));
        worker
            .inventory
            .set_key("a", Some(key.unwrap()), &mut dirty);
        let machine = serde_json::from_value(object("Machine", json!({"id": id})));
        worker
            .inventory
            .set_machine("a", Some(machine.unwrap()), &mut dirty);
        let seen = worker.seen(&worker.inventory.machines()["a"]).unwrap();
        assert_eq!(seen.enrolled.is_some(), proved, "{basis}");
        assert!(!seen.has_unlocked());
    }
}

// SPDX-License-Identifier: Apache-2.0

//! How a cluster stands, told to people and to monitoring systems, in good times and in bad ones.

use crate::common::Tpm;
use crate::control_plane::{Place, eventually};
use kbs_protocol::encoding::b64;
use kbs_protocol::volume_record::{RecordedVolume, SignedRecord, VolumeRecord};
use serde_json::{Value, json};
use sheepfold_operator::controllers::api::{
    ApprovedImage, AttestationKey, MachineStatus, Phase, TrustedExecutionCluster,
};
use sheepfold_operator::register::objects::ObjectRegistry;
use sheepfold_operator::register::registry::{NewKey, Registry as _};
use sheepfold_operator::register::sighting::{ANNOTATION, Sighting};
use sheepfold_tests::scan::Scanner;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn ready(place: &Place) -> Option<(String, String)> {
    let cluster: TrustedExecutionCluster = place.get("cluster");
    let conditions = cluster.status?.conditions;
    let ready = conditions.into_iter().find(|one| one.type_ == "Ready")?;
    Some((ready.status, ready.reason))
}

/// With the times that the installation has. How long it took is told; that it takes much longer than it should fails.
#[test]
fn a_kbs_that_lost_its_storage_is_healed_soon() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let [a, b] = [0, 1].map(Tpm::number);
    let installed = place.installed_operator();
    place.cluster(json!({"copies": "Namespace"}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({}));
    place.await_phase("a", Phase::Served);
    place.await_phase("b", Phase::Served);
    let (before, shape) = (place.lab.resources(), place.lab.shape());
    place.lab.lose_storage();
    let start = Instant::now();
    eventually("everything is there again", || place.lab.shape() == shape);
    let took = start.elapsed();
    println!("healed after {:.1} s", took.as_secs_f64());
    assert_eq!(place.lab.resources(), before, "the same bytes");
    assert_eq!(
        place.lab.fetch(&a, &a.root()).as_ref(),
        before.get(&a.root())
    );
    assert!(took < Duration::from_secs(60), "{took:?}");
    let metrics = installed.metrics();
    assert!(
        metrics.contains("\nsheepfold_kbs_storage_lost_total 1\n"),
        "{metrics}"
    );
}

#[test]
fn a_monitoring_system_sees_counts_and_nobody() {
    let Some(place) = Place::new() else { return };
    let [a, b] = [0, 1].map(Tpm::number);
    let installed = place.installed_operator();
    let before = installed.metrics();
    assert!(before.contains("\nsheepfold_kbs_up 0\n"), "{before}");
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("machine-a", &a, json!({}));
    place.machine("machine-b", &b, json!({}));
    place.machine("machine-twin", &b, json!({}));
    place.await_phase("machine-a", Phase::Served);
    place.await_phase("machine-twin", Phase::Refused);
    let mut metrics = String::new();
    eventually("all are counted", || {
        metrics = installed.metrics();
        metrics.contains("{phase=\"Refused\"} 2\n")
    });
    for line in [
        "sheepfold_leading 1",
        "sheepfold_kbs_up 1",
        "sheepfold_machines{phase=\"Served\"} 1",
        "sheepfold_images{state=\"committed\"} 1",
    ] {
        assert!(metrics.lines().any(|got| got == line), "{line}: {metrics}");
    }
    for secret in ["machine-a", "twin", &a.node(), &b.node(), &a.ak_public()] {
        assert!(!metrics.contains(secret), "{secret}: {metrics}");
    }
    let lines = |text: &str| text.lines().count();
    assert_eq!(
        lines(&metrics),
        lines(&before),
        "as long as with no machine"
    );
    place
        .lab
        .server
        .faults()
        .set_text("status=any:503")
        .unwrap();
    eventually("it is seen that the KBS is away", || {
        installed.metrics().contains("\nsheepfold_kbs_up 0\n")
    });
}

#[test]
fn while_the_kbs_is_away_everybody_is_told_so_and_nobody_forgotten() {
    let Some(place) = Place::new() else { return };
    let [a, b] = [0, 1].map(Tpm::number);
    let _operator = place.operator("one");
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.await_phase("a", Phase::Served);
    place
        .lab
        .server
        .faults()
        .set_text("status=any:503")
        .unwrap();
    eventually("the cluster says so", || {
        ready(&place) == Some(("False".to_owned(), "KbsFailed".to_owned()))
    });
    place.machine("b", &b, json!({}));
    let reason = place.await_phase("b", Phase::Registered);
    assert!(
        reason.starts_with("it waits: ") && reason.contains("503"),
        "{reason}"
    );
    assert_eq!(place.status("a").phase, Some(Phase::Served), "as it stood");

    let shown = place.command(&["status", "--namespace", &place.namespace]);
    let shown = text(&shown.stdout);
    assert!(
        shown.contains("! not ready since") && shown.contains("503"),
        "{shown}"
    );
    assert!(shown.contains("how things stood then"), "{shown}");
    assert!(shown.contains("operator one works"), "{shown}");
    assert!(
        shown.contains("2 machines: 1 Registered, 1 Served"),
        "{shown}"
    );
    assert!(
        shown.lines().any(|line| line.starts_with("! b ")),
        "{shown}"
    );
    let named = |line: &str| line.starts_with("  a ") || line.starts_with("! a ");
    assert!(
        !shown.lines().any(named),
        "nothing is wrong with a: {shown}"
    );

    place.lab.server.faults().clear();
    let reason = place.await_phase("b", Phase::Served);
    assert_eq!(reason, "");
    let shown = place.command(&["--json", "status", "--namespace", &place.namespace]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["clusters"][0]["ready"], true);
    assert_eq!(shown["phases"]["Served"], 2);
}

#[test]
fn what_is_gathered_tells_everything_but_secrets() {
    let Some(place) = Place::new() else { return };
    let [a, b] = [0, 1].map(Tpm::number);
    place.apply_manifest(include_str!("../../deploy/deployment.yaml"));
    let _operator = place.operator("one");
    place.cluster(json!({"copies": "Namespace"}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({"rotation": 1}));
    place.await_phase("a", Phase::Served);
    place.await_phase("b", Phase::Served);
    let mut scanner = Scanner::new();
    let mut secrets = Vec::new();
    for (path, secret) in place.lab.resources() {
        let content: Value = serde_json::from_slice(&secret).unwrap();
        let key = content["key"].as_str().unwrap().to_owned();
        scanner.add(&path, key.as_bytes()).unwrap();
        secrets.push(key);
    }
    let pem = std::fs::read_to_string(place.lab.dir.path().join("lab/admin.key")).unwrap();
    let body = pem.lines().nth(1).unwrap();
    scanner
        .add("the administrator's key", body.as_bytes())
        .unwrap();
    // As `kubectl apply` leaves it behind.
    let applied = json!({"data": {"root": secrets[0]}}).to_string();
    let note = json!({"metadata": {"annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": applied,
    }}});
    place.change::<k8s_openapi::api::core::v1::Secret>("kbs-admin", &note);
    place.change::<ApprovedImage>("good", &note);

    let to = place.lab.dir.path().join("gathered");
    let directory = to.to_str().unwrap();
    let gather = || {
        place.command(&[
            "must-gather",
            "--namespace",
            &place.namespace,
            "--to",
            directory,
        ])
    };
    let done = gather();
    assert!(done.status.success(), "{}", text(&done.stderr));
    let leaks = scanner.directory(&to, &[]).unwrap();
    assert!(leaks.is_empty(), "{leaks:?}");
    for (path, mode) in [(to.clone(), 0o700), (to.join("record.json"), 0o600)] {
        let found = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{}", path.display());
    }
    let read = |file: &str| std::fs::read_to_string(to.join(file)).unwrap();
    assert!(read("machines.json").contains(&a.node()));
    assert!(read("record.json").contains("sheepfold-record-cluster-main"));
    assert!(read("secrets.txt").contains("kbs-admin"));
    assert!(
        read("secrets.txt").contains("of Machine a"),
        "{}",
        read("secrets.txt")
    );
    assert!(
        read("status.txt").contains("2 machines: 2 Served"),
        "{}",
        read("status.txt")
    );
    assert!(read("deployments.json").contains("sheepfold-operator"));
    assert!(read("leases.json").contains("holderIdentity"));
    assert!(
        read("images.json").contains("bootTuples") && !read("images.json").contains("last-applied")
    );
    // The scanner finds what is there.
    std::fs::write(to.join("leak.txt"), &applied).unwrap();
    assert!(!scanner.directory(&to, &[]).unwrap().is_empty());
    // What was gathered once is not written over.
    let again = gather();
    assert_eq!(again.status.code(), Some(11), "{}", text(&again.stderr));
}

/// A record that this TPM has signed, and when it came.
fn signed(tpm: &Tpm, resets: u32, at: u64) -> (SignedRecord, Sighting) {
    let node = tpm.node().parse().unwrap();
    let volume = RecordedVolume {
        name: "root".to_owned(),
        path: tpm.root(),
        luks_uuid: "3c2f9a1e-8f7d-4d09-9a30-3a1f6f2c0e11".to_owned(),
        vk_id: "0a".repeat(32),
    };
    let record = VolumeRecord::new(&node, vec![volume]).unwrap().to_text();
    let evidence = tpm.evidence_at(&VolumeRecord::extra_data(&record), 1, resets);
    let record = SignedRecord {
        record,
        evidence: serde_json::from_value(evidence).unwrap(),
    };
    let seen = Sighting::new(
        &record.verify().unwrap(),
        UNIX_EPOCH + Duration::from_secs(at),
    );
    (record, seen)
}

#[test]
fn a_machine_shows_when_it_unlocked_and_with_which_image() {
    let Some(place) = Place::new() else { return };
    let [a, b] = [0, 1].map(Tpm::number);
    let registry = place
        .block_on(ObjectRegistry::open(
            &place.client,
            &place.namespace,
            9,
            place.runtime(),
        ))
        .unwrap();
    let _operator = place.operator("one");
    place.cluster(json!({}));
    place.image("os-1", json!([a.boot_tuple()]));
    for (ek, tpm) in [(1, &a), (2, &b)] {
        let spki = b64::decode(&tpm.ak_public()).unwrap();
        let key = NewKey {
            ek_sha256: [ek; 32],
            ak_spki: &spki,
            basis: "ek-certificate",
            product: None,
            now: SystemTime::now(),
        };
        registry.admit(&key).unwrap();
    }
    let (a, b) = ((&a, a.node()), (&b, b.node()));
    place.await_phase(&a.1, Phase::Served);
    place.await_phase(&b.1, Phase::Served);
    let enrolled = place.status(&a.1);
    assert!(enrolled.last_attestation.is_some(), "it has enrolled");
    assert_eq!(enrolled.image, None);

    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let node = a.1.parse().unwrap();
    let (record, seen) = signed(a.0, 7, now - 60);
    assert_eq!(registry.record(node, &record, &seen), Ok(false));
    place.await_phase(&a.1, Phase::Unlocked);
    let status = place.status(&a.1);
    assert_eq!(status.image.as_deref(), Some("os-1"));
    let attested = |status: &MachineStatus| status.last_attestation.clone().unwrap().0.as_second();
    assert_eq!(attested(&status), i64::try_from(now - 60).unwrap());
    // Somebody shows the same again: nothing new. The TPM has started since: that is news.
    let (again, later) = signed(a.0, 7, now - 30);
    assert_eq!(registry.record(node, &again, &later), Ok(true));
    let kept = || -> AttestationKey { place.get(&format!("tpm-{}-1", "01".repeat(32))) };
    let at = || {
        Sighting::parse(&kept().metadata.annotations.unwrap()[ANNOTATION])
            .unwrap()
            .at
    };
    assert_eq!(at(), now - 60);
    let (booted, later) = signed(a.0, 8, now - 20);
    assert_eq!(registry.record(node, &booted, &later), Ok(true));
    assert_eq!(at(), now - 20);
    eventually("the operator has seen it", || {
        attested(&place.status(&a.1)) == i64::try_from(now - 20).unwrap()
    });

    // Its image is no longer approved; the machine that has shown nothing stays as it was.
    place.image("os-2", json!([super::other_boot()]));
    place.delete::<ApprovedImage>("os-1");
    let reason = place.await_phase(&a.1, Phase::Stale);
    assert!(reason.contains("not approved"), "{reason}");
    assert_eq!(place.status(&a.1).image, None);
    assert_eq!(place.status(&b.1).phase, Some(Phase::Served));
    place.image("os-3", json!([a.0.boot_tuple()]));
    place.await_phase(&a.1, Phase::Unlocked);
    assert_eq!(place.status(&a.1).image.as_deref(), Some("os-3"));

    // And with a limit, a sign that is long past.
    let (old, seen) = signed(b.0, 1, now - 5 * 24 * 60 * 60);
    registry.record(b.1.parse().unwrap(), &old, &seen).unwrap();
    place.await_phase(&b.1, Phase::Unlocked);
    place.change::<TrustedExecutionCluster>("cluster", &json!({"spec": {"staleAfterDays": 3}}));
    let reason = place.await_phase(&b.1, Phase::Stale);
    assert!(reason.contains("3 days"), "{reason}");
    assert_eq!(place.status(&a.1).phase, Some(Phase::Unlocked));
}

// SPDX-License-Identifier: Apache-2.0

//! What a directory says is what the objects say, and no more.

use super::of;
use crate::controllers::api;
use crate::model::Boots;
use crate::plan::Observed;
use crate::provision::Directory;
use crate::provision::record::State;
use crate::testing::{ak, boot_tuple, node};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;

/// A cluster with these further lines of its spec and one machine with those.
fn directory(kbs: &str, cluster: &str, machine: &str) -> (tempfile::TempDir, Directory) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, kind: &str, object: &str, spec: &str| {
        let version = crate::provision::objects::API_VERSION;
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {object}}}\nspec:\n{spec}"
        );
        std::fs::write(dir.path().join(name), text).unwrap();
    };
    let key = dir.path().join("admin.pem");
    std::fs::write(&key, "a private key").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let spec = format!("  kbs: {{{kbs}, adminKeyFile: admin.pem}}\n{cluster}");
    write("cluster.yaml", "Cluster", "first", &spec);
    let tuples = format!("  referenceValues: {{bootTuples: [{}]}}\n", boot_tuple(1));
    write("image.yaml", "ApprovedImage", "os-1", &tuples);
    let spec = format!("  attestationKey: {}\n{machine}", ak(1));
    write("machine.yaml", "Machine", "node-0", &spec);
    let read = Directory::load(dir.path()).unwrap();
    (dir, read)
}

fn state(revoked: &[u32]) -> State {
    let revoked: Vec<_> = revoked.iter().map(|n| node(*n)).collect();
    let state = json!({
        "version": 1, "id": "0", "stamped": true, "observed": Observed::default(), "revoked": revoked,
        "changed": {}, "journal": 0,
    });
    serde_json::from_value(state).unwrap()
}

const TLS: &str = "url: \"https://kbs:8080\", ca: PEM";

/// As the API server takes it.
fn spec<S: serde::de::DeserializeOwned>(object: &Value) -> S {
    serde_json::from_value(object["spec"].clone()).unwrap()
}

#[test]
fn a_cluster_asks_of_the_operator_what_it_asked_of_provision() {
    let lines = "  evidence: [snp+tpm]\n  pcrs: [pcr04, pcr07]\n  \
                 recovery: {passphrase: escrowed, evenWhenConfidential: true}\n";
    let (_dir, read) = directory(TLS, lines, "  state: approved\n");
    let objects = of(&read, &state(&[])).unwrap();
    let [key] = objects.secrets.as_slice() else {
        panic!("{:?}", objects.secrets)
    };
    assert_eq!(key["stringData"]["admin.key"], "a private key");
    let cluster: api::TrustedExecutionClusterSpec = spec(&objects.cluster);
    let kbs = cluster.kbs.unwrap();
    assert_eq!(kbs.admin_key.secret, key["metadata"]["name"]);
    assert_eq!(
        (kbs.url.as_str(), kbs.ca.as_deref()),
        ("https://kbs:8080", Some("PEM"))
    );
    assert_eq!((kbs.insecure_http, kbs.release), (None, None));
    assert_eq!(json!(cluster.evidence), json!(["snp+tpm"]));
    assert_eq!(json!(cluster.pcrs), json!(["pcr04", "pcr07"]));
    let recovery = cluster.recovery.unwrap();
    assert_eq!(recovery.passphrase, Some(api::Passphrase::Escrowed));
    assert_eq!(recovery.even_when_confidential, Some(true));
    // The key is in the Secret and nowhere else.
    let others = json!([objects.images, objects.machines, objects.cluster]).to_string();
    assert!(!others.contains("a private key"));

    let plain = "url: \"http://kbs:8080\", insecureHttp: true, release: \"0.20\"";
    let (_dir, read) = directory(plain, "", "  state: approved\n");
    let objects = of(&read, &state(&[])).unwrap();
    let kbs = spec::<api::TrustedExecutionClusterSpec>(&objects.cluster)
        .kbs
        .unwrap();
    assert_eq!((kbs.insecure_http, kbs.ca), (Some(true), None));
    assert_eq!(kbs.release, Some(api::Release::V0_20));
    assert!(objects.cluster["spec"]["recovery"].is_null());
}

#[test]
fn a_machine_stays_what_was_decided_about_it() {
    for (lines, revoked, decided) in [
        ("  state: approved\n", &[][..], None),
        ("  state: held\n", &[], Some("held")),
        ("  state: revoked\n", &[], Some("revoked")),
        // By command, whatever the file says.
        ("  state: approved\n", &[1], Some("revoked")),
        ("  state: approved\n", &[2], None),
    ] {
        let (_dir, read) = directory(TLS, "", lines);
        let objects = of(&read, &state(revoked)).unwrap();
        let [machine] = objects.machines.as_slice() else {
            panic!("{:?}", objects.machines)
        };
        let spec: api::MachineSpec = spec(machine);
        assert_eq!(json!(spec.state), json!(decided), "{lines}");
        assert_eq!(spec.id, Some(node(1).to_string()));
        assert_eq!(spec.attestation_key, Some(ak(1).to_string()));
    }
}

#[test]
fn the_recovery_passphrase_is_the_clusters_wish_and_no_volume() {
    let volumes = |cluster: &str| {
        let (_dir, read) = directory(TLS, cluster, "  state: approved\n  volumes: [root, data]\n");
        let objects = of(&read, &state(&[])).unwrap();
        spec::<api::MachineSpec>(&objects.machines[0]).volumes
    };
    let both = Some(vec!["data".to_owned(), "root".to_owned()]);
    assert_eq!(volumes(""), both);
    assert_eq!(volumes("  recovery: {passphrase: escrowed}\n"), both);
}

#[test]
fn an_image_approves_what_it_did() {
    let (_dir, read) = directory(TLS, "", "  state: approved\n");
    let objects = of(&read, &state(&[])).unwrap();
    let [image] = objects.images.as_slice() else {
        panic!("{:?}", objects.images)
    };
    assert_eq!(image["metadata"]["name"], "os-1");
    let tuple = &image["spec"]["referenceValues"]["bootTuples"][0];
    assert_eq!(tuple, &boot_tuple(1));
}

#[test]
fn what_was_computed_is_approved_too_and_as_one() {
    let (_dir, mut read) = directory(TLS, "", "  state: approved\n");
    let approved = |read: &Directory| {
        let images = of(read, &state(&[])).unwrap().images.into_iter();
        let images = images.map(|image| {
            let name = image["metadata"]["name"].as_str().unwrap().to_owned();
            let tuples = image["spec"]["referenceValues"]["bootTuples"].clone();
            (name, tuples)
        });
        images.collect::<Vec<_>>()
    };
    // It states nothing: what it boots was computed, and the operator would take its empty values for its word.
    read.images.insert("scanned".to_owned(), Boots::default());
    let stated = ("os-1".to_owned(), json!([boot_tuple(1)]));
    assert_eq!(approved(&read), std::slice::from_ref(&stated));
    let computed = json!({"bootTuples": [boot_tuple(2)]});
    let computed = serde_json::from_value(computed).unwrap();
    read.desired.boots.extend(computed);
    let computed = ("first-computed".to_owned(), json!([boot_tuple(2)]));
    assert_eq!(approved(&read), [stated, computed]);
}

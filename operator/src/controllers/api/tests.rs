// SPDX-License-Identifier: Apache-2.0

//! The rules of the definitions, evaluated as an API server does, and held against the same rules in the
//! operator. The definitions that are committed are those that are derived.

use super::{ApprovedImage, Machine, TrustedExecutionCluster, crds, crds_yaml};
use crate::controllers::inventory::{Dirty, Inventory};
use kube::CustomResourceExt;
use serde_json::{Value, json};

/// Whether the rules of this kind let the change from `old` to `new` through.
fn allowed<K: CustomResourceExt>(new: &Value, old: Option<&Value>) -> Result<(), String> {
    let crd = serde_json::to_value(K::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert!(schema["x-kubernetes-validations"].is_array());
    let validator = kube_cel::Validator::new();
    validator
        .validate(schema, new, old)
        .map_err(|errors| format!("{errors:?}"))
}

#[track_caller]
fn refused<K: CustomResourceExt>(new: &Value, old: Option<&Value>, message: &str) {
    let why = allowed::<K>(new, old).expect_err("let through");
    assert!(why.contains(message), "{message:?} is not in {why}");
}

#[test]
fn the_committed_definitions_are_the_derived_ones() {
    let committed = include_str!("../../../deploy/crds.yaml");
    assert!(
        committed == crds_yaml().unwrap(),
        "run `cargo run -p sheepfold-operator -- crds > operator/deploy/crds.yaml`"
    );
    let names: Vec<_> = crds()
        .into_iter()
        .map(|crd| crd.metadata.name.unwrap())
        .collect();
    let group = |plural: &str| format!("{plural}.{}", super::GROUP);
    assert_eq!(
        names,
        [
            "trustedexecutionclusters",
            "approvedimages",
            "machines",
            "attestationkeys"
        ]
        .map(group)
    );
}

#[test]
fn rules_for_clusters() {
    let kbs = |kbs: Value| json!({"kbs": kbs});
    let key = json!({"secret": "kbs-admin"});
    let good = kbs(json!({"url": "https://kbs:8080", "ca": "pem", "adminKey": key}));
    allowed::<TrustedExecutionCluster>(&good, None).unwrap();
    allowed::<TrustedExecutionCluster>(&json!({}), None).unwrap();
    let plain = json!({"url": "http://kbs:8080", "adminKey": key});
    refused::<TrustedExecutionCluster>(&kbs(plain.clone()), None, "begins with https://");
    let mut laboratory = plain;
    laboratory["insecureHttp"] = json!(true);
    allowed::<TrustedExecutionCluster>(&kbs(laboratory), None).unwrap();
    let nobody = kbs(json!({"url": "https://kbs:8080", "adminKey": key}));
    refused::<TrustedExecutionCluster>(&nobody, None, "ca is needed");
    let escrow = |evidence: Value, even: Value| json!({"evidence": evidence, "recovery": {"passphrase": "escrowed", "evenWhenConfidential": even}});
    allowed::<TrustedExecutionCluster>(&escrow(json!(["tpm"]), json!(false)), None).unwrap();
    let confidential = escrow(json!(["tpm", "snp+tpm"]), json!(false));
    refused::<TrustedExecutionCluster>(&confidential, None, "evenWhenConfidential");
    let meant = escrow(json!(["snp+tpm"]), json!(true));
    allowed::<TrustedExecutionCluster>(&meant, None).unwrap();
    let (ak, init_data) = (json!({"identity": "ak"}), json!({"identity": "init-data"}));
    allowed::<TrustedExecutionCluster>(&ak, Some(&ak)).unwrap();
    refused::<TrustedExecutionCluster>(&init_data, Some(&ak), "identity cannot change");
    refused::<TrustedExecutionCluster>(&json!({}), Some(&ak), "identity cannot change");
}

#[test]
fn rules_for_a_trustee_that_is_run_here() {
    let with = |trustee: Value| json!({"trusteeImage": "kbs:v0.21.0", "trustee": trustee});
    let storage = |kind: &str| json!({"type": kind, "urlSecret": "database"});
    for good in [
        json!({}),
        json!({"replicas": 1}),
        json!({"replicas": 3, "storage": storage("Postgres")}),
        json!({"storage": {"type": "LocalFs", "size": "5Gi"}}),
        json!({"release": "main", "storage": storage("Redis"), "replicas": 2}),
    ] {
        allowed::<TrustedExecutionCluster>(&with(good), None).unwrap();
    }
    for (bad, why) in [
        (json!({"replicas": 2}), "a storage that they share"),
        (
            json!({"replicas": 2, "storage": {"type": "LocalFs"}}),
            "a storage that they share",
        ),
        (
            json!({"storage": {"type": "Postgres"}}),
            "urlSecret is needed",
        ),
        (json!({"storage": storage("Redis")}), "release: main"),
        (
            json!({"release": "0.21", "storage": storage("Redis")}),
            "release: main",
        ),
    ] {
        let spec = with(bad);
        refused::<TrustedExecutionCluster>(&spec, None, why);
        // The operator says the same where the API server says nothing.
        let spec = serde_json::from_value(spec).unwrap();
        let said = crate::trustee::Wanted::of(&spec).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn rules_for_images() {
    let digest = format!("quay.io/os@sha256:{}", "a".repeat(64));
    let image = |name: &str, value: &str| json!({name: value});
    for name in ["image", "reference"] {
        let good = image(name, &digest);
        allowed::<ApprovedImage>(&good, Some(&good)).unwrap();
        for bad in [
            "quay.io/os:latest",
            "quay.io/os@sha256:abc",
            &format!("{digest}0"),
        ] {
            refused::<ApprovedImage>(&image(name, bad), None, "must carry a digest");
        }
        let other = image(name, &digest.replace("aaa", "bbb"));
        refused::<ApprovedImage>(&other, Some(&good), "cannot change");
        refused::<ApprovedImage>(
            &json!({"referenceValues": {}}),
            Some(&good),
            "cannot change",
        );
    }
    refused::<ApprovedImage>(&json!({}), None, "say which image");
    allowed::<ApprovedImage>(&json!({"referenceValues": {}}), None).unwrap();
    let both = json!({"image": digest, "reference": digest.replace("aaa", "bbb")});
    refused::<ApprovedImage>(&both, None, "two names of one field");
}

#[test]
fn rules_for_machines() {
    let by_key = json!({"attestationKey": "MIIB"});
    let by_id = json!({"id": "n1"});
    for good in [&by_key, &by_id] {
        allowed::<Machine>(good, Some(good)).unwrap();
    }
    refused::<Machine>(&json!({}), None, "known by its attestationKey or by its id");
    refused::<Machine>(&json!({"id": "n2"}), Some(&by_id), "id cannot change");
    refused::<Machine>(&by_key, Some(&by_id), "id cannot change");
    let other = json!({"attestationKey": "MIIC"});
    refused::<Machine>(&other, Some(&by_key), "attestationKey cannot change");
    for counter in ["rotation", "rebound", "renewal"] {
        let at = |n: i64| json!({"id": "n1", counter: n});
        allowed::<Machine>(&at(2), Some(&at(1))).unwrap();
        refused::<Machine>(&at(1), Some(&at(2)), "can only grow");
        refused::<Machine>(&by_id, Some(&at(2)), "can only grow");
    }
}

/// An API server before 1.25 lets anything through.
#[test]
fn the_operator_enforces_the_same_rules() {
    let object = |kind: &str, spec: &Value| {
        json!({"apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": kind,
            "metadata": {"name": "a"}, "spec": spec})
    };
    let cluster = |spec: Value| {
        let mut inventory = Inventory::default();
        let cluster = serde_json::from_value(object("TrustedExecutionCluster", &spec)).unwrap();
        inventory.set_cluster("a", Some(cluster), &mut Dirty::default());
        inventory
    };
    let escrowed = json!({"evidence": ["snp+tpm"], "recovery": {"passphrase": "escrowed"}});
    assert!(
        cluster(escrowed)
            .cluster()
            .unwrap_err()
            .contains("evenWhenConfidential")
    );

    let digest = format!("quay.io/os@sha256:{}", "a".repeat(64));
    for (spec, why) in [
        (
            json!({"image": "quay.io/os:latest", "referenceValues": {}}),
            "must carry a digest",
        ),
        (
            json!({"image": digest, "reference": "x"}),
            "two names of one field",
        ),
        (json!({}), "say which image"),
        (json!({"image": digest}), "it has no referenceValues"),
        (
            json!({"image": digest, "referenceValues": {}}),
            "approves nothing",
        ),
        (
            json!({"referenceValues": {"bootTuples": [{"pcr99": "00"}]}}),
            "PCR",
        ),
    ] {
        let mut inventory = cluster(json!({}));
        let image = serde_json::from_value(object("ApprovedImage", &spec)).unwrap();
        inventory.set_image("a", Some(image), &mut Dirty::default());
        let found = inventory.images()["a"].boots.as_ref().unwrap_err();
        assert!(
            found.to_lowercase().contains(&why.to_lowercase()),
            "{spec}: {found}"
        );
    }

    let key = crate::testing::ak(1).to_string();
    for (spec, status, why) in [
        (json!({}), json!({}), "needs an attestationKey"),
        (
            json!({"attestationKey": "MIIB"}),
            json!({}),
            "an attestation key must be",
        ),
        (
            json!({"attestationKey": key, "id": "n1"}),
            json!({}),
            "id says n1",
        ),
        (
            json!({"attestationKey": key}),
            json!({"node": "n1"}),
            "another node is another Machine",
        ),
        (
            json!({"attestationKey": key, "volumes": ["a/b"]}),
            json!({}),
            "the name of a volume",
        ),
        (
            json!({"attestationKey": key, "volumes": ["root", "root.vk"]}),
            json!({}),
            "where the id of root's key lies",
        ),
        (
            json!({"attestationKey": key, "volumes": ["ignition"], "ignition": {"secret": "s"}}),
            json!({}),
            "where its Ignition config lies",
        ),
    ] {
        let mut inventory = cluster(json!({}));
        let mut machine = object("Machine", &spec);
        machine["status"] = status;
        let machine = serde_json::from_value(machine).unwrap();
        inventory.set_machine("a", Some(machine), &mut Dirty::default());
        let found = inventory.machines()["a"].parsed.as_ref().unwrap_err();
        assert!(found.contains(why), "{spec}: {found}");
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The rules of the definitions, evaluated as an API server does, and held against the same rules in the
//! operator. The definitions that are committed are those that are derived.

use super::{ApprovedImage, AttestationKey, Machine, TrustedExecutionCluster, crds, crds_yaml};
use crate::controllers::inventory::{Dirty, Inventory};
use kube::CustomResourceExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The rules of one definition, and those that alone have refused something.
pub(crate) struct Rules {
    schema: Value,
    needed: BTreeSet<String>,
}

impl Rules {
    pub(crate) fn of<K: CustomResourceExt>() -> Self {
        let crd = serde_json::to_value(K::crd()).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        Self {
            schema: schema.clone(),
            needed: BTreeSet::new(),
        }
    }

    /// They let the change from `old` to `new` through.
    #[track_caller]
    pub(crate) fn allowed(&self, new: &Value, old: Option<&Value>) {
        let checked = kube_cel::Validator::new().validate(&self.schema, new, old);
        assert!(checked.is_ok(), "{new}: {checked:?}");
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, new: &Value, old: Option<&Value>, message: &str) {
        let checked = kube_cel::Validator::new().validate(&self.schema, new, old);
        let errors = checked.expect_err("let through").into_vec();
        assert!(
            errors.iter().any(|one| one.message.contains(message)),
            "{message:?} is not in {errors:?}"
        );
        if let [only] = errors.as_slice() {
            self.needed.insert(only.rule.clone());
        }
    }

    /// Without any of them something that was refused would have been let through.
    #[track_caller]
    pub(crate) fn each_was_needed(&self) {
        let mut all = BTreeSet::new();
        collect(&self.schema, &mut all);
        assert_eq!(all, self.needed);
    }
}

fn collect(schema: &Value, rules: &mut BTreeSet<String>) {
    let own = schema["x-kubernetes-validations"].as_array();
    rules.extend(
        own.into_iter()
            .flatten()
            .map(|one| one["rule"].as_str().unwrap().to_owned()),
    );
    let members = schema["properties"].as_object();
    for member in members.into_iter().flat_map(|members| members.values()) {
        collect(member, rules);
    }
    if schema["items"].is_object() {
        collect(&schema["items"], rules);
    }
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
    let mut rules = Rules::of::<TrustedExecutionCluster>();
    let kbs = |kbs: Value| json!({"kbs": kbs});
    let key = json!({"secret": "kbs-admin"});
    let good = kbs(json!({"url": "https://kbs:8080", "ca": "pem", "adminKey": key}));
    rules.allowed(&good, None);
    rules.allowed(&json!({}), None);
    let plain = json!({"url": "http://kbs:8080", "adminKey": key});
    rules.refused(&kbs(plain.clone()), None, "begins with https://");
    let mut laboratory = plain;
    laboratory["insecureHttp"] = json!(true);
    rules.allowed(&kbs(laboratory), None);
    let nobody = kbs(json!({"url": "https://kbs:8080", "adminKey": key}));
    rules.refused(&nobody, None, "ca is needed");
    let escrow = |evidence: Value, even: Value| json!({"evidence": evidence, "recovery": {"passphrase": "escrowed", "evenWhenConfidential": even}});
    rules.allowed(&escrow(json!(["tpm"]), json!(false)), None);
    let confidential = escrow(json!(["tpm", "snp+tpm"]), json!(false));
    rules.refused(&confidential, None, "evenWhenConfidential");
    let meant = escrow(json!(["snp+tpm"]), json!(true));
    rules.allowed(&meant, None);
    let (ak, init_data) = (json!({"identity": "ak"}), json!({"identity": "init-data"}));
    rules.allowed(&ak, Some(&ak));
    rules.refused(&init_data, Some(&ak), "identity cannot change");
    rules.refused(&json!({}), Some(&ak), "identity cannot change");
    rules_for_a_trustee_that_is_run_here(&mut rules);
    rules.each_was_needed();
}

fn rules_for_a_trustee_that_is_run_here(rules: &mut Rules) {
    let with = |trustee: Value| json!({"trusteeImage": "kbs:v0.21.0", "trustee": trustee});
    let storage = |kind: &str| json!({"type": kind, "urlSecret": "database"});
    for good in [
        json!({}),
        json!({"replicas": 1}),
        json!({"replicas": 3, "storage": storage("Postgres")}),
        json!({"storage": {"type": "LocalFs", "size": "5Gi"}}),
        json!({"release": "main", "storage": storage("Redis"), "replicas": 2}),
    ] {
        rules.allowed(&with(good), None);
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
        rules.refused(&spec, None, why);
        // The operator says the same where the API server says nothing.
        let spec = serde_json::from_value(spec).unwrap();
        let said = crate::trustee::Wanted::of(&spec).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn rules_for_images() {
    let mut rules = Rules::of::<ApprovedImage>();
    let digest = format!("quay.io/os@sha256:{}", "a".repeat(64));
    let image = |name: &str, value: &str| json!({name: value});
    for name in ["image", "reference"] {
        let good = image(name, &digest);
        rules.allowed(&good, Some(&good));
        for bad in [
            "quay.io/os:latest",
            "quay.io/os@sha256:abc",
            &format!("{digest}0"),
            &digest.replace("aaaa", "AAAA"),
            &digest.replace("aaaa", "zzzz"),
        ] {
            rules.refused(&image(name, bad), None, "must carry a digest");
        }
        let other = image(name, &digest.replace("aaa", "bbb"));
        rules.refused(&other, Some(&good), "cannot change");
        rules.refused(
            &json!({"referenceValues": {}}),
            Some(&good),
            "cannot change",
        );
    }
    rules.refused(&json!({}), None, "say which image");
    rules.allowed(&json!({"referenceValues": {}}), None);
    for field in ["platforms", "updatesFrom"] {
        let unsaid = json!({"referenceValues": {}, field: ["x"]});
        rules.refused(&unsaid, None, "are about an image");
        rules.allowed(&json!({"image": digest, field: ["x"]}), None);
    }
    let both = json!({"image": digest, "reference": digest.replace("aaa", "bbb")});
    rules.refused(&both, None, "two names of one field");
    rules.each_was_needed();
}

#[test]
fn rules_for_machines() {
    let mut rules = Rules::of::<Machine>();
    let by_key = json!({"attestationKey": "MIIB"});
    let by_id = json!({"id": "n1"});
    for good in [&by_key, &by_id] {
        rules.allowed(good, Some(good));
    }
    rules.refused(&json!({}), None, "known by its attestationKey or by its id");
    rules.refused(&json!({"id": "n2"}), Some(&by_id), "id cannot change");
    rules.refused(&by_key, Some(&by_id), "id cannot change");
    let other = json!({"attestationKey": "MIIC"});
    rules.refused(&other, Some(&by_key), "attestationKey cannot change");
    for counter in ["rotation", "rebound", "renewal"] {
        let at = |n: i64| json!({"id": "n1", counter: n});
        rules.allowed(&at(2), Some(&at(1)));
        rules.refused(&at(1), Some(&at(2)), "can only grow");
        rules.refused(&by_id, Some(&at(2)), "can only grow");
    }
    rules.each_was_needed();
}

#[test]
fn rules_for_keys() {
    let mut rules = Rules::of::<AttestationKey>();
    let key = |text: &str| json!({"publicKey": text});
    rules.allowed(&key("MIIB"), Some(&key("MIIB")));
    rules.refused(&key("MIIC"), Some(&key("MIIB")), "publicKey cannot change");
    rules.each_was_needed();
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
            json!({"image": digest.replace('a', "A"), "referenceValues": {}}),
            "must carry a digest",
        ),
        (
            json!({"image": format!("{digest}a"), "referenceValues": {}}),
            "must carry a digest",
        ),
        (
            json!({"image": digest, "reference": "x"}),
            "two names of one field",
        ),
        (json!({}), "say which image"),
        (
            json!({"referenceValues": {}, "platforms": ["profile:x"]}),
            "are about an image",
        ),
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

#[test]
fn the_operator_enforces_the_same_rules_between_objects() {
    let object = |kind: &str, name: &str, spec: Value| {
        json!({"apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": kind,
            "metadata": {"name": name}, "spec": spec})
    };
    let [own, other] = [1, 2].map(|number| crate::testing::ak(number).to_string());
    let id = crate::testing::node(1).to_string();
    let by_key = json!({"attestationKey": own, "id": id});
    let by_id = json!({"id": id});
    let volumes = json!({"attestationKey": own, "volumes": ["ignition"]});
    let secret = json!({"secret": "s"});
    // A machine, its key's object, the cluster's config; and what is wrong with that, if anything.
    for (machine, key, ignition, why) in [
        (&by_key, Some(&own), None, None),
        (
            &by_key,
            Some(&other),
            None,
            Some("its attestationKey is another one than that of AttestationKey k"),
        ),
        (&by_id, Some(&own), None, None),
        (&by_id, Some(&other), None, Some("id says")),
        (&volumes, None, None, None),
        (
            &volumes,
            None,
            Some(&secret),
            Some("where its Ignition config lies"),
        ),
    ] {
        let (mut inventory, mut dirty) = (Inventory::default(), Dirty::default());
        let cluster = object(
            "TrustedExecutionCluster",
            "c",
            json!({"ignition": ignition}),
        );
        let cluster = serde_json::from_value(cluster).unwrap();
        inventory.set_cluster("c", Some(cluster), &mut dirty);
        if let Some(key) = key {
            let key = object("AttestationKey", "k", json!({"publicKey": key, "uuid": id}));
            inventory.set_key("k", Some(serde_json::from_value(key).unwrap()), &mut dirty);
        }
        let object = serde_json::from_value(object("Machine", "a", machine.clone())).unwrap();
        inventory.set_machine("a", Some(object), &mut dirty);
        let found = inventory.machines()["a"].parsed.as_ref().err();
        match why {
            None => assert_eq!(found, None, "{machine}"),
            Some(why) => assert!(found.unwrap().contains(why), "{machine}: {found:?}"),
        }
    }
}

#[test]
fn the_operator_enforces_the_same_rules_for_a_kbs() {
    let key = json!({"secret": "kbs-admin"});
    let access = |kbs: Value| {
        let kbs = serde_json::from_value(kbs).unwrap();
        let key = kbs_protocol::Secret::new(Vec::new());
        crate::controllers::parse::access(&kbs, key)
    };
    let nobody = json!({"url": "https://kbs:8080", "adminKey": key});
    let why = access(nobody).err().unwrap();
    assert!(why.contains("ca is needed"), "{why}");
    // That plain HTTP has to be allowed, `kbs_admin` says.
    for insecure in [false, true] {
        let plain = json!({"url": "http://kbs:8080", "adminKey": key, "insecureHttp": insecure});
        let access = access(plain).unwrap();
        assert_eq!(access.insecure_http, insecure);
    }
    let other = json!({"url": "https://kbs:8080", "ca": "pem", "adminKey": key, "issuer": "i", "role": "r"});
    let access = access(other).unwrap();
    assert_eq!(
        (&*access.issuer, &*access.role, &*access.ca_pem),
        ("i", "r", "pem")
    );
}

// SPDX-License-Identifier: Apache-2.0

//! Beside Cluster API: a machine's bootstrap data comes out of its attestation, and its secrets go with the Machine of
//! Cluster API that it is. The definition of that Machine is Cluster API's, as `cluster-api` beside this prints it; where
//! nobody has built that, one with the fields of the contract and no others.

use crate::common::Tpm;
use crate::control_plane::{Place, eventually};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use sheepfold_operator::controllers::api::{Machine, Phase};
use sheepfold_operator::controllers::capi::{AttestedConfig, LINK, crds};

/// Kind Machine of group cluster.x-k8s.io.
fn capi_machines() -> Value {
    match std::env::var_os("SHEEPFOLD_CLUSTER_API") {
        Some(file) => serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap(),
        None => {
            eprintln!("SKIPPED: Cluster API's own definition: make operator-test builds it");
            contract()
        }
    }
}

/// As far as a bootstrap provider looks at it.
fn contract() -> Value {
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {
                    "clusterName": {"type": "string"},
                    "bootstrap": {"type": "object", "properties": {
                        "configRef": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                        "dataSecretName": {"type": "string"},
                    }},
                    "infrastructureRef": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }},
            }}},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "machines.cluster.x-k8s.io"},
        "spec": {
            "group": "cluster.x-k8s.io", "scope": "Namespaced",
            "names": {"kind": "Machine", "plural": "machines", "singular": "machine", "listKind": "MachineList"},
            "versions": [version("v1beta1", false), version("v1beta2", true)],
        },
    })
}

#[test]
fn bootstrap_data_comes_out_of_the_attestation_and_goes_with_the_machine() {
    let Some(place) = Place::new() else { return };
    let mut definitions = vec![capi_machines()];
    definitions.extend(crds().map(|crd| serde_json::to_value(crd).unwrap()));
    place.install(definitions);
    let [a, b] = [0, 1].map(Tpm::number);
    place.rights(include_str!("../../deploy/capi/rbac.yaml"));
    let operator = place.installed_operator_with(&["--cluster-api"]);
    place.cluster(json!({}));
    place.image("good", json!([a.boot_tuple()]));

    // What another provider made: a secret.
    let inner = json!({"ignition": {"version": "3.4.0"}, "passwd": {"users": [{"name": "joins"}]}});
    place.apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "join-data"},
        "stringData": {"value": inner.to_string()},
    }));
    let reference = json!({
        "apiGroup": "trusted-execution-clusters.io", "kind": "AttestedConfig", "name": "worker",
    });
    place.apply(&json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine", "metadata": {"name": "worker"},
        "spec": {
            "clusterName": "c", "bootstrap": {"configRef": reference},
            "infrastructureRef": {"apiGroup": "infrastructure.example", "kind": "Thing", "name": "worker"},
        },
    }));
    let uid = place.uid("cluster.x-k8s.io", "v1beta2", "Machine", "worker");
    let config = |owners: Value| {
        json!({
            "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "AttestedConfig",
            "metadata": {
                "name": "worker", "labels": {"cluster.x-k8s.io/cluster-name": "c"}, "ownerReferences": owners,
            },
            "spec": {"config": {"secret": "join-data"}, "registrar": "https://registrar.example:8443"},
        })
    };
    let data_secret = || {
        let config: AttestedConfig = place.get("worker");
        config.status.unwrap_or_default()
    };
    place.apply(&config(json!([])));
    eventually("it waits for its machine", || {
        let conditions = data_secret().conditions;
        conditions
            .iter()
            .any(|one| one.reason == "WaitingForMachine")
    });
    assert_eq!(data_secret().data_secret_name, None);
    // Cluster API does this.
    place.apply(&config(json!([{
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine", "name": "worker", "uid": uid,
    }])));
    eventually("the data secret is there", || {
        data_secret().ready == Some(true)
    });
    let status = data_secret();
    assert_eq!(
        status.initialization.unwrap().data_secret_created,
        Some(true)
    );
    let secret: Secret = place.get(&status.data_secret_name.unwrap());
    assert_eq!(secret.type_.as_deref(), Some("cluster.x-k8s.io/secret"));
    assert_eq!(
        secret.metadata.labels.unwrap()["cluster.x-k8s.io/cluster-name"],
        "c"
    );
    assert_eq!(
        secret.metadata.owner_references.unwrap()[0].kind,
        "AttestedConfig"
    );
    let data = secret.data.unwrap();
    assert_eq!(data["format"].0, b"ignition");
    let pointer = String::from_utf8(data["value"].0.clone()).unwrap();
    assert!(
        pointer.contains("https://registrar.example:8443/ignition"),
        "{pointer}"
    );
    assert!(
        !pointer.contains("joins"),
        "nothing secret is in it: {pointer}"
    );

    // The machine; nobody but an administrator says which one of Cluster API it is.
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({}));
    place.await_phase("a", Phase::Served);
    let at = format!("default/{}/ignition", a.node());
    assert!(!place.lab.resources().contains_key(&at));
    place.change::<Machine>("a", &json!({"metadata": {"annotations": {LINK: "worker"}}}));
    eventually("its config is in the KBS", || {
        place.lab.resources().contains_key(&at)
    });
    let stored = place.lab.fetch(&a, &at).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&stored).unwrap(), inner);
    assert_eq!(place.lab.fetch(&b, &at), None, "nobody else reads it");
    let machine: Machine = place.get("a");
    assert_eq!(machine.metadata.owner_references.unwrap()[0].uid, uid);

    // A config that a node would refuse, or that is gone, is said, and what is there stays.
    place.machine("b", &b, json!({"ignition": {"secret": "nowhere"}}));
    eventually("b misses its config", || {
        place
            .status("b")
            .reason
            .is_some_and(|why| why.contains("nowhere"))
    });
    assert_eq!(place.status("b").phase, Some(Phase::Served));
    let fetching =
        json!({"ignition": {"version": "3.4.0", "config": {"merge": [{"source": "https://x"}]}}});
    place.apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "nowhere"},
        "stringData": {"config.ign": fetching.to_string()},
    }));
    place.machine(
        "b",
        &b,
        json!({"ignition": {"secret": "nowhere"}, "rebound": 1}),
    );
    eventually("b is refused its config", || {
        place
            .status("b")
            .reason
            .is_some_and(|why| why.contains("the Ignition config in Secret"))
    });

    // The Machine of Cluster API goes, and ours with it. The garbage collector does that, where one runs.
    place.delete_dynamic("cluster.x-k8s.io", "v1beta2", "Machine", "worker");
    if std::env::var_os("SHEEPFOLD_CONTROLLER_MANAGER").is_some() {
        eventually("ours is gone", || !place.has_machine("a"));
        let left = place.lab.resources();
        assert!(
            !left.keys().any(|path| path.contains(&a.node())),
            "with its secrets"
        );
        assert!(place.has_machine("b"));
    }
    let log = operator.end();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
}

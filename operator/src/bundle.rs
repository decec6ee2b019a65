// SPDX-License-Identifier: Apache-2.0

//! The bundle for the Operator Lifecycle Manager (registry+v1): definitions, a ClusterServiceVersion, a
//! NetworkPolicy, annotations.
//! All of it comes from what is installed otherwise too: the derived definitions, `deploy/rbac.yaml`,
//! `deploy/deployment.yaml` and `deploy/networkpolicy.yaml`. `sheepfold-operator bundle DIR` writes it; a test
//! compares what is committed.

use crate::controllers::api;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The files of the bundle, by their path in it.
///
/// # Errors
/// A sentence, when a manifest that is compiled in is not what its name says.
pub fn files() -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    for crd in api::crds() {
        let name = crd.metadata.name.clone().unwrap_or_default();
        files.insert(format!("manifests/{name}.crd.yaml"), yaml(&json!(crd))?);
    }
    let version = service_version(RBAC, DEPLOYMENT)?;
    files.insert(
        format!("manifests/{PACKAGE}.clusterserviceversion.yaml"),
        yaml(&version)?,
    );
    for policy in documents(NETWORK_POLICY)? {
        let name = format!("manifests/{PACKAGE}.networkpolicy.yaml");
        if files.insert(name, yaml(&policy)?).is_some() {
            return Err("deploy/networkpolicy.yaml has two objects".to_owned());
        }
    }
    files.insert(
        "metadata/annotations.yaml".to_owned(),
        yaml(&annotations())?,
    );
    Ok(files)
}

fn service_version(rbac: &str, deployment: &str) -> Result<Value, String> {
    let rights = documents(rbac)?;
    let of = |kind: &str| {
        let found = rights.iter().find(|object| object["kind"] == kind);
        found.ok_or_else(|| format!("deploy/rbac.yaml has no {kind}"))
    };
    if let Some(wide) = rights.iter().find(|object| {
        object["kind"]
            .as_str()
            .is_some_and(|kind| kind.starts_with("Cluster"))
    }) {
        return Err(format!("{} goes beyond one namespace", wide["kind"]));
    }
    let deployments = documents(deployment)?;
    let deployment = deployments
        .iter()
        .find(|object| object["kind"] == "Deployment")
        .ok_or("deploy/deployment.yaml has no Deployment")?;
    let image = format!("{PACKAGE}:{VERSION}");
    let mut pods = deployment["spec"].clone();
    let containers = pods.pointer_mut("/template/spec/containers");
    for container in containers
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(container) = container.as_object_mut() {
            container.insert("image".to_owned(), json!(image));
        }
    }
    let owned: Vec<Value> = api::crds().iter().map(owned).collect();
    Ok(json!({
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {
            "name": format!("{PACKAGE}.v{VERSION}"),
            "annotations": {
                "alm-examples": serde_json::to_string_pretty(&examples()).map_err(|error| error.to_string())?,
                "capabilities": "Basic Install",
                "categories": "Security",
                "containerImage": image,
            },
        },
        "spec": {
            "displayName": "Sheepfold",
            "description": "Approve an image, and nodes join, unlock and stay true: runs a Trustee KBS or administrates \
                one, and tells it what it has to know so that each node gets its own secret and nobody else's.",
            "version": VERSION,
            "maturity": "alpha",
            "minKubeVersion": "1.25.0",
            "provider": {"name": "Sheepfold"},
            "maintainers": [],
            "keywords": ["attestation", "TPM", "confidential computing", "LUKS"],
            "installModes": [
                {"type": "OwnNamespace", "supported": true},
                {"type": "SingleNamespace", "supported": false},
                {"type": "MultiNamespace", "supported": false},
                {"type": "AllNamespaces", "supported": false},
            ],
            "customresourcedefinitions": {"owned": owned},
            "install": {
                "strategy": "deployment",
                "spec": {
                    "permissions": [{
                        "serviceAccountName": of("ServiceAccount")?.pointer("/metadata/name"),
                        "rules": of("Role")?["rules"],
                    }],
                    "deployments": [{
                        "name": deployment.pointer("/metadata/name"),
                        "label": deployment.pointer("/metadata/labels"),
                        "spec": pods,
                    }],
                },
            },
            "relatedImages": [{"name": PACKAGE, "image": image}],
        },
    }))
}

fn owned(
    crd: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
) -> Value {
    let version = crd.spec.versions.first();
    let schema = version.and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    json!({
        "name": crd.metadata.name,
        "kind": crd.spec.names.kind,
        "version": version.map(|version| &version.name),
        "displayName": crd.spec.names.kind,
        "description": schema.and_then(|schema| schema.description.as_ref()),
    })
}

/// What the console offers to begin with.
fn examples() -> Value {
    let object = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": format!("{}/v1alpha1", api::GROUP), "kind": kind,
            "metadata": {"name": name}, "spec": spec,
        })
    };
    let digest = "0".repeat(64);
    json!([
        object(
            "TrustedExecutionCluster",
            "cluster",
            json!({
                "trusteeImage": "registry.example/key-broker-service:v0.21.0",
                "publicTrusteeAddr": "kbs.example:8080",
            })
        ),
        object(
            "ApprovedImage",
            "os",
            json!({
                "image": format!("registry.example/os@sha256:{digest}"),
                "referenceValues": {"bootTuples": [{"pcr04": digest, "pcr07": digest, "pcr14": digest}]},
            })
        ),
        object(
            "Machine",
            "worker-1",
            json!({"attestationKey": "MIIB...", "volumes": ["root"]})
        ),
    ])
}

fn annotations() -> Value {
    let mut all = serde_json::Map::new();
    for (name, value) in [
        ("mediatype.v1", "registry+v1"),
        ("manifests.v1", "manifests/"),
        ("metadata.v1", "metadata/"),
        ("package.v1", PACKAGE),
        ("channels.v1", CHANNEL),
        ("channel.default.v1", CHANNEL),
    ] {
        all.insert(
            format!("operators.operatorframework.io.bundle.{name}"),
            json!(value),
        );
    }
    json!({"annotations": all})
}

/// The documents of a manifest, without those that are empty.
fn documents(text: &str) -> Result<Vec<Value>, String> {
    let documents = text.split("\n---\n").map(|document| {
        serde_saphyr::from_str::<Value>(document).map_err(|error| error.to_string())
    });
    documents
        .filter(|found| !matches!(found, Ok(Value::Null)))
        .collect()
}

fn yaml(value: &Value) -> Result<String, String> {
    let text = serde_saphyr::to_string(value).map_err(|error| error.to_string())?;
    Ok(format!(
        "# Written by `sheepfold-operator bundle`; a test compares.\n{text}"
    ))
}

const RBAC: &str = include_str!("../deploy/rbac.yaml");
const DEPLOYMENT: &str = include_str!("../deploy/deployment.yaml");
const NETWORK_POLICY: &str = include_str!("../deploy/networkpolicy.yaml");
const PACKAGE: &str = "sheepfold-operator";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const CHANNEL: &str = "alpha";

#[cfg(test)]
mod tests {
    use super::{
        DEPLOYMENT, NETWORK_POLICY, PACKAGE, RBAC, documents, examples, files, service_version,
    };
    use serde_json::Value;
    use std::path::Path;

    #[test]
    fn the_committed_bundle_is_the_generated_one() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/bundle");
        let files = files().unwrap();
        for (name, text) in &files {
            let committed = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
            assert!(
                committed == *text,
                "{name}: run `cargo run -p sheepfold-operator -- bundle operator/deploy/bundle`"
            );
        }
        for part in ["manifests", "metadata"] {
            for entry in std::fs::read_dir(dir.join(part)).unwrap() {
                let name = format!("{part}/{}", entry.unwrap().file_name().to_string_lossy());
                assert!(files.contains_key(&name), "{name} is nobody's");
            }
        }
    }

    #[test]
    fn it_grants_what_the_role_grants_and_runs_what_the_deployment_runs() {
        let version = service_version(RBAC, DEPLOYMENT).unwrap();
        let install = &version["spec"]["install"]["spec"];
        let role = documents(RBAC)
            .unwrap()
            .into_iter()
            .find(|object| object["kind"] == "Role")
            .unwrap();
        assert_eq!(install["permissions"][0]["rules"], role["rules"]);
        assert!(install["clusterPermissions"].is_null());
        let deployment = &documents(DEPLOYMENT).unwrap()[0];
        let mut spec = install["deployments"][0]["spec"].clone();
        assert_eq!(
            install["deployments"][0]["name"],
            deployment["metadata"]["name"]
        );
        let image = spec["template"]["spec"]["containers"][0]["image"].take();
        assert_eq!(
            image.as_str().unwrap(),
            format!("sheepfold-operator:{}", env!("CARGO_PKG_VERSION"))
        );
        let mut wanted = deployment["spec"].clone();
        wanted["template"]["spec"]["containers"][0]["image"] = Value::Null;
        assert_eq!(spec, wanted);
        let wider = RBAC.replace("kind: Role\n", "kind: ClusterRole\n");
        assert!(
            service_version(&wider, DEPLOYMENT)
                .unwrap_err()
                .contains("beyond one namespace")
        );
    }

    /// It selects the pods that come along, in whatever namespace they are installed.
    #[test]
    fn it_restricts_what_its_pods_reach() {
        let files = files().unwrap();
        let policy = &files[&format!("manifests/{PACKAGE}.networkpolicy.yaml")];
        let policy: Value = serde_saphyr::from_str(policy).unwrap();
        assert_eq!(policy, documents(NETWORK_POLICY).unwrap()[0]);
        assert!(policy["metadata"]["namespace"].is_null());
        let version = service_version(RBAC, DEPLOYMENT).unwrap();
        let pods = &version["spec"]["install"]["spec"]["deployments"][0]["spec"]["template"];
        assert_eq!(
            policy["spec"]["podSelector"]["matchLabels"],
            pods["metadata"]["labels"]
        );
    }

    #[test]
    fn the_examples_are_objects_of_ours() {
        use crate::controllers::api::{ApprovedImage, Machine, TrustedExecutionCluster};
        let [cluster, image, machine] = examples().as_array().unwrap().clone().try_into().unwrap();
        let cluster: TrustedExecutionCluster = serde_json::from_value(cluster).unwrap();
        assert!(crate::trustee::Wanted::of(&cluster.spec).unwrap().is_some());
        let image: ApprovedImage = serde_json::from_value(image).unwrap();
        assert!(image.spec.reference_values.is_some());
        let machine: Machine = serde_json::from_value(machine).unwrap();
        assert!(machine.spec.attestation_key.is_some());
    }
}

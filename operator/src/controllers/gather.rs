// SPDX-License-Identifier: Apache-2.0

//! Everything that helps somebody else understand what is wrong, in a directory to be sent: `must-gather`. It asks the
//! API server only, with the rights of whoever asks.
//!
//! Nothing secret gets in, because nothing secret is asked for: of Secrets the API server is asked for their metadata, of
//! ConfigMaps for our record, which holds digests. What people put beside that is taken out: annotations in which kubectl
//! keeps what was applied, values of environment variables.

use super::record::LABEL;
use super::{Error, connect, show};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DynamicObject, ListParams, LogParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Writes the directory, which must not exist; returns what could not be asked for, as sentences.
///
/// # Errors
/// There is no API server, or the directory cannot be written.
pub async fn gather(namespace: Option<String>, to: &Path) -> Result<Vec<String>, Error> {
    let (client, namespace) = connect(namespace).await?;
    let mut made = std::fs::DirBuilder::new();
    made.mode(0o700)
        .create(to)
        .map_err(|error| cannot(to, error))?;
    let mut gathering = Gathering {
        client,
        namespace,
        to: to.to_owned(),
        missing: Vec::new(),
    };
    gathering.overview().await?;
    for (file, group, version, kind, label) in OBJECTS {
        gathering
            .objects(file, &GroupVersionKind::gvk(group, version, kind), label)
            .await?;
    }
    gathering.secrets().await?;
    gathering.logs().await?;
    gathering.end()
}

struct Gathering {
    client: Client,
    namespace: String,
    to: PathBuf,
    missing: Vec<String>,
}

impl Gathering {
    async fn overview(&mut self) -> Result<(), Error> {
        let about = json!({
            "operator": env!("CARGO_PKG_VERSION"),
            "namespace": self.namespace,
            "server": self.client.apiserver_version().await.ok(),
        });
        self.write("about.json", &pretty(&about))?;
        match show::overview(Some(self.namespace.clone())).await {
            Ok(overview) => self.write("status.txt", &overview.text(true)),
            Err(error) => {
                self.missing.push(format!("status.txt: {error}"));
                Ok(())
            }
        }
    }

    /// All objects of a kind, without what nobody needs and what might be secret.
    async fn objects(
        &mut self,
        file: &str,
        kind: &GroupVersionKind,
        label: Option<&str>,
    ) -> Result<(), Error> {
        let resource = ApiResource::from_gvk(kind);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector = label.map(str::to_owned);
        let mut all = Vec::new();
        loop {
            let page = match api.list(&params).await {
                Ok(page) => page,
                Err(error) => {
                    self.missing.push(format!("{file}: {error}"));
                    return Ok(());
                }
            };
            params.continue_token = page.metadata.continue_.clone();
            for object in page {
                let mut object = serde_json::to_value(object).unwrap_or_default();
                clean(&mut object);
                all.push(object);
            }
            if params.continue_token.as_ref().is_none_or(String::is_empty) {
                break;
            }
        }
        self.write(file, &pretty(&Value::from(all)))
    }

    /// That they are there. Their content is never asked for.
    async fn secrets(&mut self) -> Result<(), Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let listed = match api.list_metadata(&ListParams::default()).await {
            Ok(listed) => listed,
            Err(error) => {
                self.missing.push(format!("secrets.txt: {error}"));
                return Ok(());
            }
        };
        let mut text = String::new();
        for object in listed {
            let made = object.metadata.creation_timestamp.as_ref();
            let made = made.map(|at| at.0.to_string()).unwrap_or_default();
            let owner = object.owner_references().first();
            let owner = owner.map(|owner| format!("of {} {}", owner.kind, owner.name));
            let _ = writeln!(
                text,
                "{} {made} {}",
                object.name_any(),
                owner.unwrap_or_default()
            );
        }
        self.write("secrets.txt", &text)
    }

    /// Of our own pods, this time and the time before they were started again.
    async fn logs(&mut self) -> Result<(), Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let ours = ListParams::default().labels(PODS);
        let pods = match api.list_metadata(&ours).await {
            Ok(pods) => pods,
            Err(error) => {
                self.missing.push(format!("logs: {error}"));
                return Ok(());
            }
        };
        for name in pods.iter().map(kube::ResourceExt::name_any) {
            for previous in [false, true] {
                let params = LogParams {
                    previous,
                    tail_lines: Some(LINES),
                    timestamps: true,
                    ..LogParams::default()
                };
                let file = format!("{name}{}.log", if previous { ".previous" } else { "" });
                match api.logs(&name, &params).await {
                    Ok(text) => self.write(&file, &text)?,
                    // Most pods were never started again.
                    Err(_) if previous => {}
                    Err(error) => self.missing.push(format!("{file}: {error}")),
                }
            }
        }
        Ok(())
    }

    fn end(self) -> Result<Vec<String>, Error> {
        if !self.missing.is_empty() {
            self.write("missing.txt", &(self.missing.join("\n") + "\n"))?;
        }
        Ok(self.missing)
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.to.join(file);
        let mut options = std::fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o600).open(&path);
        opened
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| cannot(&path, error))
    }
}

/// Takes out what is long and tells nothing, and what may be secret.
fn clean(object: &mut Value) {
    if let Some(meta) = object
        .pointer_mut("/metadata")
        .and_then(Value::as_object_mut)
    {
        meta.remove("managedFields");
    }
    if let Some(notes) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        notes.retain(|name, _| name.starts_with(super::api::GROUP));
    }
    without_environment(object);
}

/// People put passwords there.
fn without_environment(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::Array(variables) if name == "env" => {
                        for variable in variables.iter_mut().filter_map(Value::as_object_mut) {
                            if let Some(value) = variable.get_mut("value") {
                                *value = json!("(left out)");
                            }
                        }
                    }
                    other => without_environment(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_environment),
        _ => {}
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn cannot(path: &Path, error: std::io::Error) -> Error {
    Error::Directory {
        path: path.to_owned(),
        error,
    }
}

/// File, group, version, kind, and which of them.
const OBJECTS: [(&str, &str, &str, &str, Option<&str>); 9] = [
    (
        "clusters.json",
        super::api::GROUP,
        "v1alpha1",
        "TrustedExecutionCluster",
        None,
    ),
    (
        "images.json",
        super::api::GROUP,
        "v1alpha1",
        "ApprovedImage",
        None,
    ),
    (
        "machines.json",
        super::api::GROUP,
        "v1alpha1",
        "Machine",
        None,
    ),
    (
        "keys.json",
        super::api::GROUP,
        "v1alpha1",
        "AttestationKey",
        None,
    ),
    ("record.json", "", "v1", "ConfigMap", Some(LABEL)),
    ("leases.json", "coordination.k8s.io", "v1", "Lease", None),
    ("events.json", "events.k8s.io", "v1", "Event", None),
    ("deployments.json", "apps", "v1", "Deployment", None),
    ("pods.json", "", "v1", "Pod", None),
];
const PODS: &str = "app.kubernetes.io/name=sheepfold-operator";
const LINES: i64 = 10_000;
const PAGE: u32 = 250;

#[cfg(test)]
mod tests {
    use super::clean;
    use serde_json::json;

    #[test]
    fn what_people_put_beside_is_taken_out() {
        let mut pod = json!({
            "metadata": {
                "name": "x", "managedFields": [1],
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "hidden",
                    "trusted-execution-clusters.io/remove-many": "20",
                },
            },
            "spec": {"containers": [{"name": "c", "env": [
                {"name": "PASSWORD", "value": "hidden"},
                {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ]}]},
        });
        clean(&mut pod);
        let text = pod.to_string();
        assert!(
            !text.contains("hidden") && !text.contains("managedFields"),
            "{text}"
        );
        assert!(
            text.contains("PASSWORD")
                && text.contains("secretKeyRef")
                && text.contains("remove-many")
        );
    }
}

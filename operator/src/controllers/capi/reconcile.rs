// SPDX-License-Identifier: Apache-2.0

//! One AttestedConfig, or one link of a Machine of ours: looked at, and brought to what it should be. `true` when nothing is
//! left to do; `false` when it waits for somebody.

use super::{AttestedConfig, GROUP, LINK, pointer};
use crate::controllers::api::{Ignition, Machine};
use crate::controllers::status::Conditions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Error, Resource as _, ResourceExt as _};
use serde_json::{Value, json};

pub(super) struct Provider {
    client: Client,
    namespace: String,
    configs: Api<AttestedConfig>,
    machines: Api<Machine>,
}

impl Provider {
    pub(super) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            configs: Api::namespaced(client.clone(), namespace),
            machines: Api::namespaced(client.clone(), namespace),
        }
    }

    /// An AttestedConfig gets its data secret once a Machine of Cluster API owns it.
    pub(super) async fn config(&self, name: &str) -> Result<bool, Error> {
        let Some(config) = self.configs.get_opt(name).await? else {
            return Ok(true);
        };
        if is_paused(config.annotations()) || config.metadata.deletion_timestamp.is_some() {
            return Ok(false);
        }
        let state = match config.owner_references().iter().any(is_machine) {
            // An API server before 1.25 lets that through.
            _ if !is_encrypted(&config) => {
                let message = "spec.registrar must begin with https://";
                (false, "InvalidSpec", message)
            }
            true => (true, "Available", ""),
            false => {
                let message = "no Machine of Cluster API owns it yet";
                (false, "WaitingForMachine", message)
            }
        };
        let (available, reason, message) = state;
        if available {
            self.apply_secret(&config).await?;
        }
        let old = config.status.clone().unwrap_or_default();
        let mut conditions = Conditions::new(&old.conditions, config.metadata.generation);
        conditions.set("DataSecretAvailable", (available, reason), message);
        let mut status = json!({"conditions": conditions.0});
        if let (true, Some(status)) = (available, status.as_object_mut()) {
            status.insert("dataSecretName".to_owned(), json!(secret_name(name)));
            status.insert(
                "initialization".to_owned(),
                json!({"dataSecretCreated": true}),
            );
            status.insert("ready".to_owned(), json!(true));
        }
        if serde_json::to_value(&config.status).ok().as_ref() != Some(&status) {
            let body = json!({
                "apiVersion": AttestedConfig::api_version(&()), "kind": AttestedConfig::kind(&()),
                "metadata": {"name": name}, "status": status,
            });
            self.configs
                .patch_status(name, &params(), &Patch::Apply(&body))
                .await?;
        }
        // Its owner comes with an event, and so does a correction.
        Ok(true)
    }

    async fn apply_secret(&self, config: &AttestedConfig) -> Result<(), Error> {
        let name = secret_name(&config.name_any());
        let mut labels = json!({});
        let label = format!("{GROUP}/cluster-name");
        if let (Some(cluster), Some(labels)) = (config.labels().get(&label), labels.as_object_mut())
        {
            labels.insert(label, json!(cluster));
        }
        let body = json!({
            "apiVersion": "v1", "kind": "Secret", "type": format!("{GROUP}/secret"),
            "metadata": {
                "name": name, "labels": labels, "ownerReferences": [config.controller_owner_ref(&())],
            },
            "stringData": {"value": pointer(&config.spec).to_string(), "format": "ignition"},
        });
        let secrets: Api<k8s_openapi::api::core::v1::Secret> =
            Api::namespaced(self.client.clone(), &self.namespace);
        secrets
            .patch(&name, &params(), &Patch::Apply(&body))
            .await
            .map(drop)
    }

    /// A Machine of ours belongs to the one of Cluster API that it names, and has its wrapped config.
    pub(super) async fn machine(&self, name: &str) -> Result<bool, Error> {
        let Some(machine) = self.machines.get_opt(name).await? else {
            return Ok(true);
        };
        let Some(link) = machine.annotations().get(LINK) else {
            return Ok(true);
        };
        if machine.metadata.deletion_timestamp.is_some() {
            return Ok(true);
        }
        let Some(owner) = self.capi_machine(link).await? else {
            return Ok(false);
        };
        if is_paused(owner.annotations()) {
            return Ok(false);
        }
        let types = owner.types.clone().unwrap_or_default();
        let reference = json!({
            "apiVersion": types.api_version, "kind": types.kind, "name": owner.name_any(), "uid": owner.uid(),
        });
        let mut spec = json!({});
        let wrapped = self.wrapped(&owner).await?;
        if let (Some(wrapped), Some(spec)) = (&wrapped, spec.as_object_mut()) {
            spec.insert("ignition".to_owned(), wrapped.clone());
        }
        let linked = machine
            .owner_references()
            .iter()
            .any(|known| Some(&known.uid) == owner.uid().as_ref());
        let has = json!(machine.spec.ignition);
        if linked && wrapped.as_ref().is_none_or(|wrapped| *wrapped == has) {
            return Ok(wrapped.is_some());
        }
        let body = json!({
            "apiVersion": Machine::api_version(&()), "kind": Machine::kind(&()),
            "metadata": {"name": name, "uid": machine.uid(), "ownerReferences": [reference]},
            "spec": spec,
        });
        self.machines
            .patch(name, &params(), &Patch::Apply(&body))
            .await?;
        Ok(wrapped.is_some())
    }

    /// In whichever version is served.
    async fn capi_machine(&self, name: &str) -> Result<Option<DynamicObject>, Error> {
        for version in ["v1beta2", "v1beta1"] {
            let kind = GroupVersionKind::gvk(GROUP, version, "Machine");
            let resource = ApiResource::from_gvk(&kind);
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            if let Some(found) = api.get_opt(name).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What the AttestedConfig of a Machine of Cluster API wraps.
    async fn wrapped(&self, machine: &DynamicObject) -> Result<Option<Value>, Error> {
        let reference = machine.data.pointer("/spec/bootstrap/configRef");
        let text = |member: &str| {
            reference
                .and_then(|r| r.get(member))
                .and_then(Value::as_str)
        };
        let (Some("AttestedConfig"), Some(name)) = (text("kind"), text("name")) else {
            return Ok(None);
        };
        let config = self.configs.get_opt(name).await?;
        Ok(config
            .and_then(|config| config.spec.config)
            .map(|config| json!(Ignition::from(config))))
    }
}

fn params() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

/// The same each time, so that it can be moved with its config.
fn secret_name(config: &str) -> String {
    format!("{config}-pointer")
}

fn is_machine(owner: &OwnerReference) -> bool {
    let group = owner.api_version.split('/').next();
    owner.kind == "Machine" && group == Some(GROUP)
}

/// What says which volumes are encrypted comes from a registrar that its certificate names.
fn is_encrypted(config: &AttestedConfig) -> bool {
    let registrar = config.spec.registrar.as_ref();
    registrar.is_none_or(|registrar| registrar.starts_with("https://"))
}

fn is_paused(annotations: &std::collections::BTreeMap<String, String>) -> bool {
    annotations.contains_key(PAUSED)
}

const MANAGER: &str = "sheepfold-cluster-api";
const PAUSED: &str = "cluster.x-k8s.io/paused";

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! The objects that make a Trustee, at the API server: applied, watched, and removed when another KBS has taken its place.

use super::MANAGER;
use crate::controllers::watch::Seen;
use crate::controllers::{Error, log};
use crate::trustee::render;
use futures::StreamExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

/// Objects of one namespace.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    namespace: String,
    runtime: Handle,
    server: Arc<OnceCell<Server>>,
}

/// What this API server is. Asked once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    /// The version by which it knows disruption budgets: one before 1.21 knows an older one only.
    budgets: &'static str,
    /// OpenShift gives the pods of each namespace users of its own, and refuses others.
    pub(super) assigns_users: bool,
}

impl Server {
    async fn ask(client: &Client) -> Result<Self, kube::Error> {
        let groups = client.list_api_groups().await?.groups;
        let has = |name: &str, version: &str| {
            let found = groups.iter().find(|group| group.name == name);
            found.is_some_and(|group| group.versions.iter().any(|one| one.version == version))
        };
        Ok(Self {
            budgets: match has("policy", "v1") {
                true => "policy/v1",
                false => "policy/v1beta1",
            },
            assigns_users: groups.iter().any(|group| group.name == OPENSHIFT),
        })
    }

    /// How to name objects of this kind.
    fn resource(self, version: &str, kind: &str) -> ApiResource {
        let version = match kind {
            "PodDisruptionBudget" => self.budgets,
            _ => version,
        };
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    }
}

impl Objects {
    /// For one namespace.
    pub fn new(client: &Client, namespace: &str, runtime: &Handle) -> Self {
        Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            runtime: runtime.clone(),
            server: Arc::default(),
        }
    }

    async fn asked(&self) -> Result<Server, kube::Error> {
        let asked = self.server.get_or_try_init(|| Server::ask(&self.client));
        asked.await.copied()
    }

    pub(super) fn server(&self) -> Result<Server, Error> {
        let asked = self.runtime.block_on(self.asked());
        asked.map_err(|error| Error::api("ask what the API server knows", &error))
    }

    /// Makes an object what it should be, and returns what it is.
    pub(super) fn apply(&self, mut object: Value) -> Result<Value, Error> {
        let text = |at: &str| {
            let text = object.pointer(at).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let resource = self.server()?.resource(&version, &kind);
        if let Some(members) = object.as_object_mut() {
            members.insert("apiVersion".to_owned(), json!(resource.api_version));
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let params = PatchParams::apply(MANAGER).force();
        let applied = self
            .runtime
            .block_on(api.patch(&name, &params, &Patch::Apply(&object)))
            .map_err(|error| Error::api("apply the objects of Trustee", &error))?;
        Ok(json!(applied))
    }

    /// Removes what belongs to this cluster, and returns the names of the volumes, which belong to nobody and stay.
    pub(super) fn remove(&self, owner: &str) -> Result<Vec<String>, Error> {
        let server = self.server()?;
        let mut kept = Vec::new();
        for (version, kind) in KINDS {
            let resource = server.resource(version, kind);
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            let ours = ListParams::default().labels(render::SELECTOR);
            let found = self.runtime.block_on(api.list(&ours));
            let found = found.map_err(|error| Error::api("list the objects of Trustee", &error))?;
            for object in found {
                let name = object.name_any();
                if kind == VOLUME {
                    kept.push(name);
                } else if NAMES.contains(&&*name)
                    && object.owner_references().iter().any(|one| one.uid == owner)
                    && object.metadata.deletion_timestamp.is_none()
                {
                    let params = DeleteParams::default().preconditions(Preconditions {
                        uid: object.uid(),
                        resource_version: None,
                    });
                    let removed = self.runtime.block_on(api.delete(&name, &params));
                    removed
                        .map(drop)
                        .map_err(|error| Error::api("remove the objects of Trustee", &error))?;
                    log(format_args!("removed {kind} {name}"));
                }
            }
        }
        Ok(kept)
    }

    /// Tells the worker whenever one of the objects is not as it was.
    pub fn watch(&self, seen: &Sender<Seen>) {
        for (version, kind) in KINDS {
            let (objects, seen) = (self.clone(), seen.clone());
            self.runtime.spawn(async move {
                let server = loop {
                    match objects.asked().await {
                        Ok(server) => break server,
                        Err(error) => log(format_args!("watch of {kind}: {error}")),
                    }
                    tokio::time::sleep(PAUSE).await;
                };
                let resource = server.resource(version, kind);
                let api: Api<PartialObjectMeta<DynamicObject>> =
                    Api::namespaced_with(objects.client, &objects.namespace, &resource);
                let config = watcher::Config::default().labels(render::SELECTOR);
                let mut events = watcher(api, config).default_backoff().boxed();
                while let Some(event) = events.next().await {
                    match event {
                        Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
                        Ok(_) if seen.send(Seen::Deployed).is_err() => return,
                        Ok(_) => {}
                        Err(error) => log(format_args!("watch of {kind}: {error}")),
                    }
                }
            });
        }
    }
}

/// What is watched, each with the version that it is applied in.
const KINDS: [(&str, &str); 6] = [
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("v1", VOLUME),
    ("apps/v1", "Deployment"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
];
/// What may be removed.
const NAMES: [&str; 4] = [
    render::CONFIG_MAP,
    render::SERVICE,
    render::DEPLOYMENT,
    render::NAME,
];
const VOLUME: &str = "PersistentVolumeClaim";
const OPENSHIFT: &str = "security.openshift.io";
const PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::Server;

    #[test]
    fn budgets_are_named_as_the_server_knows_them() {
        for (budgets, version) in [("policy/v1", "v1"), ("policy/v1beta1", "v1beta1")] {
            let server = Server {
                budgets,
                assigns_users: false,
            };
            let budget = server.resource("policy/v1", "PodDisruptionBudget");
            assert_eq!(
                (&*budget.version, &*budget.plural),
                (version, "poddisruptionbudgets")
            );
            assert_eq!(server.resource("apps/v1", "Deployment").version, "v1");
            assert_eq!(server.resource("v1", "Service").group, "");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! A bootstrap provider for Cluster API that wraps another one's data: `run --cluster-api`. Contract: "Contract rules for
//! BootstrapConfig", versions v1beta1 and v1beta2, of the Cluster API book.
//!
//! Bootstrap data is a secret (it joins a cluster), and with any other provider it travels through the infrastructure's user
//! data, where whoever runs the machine reads it. Here the user data of a Machine of Cluster API holds a pointer and
//! nothing secret; what the other provider made goes to the KBS, as the Ignition config of one node, and comes out of
//! that node's attestation.
//!
//! 1. An [`AttestedConfig`] that belongs to a Machine of Cluster API gets a data secret with the pointer ([`pointer`]).
//! 2. A Machine of ours names the Machine of Cluster API that it is ([`LINK`]). Nobody but an administrator, or a
//!    program of the infrastructure, can know that: what a machine says of itself before it has attested proves nothing. It then
//!    belongs to that Machine, so that it goes when that one goes, and gets the wrapped data.
//!
//! Nothing here writes to the KBS; the worker does, because our Machine's `spec.ignition` changes.

mod config;
mod reconcile;

pub use config::{
    AttestedConfig, AttestedConfigSpec, AttestedConfigStatus, AttestedConfigTemplate,
    AttestedConfigTemplateSpec, Initialization, Template, pointer,
};

use super::api::{Machine, definitions_yaml};
use super::log;
use futures::StreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::NamespaceResourceScope;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, CustomResourceExt as _, Resource, ResourceExt as _};
use reconcile::Provider;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// The definitions, with the labels by which Cluster API finds out which contract they keep.
pub fn crds() -> [CustomResourceDefinition; 2] {
    let label = |mut crd: CustomResourceDefinition| {
        let labels = ["v1beta1", "v1beta2"].map(|contract| {
            let name = format!("{GROUP}/{contract}");
            (name, "v1alpha1".to_owned())
        });
        crd.metadata.labels = Some(BTreeMap::from(labels));
        crd
    };
    [AttestedConfig::crd(), AttestedConfigTemplate::crd()].map(label)
}

/// As they lie in `operator/deploy/capi/crds.yaml`.
///
/// # Errors
/// None for definitions that were derived.
pub fn crds_yaml() -> Result<String, serde_saphyr::ser::Error> {
    definitions_yaml("crds --cluster-api", &crds())
}

/// Looks after AttestedConfigs and links, as long as the lease is ours.
pub fn start(client: &Client, namespace: &str, runtime: &Handle, held: Arc<AtomicBool>) {
    let (sender, changed) = mpsc::unbounded_channel();
    watch::<AttestedConfig>(client, namespace, runtime, &sender, Name::Config);
    watch::<Machine>(client, namespace, runtime, &sender, Name::Machine);
    let provider = Provider::new(client, namespace);
    runtime.spawn(work(provider, changed, held));
}

/// Something that is to be looked at, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Config(String),
    Machine(String),
}

fn watch<K>(
    client: &Client,
    namespace: &str,
    runtime: &Handle,
    changed: &mpsc::UnboundedSender<Name>,
    name: fn(String) -> Name,
) where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let changed = changed.clone();
    runtime.spawn(async move {
        let config = watcher::Config::default().page_size(PAGE);
        // Only that something changed; it is read when its turn comes.
        let events = watcher(api, config).default_backoff().touched_objects();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(object) if changed.send(name(object.name_any())).is_err() => return,
                Ok(_) => {}
                Err(error) => log(format_args!("watch of {}: {error}", K::kind(&()))),
            }
        }
    });
}

/// One after the other. What fails, and what waits for somebody, is looked at again after a while.
async fn work(
    provider: Provider,
    mut changed: mpsc::UnboundedReceiver<Name>,
    held: Arc<AtomicBool>,
) {
    let mut waiting = std::collections::BTreeSet::new();
    loop {
        let next = tokio::time::timeout(AGAIN, changed.recv()).await;
        let mut due = match next {
            Ok(Some(name)) => std::collections::BTreeSet::from([name]),
            Ok(None) => return,
            Err(_) => std::mem::take(&mut waiting),
        };
        while let Ok(name) = changed.try_recv() {
            due.insert(name);
        }
        if !held.load(Ordering::Acquire) {
            waiting.extend(due);
            continue;
        }
        for name in due {
            let done = match &name {
                Name::Config(config) => provider.config(config).await,
                Name::Machine(machine) => provider.machine(machine).await,
            };
            match done {
                Ok(true) => {}
                Ok(false) => drop(waiting.insert(name)),
                Err(error) => {
                    log(format_args!("Cluster API, {name:?}: {error}"));
                    waiting.insert(name);
                }
            }
        }
    }
}

/// The group of Cluster API's own objects.
pub const GROUP: &str = "cluster.x-k8s.io";
/// On a Machine of ours: the Machine of Cluster API that it is, in the same namespace.
pub const LINK: &str = "trusted-execution-clusters.io/capi-machine";
const AGAIN: Duration = Duration::from_secs(10);
const PAGE: u32 = 500;

#[cfg(test)]
mod tests;

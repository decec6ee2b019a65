// SPDX-License-Identifier: Apache-2.0

//! From a directory of files to the operator of a cluster: `sheepfold-operator bootstrap`. The first node of a cluster
//! has to unlock its disk before there is a cluster that could run an operator, so somebody else provisions it: a
//! person with a laptop and a KBS that is outside. Afterwards the cluster takes over what is there: the same record, the
//! same secrets, not one byte of them moved, because nobody can read them back.
//!
//! A KBS has one writer. The order makes that true at each moment, also when this is interrupted and run again:
//!
//! 1. the administrator's key, the record, images and machines go into the namespace; without a cluster object, no operator
//!    acts on them;
//! 2. the directory's own record says that it was handed over, and `provision` refuses from then on;
//! 3. the cluster object appears, last.

mod objects;

use super::api::TrustedExecutionCluster;
use super::record::Record;
use super::{Error, connect};
use crate::provision::Run;
use crate::provision::record::State;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::runtime::{Builder, Runtime};

/// What was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// `namespace/name` of the cluster.
    pub cluster: String,
    /// Machines.
    pub machines: usize,
    /// Approved images.
    pub images: usize,
    /// Nothing was left to do.
    pub again: bool,
}

/// Gives what a directory describes, and the memory of its KBS, to the operator of a namespace.
///
/// # Errors
/// When there is no API server or it refuses; [`Error::Cluster`] when the namespace has a cluster or a record of its own.
pub fn hand_over(run: &mut Run, namespace: Option<String>) -> Result<Done, Error> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let (client, namespace) = runtime.block_on(connect(namespace))?;
    let name = run.directory.cluster.clone();
    let place = format!("{namespace}/{name}");
    let mut done = Done {
        cluster: place.clone(),
        machines: run.directory.machines.len(),
        images: 0,
        again: false,
    };
    let handed = run.record.state().handed_over.clone();
    if let Some(other) = handed.as_ref().filter(|other| **other != place) {
        return Err(Error::Cluster(format!(
            "it was handed over to {other} before"
        )));
    }
    let to = Destination {
        client,
        namespace,
        runtime: &runtime,
    };
    if let Some(other) = to.cluster()? {
        // The cluster object comes last: if it is there, so is everything else.
        if handed.is_some() && other == name {
            done.again = true;
            return Ok(done);
        }
        return Err(Error::Cluster(format!(
            "namespace {} has a TrustedExecutionCluster {other} already: a KBS serves one cluster, and a namespace has one",
            to.namespace
        )));
    }
    let objects = objects::of(&run.directory, run.record.state())?;
    done.images = objects.images.len();
    to.adopt(&name, run.record.state())?;
    to.apply(&objects.secrets)?;
    to.apply(&objects.images)?;
    to.apply(&objects.machines)?;
    run.record.hand_over(&place)?;
    to.apply(&[objects.cluster])?;
    Ok(done)
}

struct Destination<'r> {
    client: Client,
    namespace: String,
    runtime: &'r Runtime,
}

impl Destination<'_> {
    /// The cluster that this namespace has.
    fn cluster(&self) -> Result<Option<String>, Error> {
        let api: Api<TrustedExecutionCluster> =
            Api::namespaced(self.client.clone(), &self.namespace);
        let found = self
            .runtime
            .block_on(api.list(&kube::api::ListParams::default()));
        let found = found.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == NOT_FOUND => Error::Cluster(
                "the definitions are not installed there: `kubectl apply -k operator/deploy` first"
                    .to_owned(),
            ),
            error => Error::api("look for a cluster", error),
        })?;
        Ok(found.items.first().map(kube::ResourceExt::name_any))
    }

    fn adopt(&self, name: &str, state: &State) -> Result<(), Error> {
        let held = Arc::new(AtomicBool::new(true));
        let handle = self.runtime.handle().clone();
        let mut record = Record::load(self.client.clone(), &self.namespace, name, handle, held)?;
        if !record.may_become(&state.id) {
            return Err(Error::Cluster(format!(
                "namespace {} has the record of another KBS (ConfigMaps sheepfold-record-{name}-*): delete them if that \
                 KBS is gone, or use another namespace",
                self.namespace
            )));
        }
        Ok(record.adopt(&state.id, state.stamped, &state.observed)?)
    }

    /// Server-side apply. What somebody else has set otherwise is theirs to decide about.
    fn apply(&self, objects: &[Value]) -> Result<(), Error> {
        let params = PatchParams::apply(MANAGER);
        let sent = objects.iter().map(|object| {
            let text = |at: &str| {
                object
                    .pointer(at)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", "v1"));
            let kind = GroupVersionKind::gvk(group, version, text("/kind"));
            let resource = ApiResource::from_gvk(&kind);
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            let params = params.clone();
            async move {
                api.patch(text("/metadata/name"), &params, &Patch::Apply(object))
                    .await
            }
        });
        let sent = stream::iter(sent.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        self.runtime
            .block_on(sent.try_for_each(|_| async { Ok(()) }))
            .map_err(|error| Error::api("apply what is handed over", &error))
    }
}

const MANAGER: &str = "sheepfold-bootstrap";
const AT_ONCE: usize = 16;
const NOT_FOUND: u16 = 404;

#[cfg(test)]
mod tests;

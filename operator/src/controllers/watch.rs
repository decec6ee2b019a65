// SPDX-License-Identifier: Apache-2.0

//! The watches on our four kinds of objects, and on what they may name, as one stream of what was seen.

use super::api::{ApprovedImage, AttestationKey, Machine, TrustedExecutionCluster};
use super::metrics::Metrics;
use super::record::MANAGED_BY;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::mpsc::Sender;
use tokio::runtime::Handle;

/// What the worker hears.
#[derive(Debug)]
pub enum Seen {
    /// A cluster.
    Cluster(Change<TrustedExecutionCluster>),
    /// An image.
    Image(Change<ApprovedImage>),
    /// A machine.
    Machine(Change<Machine>),
    /// A key.
    Key(Change<AttestationKey>),
    /// Something that a Trustee of ours is made of.
    Deployed,
    /// A Secret or a ConfigMap of this name that is not ours appeared, changed or went.
    Content(String),
    /// The lease is ours.
    Leading,
    /// The lease is no longer ours.
    LeaseLost(String),
    /// Somebody asked us to end.
    Stop,
}

/// What happened to objects of one kind.
#[derive(Debug)]
pub enum Change<K> {
    /// It is like this now.
    Is(Box<K>),
    /// It is gone.
    Gone(String),
    /// These are all; nothing else is there.
    All(BTreeSet<String>),
}

/// Starts the watches; what they see arrives at `seen`.
pub fn start(
    client: &Client,
    namespace: &str,
    runtime: &Handle,
    seen: &Sender<Seen>,
    metrics: &Metrics,
) {
    let place = (client, namespace, runtime);
    watch(place, seen, metrics, Seen::Cluster);
    watch(place, seen, metrics, Seen::Image);
    watch(place, seen, metrics, Seen::Machine);
    watch(place, seen, metrics, Seen::Key);
    watch_content::<Secret>(place, seen, metrics);
    watch_content::<ConfigMap>(place, seen, metrics);
}

/// What can be watched in one namespace.
trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static
{
}

/// What our objects may name. Only that it changed is told: whoever needs it reads it. What the operator itself keeps here
/// (copies of secrets, the record) is left out by the API server.
fn watch_content<K: Watched>(
    (client, namespace, runtime): (&Client, &str, &Handle),
    seen: &Sender<Seen>,
    metrics: &Metrics,
) {
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(client.clone(), namespace);
    let (seen, metrics) = (seen.clone(), metrics.clone());
    runtime.spawn(async move {
        let config = watcher::Config::default()
            .page_size(PAGE)
            .labels(&format!("{MANAGED_BY}!={}", crate::kbs_admin::NAME));
        let mut events = watcher(api, config).default_backoff().boxed();
        while let Some(event) = events.next().await {
            let name = match event {
                Ok(Event::Init | Event::InitDone) => continue,
                Ok(Event::InitApply(object) | Event::Apply(object) | Event::Delete(object)) => {
                    object.name_any()
                }
                Err(error) => {
                    failed(K::kind(&()).as_ref(), &error, &metrics);
                    continue;
                }
            };
            if seen.send(Seen::Content(name)).is_err() {
                return;
            }
        }
    });
}

fn failed(kind: &str, error: &watcher::Error, metrics: &Metrics) {
    super::log(format_args!("watch of {kind}: {error}"));
    metrics.note(|figures| {
        figures.watch_failures = figures.watch_failures.saturating_add(1);
    });
}

fn watch<K: Watched>(
    (client, namespace, runtime): (&Client, &str, &Handle),
    seen: &Sender<Seen>,
    metrics: &Metrics,
    wrap: fn(Change<K>) -> Seen,
) {
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let (seen, metrics) = (seen.clone(), metrics.clone());
    runtime.spawn(async move {
        let config = watcher::Config::default().page_size(PAGE);
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            let change = match event {
                Ok(Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listed.insert(object.name_any());
                    Change::Is(slim(object))
                }
                Ok(Event::InitDone) => Change::All(std::mem::take(&mut listed)),
                Ok(Event::Apply(object)) => Change::Is(slim(object)),
                Ok(Event::Delete(object)) => Change::Gone(object.name_any()),
                Err(error) => {
                    failed(K::kind(&()).as_ref(), &error, &metrics);
                    continue;
                }
            };
            if seen.send(wrap(change)).is_err() {
                return;
            }
        }
    });
}

/// Without what nobody here reads, and what is half of an object.
fn slim<K: Resource>(mut object: K) -> Box<K> {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.retain(|name, _| name.starts_with(super::api::GROUP));
    }
    Box::new(object)
}

/// Objects in one answer.
const PAGE: u32 = 500;

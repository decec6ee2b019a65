// SPDX-License-Identifier: Apache-2.0

//! How each object stands, as its `status`: pure, from what the worker knows. [`Writer`] brings it into the API
//! server by server-side apply, and says aloud (as an Event) what went wrong with a machine.

use super::api::{
    ApprovedImage, ApprovedImageStatus, AttestationKey, AttestationKeyStatus, Machine,
    MachineStatus, Phase, TrustedExecutionCluster,
};
use futures::{StreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use tokio::runtime::Handle;

/// What a machine gets, and why not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// In one word.
    pub phase: Phase,
    /// In a sentence, where there is something to say.
    pub reason: Option<String>,
    /// Its node, if that is known.
    pub node: Option<String>,
    /// When its TPM last proved something.
    pub last_attestation: Option<Time>,
    /// The image that it had booted then.
    pub image: Option<String>,
}

/// The status of a machine.
pub fn machine(object: &Machine, verdict: &Verdict) -> MachineStatus {
    let old = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let message = verdict.reason.clone().unwrap_or_default();
    let provisioned = match verdict.phase {
        phase if phase.is_served() => (true, "SecretStored"),
        Phase::Held => (false, "Held"),
        Phase::Refused => (false, "ProvisioningFailed"),
        Phase::Revoked => (false, "Revoked"),
        Phase::Lost => (false, "StorageLost"),
        _ => (false, "InProgress"),
    };
    let approved = match verdict.phase {
        phase if phase.is_served() || phase == Phase::Lost => (true, "KeyApproved"),
        _ => (false, "NoKeyMatched"),
    };
    let mut conditions = Conditions::new(&old.conditions, generation);
    conditions.set("KeyProvisioned", provisioned, &message);
    conditions.set("AttestationKeyApproved", approved, &message);
    MachineStatus {
        conditions: conditions.0,
        observed_generation: generation,
        phase: Some(verdict.phase),
        node: verdict.node.clone().or(old.node),
        reason: verdict.reason.clone(),
        last_attestation: verdict.last_attestation.clone(),
        image: verdict.image.clone(),
    }
}

/// The status of an image: what it approves is in the KBS, or why not.
pub fn image(
    object: &ApprovedImage,
    image: Option<&str>,
    values: Result<usize, &str>,
) -> ApprovedImageStatus {
    let old = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let mut conditions = Conditions::new(&old.conditions, generation);
    let is_scanned = scanned(object).is_some();
    match values {
        Ok(_) => conditions.set("Committed", (true, "ImageCommitted"), ""),
        Err(why) if is_scanned => conditions.set("Committed", (false, "NotComputed"), why),
        Err(why) => conditions.set("Committed", (false, "InvalidSpec"), why),
    }
    ApprovedImageStatus {
        conditions: conditions.0,
        observed_generation: generation,
        image: image.map(str::to_owned),
        reference_values: i64::try_from(values.unwrap_or_default()).unwrap_or(i64::MAX),
        computed: None,
    }
}

/// Without what [`images`](super::images) say of an image: those fields are theirs.
pub fn without_scan(status: Option<ApprovedImageStatus>) -> Option<ApprovedImageStatus> {
    let mut status = status?;
    status.computed = None;
    status.conditions.retain(|one| one.type_ != SCANNED);
    Some(status)
}

/// The status of a key: the machine that it belongs to, or that there is none.
pub fn key(
    object: &AttestationKey,
    machine: Option<&str>,
    node: Option<String>,
) -> AttestationKeyStatus {
    let old = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let mut conditions = Conditions::new(&old.conditions, generation);
    match machine {
        Some(name) => {
            let message = format!("it is the key of Machine {name}");
            conditions.set("Approved", (true, "MachineCreated"), &message);
        }
        None => {
            let message = "no Machine has this uuid as its id";
            conditions.set("Approved", (false, "Registration"), message);
        }
    }
    AttestationKeyStatus {
        conditions: conditions.0,
        observed_generation: generation,
        node,
    }
}

/// Conditions that keep the time of their last change.
pub struct Conditions<'a>(pub Vec<Condition>, &'a [Condition], Option<i64>);

impl<'a> Conditions<'a> {
    /// After these.
    pub fn new(old: &'a [Condition], generation: Option<i64>) -> Self {
        Self(Vec::new(), old, generation)
    }

    /// Adds one. Its message is never empty: an API server may take that for none, which it then refuses.
    pub fn set(&mut self, kind: &str, (holds, reason): (bool, &str), message: &str) {
        let message = if message.is_empty() { reason } else { message };
        let status = if holds { "True" } else { "False" };
        let old = self.1.iter().find(|old| old.type_ == kind);
        let since = old
            .filter(|old| old.status == status)
            .map_or_else(|| Time(now()), |old| old.last_transition_time.clone());
        self.0.push(Condition {
            last_transition_time: since,
            message: message.chars().take(MESSAGE).collect(),
            observed_generation: self.2,
            reason: reason.to_owned(),
            status: status.to_owned(),
            type_: kind.to_owned(),
        });
    }
}

/// In whole seconds, as the API server keeps it: what comes back is then what was told.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Brings statuses, finalizers and Events into the API server.
pub struct Writer {
    client: Client,
    namespace: String,
    runtime: Handle,
    recorder: Recorder,
}

impl Writer {
    /// For one namespace.
    pub fn new(client: &Client, namespace: &str, identity: &str, runtime: &Handle) -> Self {
        let reporter = Reporter {
            controller: crate::kbs_admin::NAME.to_owned(),
            instance: Some(identity.to_owned()),
        };
        Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            runtime: runtime.clone(),
            recorder: Recorder::new(client.clone(), reporter),
        }
    }

    /// What was found out about an image, as a part of its status that has an owner of its own.
    pub fn scan(&self, name: &str, uid: &str, status: &Value) -> Result<(), kube::Error> {
        let body = json!({
            "apiVersion": ApprovedImage::api_version(&()), "kind": ApprovedImage::kind(&()),
            "metadata": {"name": name, "uid": uid}, "status": status,
        });
        let patches = vec![(name.to_owned(), body)];
        self.apply::<ApprovedImage>(patches, "sheepfold-operator-images", true)
    }

    /// Applies the status of objects of one kind. One that is gone by now has none.
    pub fn statuses<K, S>(&self, statuses: Vec<(String, S)>) -> Result<(), kube::Error>
    where
        K: Kind,
        S: Serialize,
    {
        let patches = statuses.into_iter().map(|(name, status)| {
            let body = json!({
                "apiVersion": K::api_version(&()), "kind": K::kind(&()),
                "metadata": {"name": name}, "status": status,
            });
            (name, body)
        });
        self.apply::<K>(patches.collect(), "sheepfold-operator-status", true)
    }

    /// Gives these objects our finalizer, or takes it from them. The uid says which object is meant: one that
    /// is gone is not made again.
    pub fn finalizer<K: Kind>(
        &self,
        objects: &[(String, String)],
        set: bool,
    ) -> Result<(), kube::Error> {
        let finalizers: &[&str] = if set { &[FINALIZER] } else { &[] };
        let patches = objects.iter().map(|(name, uid)| {
            let body = json!({
                "apiVersion": K::api_version(&()), "kind": K::kind(&()),
                "metadata": {"name": name, "uid": uid, "finalizers": finalizers},
            });
            (name.clone(), body)
        });
        self.apply::<K>(patches.collect(), crate::kbs_admin::NAME, false)
    }

    /// Says aloud what happened to an object.
    pub fn say<K: Kind>(&self, object: &K, warning: bool, reason: &str, note: &str) {
        let event = Event {
            type_: if warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.to_owned(),
            note: Some(note.chars().take(NOTE).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let regarding = object.object_ref(&());
        let published = self.recorder.publish(&event, &regarding);
        if let Err(error) = self.runtime.block_on(published) {
            super::log(format_args!("event {reason}: {error}"));
        }
    }

    /// The one status that is written whatever else fails.
    pub fn cluster(
        &self,
        object: &TrustedExecutionCluster,
        status: &super::api::ClusterStatus,
    ) -> Result<(), kube::Error> {
        self.statuses::<TrustedExecutionCluster, _>(vec![(object.name_any(), status.clone())])
    }

    fn apply<K: Kind>(
        &self,
        patches: Vec<(String, Value)>,
        manager: &str,
        status: bool,
    ) -> Result<(), kube::Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PatchParams::apply(manager).force();
        let send = patches.into_iter().map(|(name, body)| {
            let (api, params) = (api.clone(), params.clone());
            async move {
                let patch = Patch::Apply(&body);
                match status {
                    true => api.patch_status(&name, &params, &patch).await,
                    false => api.patch(&name, &params, &patch).await,
                }
            }
        });
        self.runtime.block_on(async {
            let mut sent = stream::iter(send).buffer_unordered(AT_ONCE);
            let mut ended = Ok(());
            while let Some(result) = sent.next().await {
                match result {
                    Err(error) if !is_gone(&error) => ended = Err(error),
                    _ => {}
                }
            }
            ended
        })
    }
}

/// Objects of ours.
pub trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
{
}

/// Not found; or another object of this name, or none, where a uid was named.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.code == 404 || (status.code == 409 && status.message.contains("uid")))
}

/// The condition of an image that says whether it was looked through.
pub const SCANNED: &str = "Scanned";

/// That condition, if the image has it.
pub fn scanned(object: &ApprovedImage) -> Option<&Condition> {
    let conditions = &object.status.as_ref()?.conditions;
    conditions.iter().find(|one| one.type_ == SCANNED)
}
/// On every Machine: its secrets are deleted before it is.
pub const FINALIZER: &str = "trusted-execution-clusters.io/revoke";
/// Requests under way at one time.
const AT_ONCE: usize = 16;
/// Of a condition, in characters; the API allows 32768.
const MESSAGE: usize = 2000;
/// Of an Event, in characters; the API allows 1024.
const NOTE: usize = 1000;

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! The list of nodes as objects of Kubernetes: an AttestationKey for each key that a TPM has shown, and a
//! Machine, made once, for each node.
//!
//! The AttestationKeys of one TPM are named by its endorsement key's digest and a number. The API server
//! creates a name once, so of two registrars that see an unknown TPM one comes second, and finds the key of
//! the first. Number 1 is approved; those after it are held, and an administrator decides with `spec.state`
//! of their Machines. A Machine that was deleted does not come back with the next enrolment: its key says
//! that it was there.

use super::registry::{MOST_KEYS, MOST_RECORDS, NewKey, Registry};
use super::sighting::{self, Sighting};
use crate::controllers::Error as ClusterError;
use crate::controllers::api::{AttestationKey, AttestationKeySpec, Machine, MachineSpec};
use crate::controllers::beside::RECORDS;
use crate::model::State as Wanted;
use kbs_protocol::NodeId;
use kbs_protocol::encoding::{b64, hex};
use kbs_protocol::enroll::{Refusal, RefusalKind, State};
use kbs_protocol::volume_record::SignedRecord;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;

/// The objects of one namespace.
pub struct ObjectRegistry {
    keys: Api<AttestationKey>,
    machines: Api<Machine>,
    runtime: Handle,
    most: usize,
    count: AtomicUsize,
}

impl ObjectRegistry {
    /// For at most `most` keys; counts those that are there.
    ///
    /// # Errors
    /// The API server does not answer, or does not let us.
    pub async fn open(
        client: &Client,
        namespace: &str,
        most: usize,
        runtime: Handle,
    ) -> Result<Self, ClusterError> {
        let registry = Self {
            keys: Api::namespaced(client.clone(), namespace),
            machines: Api::namespaced(client.clone(), namespace),
            runtime,
            most,
            count: AtomicUsize::new(0),
        };
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = registry.keys.list_metadata(&params).await;
            let page = page.map_err(|error| ClusterError::api("list the keys", &error))?;
            registry
                .count
                .fetch_add(page.items.len(), Ordering::Relaxed);
            params.continue_token = page.metadata.continue_;
            if params.continue_token.as_ref().is_none_or(String::is_empty) {
                return Ok(registry);
            }
        }
    }

    async fn admit_object(&self, key: &NewKey<'_>) -> Result<State, Failure> {
        let public = b64::encode(key.ak_spki);
        let node = NodeId::from_spki_der(key.ak_spki).to_string();
        for number in 1..=MOST_KEYS {
            let name = format!("tpm-{}-{number}", hex::encode(key.ek_sha256));
            let found = match self.keys.get_opt(&name).await? {
                Some(found) => found,
                None => match self.create_key(&name, &public, &node, key).await? {
                    Some(created) => created,
                    // Another registrar was faster: this name is taken, perhaps by the same key.
                    None => self.keys.get(&name).await?,
                },
            };
            if found.spec.public_key == public {
                return self.machine(&found, &public, &node, number).await;
            }
        }
        let detail = format!("{MOST_KEYS} attestation keys are kept for this TPM");
        Err(Refusal::new(RefusalKind::TooManyKeys, detail).into())
    }

    /// `None` when the name is taken.
    async fn create_key(
        &self,
        name: &str,
        public: &str,
        node: &str,
        key: &NewKey<'_>,
    ) -> Result<Option<AttestationKey>, Failure> {
        if self.count.load(Ordering::Relaxed) >= self.most {
            return Err(Failure::Full(self.most));
        }
        let spec = AttestationKeySpec {
            public_key: public.to_owned(),
            uuid: Some(node.to_owned()),
            endorsement_key_sha256: Some(hex::encode(key.ek_sha256)),
            basis: Some(key.basis.to_owned()),
            product: key.product.map(ToOwned::to_owned),
        };
        let mut object = AttestationKey::new(name, spec);
        let label = (NODE.to_owned(), node.to_owned());
        object.metadata.labels = Some([label].into());
        match self.keys.create(&PostParams::default(), &object).await {
            Ok(created) => {
                self.count.fetch_add(1, Ordering::Relaxed);
                Ok(Some(created))
            }
            Err(error) if is_conflict(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the Machine of this key says; it is made if it never was.
    async fn machine(
        &self,
        key: &AttestationKey,
        public: &str,
        node: &str,
        number: usize,
    ) -> Result<State, Failure> {
        if let Some(name) = key.annotations().get(MACHINE) {
            let machine = self.machines.get_opt(name).await?;
            return Ok(machine.map_or(State::Held, |machine| state(&machine)));
        }
        let machine = match self.find(public, node).await? {
            Some(machine) => machine,
            None => {
                let spec = MachineSpec {
                    id: Some(node.to_owned()),
                    state: (number > 1).then_some(Wanted::Held),
                    ..MachineSpec::default()
                };
                let object = Machine::new(node, spec);
                match self.machines.create(&PostParams::default(), &object).await {
                    Err(error) if is_conflict(&error) => self.machines.get(node).await?,
                    created => created?,
                }
            }
        };
        // From now on its absence means that somebody deleted it.
        let note = json!({"metadata": {"annotations": {MACHINE: machine.name_any()}}});
        let params = PatchParams::default();
        self.keys
            .patch(&key.name_any(), &params, &Patch::Merge(&note))
            .await?;
        Ok(state(&machine))
    }

    /// A Machine that an administrator wrote for this node before it enrolled. Two would keep each other from
    /// being served.
    async fn find(&self, public: &str, node: &str) -> Result<Option<Machine>, Failure> {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = self.machines.list(&params).await?;
            params.continue_token = page.metadata.continue_.clone();
            let mut machines = page.into_iter();
            let found = machines.find(|machine| {
                let spec = &machine.spec;
                spec.attestation_key.as_deref() == Some(public) || spec.id.as_deref() == Some(node)
            });
            if found.is_some() || params.continue_token.as_ref().is_none_or(String::is_empty) {
                return Ok(found);
            }
        }
    }
}

impl ObjectRegistry {
    async fn record_object(
        &self,
        node: NodeId,
        record: &SignedRecord,
        seen: &Sighting,
    ) -> Result<bool, Failure> {
        let unknown = |detail: &str| Refusal::new(RefusalKind::UnknownNode, detail);
        for _ in 0..TRIES {
            let ours = ListParams::default().labels(&format!("{NODE}={node}"));
            let found = self.keys.list(&ours).await?.into_iter();
            let mut found = found.filter(|key| key.spec.public_key == record.evidence.ak_public);
            let key = found
                .next()
                .ok_or_else(|| unknown("it has not enrolled here"))?;
            let machine = match key.annotations().get(MACHINE) {
                Some(name) => self.machines.get_opt(name).await?,
                None => None,
            };
            if machine.is_none_or(|machine| state(&machine) != State::Approved) {
                return Err(unknown("its Machine is not approved").into());
            }
            let text = key.annotations().get(RECORDS);
            let known = text.map(|text| serde_json::from_str::<Vec<SignedRecord>>(text));
            let mut known = known
                .transpose()
                .map_err(|_| Failure::Damaged(key.name_any()))?;
            let records = known.get_or_insert_default();
            let before = key.annotations().get(sighting::ANNOTATION);
            let before = before.and_then(|text| Sighting::parse(text));
            let is_known = records.iter().any(|old| old.record == record.record);
            let is_news = before.is_none_or(|before| seen.is_younger_than(&before));
            if is_known && !is_news {
                return Ok(true);
            }
            if !is_known && records.len() >= MOST_RECORDS {
                let detail = format!("{MOST_RECORDS} records are kept for this node");
                return Err(Refusal::new(RefusalKind::TooManyRecords, detail).into());
            }
            if !is_known {
                records.push(record.clone());
            }
            let text = serde_json::to_string(records).unwrap_or_default();
            // With the version that was read: two that come at once are both kept.
            let mut notes = json!({RECORDS: text});
            if is_news && let Some(notes) = notes.as_object_mut() {
                notes.insert(sighting::ANNOTATION.to_owned(), json!(seen.to_text()));
            }
            let change = json!({"metadata": {
                "resourceVersion": key.resource_version(), "annotations": notes,
            }});
            let (params, patch) = (PatchParams::default(), Patch::Merge(&change));
            match self.keys.patch(&key.name_any(), &params, &patch).await {
                Err(error) if is_conflict(&error) => {}
                written => return written.map(|_| is_known).map_err(Into::into),
            }
        }
        let detail = "somebody else writes the same key";
        Err(Refusal::new(RefusalKind::Busy, detail).into())
    }
}

impl Registry for ObjectRegistry {
    fn admit(&self, key: &NewKey<'_>) -> Result<State, Refusal> {
        let admitted = self.runtime.block_on(self.admit_object(key));
        admitted.map_err(Failure::told)
    }

    fn record(
        &self,
        node: NodeId,
        record: &SignedRecord,
        seen: &Sighting,
    ) -> Result<bool, Refusal> {
        let recorded = self.record_object(node, record, seen);
        let recorded = self.runtime.block_on(recorded);
        recorded.map_err(Failure::told)
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}", .0.detail)]
    Refused(Refusal),
    #[error(
        "{0} keys are registered, and limits.machines is {0}: delete AttestationKeys of machines that are gone"
    )]
    Full(usize),
    #[error(
        "the annotation {RECORDS} of AttestationKey {0} is damaged: restore it, or delete the key"
    )]
    Damaged(String),
    #[error("the API server: {0}")]
    ApiServer(#[from] kube::Error),
}

impl Failure {
    /// The node is told nothing about our cluster; the administrator is.
    fn told(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            failure => {
                eprintln!("sheepfold-operator: {failure}");
                let detail = "the registrar cannot keep the result";
                Refusal::new(RefusalKind::Failure, detail)
            }
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn state(machine: &Machine) -> State {
    let deleted = machine.metadata.deletion_timestamp.is_some();
    match machine.spec.state {
        None | Some(Wanted::Approved) if !deleted => State::Approved,
        _ => State::Held,
    }
}

/// The name exists, or the object has changed since it was read.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// On an AttestationKey: the Machine that was made, or found, for it.
pub(super) const MACHINE: &str = "trusted-execution-clusters.io/machine";
/// On an AttestationKey: its node, to find it by.
const NODE: &str = "trusted-execution-clusters.io/node";
const TRIES: usize = 8;
const PAGE: u32 = 500;

#[cfg(test)]
mod tests;

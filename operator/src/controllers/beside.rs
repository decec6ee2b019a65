// SPDX-License-Identifier: Apache-2.0

//! What lies beside a machine's secrets: the id of each volume's key, as its TPM has signed it, and its Ignition
//! config. As `provision` does it from files; here records come as annotations of an AttestationKey (the registrar's)
//! or of a Machine, and configs from Secrets.
//!
//! What is wrong with either is said about the machine, and keeps it from nothing else: what is stored stays.

use super::Error;
use super::api;
use super::inventory::Parsed;
use super::record::{Record, VolumeKey};
use super::secrets::Vault;
use crate::model::{Boots, Machine, Tag};
use crate::provision::apply::Memory as _;
use crate::provision::ignition::Config;
use crate::provision::secrets::Source as _;
use crate::provision::volume_keys::Question;
use k8s_openapi::api::core::v1::Secret as Object;
use kbs_protocol::Secret;
use kbs_protocol::volume_record::SignedRecord;
use kube::Client;
use kube::api::Api;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Puts the ids of volume keys into a machine. Returns what could not be granted, in words.
///
/// # Errors
/// When a volume has no room for it.
pub fn volume_keys(
    machine: &mut Machine,
    parsed: &Parsed,
    objects: (&api::Machine, Option<&api::AttestationKey>),
    boots: &Boots,
    record: &mut Record,
    vault: &mut Vault,
) -> Result<Vec<String>, Error> {
    let (object, key) = objects;
    let mut remarks = Vec::new();
    let mut records = Vec::new();
    for said in [said(object), key.map_or(Ok(Vec::new()), said)] {
        match said {
            Ok(said) => records.extend(said),
            Err(why) => remarks.push(why),
        }
    }
    let wished = object.spec.renewal.unwrap_or_default();
    for tag in &parsed.volumes {
        let path = tag
            .path(&parsed.node)
            .map_err(crate::provision::Error::from)?;
        let place = tag.volume_key().map_err(crate::provision::Error::from)?;
        let place = place
            .path(&parsed.node)
            .map_err(crate::provision::Error::from)?;
        let before = record.volume_key(&parsed.node, path.as_str());
        // A record of before this was remembered, or one that was handed over, has it where it is stored.
        let stored = || record.observed().secret(place.as_str()).flatten().cloned();
        let known = before.id.clone().or_else(stored);
        let question = Question {
            node: &parsed.node,
            machine,
            tag,
            records: &records,
            known: known.as_ref(),
            renew: wished > before.renewal,
        };
        let answer = question.answer(boots)?;
        remarks.extend(answer.refused.map(|why| format!("volume {tag}: {why}")));
        let after = VolumeKey {
            id: answer.key.as_ref().map(|key| key.id.clone()),
            renewal: wished.max(before.renewal),
        };
        if after != before {
            record.set_volume_key(&parsed.node, path.as_str(), after);
        }
        if let Some(key) = answer.key {
            let id = vault.keep(key.id, key.content);
            machine.secrets.insert(key.place, id);
        }
    }
    Ok(remarks)
}

/// What a machine has said of its volumes, according to this object.
fn said(object: &impl kube::ResourceExt) -> Result<Vec<SignedRecord>, String> {
    let Some(text) = object.annotations().get(RECORDS) else {
        return Ok(Vec::new());
    };
    serde_json::from_str(text).map_err(|_| {
        let name = object.name_any();
        format!("the annotation {RECORDS} of {name} is no list of signed records: correct it or remove it")
    })
}

/// Puts its Ignition config into a machine: its own, or that of the cluster. Returns what is wrong with it; the machine
/// then has what is stored, as [`secrets::put`](super::secrets::put) left it.
///
/// # Errors
/// [`crate::provision::Error::ApiServer`].
pub fn ignition(
    machine: &mut Machine,
    wanted: Option<&api::Ignition>,
    configs: &mut Configs,
    vault: &mut Vault,
) -> Result<Option<String>, Error> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let config = match configs.get(wanted)? {
        Ok(config) => config,
        Err(why) => return Ok(Some(why)),
    };
    let id = vault.keep(config.id().clone(), config.text());
    machine.secrets.insert(Tag::ignition(), id);
    Ok(None)
}

/// The configs of one round: each is read and judged once, however many machines get it.
pub struct Configs {
    secrets: Api<Object>,
    runtime: Handle,
    read: BTreeMap<String, Judged>,
}

/// A config that may be stored, or a sentence.
type Judged = Result<Arc<Config>, String>;

impl Configs {
    /// For one namespace.
    pub fn new(client: &Client, namespace: &str, runtime: &Handle) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            runtime: runtime.clone(),
            read: BTreeMap::new(),
        }
    }

    fn get(&mut self, wanted: &api::Ignition) -> Result<Judged, Error> {
        let key = serde_json::to_string(wanted).unwrap_or_default();
        if let Some(read) = self.read.get(&key) {
            return Ok(read.clone());
        }
        let judged = self.judge(wanted)?;
        self.read.insert(key, judged.clone());
        Ok(judged)
    }

    fn judge(&self, wanted: &api::Ignition) -> Result<Judged, Error> {
        let found = self.runtime.block_on(self.secrets.get_opt(&wanted.secret));
        let found = found.map_err(|error| Error::api("read an Ignition config", &error))?;
        let entry = wanted.key.as_deref().unwrap_or(ENTRY);
        let mut data = found.and_then(|object| object.data).unwrap_or_default();
        let Some(text) = data.remove(entry) else {
            let name = &wanted.secret;
            return Ok(Err(format!(
                "there is no Secret {name:?} with an entry {entry:?} in this namespace, where its Ignition config \
                 should be"
            )));
        };
        let luks: Vec<_> = wanted.luks.iter().flatten().map(Into::into).collect();
        let config = Config::new(Secret::new(text.0), &luks);
        Ok(config
            .map(Arc::new)
            .map_err(|why| format!("the Ignition config in Secret {:?}: {why}", wanted.secret)))
    }
}

/// On an AttestationKey or a Machine: what its node said of its volumes, as a JSON list of signed records.
pub const RECORDS: &str = "trusted-execution-clusters.io/volume-records";
const ENTRY: &str = "config.ign";

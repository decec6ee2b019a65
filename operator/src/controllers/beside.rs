// SPDX-License-Identifier: Apache-2.0

//! What lies beside a machine's secrets: the id of each volume's key, as its TPM has signed it, its Ignition config, and
//! what its running system may read. As `provision` does it from files; here records come as annotations of an
//! AttestationKey (the registrar's) or of a Machine, and the others from Secrets ([`Contents`]).
//!
//! What is wrong with any of them is said about the machine, and keeps it from nothing else: what is stored stays.

mod contents;

pub use contents::Contents;

use super::Error;
use super::api;
use super::inventory::Parsed;
use super::record::{Record, VolumeKey};
use super::secrets::Vault;
use crate::model::{Boots, Machine, NodeName, RUNTIME, Tag};
use crate::provision::apply::Memory as _;
use crate::provision::secrets::Source as _;
use crate::provision::volume_keys::Question;
use kbs_protocol::Secret;
use kbs_protocol::volume_record::SignedRecord;

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
            let content = key.content;
            let id = vault.keep(key.id, &|| Secret::new(content.expose().to_vec()));
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
    contents: &mut Contents,
    vault: &mut Vault,
) -> Result<Option<String>, Error> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let config = match contents.config(wanted)? {
        Ok(config) => config,
        Err(why) => return Ok(Some(why)),
    };
    let id = vault.keep(config.id().clone(), &|| config.text());
    machine.secrets.insert(Tag::ignition(), id);
    Ok(None)
}

/// Puts into a machine what its running system may read: what the cluster's Secret has, and its own, which comes first. What
/// neither has any more is deleted, unless one of them cannot be read: then what is stored stays. Returns what is wrong.
///
/// # Errors
/// [`crate::provision::Error::ApiServer`].
pub fn runtime(
    machine: &mut Machine,
    node: &NodeName,
    wanted: [Option<&api::Runtime>; 2],
    record: &Record,
    contents: &mut Contents,
    vault: &mut Vault,
) -> Result<Vec<String>, Error> {
    let mut remarks = Vec::new();
    for wanted in wanted.into_iter().flatten() {
        match contents.resources(&wanted.secret)? {
            Ok(named) => {
                for (name, resource) in &named.good {
                    let id = vault.keep(resource.id().clone(), &|| resource.content());
                    machine.runtime.insert(name.clone(), id);
                }
                remarks.extend(named.wrong.iter().cloned());
            }
            Err(why) => remarks.push(why),
        }
    }
    if !remarks.is_empty() {
        let prefix = format!("{RUNTIME}/{node}/");
        for (path, id) in record.observed().under(&prefix) {
            let name = path.strip_prefix(&prefix).map(str::parse);
            if let (Some(Ok(name)), Some(id)) = (name, id) {
                machine.runtime.entry(name).or_insert(id.clone());
            }
        }
    }
    Ok(remarks)
}

/// On an AttestationKey or a Machine: what its node said of its volumes, as a JSON list of signed records.
pub const RECORDS: &str = "trusted-execution-clusters.io/volume-records";

#[cfg(test)]
mod tests;

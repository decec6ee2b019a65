// SPDX-License-Identifier: Apache-2.0

//! Which secret belongs where, for machines that are objects: as `provision::secrets`, with the counters
//! `rotation` and `rebound` for wishes.

use super::api::MachineSpec;
use super::inventory::Parsed;
use super::record::{Counters, Record};
use crate::model::{AkPublic, Machine, NodeName, REPOSITORY, SecretId, Tag};
use crate::provision::Error;
use crate::provision::apply::Memory as _;
use crate::provision::secrets::{Fresh, Source, fill};
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::{NodeId, Secret};
use std::collections::BTreeMap;

/// The secrets of one round: new ones, and copies that are needed again. Wiped when it ends.
#[derive(Default)]
pub struct Vault {
    /// By id.
    pub bytes: Fresh,
    /// By path: what a copy says belongs there.
    recalled: BTreeMap<String, SecretId>,
}

impl Vault {
    /// Takes in a copy. One that is no secret of ours is left out.
    pub fn recall_copy(&mut self, path: String, copy: Secret) {
        if let Some(id) = self.bytes.add(copy) {
            self.recalled.insert(path, id);
        }
    }
}

impl Source for Vault {
    fn make(&mut self, node: Option<&NodeId>, path: &ResourcePath) -> Result<SecretId, Error> {
        self.bytes.make(node, path)
    }

    fn keep(&mut self, id: SecretId, content: &dyn Fn() -> Secret) -> SecretId {
        self.bytes.keep(id, content)
    }

    fn recall(&self, path: &str) -> Option<SecretId> {
        self.recalled.get(path).cloned()
    }
}

/// Puts its secrets into a machine: those that are there, new ones, and what was wished. The record learns
/// the new counters together with the writes that they are about.
///
/// # Errors
/// When there are no random numbers.
pub fn put(
    machine: &mut Machine,
    parsed: &Parsed,
    spec: &MachineSpec,
    record: &mut Record,
    vault: &mut Vault,
) -> Result<(), Error> {
    let node = &parsed.node;
    for tag in &parsed.volumes {
        let path = tag.path(node)?;
        let path = path.as_str();
        let before = record.counters(node, path);
        let wanted = Counters {
            rotation: spec.rotation.unwrap_or_default(),
            rebound: spec.rebound.unwrap_or_default(),
            ..Counters::default()
        };
        fill(machine, node, tag, record.observed(), false, vault)?;
        let stored = record.observed().secret(path).flatten().cloned();
        let mut is_new = stored.as_ref() != machine.secrets.get(tag);
        let mut after = before.unwrap_or(wanted);
        if !is_new && wanted.rebound > after.rebound {
            machine.rebound(tag);
            after.rebound = wanted.rebound;
            after.rotating = false;
        }
        if wanted.rotation > after.rotation {
            if is_new {
                after.rotation = wanted.rotation;
            } else if must_wait(after) {
                // The one before it is not bound everywhere: said by `waits`.
            } else {
                let ak = machine.ak.as_ref().map(AkPublic::node_id);
                let fresh = vault.make(ak.as_ref(), &tag.path(node)?)?;
                machine.put(tag, fresh)?;
                after.rotation = wanted.rotation;
                is_new = true;
            }
        }
        if is_new {
            after.lost = false;
            after.rotating = machine.kept(tag).count() > 1;
            record.expect(path, after);
        } else if before != Some(after) {
            record.count(node, path, after);
        }
    }
    keep_config(machine, parsed, record);
    Ok(())
}

/// An Ignition config stays until its machine is deleted, also one that a hand-over brought along.
fn keep_config(machine: &mut Machine, parsed: &Parsed, record: &Record) {
    let observed = record.observed();
    let tag = Tag::ignition();
    let path = tag.path(&parsed.node);
    if let Some(id) = path
        .ok()
        .and_then(|path| observed.secret(path.as_str()).flatten())
    {
        machine.secrets.entry(tag).or_insert(id.clone());
    }
}

/// Why a wish of this machine has to wait.
pub fn waits(parsed: &Parsed, spec: &MachineSpec, record: &Record) -> Option<String> {
    let tag = parsed.volumes.iter().find(|tag| {
        let path = tag.path(&parsed.node).map(|path| path.to_string());
        let counters = path
            .ok()
            .and_then(|path| record.counters(&parsed.node, &path));
        counters.is_some_and(|counters| {
            spec.rotation.unwrap_or_default() > counters.rotation && must_wait(counters)
        })
    })?;
    Some(format!(
        "a rotation of {tag} is under way: raise spec.rebound when the machine has bound its volume to the \
         new secret"
    ))
}

/// Another rotation now would forget a secret that a volume may still be bound to.
fn must_wait(counters: Counters) -> bool {
    counters.rotating && !counters.lost
}

/// Whether something about this machine's secrets is uncertain or wished, so that copies are needed.
pub fn is_unsettled(parsed: &Parsed, spec: &MachineSpec, record: &Record) -> bool {
    let observed = record.observed();
    let wished = |tag: &Tag| {
        let Ok(path) = tag.path(&parsed.node) else {
            return false;
        };
        let counters = record
            .counters(&parsed.node, path.as_str())
            .unwrap_or_default();
        let present = observed.secret(path.as_str());
        present.is_none()
            || spec.rotation.unwrap_or_default() > counters.rotation
            || spec.rebound.unwrap_or_default() > counters.rebound
    };
    let prefix = format!("{REPOSITORY}/{}/", parsed.node);
    let unknown = observed.under(&prefix).any(|(_, secret)| secret.is_none());
    unknown || parsed.volumes.iter().any(wished)
}

/// Whether any, and which kind, of the states that a person should know: a rotation under way, a secret that
/// was lost with the KBS's storage.
pub fn state(node: &NodeName, volumes: impl Iterator<Item = Tag>, record: &Record) -> (bool, bool) {
    let counters = volumes.filter_map(|tag| {
        let path = tag.path(node).ok()?;
        record.counters(node, path.as_str())
    });
    counters.fold((false, false), |(rotating, lost), counters| {
        (rotating || counters.rotating, lost || counters.lost)
    })
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! Our record of what a KBS holds, in digests. It outlives the process; the planner compares with it.

use super::{Entries, Write, entries::EntryId};
use crate::model::SecretId;
use kbs_protocol::resource::ResourcePath;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// What we know of a KBS. The default is a fresh one, of which nothing is known to be good.
///
/// After a KBS lost its storage, begin with the default again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Observed {
    /// Digest of the text; `None`: unknown.
    resource_policy: Option<String>,
    /// By id: digest of the text.
    attestation_policies: BTreeMap<String, String>,
    values: BTreeMap<String, KnownValue>,
    /// By path; `None`: unknown, a write was interrupted.
    resources: BTreeMap<String, Option<SecretId>>,
}

/// What we know of a reference value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KnownValue {
    /// Entries that it certainly has.
    pub(super) members: BTreeSet<EntryId>,
    /// Whether those are all. If not, a write was interrupted, and it may have any of two contents.
    pub(super) settled: bool,
}

impl Observed {
    /// Call before a write, and make the record durable before the write is sent: should its outcome stay
    /// unknown, the record is still true.
    pub fn begin(&mut self, write: &Write) {
        match write {
            Write::Resource { path, .. } | Write::DeleteResource { path } => {
                self.resources.insert(path.to_string(), None);
            }
            Write::ReferenceValue { name, value } => {
                let nothing = KnownValue {
                    members: BTreeSet::new(),
                    settled: false,
                };
                let known = self.values.entry(name.clone()).or_insert(nothing);
                let new = value.ids();
                known.members.retain(|id| new.contains(id));
                known.settled = false;
            }
            Write::AttestationPolicy { id, .. } => {
                self.attestation_policies.remove(*id);
            }
            Write::ResourcePolicy { .. } => self.resource_policy = None,
        }
    }

    /// Call after a write that succeeded.
    pub fn finish(&mut self, write: &Write) {
        match write {
            Write::Resource { path, secret } => {
                self.resources
                    .insert(path.to_string(), Some(secret.clone()));
            }
            Write::DeleteResource { path } => {
                self.resources.remove(path.as_str());
            }
            // As good as a value that was never written.
            Write::ReferenceValue { name, value } if value.is_empty() => {
                self.values.remove(name);
            }
            Write::ReferenceValue { name, value } => {
                let known = KnownValue {
                    members: Entries::ids(value),
                    settled: true,
                };
                self.values.insert(name.clone(), known);
            }
            Write::AttestationPolicy { id, text } => {
                self.attestation_policies
                    .insert((*id).to_owned(), digest(text));
            }
            Write::ResourcePolicy { text } => self.resource_policy = Some(digest(text)),
        }
    }

    /// Whether a policy is certainly in force.
    pub(super) fn holds(&self, write: &Write) -> bool {
        match write {
            Write::AttestationPolicy { id, text } => self
                .attestation_policies
                .get(*id)
                .is_some_and(|known| *known == digest(text)),
            Write::ResourcePolicy { text } => self
                .resource_policy
                .as_ref()
                .is_some_and(|known| *known == digest(text)),
            _ => false,
        }
    }

    /// The secret at a path: `None` if there is none, `Some(None)` if it is unknown what is there.
    pub(super) fn secret(&self, path: &str) -> Option<Option<&SecretId>> {
        self.resources.get(path).map(Option::as_ref)
    }

    /// All paths where something may lie.
    pub(super) fn paths(&self) -> impl Iterator<Item = ResourcePath> {
        self.resources.keys().filter_map(|path| path.parse().ok())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = (&String, &KnownValue)> {
        self.values.iter()
    }

    pub(super) fn value(&self, name: &str) -> Option<&KnownValue> {
        self.values.get(name)
    }
}

fn digest(text: &str) -> String {
    crate::model::hex(&Sha256::digest(text))
}

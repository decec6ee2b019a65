// SPDX-License-Identifier: Apache-2.0

//! Our record of what a KBS holds, in digests. It outlives the process; the planner compares with it.

use super::{Entries, Shape, Write, entries::EntryId};
use crate::model::{AK_SHARD, NodeName, REPOSITORY, RUNTIME, SecretId};
use crate::policy;
use kbs_protocol::encoding::hex;
use kbs_protocol::resource::ResourcePath;
use serde::{Deserialize, Serialize};
use serde_json::Value;
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

/// A write as the record remembers it: in digests, so that a journal of them can lie on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// A secret was stored.
    Resource {
        /// Where.
        path: String,
        /// Which.
        secret: SecretId,
    },
    /// A secret was deleted.
    Delete {
        /// Where.
        path: String,
    },
    /// A reference value was replaced.
    Value {
        /// Its name.
        name: String,
        /// Digests of its entries.
        members: BTreeSet<EntryId>,
    },
    /// An attestation policy was replaced.
    AttestationPolicy {
        /// Its id.
        id: String,
        /// Digest of its text.
        digest: String,
    },
    /// The resource policy was replaced.
    ResourcePolicy {
        /// Digest of its text.
        digest: String,
    },
}

impl From<&Write> for Note {
    fn from(write: &Write) -> Self {
        match write {
            Write::Resource { path, secret } => Self::Resource {
                path: path.to_string(),
                secret: secret.clone(),
            },
            Write::DeleteResource { path } => Self::Delete {
                path: path.to_string(),
            },
            Write::ReferenceValue { name, value } => Self::Value {
                name: name.clone(),
                members: Entries::ids(value),
            },
            Write::AttestationPolicy { id, text } => Self::AttestationPolicy {
                id: (*id).to_owned(),
                digest: digest(text),
            },
            Write::ResourcePolicy { text } => Self::ResourcePolicy {
                digest: digest(text),
            },
        }
    }
}

/// How a reference value differs from what it was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Entries that are new: the key (maps only) and the value.
    pub added: Vec<(String, Value)>,
    /// Digests of entries that go.
    pub removed: Vec<String>,
}

impl Observed {
    /// Call before a write, and make the record durable before the write is sent: should its outcome stay
    /// unknown, the record is still true.
    pub fn begin(&mut self, write: &Write) {
        self.begin_note(&write.into());
    }

    /// Call after a write that succeeded.
    pub fn finish(&mut self, write: &Write) {
        self.finish_note(&write.into());
    }

    /// As [`Observed::begin`], read back from a journal.
    pub fn begin_note(&mut self, note: &Note) {
        match note {
            Note::Resource { path, .. } | Note::Delete { path } => {
                self.resources.insert(path.clone(), None);
            }
            Note::Value { name, members } => {
                let nothing = KnownValue {
                    members: BTreeSet::new(),
                    settled: false,
                };
                let known = self.values.entry(name.clone()).or_insert(nothing);
                known.members.retain(|id| members.contains(id));
                known.settled = false;
            }
            Note::AttestationPolicy { id, .. } => {
                self.attestation_policies.remove(id);
            }
            Note::ResourcePolicy { .. } => self.resource_policy = None,
        }
    }

    /// As [`Observed::finish`], read back from a journal.
    pub fn finish_note(&mut self, note: &Note) {
        match note {
            Note::Resource { path, secret } => {
                self.resources.insert(path.clone(), Some(secret.clone()));
            }
            Note::Delete { path } => {
                self.resources.remove(path);
            }
            // As good as a value that was never written.
            Note::Value { name, members } if members.is_empty() => {
                self.values.remove(name);
            }
            Note::Value { name, members } => {
                let known = KnownValue {
                    members: members.clone(),
                    settled: true,
                };
                self.values.insert(name.clone(), known);
            }
            Note::AttestationPolicy { id, digest } => {
                self.attestation_policies.insert(id.clone(), digest.clone());
            }
            Note::ResourcePolicy { digest } => self.resource_policy = Some(digest.clone()),
        }
    }

    /// The KBS has lost its storage: it holds no policy and no reference value of ours. Its secrets are gone
    /// too. With `replaceable` they are to be written again; without, nobody can, and the record goes on
    /// naming them, because another one in their place would open no disk. What is not made here is written again
    /// in any case.
    pub fn lose(&mut self, replaceable: bool) {
        self.resource_policy = None;
        self.attestation_policies.clear();
        self.values.clear();
        for known in self.resources.values_mut() {
            let again = |id: &SecretId| replaceable || id.is_made_elsewhere();
            if known.as_ref().is_some_and(again) {
                *known = None;
            }
        }
    }

    /// Takes in what another record says about other things: records that were kept in pieces.
    pub fn merge(&mut self, other: Self) {
        self.resource_policy = self.resource_policy.take().or(other.resource_policy);
        self.attestation_policies.extend(other.attestation_policies);
        self.values.extend(other.values);
        self.resources.extend(other.resources);
    }

    /// The same in pieces that [`Observed::merge`] puts together again, each under the name that `of_value` or
    /// `of_path` gives it; policies lie in the piece `rest`.
    pub fn split(
        &self,
        of_value: impl Fn(&str) -> String,
        of_path: impl Fn(&str) -> String,
        rest: &str,
    ) -> BTreeMap<String, Self> {
        let policies = Self {
            resource_policy: self.resource_policy.clone(),
            attestation_policies: self.attestation_policies.clone(),
            ..Self::default()
        };
        let mut pieces = BTreeMap::from([(rest.to_owned(), policies)]);
        for (name, known) in &self.values {
            let piece = pieces.entry(of_value(name)).or_default();
            piece.values.insert(name.clone(), known.clone());
        }
        for (path, secret) in &self.resources {
            let piece = pieces.entry(of_path(path)).or_default();
            piece.resources.insert(path.clone(), secret.clone());
        }
        pieces
    }

    /// The nodes that something may be stored for.
    pub fn nodes(&self) -> BTreeSet<NodeName> {
        let owners = self.resources.keys();
        owners
            .filter_map(|path| path.split('/').nth(1)?.parse().ok())
            .collect()
    }

    /// The KBS was found to hold something else under this name: nothing is certain about it any more.
    pub fn doubt(&mut self, name: &str) {
        if let Some(known) = self.values.get_mut(name) {
            known.members.clear();
            known.settled = false;
        }
    }

    /// Whether the KBS certainly holds exactly this under this name.
    pub fn holds_value(&self, name: &str, value: &Entries) -> bool {
        self.values
            .get(name)
            .is_some_and(|known| known.settled && known.members == value.ids())
    }

    /// What writing this value would change, as far as the record knows.
    pub fn difference(&self, name: &str, value: &Entries) -> Difference {
        let nothing = BTreeSet::new();
        let known = self
            .values
            .get(name)
            .map_or(&nothing, |known| &known.members);
        let ids = value.ids();
        Difference {
            added: value.without(known),
            removed: known.difference(&ids).cloned().collect(),
        }
    }

    /// Whether a map of machines may have this entry: it was written, or an interrupted write had a chance to.
    pub fn may_hold(&self, name: &str, key: &str, node: &NodeName) -> bool {
        let mut entry = Entries::empty(Shape::Map);
        entry.add_node(key.to_owned(), node);
        let has = |known: &KnownValue| !known.settled || !known.members.is_disjoint(&entry.ids());
        self.values.get(name).is_some_and(has)
    }

    /// The secret at a path: `None` if there is none, `Some(None)` if it is unknown what is there.
    pub fn secret(&self, path: &str) -> Option<Option<&SecretId>> {
        self.resources.get(path).map(Option::as_ref)
    }

    /// What lies under a prefix of paths, such as `default/<node>/`.
    pub fn under<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, Option<&'a SecretId>)> {
        self.resources
            .range(prefix.to_owned()..)
            .take_while(move |(path, _)| path.starts_with(prefix))
            .map(|(path, secret)| (path.as_str(), secret.as_ref()))
    }

    /// Whether both policies are certainly those that we want.
    pub fn is_open(&self) -> bool {
        let attestation = Write::AttestationPolicy {
            id: policy::ATTESTATION_ID,
            text: policy::ATTESTATION,
        };
        let resource = Write::ResourcePolicy {
            text: policy::RESOURCE,
        };
        self.holds(&attestation) && self.holds(&resource)
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

    /// All paths where something may lie.
    pub(super) fn paths(&self) -> impl Iterator<Item = ResourcePath> {
        self.resources.keys().filter_map(|path| path.parse().ok())
    }

    /// The paths of one node.
    pub(super) fn paths_of(&self, node: &NodeName) -> Vec<ResourcePath> {
        let of = |repository: &str| {
            let prefix = format!("{repository}/{node}/");
            let paths = self.under(&prefix).map(|(path, _)| path.parse());
            paths.filter_map(Result::ok).collect::<Vec<_>>()
        };
        [of(REPOSITORY), of(RUNTIME)].concat()
    }

    /// The reference values that are no maps of machines: few, however many machines there are.
    pub(super) fn cluster_values(&self) -> impl Iterator<Item = (&String, &KnownValue)> {
        // Those maps are two neighbours in the order of names; nothing else is between their first and last.
        let before = self.values.range(..AK_SHARD.to_owned());
        let after = self.values.range(AFTER_SHARDS.to_owned()..);
        before.chain(after)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = (&String, &KnownValue)> {
        self.values.iter()
    }

    pub(super) fn value(&self, name: &str) -> Option<&KnownValue> {
        self.values.get(name)
    }
}

/// `node_ak_*` and `node_init_*` come before this, and nothing else that begins with `node_`.
const AFTER_SHARDS: &str = "node_j";

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

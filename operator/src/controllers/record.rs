// SPDX-License-Identifier: Apache-2.0

//! The operator's memory of one KBS, kept in the API server. No secret is in it: digests, names, ids.
//!
//! A record of ten thousand machines does not fit into one object, and a change of one machine must not write
//! it whole. So it lies in pieces, one ConfigMap each: `main` (number, policies, what concerns the whole
//! cluster), 256 pieces of machines by the beginning of their id, 64 pieces of the maps of keys by the
//! character that names them, and as many for init-data as there are digits.
//!
//! A write is on record as begun before it is sent. While a plan stores the secrets of many machines, those
//! of one piece are begun together: one request instead of eighty. Begun and not finished means "unknown",
//! which is still true of a write that was never sent. Every request names the version of the piece that it
//! replaces, so an operator that has lost its lease cannot put its own memory in the place of a newer one.

mod adopt;
mod memory;
mod pieces;

use crate::model::{NodeName, SecretId};
use crate::plan::{Note, Observed};
use crate::provision::Error;
use kube::Client;
use kube::api::Api;
use pieces::{Content, MAIN, Piece, Store, VERSION, path_of, piece_of_node, piece_of_value};
use rand_core::{OsRng, RngCore as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::runtime::Handle;

/// What is known of a KBS.
pub struct Record {
    store: Store,
    id: String,
    stamped: bool,
    /// All pieces together, for the planner.
    observed: Observed,
    pieces: BTreeMap<String, Piece>,
    /// Counters to record with the next write of their path.
    pending: BTreeMap<String, Counters>,
    /// Whether this operator may still write.
    held: Arc<AtomicBool>,
}

/// How far a volume's wishes are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counters {
    /// The `spec.rotation` that was carried out.
    pub rotation: i64,
    /// The `spec.rebound` that was carried out.
    pub rebound: i64,
    /// An older secret is kept, because the node may not have bound its volume to the present one.
    pub rotating: bool,
    /// The secret was stored before the KBS lost its storage.
    pub lost: bool,
}

/// What was decided about a volume's key. Not where it is stored: that is forgotten when a KBS loses its storage, and
/// the first key that a machine has named is to stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VolumeKey {
    /// The id of the key, or the mark of a volume that is to be made anew.
    pub id: Option<SecretId>,
    /// The `spec.renewal` that was carried out.
    pub renewal: i64,
}

impl Record {
    /// Reads the record of a cluster; an empty one if there is none.
    ///
    /// # Errors
    /// [`Error::ApiServer`], and [`Error::Piece`] for one that is damaged: an operator that took it for an
    /// empty one would give every machine a new secret.
    pub fn load(
        client: Client,
        namespace: &str,
        cluster: &str,
        runtime: Handle,
        held: Arc<AtomicBool>,
    ) -> Result<Self, Error> {
        let store = Store {
            api: Api::namespaced(client, namespace),
            runtime,
            cluster: cluster.to_owned(),
        };
        let mut record = Self {
            id: format!("{:016x}{:016x}", OsRng.next_u64(), OsRng.next_u64()),
            stamped: false,
            observed: Observed::default(),
            pieces: store.list()?,
            pending: BTreeMap::new(),
            held,
            store,
        };
        let pieces = record.pieces.values();
        let all: Vec<Content> = pieces.map(|piece| piece.content.clone()).collect();
        for content in all {
            record.observed.merge(content.observed);
        }
        if let Some(main) = record.pieces.get(MAIN) {
            record.id = main.content.id.clone().unwrap_or(record.id);
            record.stamped = main.content.stamped;
        }
        Ok(record)
    }

    /// The number that the KBS has too.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the KBS has it.
    pub fn is_stamped(&self) -> bool {
        self.stamped
    }

    /// The KBS has our number, or is about to have it.
    ///
    /// # Errors
    /// [`Error::ApiServer`].
    pub fn set_stamped(&mut self) -> Result<(), Error> {
        if !self.stamped {
            self.stamped = true;
            self.touch(MAIN);
        }
        self.settle()
    }

    /// The KBS has lost its storage. With `copies` its secrets are to be stored again.
    ///
    /// # Errors
    /// [`Error::ApiServer`].
    pub fn lose(&mut self, copies: bool) -> Result<(), Error> {
        self.observed.lose(copies);
        let names: Vec<String> = self.pieces.keys().cloned().collect();
        for name in &names {
            if let Some(piece) = self.pieces.get_mut(name) {
                piece.content.observed.lose(copies);
                piece.announced.clear();
                if !copies {
                    let paths: Vec<String> = piece
                        .content
                        .observed
                        .under("")
                        .map(|(path, _)| path.to_owned())
                        .collect();
                    for path in paths {
                        piece.content.counters.entry(path).or_default().lost = true;
                    }
                }
                piece.changed = true;
            }
        }
        self.settle()
    }

    /// How far the wishes for a volume are carried out. `None` for one that never had a secret.
    pub fn counters(&self, node: &NodeName, path: &str) -> Option<Counters> {
        if let Some(pending) = self.pending.get(path) {
            return Some(*pending);
        }
        let piece = self.pieces.get(&piece_of_node(node))?;
        piece.content.counters.get(path).copied()
    }

    /// What was decided about the key of the volume whose secret lies at this path.
    pub fn volume_key(&self, node: &NodeName, path: &str) -> VolumeKey {
        let piece = self.pieces.get(&piece_of_node(node));
        let known = piece.and_then(|piece| piece.content.volume_keys.get(path));
        known.cloned().unwrap_or_default()
    }

    /// Remembers it; in the API server before anything of it is sent.
    pub fn set_volume_key(&mut self, node: &NodeName, path: &str, key: VolumeKey) {
        let name = piece_of_node(node);
        self.touch(&name);
        if let Some(piece) = self.pieces.get_mut(&name) {
            // What the API server has as begun, it has without this.
            piece.announced.clear();
            piece.content.volume_keys.insert(path.to_owned(), key);
        }
    }

    /// The volume's counters from the moment at which the next write of its path begins.
    pub fn expect(&mut self, path: &str, counters: Counters) {
        self.pending.insert(path.to_owned(), counters);
    }

    /// Counters that no write carries, now: there is nothing to write for them.
    pub fn count(&mut self, node: &NodeName, path: &str, counters: Counters) {
        self.pending.remove(path);
        let name = piece_of_node(node);
        self.touch(&name);
        if let Some(piece) = self.pieces.get_mut(&name) {
            piece.content.counters.insert(path.to_owned(), counters);
        }
    }

    /// Forgets counters of wishes that were not carried out.
    pub fn forget_pending(&mut self) {
        self.pending.clear();
    }

    /// What somebody else changed is written again.
    pub fn doubt(&mut self, value: &str) {
        self.observed.doubt(value);
        let name = piece_of_value(value);
        self.touch(&name);
        if let Some(piece) = self.pieces.get_mut(&name) {
            piece.content.observed.doubt(value);
        }
    }

    /// Brings what is finished into the API server.
    ///
    /// # Errors
    /// [`Error::ApiServer`].
    pub fn settle(&mut self) -> Result<(), Error> {
        let changed: Vec<String> = self
            .pieces
            .iter()
            .filter(|(_, piece)| piece.changed)
            .map(|(name, _)| name.clone())
            .collect();
        for name in changed {
            self.save(&name, &[])?;
        }
        Ok(())
    }

    /// As [`Record::settle`], and the number too if the API server does not have it yet.
    ///
    /// # Errors
    /// [`Error::ApiServer`].
    pub fn settle_all(&mut self) -> Result<(), Error> {
        self.touch(MAIN);
        self.settle()
    }

    fn touch(&mut self, name: &str) {
        self.pieces.entry(name.to_owned()).or_default().changed = true;
    }

    /// Replaces a piece, with these notes as begun.
    fn save(&mut self, name: &str, ahead: &[Note]) -> Result<(), Error> {
        let (id, stamped) = (self.id.clone(), self.stamped);
        let piece = self.pieces.entry(name.to_owned()).or_default();
        piece.content.version = VERSION;
        if name == MAIN {
            piece.content.id = Some(id);
            piece.content.stamped = stamped;
        }
        let mut content = piece.content.clone();
        ahead
            .iter()
            .for_each(|note| content.observed.begin_note(note));
        let version = self.store.put(name, &content, piece.version.as_deref())?;
        piece.version = Some(version);
        piece.changed = false;
        piece.announced = ahead
            .iter()
            .filter_map(path_of)
            .map(str::to_owned)
            .collect();
        Ok(())
    }
}

/// On everything of a record: the cluster.
pub(super) const LABEL: &str = "trusted-execution-clusters.io/record";
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

#[cfg(test)]
mod tests;

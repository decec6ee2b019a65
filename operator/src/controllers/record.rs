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

use crate::model::{AK_SHARD, INIT_SHARD, NodeName, hex};
use crate::plan::{Note, Observed, Write};
use crate::provision::Error;
use crate::provision::apply::Memory;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt as _};
use rand_core::{OsRng, RngCore as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// One piece: what the API server has, and what it is to have.
#[derive(Default)]
struct Piece {
    content: Content,
    /// `metadata.resourceVersion`; none before it was created.
    version: Option<String>,
    /// Whether the API server has something else.
    changed: bool,
    /// Paths that the API server has as begun, before they are.
    announced: BTreeSet<String>,
}

/// What lies in a ConfigMap, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Content {
    version: u32,
    /// `main` only: the number that the KBS has too.
    id: Option<String>,
    /// `main` only: whether the KBS has it.
    stamped: bool,
    observed: Observed,
    /// By path.
    counters: BTreeMap<String, Counters>,
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

/// Where pieces are kept.
struct Store {
    api: Api<ConfigMap>,
    runtime: Handle,
    cluster: String,
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

impl Memory for Record {
    fn observed(&self) -> &Observed {
        &self.observed
    }

    fn begin(&mut self, writes: &[Write], count: usize) -> Result<(), Error> {
        if !self.held.load(Ordering::Acquire) {
            return Err(Error::ApiServer {
                action: "keep the record",
                why: "the lease is lost".to_owned(),
            });
        }
        let batch: Vec<Note> = writes.iter().take(count).map(Note::from).collect();
        // Pieces that the API server does not have as they will be.
        let mut stale = BTreeSet::new();
        for note in &batch {
            let name = piece_of(note);
            let piece = self.pieces.entry(name.clone()).or_default();
            let known = path_of(note).is_some_and(|path| piece.announced.contains(path));
            if let Some(path) = path_of(note)
                && let Some(counters) = self.pending.remove(path)
            {
                piece.content.counters.insert(path.to_owned(), counters);
            }
            if let Note::Delete { path } = note {
                piece.content.counters.remove(path);
            }
            self.observed.begin_note(note);
            piece.content.observed.begin_note(note);
            if !known {
                stale.insert(name);
            }
        }
        if stale.is_empty() {
            return Ok(());
        }
        // What comes next in the same piece begins with it.
        let following = writes.iter().skip(count).take(AHEAD).map(Note::from);
        let ahead: Vec<Note> = following
            .take_while(|note| path_of(note).is_some() && stale.contains(&piece_of(note)))
            .collect();
        for note in &ahead {
            if let Some(path) = path_of(note)
                && let Some(counters) = self.pending.remove(path)
                && let Some(piece) = self.pieces.get_mut(&piece_of(note))
            {
                piece.content.counters.insert(path.to_owned(), counters);
            }
        }
        // Pieces that are done go first: what is finished must not be forgotten for long.
        let done = self.pieces.iter().filter(|(_, piece)| piece.changed);
        let done: Vec<String> = done.map(|(name, _)| name.clone()).collect();
        for name in done.iter().filter(|name| !stale.contains(*name)) {
            self.save(name, &[])?;
        }
        for name in &stale {
            let own: Vec<Note> = ahead
                .iter()
                .filter(|note| piece_of(note) == *name)
                .cloned()
                .collect();
            self.save(name, &own)?;
        }
        Ok(())
    }

    fn finish(&mut self, writes: &[Write]) -> Result<(), Error> {
        for note in writes.iter().map(Note::from) {
            self.observed.finish_note(&note);
            let piece = self.pieces.entry(piece_of(&note)).or_default();
            piece.content.observed.finish_note(&note);
            piece.changed = true;
        }
        Ok(())
    }
}

impl Store {
    fn list(&self) -> Result<BTreeMap<String, Piece>, Error> {
        let mut pieces = BTreeMap::new();
        let mut params = ListParams::default()
            .labels(&format!("{LABEL}={}", self.cluster))
            .limit(PAGE);
        loop {
            let page = self.runtime.block_on(self.api.list(&params));
            let page = page.map_err(|error| Error::api("read the record", &error))?;
            params.continue_token = page.metadata.continue_.clone();
            for object in page {
                let (name, piece) = self.read(&object)?;
                pieces.insert(name, piece);
            }
            if params.continue_token.as_ref().is_none_or(String::is_empty) {
                return Ok(pieces);
            }
        }
    }

    fn read(&self, object: &ConfigMap) -> Result<(String, Piece), Error> {
        let full = object.name_any();
        let damaged = |why: String| Error::Piece {
            name: full.clone(),
            why,
        };
        let prefix = self.object_name("");
        let name = full
            .strip_prefix(&prefix)
            .ok_or_else(|| damaged(format!("its name does not begin with {prefix}")))?;
        let data = object.data.as_ref();
        let text = data.and_then(|data| data.get(ENTRY));
        let text = text.ok_or_else(|| damaged(format!("it has no entry {ENTRY}")))?;
        let content: Content =
            serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        if content.version != VERSION {
            return Err(damaged(format!(
                "expected version {VERSION}, got {}",
                content.version
            )));
        }
        let piece = Piece {
            content,
            version: object.resource_version(),
            ..Piece::default()
        };
        Ok((name.to_owned(), piece))
    }

    /// Creates or replaces a piece; the new version of it.
    fn put(&self, name: &str, content: &Content, version: Option<&str>) -> Result<String, Error> {
        let action = "keep the record";
        let text = serde_json::to_string(content).map_err(|error| Error::Piece {
            name: name.to_owned(),
            why: error.to_string(),
        })?;
        let full = self.object_name(name);
        let labels = [
            (LABEL, self.cluster.as_str()),
            (MANAGED_BY, crate::kbs_admin::NAME),
        ];
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(full.clone()),
                labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
                resource_version: version.map(str::to_owned),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(ENTRY.to_owned(), text)])),
            ..ConfigMap::default()
        };
        let params = PostParams {
            field_manager: Some(crate::kbs_admin::NAME.to_owned()),
            ..PostParams::default()
        };
        let put = async {
            match version {
                None => self.api.create(&params, &object).await,
                Some(_) => self.api.replace(&full, &params, &object).await,
            }
        };
        let stored = self.runtime.block_on(put);
        let stored = stored.map_err(|error| Error::api(action, &error))?;
        Ok(stored.resource_version().unwrap_or_default())
    }

    fn object_name(&self, name: &str) -> String {
        format!("sheepfold-record-{}-{name}", self.cluster)
    }
}

/// The piece that a note belongs to.
fn piece_of(note: &Note) -> String {
    match note {
        Note::Value { name, .. } => piece_of_value(name),
        Note::AttestationPolicy { .. } | Note::ResourcePolicy { .. } => MAIN.to_owned(),
        Note::Resource { path, .. } | Note::Delete { path } => {
            let node = path.split('/').nth(1).map(str::parse);
            match node {
                Some(Ok(node)) => piece_of_node(&node),
                _ => MAIN.to_owned(),
            }
        }
    }
}

fn piece_of_value(name: &str) -> String {
    let first = |prefix: &str, piece: &str| {
        let rest = name.strip_prefix(prefix)?;
        Some(format!("{piece}-{}", hex(rest.get(..1)?.as_bytes())))
    };
    first(AK_SHARD, "ak")
        .or_else(|| first(INIT_SHARD, "init"))
        .unwrap_or_else(|| MAIN.to_owned())
}

/// An id that is a digest is its own hash; others, such as `worker-1`, begin alike.
fn piece_of_node(node: &NodeName) -> String {
    let text = node.to_string();
    let digits = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let is_id = text.len() == UUID && text.chars().all(|c| digits(c) || c == '-');
    let head = text
        .get(..2)
        .filter(|head| is_id && head.chars().all(digits));
    match head {
        Some(head) => format!("node-{head}"),
        None => format!(
            "node-{}",
            hex(&Sha256::digest(&text)).get(..2).unwrap_or("00")
        ),
    }
}

fn path_of(note: &Note) -> Option<&str> {
    match note {
        Note::Resource { path, .. } | Note::Delete { path } => Some(path),
        _ => None,
    }
}

const MAIN: &str = "main";
const ENTRY: &str = "record.json";
const VERSION: u32 = 1;
/// On everything of a record: the cluster.
pub(super) const LABEL: &str = "trusted-execution-clusters.io/record";
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Secrets that begin together at most.
const AHEAD: usize = 512;
const PAGE: u32 = 100;
const UUID: usize = 36;

#[cfg(test)]
mod tests {
    use super::{piece_of_node, piece_of_value};

    #[test]
    fn pieces_are_named_as_kubernetes_wants_and_hold_few_machines() {
        let mut sizes = std::collections::BTreeMap::<String, usize>::new();
        for number in 0..10_000_u32 {
            let name = format!("Worker_{number}").parse().unwrap();
            *sizes.entry(piece_of_node(&name)).or_default() += 1;
        }
        assert_eq!(sizes.len(), 256);
        assert!(sizes.values().all(|size| *size < 100), "{sizes:?}");
        let node = crate::testing::node(1);
        let head: String = node.to_string().chars().take(2).collect();
        assert_eq!(piece_of_node(&node), format!("node-{head}"));
        assert_eq!(piece_of_value("node_ak_Zz"), "ak-5a");
        assert_ne!(piece_of_value("node_ak_zz"), piece_of_value("node_ak_Zz"));
        assert_eq!(piece_of_value("node_init_f0"), "init-66");
        assert_eq!(piece_of_value("boot_tuples"), "main");
    }
}

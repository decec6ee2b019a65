// SPDX-License-Identifier: Apache-2.0

//! Pieces of a record as ConfigMaps, and which of them a write belongs to.

use super::{Counters, LABEL, MANAGED_BY, VolumeKey};
use crate::model::{AK_SHARD, INIT_SHARD, NodeName};
use crate::plan::{Note, Observed};
use crate::provision::Error;
use k8s_openapi::api::core::v1::ConfigMap;
use kbs_protocol::encoding::hex;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use tokio::runtime::Handle;

/// One piece: what the API server has, and what it is to have.
#[derive(Default)]
pub(super) struct Piece {
    pub(super) content: Content,
    /// `metadata.resourceVersion`; none before it was created.
    pub(super) version: Option<String>,
    /// Whether the API server has something else.
    pub(super) changed: bool,
    /// Paths that the API server has as begun, before they are.
    pub(super) announced: BTreeSet<String>,
}

/// What lies in a ConfigMap, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Content {
    pub(super) version: u32,
    /// `main` only: the number that the KBS has too.
    pub(super) id: Option<String>,
    /// `main` only: whether the KBS has it.
    pub(super) stamped: bool,
    pub(super) observed: Observed,
    /// By path.
    pub(super) counters: BTreeMap<String, Counters>,
    /// By the path of the volume's secret.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) volume_keys: BTreeMap<String, VolumeKey>,
}

/// Where pieces are kept.
pub(super) struct Store {
    pub(super) api: Api<ConfigMap>,
    pub(super) runtime: Handle,
    pub(super) cluster: String,
}

impl Store {
    pub(super) fn list(&self) -> Result<BTreeMap<String, Piece>, Error> {
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
    pub(super) fn put(
        &self,
        name: &str,
        content: &Content,
        version: Option<&str>,
    ) -> Result<String, Error> {
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
pub(super) fn piece_of(note: &Note) -> String {
    match note {
        Note::Value { name, .. } => piece_of_value(name),
        Note::AttestationPolicy { .. } | Note::ResourcePolicy { .. } => MAIN.to_owned(),
        Note::Resource { path, .. } | Note::Delete { path } => piece_of_path(path),
    }
}

pub(super) fn piece_of_path(path: &str) -> String {
    match path.split('/').nth(1).map(str::parse) {
        Some(Ok(node)) => piece_of_node(&node),
        _ => MAIN.to_owned(),
    }
}

pub(super) fn piece_of_value(name: &str) -> String {
    let first = |prefix: &str, piece: &str| {
        let rest = name.strip_prefix(prefix)?;
        Some(format!(
            "{piece}-{}",
            hex::encode(rest.get(..1)?.as_bytes())
        ))
    };
    first(AK_SHARD, "ak")
        .or_else(|| first(INIT_SHARD, "init"))
        .unwrap_or_else(|| MAIN.to_owned())
}

/// An id that is a digest is its own hash; others, such as `worker-1`, begin alike.
pub(super) fn piece_of_node(node: &NodeName) -> String {
    let text = node.to_string();
    let is_id = text.len() == UUID && text.bytes().all(|c| hex::is_lower_digit(c) || c == b'-');
    let head = text
        .get(..2)
        .filter(|head| is_id && head.bytes().all(hex::is_lower_digit));
    match head {
        Some(head) => format!("node-{head}"),
        None => format!(
            "node-{}",
            hex::encode(Sha256::digest(&text)).get(..2).unwrap_or("00")
        ),
    }
}

pub(super) fn path_of(note: &Note) -> Option<&str> {
    match note {
        Note::Resource { path, .. } | Note::Delete { path } => Some(path),
        _ => None,
    }
}

pub(super) const MAIN: &str = "main";
const ENTRY: &str = "record.json";
pub(super) const VERSION: u32 = 1;
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

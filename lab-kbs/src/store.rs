// SPDX-License-Identifier: Apache-2.0

//! What survives a restart: one JSON file, rewritten whole and atomically at each change.
//!
//! Resources stand in it as Trustee stores them, that is in clear text. The file is readable by its owner
//! only; do not keep a secret in a laboratory server that matters outside the laboratory.

use crate::session::Session;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The content of the state file.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct State {
    /// Resource path to content in base64.
    pub(crate) resources: BTreeMap<String, String>,
    /// The uploaded resource policy, if any.
    pub(crate) resource_policy: Option<String>,
    /// Uploaded attestation policies by id; only `default_cpu` is ever evaluated.
    pub(crate) attestation_policies: BTreeMap<String, String>,
    /// Reference values by name. Trustee stores an expiry beside each and never enforces it; we do without.
    pub(crate) reference_values: Arc<BTreeMap<String, Value>>,
    /// Handshakes by session id.
    pub(crate) sessions: BTreeMap<String, Session>,
}

/// The state, in memory and on disk.
pub(crate) struct Store {
    /// `None`: in memory only.
    path: Option<PathBuf>,
    state: Mutex<State>,
}

impl Store {
    /// Reads the state file, or begins an empty one.
    pub(crate) fn open(path: PathBuf) -> anyhow::Result<Self> {
        let state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{} is not a state file of this version: remove it to begin without any state",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Ok(Self {
            path: Some(path),
            state: Mutex::new(state),
        })
    }

    /// An empty one that ends with the process.
    pub(crate) fn in_memory() -> Self {
        Self {
            path: None,
            state: Mutex::default(),
        }
    }

    /// Looks at the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state. When this returns, the change is on disk; when it fails, nothing has changed.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> std::io::Result<T> {
        let mut state = self.lock();
        let Some(path) = &self.path else {
            return Ok(change(&mut state));
        };
        let mut next = state.clone();
        let result = change(&mut next);
        save(path, &next)?;
        *state = next;
        Ok(result)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Write beside, flush, rename, flush the directory: a power cut leaves the old file or the new one.
fn save(path: &Path, state: &State) -> std::io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(&serde_json::to_vec_pretty(state)?)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::Store;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn changes_are_on_disk_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let store = Store::open(path.clone()).unwrap();
        store
            .update(|state| state.resource_policy = Some("p".into()))
            .unwrap();
        let again = Store::open(path.clone()).unwrap();
        assert_eq!(
            again.read(|state| state.resource_policy.clone()).as_deref(),
            Some("p")
        );
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_failed_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("gone/state.json")).unwrap();
        assert!(
            store
                .update(|state| state.resource_policy = Some("p".into()))
                .is_err()
        );
        assert_eq!(store.read(|state| state.resource_policy.clone()), None);
    }

    #[test]
    fn a_torn_or_foreign_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for bad in ["", "{", "3", r#"{"later":1}"#] {
            std::fs::write(&path, bad).unwrap();
            assert!(Store::open(path.clone()).is_err(), "{bad:?}");
        }
    }
}

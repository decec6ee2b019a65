// SPDX-License-Identifier: Apache-2.0

//! The list of nodes as a directory: one JSON file for each TPM, named by its endorsement key's digest. Beside them the
//! directory `nodes` has a file for each node, which says in which of them its key is.
//!
//! A file is written beside its place, forced to the disk and renamed, so a registrar that is killed
//! leaves the old record or the new one. An exclusive lock on the file `lock` orders registrars and
//! administrators; nothing is kept in memory but a count, so what an administrator approves holds at once.

use super::registry::{NewKey, Registry, Tpm};
use super::sighting::Sighting;
use kbs_protocol::encoding::hex;
use kbs_protocol::enroll::{Refusal, RefusalKind, State};
use kbs_protocol::volume_record::SignedRecord;
use kbs_protocol::{Blame, NodeId, Owner, Persistence};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The directory.
#[derive(Debug)]
pub struct FileRegistry {
    directory: PathBuf,
    most: usize,
    count: AtomicUsize,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record that this program did not write, or not like this.
    #[error("{} is damaged: {why}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The configured number of TPMs is reached.
    #[error("{most} TPMs are registered, and limits.machines is {most}")]
    Full {
        /// The limit.
        most: usize,
    },
}

impl Blame for FilesError {
    fn owner(&self) -> Owner {
        match self {
            Self::Io { .. } => Owner::Machine,
            Self::Damaged { .. } => Owner::Data,
            Self::Full { .. } => Owner::Configuration,
        }
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        match self {
            Self::Io { .. } => {
                "look at the directory's owner, at its rights and at the room on the disk"
            }
            Self::Damaged { .. } => {
                "restore the file from a backup, or remove it: its TPM then enrols anew"
            }
            Self::Full { .. } => {
                "remove records of machines that are gone, or raise limits.machines"
            }
        }
        .to_owned()
    }
}

impl FileRegistry {
    /// Opens the directory, made if it is not there, for at most `most` TPMs.
    ///
    /// # Errors
    /// [`FilesError::Io`].
    pub fn open(directory: &Path, most: usize) -> Result<Self, FilesError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| failed("create", directory, source))?;
        let registry = Self {
            directory: directory.to_owned(),
            most,
            count: AtomicUsize::new(0),
        };
        // Proves as well that the directory can be written to.
        let _lock = registry.lock()?;
        registry
            .count
            .store(registry.files()?.len(), Ordering::Relaxed);
        Ok(registry)
    }

    /// All records, ordered by endorsement key.
    ///
    /// # Errors
    /// [`FilesError::Io`] or [`FilesError::Damaged`].
    pub fn all(&self) -> Result<Vec<Tpm>, FilesError> {
        let mut all = Vec::new();
        for path in self.files()? {
            all.extend(read(&path)?);
        }
        Ok(all)
    }

    /// Approves a node whose key is held. Returns whether there is one.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn approve(&self, node: NodeId) -> Result<bool, FilesError> {
        let _lock = self.lock()?;
        let mut found = false;
        for mut tpm in self.all()? {
            if tpm.approve(node) {
                self.write(&tpm)?;
                found = true;
            }
        }
        Ok(found)
    }

    fn admit_locked(&self, key: &NewKey<'_>) -> Result<Result<State, Refusal>, FilesError> {
        let _lock = self.lock()?;
        let path = self.directory.join(hex::encode(key.ek_sha256) + SUFFIX);
        let known = read(&path)?;
        let is_new = known.is_none();
        if is_new && self.count.load(Ordering::Relaxed) >= self.most {
            return Err(FilesError::Full { most: self.most });
        }
        let mut tpm = known.unwrap_or_else(|| Tpm::new(&key.ek_sha256));
        let (state, changed) = match tpm.admit(key) {
            Ok(admitted) => admitted,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if changed {
            self.write(&tpm)?;
        }
        self.index(&NodeId::from_spki_der(key.ak_spki), &tpm.ek_sha256)?;
        if is_new {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Ok(state))
    }

    /// Where the key of this node is written down. An older registrar's list has no such file; enrolling again makes it.
    fn index(&self, node: &NodeId, ek_sha256: &str) -> Result<(), FilesError> {
        let place = self.directory.join(NODES);
        let path = place.join(node.to_string());
        if std::fs::read_to_string(&path).is_ok_and(|known| known == ek_sha256) {
            return Ok(());
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&place)
            .map_err(|source| failed("create", &place, source))?;
        self.replace(&path, ek_sha256.as_bytes())
    }

    fn record_locked(
        &self,
        node: NodeId,
        record: &SignedRecord,
    ) -> Result<Result<bool, Refusal>, FilesError> {
        let _lock = self.lock()?;
        let unknown = || {
            let detail = "it has not enrolled here";
            Ok(Err(Refusal::new(RefusalKind::UnknownNode, detail)))
        };
        let path = self.directory.join(NODES).join(node.to_string());
        let ek_sha256 = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return unknown(),
            Err(error) => return Err(failed("read", &path, error)),
        };
        // A name of ours, or damage: never a way out of the directory.
        if hex::decode(&ek_sha256).is_none_or(|digest| digest.len() != EK_DIGEST) {
            let why = "it names no TPM".to_owned();
            return Err(FilesError::Damaged { path, why });
        }
        let Some(mut tpm) = read(&self.directory.join(ek_sha256 + SUFFIX))? else {
            return unknown();
        };
        let known = match tpm.record(record) {
            Ok(known) => known,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !known {
            self.write(&tpm)?;
        }
        Ok(Ok(known))
    }

    fn lock(&self) -> Result<File, FilesError> {
        let path = self.directory.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| failed("open", &path, source))?;
        // Released when the file is closed, also by a kill.
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", &path, error.into()))?;
        Ok(file)
    }

    fn files(&self) -> Result<Vec<PathBuf>, FilesError> {
        let list = |source| failed("list", &self.directory, source);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(list)? {
            let path = entry.map_err(list)?.path();
            if path.to_str().is_some_and(|name| name.ends_with(SUFFIX)) {
                files.push(path);
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn write(&self, tpm: &Tpm) -> Result<(), FilesError> {
        let path = self.directory.join(format!("{}{SUFFIX}", tpm.ek_sha256));
        let mut text = serde_json::to_vec_pretty(tpm).map_err(|error| FilesError::Damaged {
            path: path.clone(),
            why: error.to_string(),
        })?;
        text.push(b'\n');
        self.replace(&path, &text)
    }

    fn replace(&self, path: &Path, text: &[u8]) -> Result<(), FilesError> {
        // One name is enough: the lock is held.
        let beside = self.directory.join("new");
        let directory = path.parent().unwrap_or(&self.directory);
        let save = || {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(text)?;
            file.sync_all()?;
            std::fs::rename(&beside, path)?;
            File::open(directory)?.sync_all()
        };
        save().map_err(|source| failed("write", path, source))
    }
}

impl Registry for FileRegistry {
    fn admit(&self, key: &NewKey<'_>) -> Result<State, Refusal> {
        self.admit_locked(key).unwrap_or_else(not_kept)
    }

    fn record(&self, node: NodeId, record: &SignedRecord, _: &Sighting) -> Result<bool, Refusal> {
        self.record_locked(node, record).unwrap_or_else(not_kept)
    }
}

/// The node is told nothing about our disk; the administrator is.
fn not_kept<T>(error: FilesError) -> Result<T, Refusal> {
    eprintln!("sheepfold-operator: {error}\n  next:    {}", error.advice());
    let detail = "the registrar cannot keep the result";
    Err(Refusal::new(RefusalKind::Failure, detail))
}

/// The record, or `None` where there is none.
fn read(path: &Path) -> Result<Option<Tpm>, FilesError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path, error)),
    };
    let mut text = Vec::new();
    file.take(RECORD_LIMIT)
        .read_to_end(&mut text)
        .map_err(|source| failed("read", path, source))?;
    let damaged = |why: String| FilesError::Damaged {
        path: path.to_owned(),
        why,
    };
    let tpm: Tpm = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    let name = path.file_name().and_then(|name| name.to_str());
    if name != Some(&format!("{}{SUFFIX}", tpm.ek_sha256)) {
        return Err(damaged(
            "it is about another TPM than its name says".to_owned(),
        ));
    }
    Ok(Some(tpm))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> FilesError {
    FilesError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

const SUFFIX: &str = ".json";
/// A record with the most keys is under 8 KiB.
const RECORD_LIMIT: u64 = 1024 * 1024;
/// Where the key of each node is.
const NODES: &str = "nodes";
/// Bytes of an endorsement key's digest.
const EK_DIGEST: usize = 32;

#[cfg(test)]
mod tests {
    use super::{FileRegistry, FilesError};
    use crate::register::registry::{NewKey, Registry as _};
    use kbs_protocol::NodeId;
    use kbs_protocol::enroll::{RefusalKind, State};
    use std::time::SystemTime;

    fn key(ek: u8, spki: &[u8]) -> NewKey<'_> {
        NewKey {
            ek_sha256: [ek; 32],
            ak_spki: spki,
            basis: "ek-allow-list",
            product: Some("box"),
            now: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_was_decided_survives() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("made/here");
        let open = || FileRegistry::open(&place, 10).unwrap();
        assert_eq!(open().admit(&key(1, b"one")).unwrap(), State::Approved);
        assert_eq!(open().admit(&key(1, b"two")).unwrap(), State::Held);
        assert_eq!(
            open().admit(&key(2, b"two")).unwrap(),
            State::Approved,
            "another TPM"
        );
        let running = open();
        assert!(open().approve(NodeId::from_spki_der(b"two")).unwrap());
        assert_eq!(
            running.admit(&key(1, b"two")).unwrap(),
            State::Approved,
            "at once"
        );
        assert!(
            !open()
                .approve(NodeId::from_spki_der(b"never seen"))
                .unwrap()
        );
        let all = open().all().unwrap();
        assert_eq!(
            all.iter().map(|tpm| tpm.keys.len()).collect::<Vec<_>>(),
            [2, 1]
        );
    }

    #[test]
    fn two_registrars_do_not_both_see_an_unknown_tpm() {
        let dir = tempfile::tempdir().unwrap();
        let approved = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8_u8)
                .map(|number| {
                    let place = dir.path();
                    scope.spawn(move || {
                        FileRegistry::open(place, 10)
                            .unwrap()
                            .admit(&key(1, &[number]))
                            .unwrap()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .filter(|state| *state == State::Approved)
                .count()
        });
        assert_eq!(approved, 1);
    }

    #[test]
    fn a_half_written_record_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        // What a kill between write and rename leaves.
        std::fs::write(dir.path().join("new"), b"{\"ek_sha").unwrap();
        let registry = FileRegistry::open(dir.path(), 10).unwrap();
        assert_eq!(registry.all().unwrap(), []);
        assert_eq!(registry.admit(&key(1, b"one")).unwrap(), State::Approved);
        assert_eq!(registry.all().unwrap().len(), 1);
    }

    #[test]
    fn damage_and_fullness_refuse_instead_of_forgetting() {
        let dir = tempfile::tempdir().unwrap();
        let registry = FileRegistry::open(dir.path(), 1).unwrap();
        registry.admit(&key(1, b"one")).unwrap();
        assert_eq!(
            registry.admit(&key(2, b"two")).unwrap_err().error,
            RefusalKind::Failure
        );
        assert_eq!(
            FileRegistry::open(dir.path(), 1)
                .unwrap()
                .admit(&key(2, b"two"))
                .unwrap_err()
                .error,
            RefusalKind::Failure
        );
        let file = registry.files().unwrap().remove(0);
        let good = std::fs::read_to_string(&file).unwrap();
        for bad in [
            String::new(),
            good.replace("0101", "0202"),
            good.replace("held", "x").replace("approved", "x"),
        ] {
            std::fs::write(&file, bad).unwrap();
            assert!(matches!(registry.all(), Err(FilesError::Damaged { .. })));
            assert_eq!(
                registry.admit(&key(1, b"other")).unwrap_err().error,
                RefusalKind::Failure
            );
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The operator's memory of one KBS: a directory of its own, for its owner only. No secret is in it.
//!
//! `record.json` is the state at some moment, `journal-<n>` what happened since, one line each; the record
//! names its journal. A line is on the disk before the write that it announces is sent. At the end of a run
//! the journal becomes part of a new record, which replaces the old one whole. `lock` keeps a second
//! operator out; the system releases it when the first one ends, however it ends.

mod files;

use super::Error;
use super::apply::Memory;
use crate::model::NodeName;
use crate::plan::{Note, Observed, Write};
use files::{RECORD, journal_name};
use rand_core::{OsRng, RngCore as _};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is known of a KBS, on disk.
#[derive(Debug)]
pub struct Record {
    dir: PathBuf,
    state: State,
    journal: File,
    _lock: File,
}

/// The content of `record.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Of this file.
    version: u32,
    /// Written into the KBS too: another KBS, or an emptied one, does not have it.
    pub id: String,
    /// Whether the KBS has it.
    pub stamped: bool,
    /// What the KBS holds, in digests.
    pub observed: Observed,
    /// Machines that were revoked by command.
    pub revoked: BTreeSet<NodeName>,
    /// When something of a machine was last written, seconds since 1970.
    pub changed: BTreeMap<NodeName, u64>,
    /// The cluster, `namespace/name`, whose operator has this memory now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed_over: Option<String>,
    /// The number of the journal that continues this.
    journal: u64,
}

/// A line of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Begin(Vec<Note>, u64),
    Finish(Vec<Note>),
    Stamped,
    Revoked(NodeName),
    Reinstated(NodeName),
    Doubted(String),
}

impl Record {
    /// Opens the memory in this directory, or begins an empty one.
    ///
    /// # Errors
    /// [`Error::Locked`] while another operator is at work, [`Error::Exposed`] for a directory that others
    /// can read, [`Error::Record`] for a damaged one, [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        files::make(dir)?;
        let lock = files::lock(dir)?;
        let state = State::read(dir)?;
        let (state, file) = fold(dir, state)?;
        Ok(Self {
            dir: dir.to_owned(),
            state,
            journal: file,
            _lock: lock,
        })
    }

    /// Reads the memory in this directory and changes nothing, not even a lock; empty if there is none.
    ///
    /// # Errors
    /// As [`Record::open`].
    pub fn peek(dir: &Path) -> Result<State, Error> {
        let mut state = State::read(dir)?;
        if state.journal != 0 && !dir.join(journal_name(state.journal)).exists() {
            // An operator at work has just made the two into one.
            state = State::read(dir)?;
        }
        state.replay(&dir.join(journal_name(state.journal)))?;
        Ok(state)
    }

    /// The memory.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where it is, for messages.
    pub fn path(&self) -> PathBuf {
        self.dir.join(RECORD)
    }

    /// Forgets everything, but for what was revoked by command.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin_anew(&mut self) -> Result<(), Error> {
        let revoked = std::mem::take(&mut self.state.revoked);
        self.state = State {
            revoked,
            journal: self.state.journal,
            ..State::new()
        };
        self.compact()
    }

    /// The KBS has our id.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stamped(&mut self) -> Result<(), Error> {
        self.note(Line::Stamped)
    }

    /// A machine is revoked, or no longer.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn revoke(&mut self, node: &NodeName, revoked: bool) -> Result<(), Error> {
        self.note(match revoked {
            true => Line::Revoked(node.clone()),
            false => Line::Reinstated(node.clone()),
        })?;
        self.sync()
    }

    /// The KBS holds something else under this name than we wrote.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn doubt(&mut self, value: &str) -> Result<(), Error> {
        self.note(Line::Doubted(value.to_owned()))
    }

    /// From now on the operator of that cluster, `namespace/name`, keeps this memory: nobody else may write.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn hand_over(&mut self, to: &str) -> Result<(), Error> {
        self.state.handed_over = Some(to.to_owned());
        self.compact()
    }

    /// Makes one file of record and journal.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn compact(&mut self) -> Result<(), Error> {
        self.journal = self.state.replace(&self.dir)?;
        Ok(())
    }

    fn note(&mut self, line: Line) -> Result<(), Error> {
        let path = self.dir.join(journal_name(self.state.journal));
        let mut text = serde_json::to_string(&line).map_err(|error| Error::Record {
            path: path.clone(),
            why: error.to_string(),
        })?;
        text.push('\n');
        self.journal
            .write_all(text.as_bytes())
            .map_err(Error::io("write", path))?;
        self.state.apply(line);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        let failed = Error::io("write", self.dir.join(journal_name(self.state.journal)));
        self.journal.sync_data().map_err(failed)
    }
}

impl Memory for Record {
    fn observed(&self) -> &Observed {
        &self.state.observed
    }

    fn begin(&mut self, writes: &[Write], count: usize) -> Result<(), Error> {
        let notes = writes.iter().take(count).map(Note::from).collect();
        self.note(Line::Begin(notes, now()))?;
        // This also brings every earlier line to the disk.
        self.sync()
    }

    fn finish(&mut self, writes: &[Write]) -> Result<(), Error> {
        self.note(Line::Finish(writes.iter().map(Note::from).collect()))
    }
}

impl State {
    fn new() -> Self {
        Self {
            version: VERSION,
            id: format!("{:016x}{:016x}", OsRng.next_u64(), OsRng.next_u64()),
            stamped: false,
            observed: Observed::default(),
            revoked: BTreeSet::new(),
            changed: BTreeMap::new(),
            handed_over: None,
            journal: 0,
        }
    }

    fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(RECORD);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::new()),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let damaged = |why: String| Error::Record {
            path: path.clone(),
            why,
        };
        let state: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        match state.version {
            VERSION => Ok(state),
            other => Err(damaged(format!("expected version {VERSION}, got {other}"))),
        }
    }

    /// Makes one file of what is known, and begins the next journal.
    fn replace(&mut self, dir: &Path) -> Result<File, Error> {
        let old = self.journal;
        self.journal = old.saturating_add(1);
        files::replace(dir, self, old)
    }

    /// A last line without its end was being written when the process ended: its write was never sent.
    fn replay(&mut self, journal: &Path) -> Result<(), Error> {
        let text = match std::fs::read_to_string(journal) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", journal)(error)),
        };
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            let line = serde_json::from_str(line).map_err(|error| Error::Record {
                path: journal.to_owned(),
                why: error.to_string(),
            })?;
            self.apply(line);
        }
        Ok(())
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Begin(notes, at) => {
                for note in notes {
                    if let Note::Resource { path, .. } | Note::Delete { path } = &note
                        && let Some(Ok(node)) = path.split('/').nth(1).map(str::parse)
                    {
                        self.changed.insert(node, at);
                    }
                    self.observed.begin_note(&note);
                }
            }
            Line::Finish(notes) => notes
                .iter()
                .for_each(|note| self.observed.finish_note(note)),
            Line::Stamped => self.stamped = true,
            Line::Revoked(node) => {
                self.revoked.insert(node);
            }
            Line::Reinstated(node) => {
                self.revoked.remove(&node);
            }
            Line::Doubted(name) => self.observed.doubt(&name),
        }
    }
}

/// Replays the journal and begins the next one.
fn fold(dir: &Path, mut state: State) -> Result<(State, File), Error> {
    state.replay(&dir.join(journal_name(state.journal)))?;
    let file = state.replace(dir)?;
    Ok((state, file))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::Record;
    use crate::plan::{Observed, Write, plan};
    use crate::provision::Error;
    use crate::provision::apply::Memory as _;
    use crate::testing::cluster;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn writes() -> Vec<Write> {
        plan(&cluster(2), &Observed::default()).writes
    }

    #[test]
    fn a_second_operator_has_to_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = Record::open(&path).unwrap();
        assert!(matches!(Record::open(&path), Err(Error::Locked { .. })));
        drop(first);
        Record::open(&path).unwrap();
    }

    #[test]
    fn the_directory_is_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        drop(Record::open(&path).unwrap());
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path) & 0o777, 0o700);
        assert_eq!(mode(&path.join("record.json")) & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(Record::open(&path), Err(Error::Exposed { .. })));
    }

    #[test]
    fn the_memory_is_the_same_after_any_end() {
        let writes = writes();
        for done in 0..=writes.len() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state");
            let mut record = Record::open(&path).unwrap();
            let mut expected = Observed::default();
            for (index, write) in writes.iter().take(done).enumerate() {
                record.begin(std::slice::from_ref(write), 1).unwrap();
                expected.begin(write);
                if index + 1 < done {
                    record.finish(std::slice::from_ref(write)).unwrap();
                    expected.finish(write);
                }
            }
            // The process ends here; a line was half written.
            drop(record);
            let journal = path.join("journal-1");
            let mut bytes = fs::read(&journal).unwrap();
            bytes.extend(b"{\"finish\":[{\"val");
            fs::write(&journal, bytes).unwrap();
            assert_eq!(Record::peek(&path).unwrap().observed, expected);
            let again = Record::open(&path).unwrap();
            assert_eq!(again.state().observed, expected);
            assert!(!journal.exists());
        }
    }

    #[test]
    fn a_damaged_memory_is_not_taken_for_an_empty_one() {
        for bad in ["", "{", "{\"version\":2}"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state");
            drop(Record::open(&path).unwrap());
            fs::write(path.join("record.json"), bad).unwrap();
            assert!(matches!(Record::open(&path), Err(Error::Record { .. })));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        drop(Record::open(&path).unwrap());
        fs::write(path.join("journal-1"), "nonsense\n").unwrap();
        assert!(matches!(Record::open(&path), Err(Error::Record { .. })));
    }

    #[test]
    fn to_begin_anew_does_not_pardon_anybody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut record = Record::open(&path).unwrap();
        let node = crate::testing::node(1);
        record.revoke(&node, true).unwrap();
        record.begin(&writes(), writes().len()).unwrap();
        record.finish(&writes()).unwrap();
        let id = record.state().id.clone();
        record.begin_anew().unwrap();
        assert_eq!(record.state().observed, Observed::default());
        assert!(record.state().revoked.contains(&node));
        assert_ne!(record.state().id, id);
    }
}

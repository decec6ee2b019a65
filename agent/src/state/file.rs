// SPDX-License-Identifier: Apache-2.0

//! The directory `/run/trustee`: the state on its file, and the locks beside it. Called by everything that runs
//! in an initramfs, several processes at once.

use super::{State, StateError, limits};
use crate::initramfs;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The directory in which a boot keeps its state, there and ours.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
}

/// Held while a process attests: the TPM and the server are asked by one after the other. Given back when it is
/// dropped, or when its process ends.
#[derive(Debug)]
#[must_use]
pub struct AttestationLock {
    _file: File,
}

impl RunDirectory {
    /// `/run/trustee`, made with mode 0700 if it is not there. Outside an initramfs the variable
    /// `TRUSTEE_AGENT_RUN` names another, for tests.
    ///
    /// # Errors
    /// As [`RunDirectory::at`].
    pub fn open() -> Result<Self, StateError> {
        Self::at(place())
    }

    /// The directory, where this is a boot: in an initramfs, or where a test names one. A person who tries the agent on
    /// a running system leaves no traces in the record of its boot.
    ///
    /// # Errors
    /// As [`RunDirectory::at`].
    pub fn of_boot() -> Result<Option<Self>, StateError> {
        (initramfs::here() || initramfs::variable(VARIABLE).is_some())
            .then(Self::open)
            .transpose()
    }

    /// The directory, if this boot has one. Makes none.
    ///
    /// # Errors
    /// As [`RunDirectory::at`].
    pub fn existing() -> Result<Option<Self>, StateError> {
        let path = place();
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            _ => Self::at(path).map(Some),
        }
    }

    /// The same at another place.
    ///
    /// # Errors
    /// [`StateError::Io`] when it cannot be made, [`StateError::NotOurs`] when something else is there.
    pub fn at(path: PathBuf) -> Result<Self, StateError> {
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                return Err(StateError::Io {
                    action: "make",
                    path,
                    source,
                });
            }
            _ => {}
        }
        // Of the link itself, should it be one.
        let found = std::fs::symlink_metadata(&path).map_err(|source| StateError::Io {
            action: "look at",
            path: path.clone(),
            source,
        })?;
        let why = if !found.is_dir() {
            "it is something else".to_owned()
        } else if found.uid() != rustix::process::geteuid().as_raw() {
            format!("it belongs to user {}", found.uid())
        } else if found.mode() & 0o077 != 0 {
            format!("its mode is {:04o}", found.mode() & 0o7777)
        } else {
            return Ok(Self { path });
        };
        Err(StateError::NotOurs { path, why })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the one of this boot, and not a test's.
    pub fn is_default(&self) -> bool {
        self.path == Path::new(DEFAULT)
    }

    /// The state as it is now; that of a boot that has done nothing where there is no file.
    ///
    /// # Errors
    /// [`StateError::Damaged`] for anything but what this program writes, [`StateError::Io`].
    pub fn read(&self) -> Result<State, StateError> {
        let path = self.path.join(STATE);
        let mut bytes = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(LIMIT.saturating_add(1)).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::default()),
            Err(source) => {
                return Err(StateError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        }
        parse(&bytes).map_err(|why| StateError::Damaged { path, why })
    }

    /// Changes the state: reads it, lets `change` work on it, and puts the outcome in its place in one step. Other
    /// processes wait meanwhile, so `change` must not wait for anything itself. When it fails, nothing changes.
    ///
    /// # Errors
    /// That of `change`, or a [`StateError`].
    pub fn update<T, E: From<StateError>>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = self.lock(LOCK)?;
        let mut state = self.read()?;
        let done = change(&mut state)?;
        self.write(state)?;
        Ok(done)
    }

    /// Waits until no other process of this boot attests.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn attestation_lock(&self) -> Result<AttestationLock, StateError> {
        Ok(AttestationLock {
            _file: self.lock(ATTESTATION_LOCK)?,
        })
    }

    /// A file that is locked (flock(2)) as long as it is open.
    fn lock(&self, name: &str) -> Result<File, StateError> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).mode(0o600).open(&path);
        file.and_then(|file| file.lock().map(|()| file))
            .map_err(|source| StateError::Io {
                action: "lock",
                path,
                source,
            })
    }

    fn write(&self, mut state: State) -> Result<(), StateError> {
        state.tidy();
        if let Some(why) = limits::problem(&state) {
            return Err(StateError::Impossible { why });
        }
        let text = serde_json::to_string(&state).map_err(|error| StateError::Impossible {
            why: error.to_string(),
        })?;
        if u64::try_from(text.len()).is_ok_and(|length| length > LIMIT) {
            let why = format!("it is larger than {LIMIT} bytes");
            return Err(StateError::Impossible { why });
        }
        self.put(STATE, text.as_bytes())
    }

    /// Leaves something here for whoever comes next, in the place of what had this name.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn keep(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let _lock = self.lock(LOCK)?;
        self.put(name, bytes)
    }

    /// The caller holds the lock.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io {
                action,
                path,
                source,
            }
        };
        // What an interrupted process left behind is nobody's: the lock is ours.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(io("remove", &new)(error));
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(io("write", &new))?;
        std::fs::rename(&new, &path).map_err(io("replace", &path))
    }
}

impl State {
    /// Sentences come from errors, and errors quote what others wrote.
    fn tidy(&mut self) {
        let waiting = self.waiting.values_mut().map(|waiting| &mut waiting.reason);
        let refused = self.refused.values_mut().map(|refused| &mut refused.reason);
        for reason in waiting.chain(refused) {
            reason.why = limits::line(&reason.why);
            reason.advice = limits::line(&reason.advice);
        }
        if let Some(attested) = &mut self.attested {
            attested.server = limits::line(&attested.server);
            attested.verdict = limits::line(&attested.verdict);
        }
    }
}

/// Where the directory is.
pub(super) fn place() -> PathBuf {
    initramfs::variable(VARIABLE).map_or_else(|| DEFAULT.into(), PathBuf::from)
}

/// Reads a state. Says what is wrong with it if it is none.
pub(super) fn parse(bytes: &[u8]) -> Result<State, String> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LIMIT) {
        return Err(format!("it is larger than {LIMIT} bytes"));
    }
    let state = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    limits::problem(&state).map_or(Ok(state), Err)
}

const DEFAULT: &str = "/run/trustee";
const VARIABLE: &str = "TRUSTEE_AGENT_RUN";
const STATE: &str = "state.json";
const LOCK: &str = "lock";
const ATTESTATION_LOCK: &str = "attestation.lock";

/// All that the limits allow, with room.
const LIMIT: u64 = 512 * 1024;

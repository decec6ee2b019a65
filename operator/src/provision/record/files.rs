// SPDX-License-Identifier: Apache-2.0

//! The files of a record: private, locked, and replaced so that a crash leaves the old ones or the new ones.

use super::State;
use crate::provision::Error;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Makes the directory if there is none, for its owner only.
pub(super) fn make(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Error::io("make", dir))?;
    let metadata = std::fs::metadata(dir).map_err(Error::io("read", dir))?;
    if metadata.permissions().mode() & OPEN_TO_OTHERS != 0 {
        return Err(Error::Exposed {
            path: dir.to_owned(),
        });
    }
    Ok(())
}

/// Keeps a second operator out, until the file is dropped. Waits a moment for one that is just ending: a process that
/// starts a program shares its locks with that program for an instant, also after it has dropped them.
pub(super) fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = private()
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path }),
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// An empty journal, then a record that names it: a crash leaves the old pair or the new one.
pub(super) fn replace(dir: &Path, state: &State, old: u64) -> Result<File, Error> {
    let old = dir.join(journal_name(old));
    let path = dir.join(journal_name(state.journal));
    let journal = private()
        .create(true)
        .truncate(true)
        .open(&path)
        .map_err(Error::io("write", &path))?;
    let record = dir.join(RECORD);
    let beside = dir.join("record.json.new");
    let bytes = serde_json::to_vec(state).map_err(|error| Error::Record {
        path: record.clone(),
        why: error.to_string(),
    })?;
    let write = || {
        let mut file = private().create(true).truncate(true).open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, &record)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(Error::io("write", &record))?;
    // Nobody reads it any more; if it cannot be removed, it is only in the way.
    let _ = std::fs::remove_file(old);
    Ok(journal)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// The journal with this number.
pub(super) fn journal_name(number: u64) -> String {
    format!("journal-{number}")
}

pub(super) const RECORD: &str = "record.json";
const OPEN_TO_OTHERS: u32 = 0o077;

// SPDX-License-Identifier: Apache-2.0
//! What is expensive to make, kept under the digest of what it was made from. A thing in the cache is complete:
//! it is made beside its place and moved there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use sheepfold_tests::paths;

use crate::say::say;

/// The digest of everything that a thing is made from.
#[derive(Debug, Default, Clone)]
pub struct Key(Sha256);

impl Key {
    /// Adds bytes, apart from what came before.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes.len().to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a file, or all files below a directory in the order of their names.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn path(mut self, path: &Path) -> Result<Self> {
        if path.is_dir() {
            let mut entries: Vec<PathBuf> = fs::read_dir(path)?
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<_, _>>()?;
            entries.sort();
            for entry in entries {
                let name = entry.file_name().unwrap_or_default();
                self = self.bytes(name.as_encoded_bytes()).path(&entry)?;
            }
            return Ok(self);
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(self.bytes(&bytes))
    }

    /// Enough of the digest for a name.
    pub fn name(&self) -> String {
        let digest = self.0.clone().finalize();
        digest.iter().take(6).map(|b| format!("{b:02x}")).collect()
    }
}

/// The directory `kind-KEY` of the cache, made now if it is not there: `make` gets an empty directory. Others of
/// the kind are deleted except the newest few.
///
/// # Errors
/// What `make` says; nothing is kept then.
pub fn directory(kind: &str, key: &Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = paths::cache()?;
    fs::create_dir_all(&cache)?;
    let dir = cache.join(format!("{kind}-{}", key.name()));
    if dir.exists() {
        return Ok(dir);
    }
    // Two stories may want the same thing at once.
    let lock = File::create(cache.join(format!("{kind}.lock")))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if !dir.exists() {
        let part = cache.join(format!("{kind}.part"));
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        fs::create_dir(&part)?;
        make(&part)?;
        fs::rename(&part, &dir)?;
        prune(&cache, kind, &dir)?;
    }
    Ok(dir)
}

/// Keeps [`KEPT`] directories of the kind.
fn prune(cache: &Path, kind: &str, newest: &Path) -> Result<()> {
    let mut old = Vec::new();
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let of_kind = name
            .strip_prefix(kind)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|key| key.len() == 12 && key.bytes().all(|b| b.is_ascii_hexdigit()));
        if of_kind && entry.path() != newest {
            old.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    old.sort();
    let surplus = old.len().saturating_sub(KEPT - 1);
    for (_, path) in old.into_iter().take(surplus) {
        say(&format!("forgetting {}", path.display()));
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

/// As many images as all stories and `make bench-boot` take together.
const KEPT: usize = 20;

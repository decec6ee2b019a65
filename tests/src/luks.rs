// SPDX-License-Identifier: Apache-2.0
//! LUKS2 volumes in plain files. Formatting, key slots, tokens and `--test-passphrase` need no
//! device-mapper and no root, so the whole life of a binding can be tested anywhere.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::{Captured, Run};

/// A LUKS2 volume in a file.
#[derive(Debug)]
pub struct Volume {
    /// The file.
    pub path: PathBuf,
    /// A file with the passphrase of slot 0, which a binding needs once.
    pub key_file: PathBuf,
}

impl Volume {
    /// Formats `dir/name` with one key slot, whose passphrase is in a file beside it.
    ///
    /// # Errors
    /// `cryptsetup` is missing or refuses.
    pub fn format(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let key_file = dir.join(format!("{name}.first-key"));
        std::fs::write(&key_file, "the passphrase the volume was formatted with")?;
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.set_len(SIZE)?;
        cryptsetup([
            "luksFormat",
            "--type",
            "luks2",
            "--batch-mode",
            "--key-file",
        ])
        .arg(&key_file)
        // One iteration count for speed: what protects a bound slot is the length of its passphrase.
        .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])
        .arg(&path)
        .success()?;
        Ok(Self { path, key_file })
    }

    /// Removes the slot that it was formatted with, as Ignition does after it has bound a volume.
    ///
    /// # Errors
    /// `cryptsetup` refuses.
    pub fn remove_first_key(&self) -> Result<()> {
        cryptsetup(["luksRemoveKey", "--batch-mode"])
            .arg(&self.path)
            .arg(&self.key_file)
            .success()
            .map(drop)
    }

    /// Tries `passphrase` against every slot, or one.
    ///
    /// # Errors
    /// `cryptsetup` cannot be run; a refused passphrase is an exit code.
    pub fn test_passphrase(&self, passphrase: &[u8], slot: Option<u32>) -> Result<Captured> {
        let mut run = cryptsetup(["open", "--test-passphrase", "--key-file", "-"]);
        if let Some(slot) = slot {
            run = run.args(["--key-slot", &slot.to_string()]);
        }
        run.arg(&self.path).stdin(passphrase).capture()
    }

    /// The volume's metadata, which anybody who holds the disk can read and change.
    ///
    /// # Errors
    /// The header cannot be read.
    pub fn header(&self) -> Result<Value> {
        let dump = cryptsetup(["luksDump", "--dump-json-metadata"])
            .arg(&self.path)
            .success()?;
        serde_json::from_slice(&dump.stdout).context("the LUKS2 metadata is not JSON")
    }

    /// The tokens of type `clevis`.
    ///
    /// # Errors
    /// The header cannot be read.
    pub fn clevis_tokens(&self) -> Result<Vec<Value>> {
        let header = self.header()?;
        let tokens = header
            .get("tokens")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        Ok(tokens
            .into_iter()
            .map(|(_, token)| token)
            .filter(|token| token.get("type").and_then(Value::as_str) == Some("clevis"))
            .collect())
    }
}

fn cryptsetup<const N: usize>(args: [&str; N]) -> Run {
    // Distributions put it where an ordinary user's PATH does not look.
    let program = crate::paths::tool("cryptsetup").unwrap_or_else(|| "cryptsetup".into());
    Run::new(program).args(args)
}

/// 16 MiB of metadata and key slots, and a little payload.
const SIZE: u64 = 20 * 1024 * 1024;

// SPDX-License-Identifier: Apache-2.0

//! Where Ignition looks for a config, and in which order; so that it takes ours.
//!
//! The first that answers wins: the kernel command line, then `user.ign` in the system's config directory, then
//! the platform. After 2.26.0 Ignition looks for `user.ign` in `/run/ignition` first. Older ones know one
//! directory, `/usr/lib/ignition`, which is read-only in newer initramfs; drop-ins of their units name ours with
//! `IGNITION_SYSTEM_CONFIG_DIR`, and the vendor's base configs have to be in it too. Which Ignition an image has
//! is not asked: both places are filled.

use super::error::IgnitionError;
use crate::cmdline::{self, CommandLine};
use kbs_protocol::Secret;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The file system in which Ignition runs.
#[derive(Debug, Clone)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// Everything is looked for and written below `root`, which is `/` on a node.
    pub fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Makes sure that Ignition has no config yet and is not told of another one. Asked before anything is
    /// fetched: a node that was tampered with needs no KBS to say so.
    ///
    /// # Errors
    /// [`IgnitionError::CommandLine`], [`IgnitionError::Present`], [`IgnitionError::Io`].
    pub fn refuse_overrides(&self) -> Result<(), IgnitionError> {
        let line = CommandLine::load(&self.root).map_err(|error| IgnitionError::Io {
            action: "read",
            path: self.root.join("proc/cmdline"),
            error,
        })?;
        // Nothing is allowed here: an allowed one would still take the place of the attested config.
        let mut refusals = cmdline::check(&line, &[]).into_iter();
        if let Some(refusal) = refusals.find(|refusal| refusal.argument.contains(CONFIG_ARGUMENT)) {
            return Err(IgnitionError::CommandLine(refusal));
        }
        let exists = |name: &&&str| self.root.join(name).symlink_metadata().is_ok();
        match OF_OTHERS.iter().find(exists) {
            Some(name) => Err(IgnitionError::Present {
                path: Path::new("/").join(name),
            }),
            None => Ok(()),
        }
    }

    /// Puts the config where each Ignition looks, readable for root only. Each file appears whole or not at
    /// all. Doing it again with the same config changes nothing.
    ///
    /// # Errors
    /// [`IgnitionError::Present`] when one of them is there with other content, [`IgnitionError::Io`].
    pub fn put(&self, config: &Secret) -> Result<Vec<PathBuf>, IgnitionError> {
        let ours = self.root.join(OURS);
        make_directory(&ours)?;
        for name in BASES {
            let (from, to) = (self.root.join(VENDOR).join(name), ours.join(name));
            if from.is_dir() {
                copy(&from, &to, BASE_DEPTH)?;
            }
        }
        let mut written = Vec::new();
        for directory in [ours, self.root.join(RUNTIME)] {
            make_directory(&directory)?;
            written.push(write(&directory.join(USER_CONFIG), config)?);
        }
        Ok(written)
    }
}

fn make_directory(path: &Path) -> Result<(), IgnitionError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io("create", path))
}

/// The vendor's directory of configs, or one of a platform inside it.
fn copy(from: &Path, to: &Path, depth: u8) -> Result<(), IgnitionError> {
    make_directory(to)?;
    for entry in fs::read_dir(from).map_err(io("read", from))? {
        let from = entry.map_err(io("read", from))?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        if !from.is_dir() {
            fs::copy(&from, &to).map_err(io("copy", &from))?;
        } else if let Some(depth) = depth.checked_sub(1) {
            copy(&from, &to, depth)?;
        }
    }
    Ok(())
}

fn write(path: &Path, config: &Secret) -> Result<PathBuf, IgnitionError> {
    match fs::read(path).map(zeroize::Zeroizing::new) {
        Ok(there) if *there == *config.expose() => return Ok(path.to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Ok(_) | Err(_) => {
            return Err(IgnitionError::Present {
                path: path.to_owned(),
            });
        }
    }
    let part = path.with_extension("part");
    // Of a run that was killed.
    drop(fs::remove_file(&part));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .map_err(io("create", &part))?;
    file.write_all(config.expose())
        .map_err(io("write", &part))?;
    fs::rename(&part, path).map_err(io("write", path))?;
    Ok(path.to_owned())
}

fn io<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(std::io::Error) -> IgnitionError + 'p {
    move |error| IgnitionError::Io {
        action,
        path: path.to_owned(),
        error,
    }
}

/// What names a config on the kernel command line (Ignition, "cmdline" provider).
const CONFIG_ARGUMENT: &str = "ignition.config.";
/// Ignition's own copy of a config that it has taken, and base configs above the vendor's. Nothing may have made
/// them before us. `user.ign` is compared when it is written, so that a unit may be started again.
const OF_OTHERS: [&str; 4] = [
    "run/ignition.json",
    "run/ignition/state",
    "run/ignition/base.d",
    "run/ignition/base.platform.d",
];
/// Where Ignition after 2.26.0 looks first.
const RUNTIME: &str = "run/ignition";
/// Where the drop-ins of older ones point to.
const OURS: &str = "run/trustee/ignition";
/// Where they would look.
const VENDOR: &str = "usr/lib/ignition";
/// What a vendor gives every node, and every node of a platform.
const BASES: [&str; 2] = ["base.d", "base.platform.d"];
/// `base.platform.d/<platform>/`.
const BASE_DEPTH: u8 = 1;
const USER_CONFIG: &str = "user.ign";

#[cfg(test)]
mod tests;

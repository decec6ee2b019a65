// SPDX-License-Identifier: Apache-2.0
//! Runs the real Clevis with our pin in its path, as an installed node would: a directory with the two
//! links, first in `PATH`.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::paths;
use crate::process::Run;

/// A directory with `trustee-agent` and the links by which Clevis finds the pin.
#[derive(Debug, Clone)]
pub struct Links {
    dir: PathBuf,
    path: OsString,
}

impl Links {
    /// Makes the links in `dir`, which is created.
    ///
    /// # Errors
    /// The agent is not built, or the directory cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        Self::to(&paths::binary("trustee-agent")?, dir)
    }

    /// Makes the links in `dir` to the agent at `agent`.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn to(agent: &Path, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        for name in NAMES {
            symlink(agent, dir.join(name)).with_context(|| format!("cannot link {name}"))?;
        }
        let found = env::var_os("PATH").unwrap_or_default();
        let dirs = [dir.to_path_buf()]
            .into_iter()
            .chain(env::split_paths(&found));
        // Where distributions keep `cryptsetup`, for users who are not root.
        let path = env::join_paths(dirs.chain(["/usr/sbin", "/sbin"].map(PathBuf::from)))
            .context("the work directory's name cannot stand in PATH")?;
        Ok(Self {
            dir: dir.to_path_buf(),
            path,
        })
    }

    /// One of the names in [`NAMES`], about to run.
    pub fn run(&self, name: &str) -> Run {
        Run::new(self.dir.join(name)).env("PATH", &self.path)
    }

    /// `clevis`, about to run.
    pub fn clevis(&self) -> Run {
        Run::new("clevis").env("PATH", &self.path)
    }
}

/// What an installation puts beside each other; the links are how Clevis dispatches to the pin.
pub const NAMES: [&str; 3] = [
    "trustee-agent",
    "clevis-encrypt-trustee",
    "clevis-decrypt-trustee",
];

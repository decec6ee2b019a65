// SPDX-License-Identifier: Apache-2.0
//! The two Debian trees that everything is made with, each installed once from the scripts in `images/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sheepfold_tests::node_root::Suite;
use sheepfold_tests::paths;
use sheepfold_tests::process::Run;

use crate::cache::{self, Key};
use crate::say::say;

/// The tree with QEMU, OVMF and what makes disks.
///
/// # Errors
/// Not `root`, no `mmdebstrap`, or no Debian archive in reach.
pub fn toolbox() -> Result<PathBuf> {
    tree("vm-toolbox", &["toolbox"])
}

/// The root of a node, before our files are in it.
///
/// # Errors
/// As [`toolbox`].
pub fn guest(suite: Suite) -> Result<PathBuf> {
    let (kind, suite) = match suite {
        Suite::Bookworm => ("vm-guest-bookworm", "bookworm"),
        Suite::Trixie => ("vm-guest-trixie", "trixie"),
    };
    tree(kind, &["guest", suite])
}

/// The kernel version of a guest's root.
///
/// # Errors
/// It has no kernel.
pub fn kernel_version(guest: &Path) -> Result<String> {
    let mut entries = fs::read_dir(guest.join("usr/lib/modules"))?;
    let entry = entries.next().context("the guest has no kernel")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn tree(kind: &str, words: &[&str]) -> Result<PathBuf> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "virtual machines are made by root: file systems keep the owners of their files, and programs run in \
         chroots; run `sudo make vm-test`"
    );
    let scripts = here().join("images");
    let (script, arguments) = words.split_first().context("a script")?;
    let key = words
        .iter()
        .fold(Key::default(), |key, word| key.bytes(word.as_bytes()))
        .path(&scripts.join(script))?
        .path(&scripts.join("common"))?;
    cache::directory(kind, &key, |dir| {
        say(&format!(
            "installing Debian into {kind}: downloads 150 MB, takes minutes, is kept"
        ));
        fs::remove_dir(dir)?;
        Run::new(scripts.join(script))
            .args(arguments)
            .arg(dir)
            .deadline(DOWNLOAD)
            .success()
            .context("cannot install Debian; is mmdebstrap there, and a mirror in reach (SHEEPFOLD_MIRROR)?")?;
        Ok(())
    })
}

/// The directory of this crate.
pub fn here() -> PathBuf {
    paths::workspace().join("vm-tests")
}

const DOWNLOAD: Duration = Duration::from_secs(1800);

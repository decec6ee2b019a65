// SPDX-License-Identifier: Apache-2.0
//! What the agent adds to an image: its size, its size compressed, the shared libraries that were not
//! there before, and what must not be inside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sheepfold_tests::process::Run;

/// The bytes a program brings.
#[derive(Debug)]
pub(crate) struct Footprint {
    /// The program, stripped.
    pub bytes: u64,
    /// The same after `zstd -19`.
    pub compressed: u64,
    /// The build that can speak to a software TPM; not installed on nodes.
    pub with_software_tpm: Option<u64>,
    /// Libraries that libcryptsetup does not bring already, by name, with their bytes.
    pub libraries: BTreeMap<String, u64>,
    /// Whether a regular expression engine is inside.
    pub has_regex: bool,
}

impl Footprint {
    /// The bytes of the added libraries.
    pub(crate) fn library_bytes(&self) -> u64 {
        self.libraries.values().sum()
    }

    /// Added libraries that are neither tpm2-tss nor already in every initramfs.
    pub(crate) fn surprising_libraries(&self) -> Vec<&str> {
        self.libraries
            .keys()
            .map(String::as_str)
            // dracut installs libgcc_s for anything threaded: glibc loads it to end a thread.
            .filter(|name| !name.starts_with("libtss2-") && !name.starts_with("libgcc_s."))
            .collect()
    }
}

/// The footprint of the agent.
pub(crate) fn of(dist: &Path, with_software_tpm: &Path) -> Result<Footprint> {
    let mut footprint = of_program(dist)?;
    footprint.with_software_tpm = Some(fs::metadata(with_software_tpm)?.len());
    // Loaded by name at run time, so that the linker does not know about it.
    let tcti = "libtss2-tcti-device.so.0";
    if let Some(path) = library(tcti)? {
        footprint
            .libraries
            .insert(tcti.to_owned(), fs::metadata(path)?.len());
    }
    Ok(footprint)
}

/// The footprint of the two programs of another implementation, together.
pub(crate) fn of_peer(dir: &Path) -> Result<Footprint> {
    let mut sum = of_program(&dir.join("trustee-attester"))?;
    let pin = of_program(&dir.join("clevis-pin-trustee"))?;
    sum.bytes += pin.bytes;
    sum.compressed += pin.compressed;
    sum.libraries.extend(pin.libraries);
    Ok(sum)
}

fn of_program(program: &Path) -> Result<Footprint> {
    let content =
        fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let compressed = Run::new("zstd")
        .args(["-19", "-q", "-c"])
        .arg(program)
        .success()?;
    let base = match library("libcryptsetup.so.12")? {
        Some(path) => linked(&path)?,
        None => BTreeMap::new(),
    };
    let libraries = linked(program)?
        .into_iter()
        .filter(|(name, _)| !base.contains_key(name) && !name.starts_with("libcryptsetup."))
        .map(|(name, path)| Ok((name, fs::metadata(path)?.len())))
        .collect::<Result<_>>()?;
    // Paths of source files stay in a stripped program, in the messages of its panics.
    let has_regex = ["regex-automata", "regex_automata", "regex-syntax"]
        .iter()
        .any(|name| {
            content
                .windows(name.len())
                .any(|window| window == name.as_bytes())
        });
    Ok(Footprint {
        bytes: u64::try_from(content.len())?,
        compressed: u64::try_from(compressed.stdout.len())?,
        with_software_tpm: None,
        libraries,
        has_regex,
    })
}

/// The shared libraries that the dynamic linker loads for a file, by name.
fn linked(file: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let listing = Run::new("ldd").arg(file).success()?.out();
    Ok(listing
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().split_once(" => ")?;
            let path = rest.split_whitespace().next()?;
            Some((name.to_owned(), fs::canonicalize(path).ok()?))
        })
        .collect())
}

/// Where the dynamic linker finds a library.
fn library(name: &str) -> Result<Option<PathBuf>> {
    let ldconfig = sheepfold_tests::paths::tool("ldconfig").context("ldconfig is not installed")?;
    let cache = Run::new(ldconfig).arg("-p").success()?.out();
    Ok(cache
        .lines()
        .find(|line| line.trim_start().starts_with(name))
        .and_then(|line| line.rsplit(" => ").next())
        .map(PathBuf::from))
}

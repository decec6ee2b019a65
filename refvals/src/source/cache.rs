// SPDX-License-Identifier: Apache-2.0

//! Facts that were computed before. A digest names its content for ever, so an entry is never stale; what changes is
//! what we compute, which is why the directory has a number.

use super::Options;
use crate::Error;
use measured_boot::facts::ImageFacts;
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;

/// Where facts are kept unless somebody says otherwise: `refvals` in `$XDG_CACHE_HOME`, else in `~/.cache` (XDG base
/// directories); `None` without a home.
pub fn usual_cache() -> Option<PathBuf> {
    let set = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    Some(set.or_else(home)?.join("refvals"))
}

/// Where: one file for a digest and what was decided about it.
fn path(options: &Options, digest: &str) -> Option<PathBuf> {
    let choice = serde_json::to_string(&options.choice).ok()?;
    let name = Sha256::digest(format!("{digest} {choice}"));
    Some(
        options
            .cache
            .as_ref()?
            .join(SCHEMA)
            .join(format!("{name:x}.json")),
    )
}

/// What was kept, under the name that is used now.
pub(super) fn find(options: &Options, digest: &str, name: &str) -> Option<ImageFacts> {
    let bytes = std::fs::read(path(options, digest)?).ok()?;
    let mut facts: ImageFacts = serde_json::from_slice(&bytes).ok()?;
    name.clone_into(&mut facts.name);
    Some(facts)
}

/// What was kept, else what is computed now, which is then kept. A cache that cannot be written costs time only.
pub(super) fn or_compute(
    options: &Options,
    digest: &str,
    name: &str,
    compute: impl FnOnce() -> Result<ImageFacts, Error>,
) -> Result<ImageFacts, Error> {
    if let Some(facts) = find(options, digest, name) {
        return Ok(facts);
    }
    let facts = compute()?;
    if let Some(path) = path(options, digest)
        && let Some(directory) = path.parent()
        && let Ok(bytes) = serde_json::to_vec(&facts)
    {
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let written =
            std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&part, bytes));
        let _ = written.and_then(|()| std::fs::rename(&part, &path));
    }
    Ok(facts)
}

const SCHEMA: &str = "facts-1";

// SPDX-License-Identifier: Apache-2.0
//! Where things are: the programs under test, the workspace, the recorded fixtures. Every other part of
//! the harness asks here, so a moved directory is one edit.

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The program `name` built from this workspace.
///
/// Looks into `SHEEPFOLD_BIN_DIR` if that is set, else beside the running test, demo or benchmark
/// (`target/<profile>/`).
///
/// # Errors
/// The program is not there; the message says which command builds it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = binary_dir()?.join(name);
    if !path.is_file() {
        bail!(
            "{name} is not built: expected {}; run `make build` or `cargo build --workspace --bins`",
            path.display()
        );
    }
    Ok(path)
}

/// The first file called `name` in `PATH`, as a shell would find it.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The fixture directory `name`, or `None`, loudly, where this checkout has no fixtures beside it.
///
/// Fixtures are recordings of real servers and firmware. They live outside the repository: the variable
/// `SHEEPFOLD_FIXTURES` names their directory, by default `../shared/fixtures` seen from the workspace.
pub fn fixtures(name: &str) -> Option<PathBuf> {
    let root = env::var_os("SHEEPFOLD_FIXTURES")
        .map_or_else(|| workspace().join("../shared/fixtures"), PathBuf::from);
    let dir = root.join(name);
    if dir.is_dir() {
        return Some(dir);
    }
    skipped(&format!(
        "no fixtures `{name}`; set SHEEPFOLD_FIXTURES to a directory that has them"
    ));
    None
}

/// A directory beside the build for what is expensive to make and outlives a test run.
///
/// # Errors
/// The running program has no build directory.
pub fn cache() -> Result<PathBuf> {
    let profile = binary_dir()?;
    Ok(profile
        .parent()
        .context("the build directory has no parent")?
        .join("cache"))
}

/// Says why a test is skipped. Not `eprintln!`: the test runner would keep that to itself, and a skipped
/// test must not look done.
pub fn skipped(why: &str) {
    // In one piece, as other tests write at the same time.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}

/// Where cargo put the programs of the running profile.
fn binary_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("SHEEPFOLD_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let exe = env::current_exe().context("cannot find the running program")?;
    let dir = exe
        .parent()
        .context("the running program has no directory")?;
    // Test programs live one level down, in `deps/`, examples in `examples/`.
    if dir.ends_with("deps") || dir.ends_with("examples") {
        dir.parent().map(Path::to_path_buf)
    } else {
        Some(dir.to_path_buf())
    }
    .context("the running program has no build directory")
}

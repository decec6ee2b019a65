// SPDX-License-Identifier: Apache-2.0

//! `trustee-generator NORMAL EARLY LATE`: systemd starts it before any unit of the initramfs, by that name.
//!
//! What it has to say goes to the kernel's log, which the console shows: there is no journal yet. A confidential node
//! whose command line goes round the attestation, or that cannot tell, is powered off here, before anything is
//! fetched. Outside an initramfs it does nothing.

use crate::cmdline::CommandLine;
use crate::config::Config;
use crate::console;
use crate::error::Error;
use crate::generator::{Plan, plan};
use crate::initramfs;
use kbs_protocol::Blame as _;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(config: &Path, normal: &Path) -> ExitCode {
    if !initramfs::here() {
        return ExitCode::SUCCESS;
    }
    match attempt(config, normal) {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => console::say("this node does not boot: see the lines before"),
        Err(error) => console::say(&format!(
            "this node does not boot: {error}; {}",
            error.advice()
        )),
    }
    console::power_off();
    ExitCode::FAILURE
}

/// Whether the node may go on.
fn attempt(config: &Path, normal: &Path) -> Result<bool, Error> {
    let config = Config::load(config)?;
    let line = CommandLine::load(Path::new("/")).map_err(|error| Error::Io {
        action: "read the kernel command line",
        error,
    })?;
    let plan = plan(&line, &config);
    for refusal in &plan.refusals {
        console::say(&format!("{refusal}; {}", refusal.advice()));
    }
    if config.boot.confidential && !plan.refusals.is_empty() {
        return Ok(false);
    }
    write(&plan, normal).map_err(|error| Error::Io {
        action: "write the units of this boot",
        error,
    })?;
    Ok(true)
}

fn write(plan: &Plan, directory: &Path) -> std::io::Result<()> {
    for (name, content) in &plan.files {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::write;
    use crate::generator::Plan;

    #[test]
    fn files_get_their_directories() {
        let directory = tempfile::tempdir().unwrap();
        let plan = Plan {
            files: vec![("a.service.d/x.conf".into(), "text".to_owned())],
            ..Plan::default()
        };
        write(&plan, directory.path()).unwrap();
        let written = std::fs::read_to_string(directory.path().join("a.service.d/x.conf"));
        assert_eq!(written.unwrap(), "text");
    }
}

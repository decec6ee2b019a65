// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent guard`: the root is one of the volumes that the agent opened, or that were opened as it judged them, or
//! the boot ends.

use crate::config::{Config, UnlockMode};
use crate::error::Error;
use crate::guard::{GuardError, Kernel, confirm, guard};
use crate::report;
use crate::state::RunDirectory;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(config: &Path, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(config)?;
    let kernel = Kernel::default();
    let state = RunDirectory::open()?.update(|state| {
        for (name, volume) in confirm(state, &kernel)? {
            state.record_volume(&name, volume);
        }
        Ok::<_, Error>(state.clone())
    })?;
    let volumes = match guard(Path::new(ROOT), &state, &kernel) {
        // Clevis has opened it, and leaves no record.
        Err(GuardError::NothingOpened) if config.unlock.mode == UnlockMode::Clevis => {
            log::warn!("the agent has opened no volume in this boot, so the root is not checked");
            Vec::new()
        }
        checked => checked?,
    };
    let text = match volumes.is_empty() {
        true => String::new(),
        false => format!(
            "the root lies on {}, {}\n",
            volumes.join(", "),
            match config.unlock.mode {
                UnlockMode::Socket => "open as the agent has judged it",
                UnlockMode::Native | UnlockMode::Clevis => "opened by the agent",
            }
        ),
    };
    report::success(&json!({ "ok": true, "volumes": volumes }), &text, json)
}

/// Where an initramfs mounts the root (bootup(7)).
const ROOT: &str = "/sysroot";

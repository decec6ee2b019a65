// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent guard`: the root is one of the volumes that the agent opened, or that were opened as it judged them, or
//! the boot ends. Where `agent.toml` allows key slots for people, an encrypted root that one of them opened passes too, with
//! a warning.

use crate::config::{Config, UnlockMode};
use crate::error::Error;
use crate::guard::{GuardError, Kernel, confirm, guard, guard_recovery};
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
        // Somebody has typed a passphrase, and this node is told to let people in.
        Err(GuardError::NothingOpened) if config.unlock.rules.other_keyslots => {
            let volumes = guard_recovery(Path::new(ROOT), &kernel)?;
            log::warn!(
                "the root lies on {}, opened with a passphrase and not by the agent",
                volumes.join(", ")
            );
            let facts = json!({ "ok": true, "volumes": volumes, "opened_by": "passphrase" });
            return report::success(&facts, "", json);
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

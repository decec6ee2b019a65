// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent seal [--or-poweroff]`: on every way out of the initramfs, also into an emergency shell.

use crate::config::Config;
use crate::console;
use crate::error::Error;
use crate::measure::{MeasureLog, Registers};
use crate::report;
use crate::seal::{Doors, Sealed, seal};
use crate::state::RunDirectory;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(config: &Path, or_poweroff: bool, json: bool) -> ExitCode {
    attempt(config, json).unwrap_or_else(|error| {
        let code = report::failure(&error, json);
        if or_poweroff {
            console::say("the door behind the last fetch cannot be shut");
            console::power_off();
        }
        code
    })
}

fn attempt(config: &Path, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(config)?;
    let run = RunDirectory::open()?;
    let registers = Registers {
        tcti: &config.tpm.tcti,
        run: &run,
        log: MeasureLog::of(&run),
    };
    let (sealed, text) = match seal(Doors::of(&config), &registers)? {
        Sealed::Now => (
            true,
            "sealed: disk secrets cannot be fetched until the next boot\n",
        ),
        Sealed::Before => (true, "sealed already\n"),
        Sealed::BySystemd => (true, "sealed by systemd's phase leave-initrd\n"),
        Sealed::Not => {
            log::warn!("boot.seal is \"none\": what is booted can fetch the disk's secret again");
            (false, "")
        }
    };
    report::success(&json!({ "ok": true, "sealed": sealed }), text, json)
}

// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent answer`: gives systemd-cryptsetup the passphrase of a volume, in the unlock mode `socket`.
//!
//! The header is judged and the volume key compared as in the mode `native`, on the copy in memory. Then systemd opens the
//! volume by what it reads from the disk itself. So what was judged is written down before the passphrase is given away,
//! and the [guard](super::guard) compares the kernel's table with it before the root is booted.

use super::unlock::device;
use crate::cli::Unlock;
use crate::config::{Config, ConfigError, Problem, UnlockMode};
use crate::error::Error;
use crate::kbs::Patience;
use crate::key_socket;
use crate::report;
use crate::source::KbsSource;
use crate::state::{Answered, RunDirectory};
use crate::unlock::{Candidate, Luks, Meant};
use luks_header::Extent;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(path: &Path, options: &Unlock, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(path)?;
    let mode = config.unlock.mode;
    if mode != UnlockMode::Socket {
        let problem = Problem::new(
            "systemd-cryptsetup is to ask nobody for a passphrase here",
            "say mode = \"socket\", or leave this unit out",
        );
        return Err(ConfigError::value("unlock.mode", mode.as_str(), problem).into());
    }
    let failed = |action| move |error| Error::Io { action, error };
    let listener = key_socket::inherited().map_err(failed(
        "listen at standard input, where systemd puts its socket",
    ))?;
    // The command line names one.
    let name = options.names.first().map_or("", String::as_str);
    let asker = key_socket::accept(&listener, name)
        .map_err(failed("wait for systemd-cryptsetup at standard input"))?;
    let device = device(name, options.device.as_deref())?;
    let candidate = Candidate::find(name, &device, &config, Extent::Unlocking)?;
    let patience = Patience::from(config.timeouts.unlock);
    let mut source = KbsSource::new(path.to_owned()).with_patience(patience);
    let mut luks = Luks::load(&candidate.header)?;
    let (opened, passphrase) =
        candidate.open_for_another(&mut luks, &mut source, config.unlock.vk_id)?;
    let answered = Answered {
        source: device.clone(),
        source_number: candidate.header.number.clone(),
        vk_id: opened.vk_id.as_str().to_owned(),
        path: opened.path.clone(),
        table: Meant::by(&candidate.header.volume, &config.unlock.rules),
    };
    RunDirectory::open()?.update(|state| {
        state.record_answered(name, answered);
        Ok::<(), Error>(())
    })?;
    asker
        .answer(passphrase.expose())
        .map_err(failed("answer systemd-cryptsetup"))?;
    let text = format!(
        "{name} ({}): systemd-cryptsetup has its passphrase\n",
        device.display()
    );
    let facts = json!({
        "ok": true,
        "name": name,
        "device": device.display().to_string(),
        "vk_id": opened.vk_id.as_str(),
        "vk_id_known": opened.known,
        "path": opened.path,
    });
    report::success(&facts, &text, json)
}

// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent recovery`: gives volumes a key slot for the recovery passphrase that the KBS keeps for this node. With
//! `unlock.recovery` in `agent.toml` each boot sees to it by itself.

use super::unlock::device;
use crate::cli::Unlock;
use crate::config::{Config, ConfigError, Problem};
use crate::error::Error;
use crate::kbs::Patience;
use crate::report;
use crate::source::KbsSource;
use crate::unlock::{Candidate, Luks, Opened, ensure_recovery};
use kbs_protocol::Blame as _;
use luks_header::Extent;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(path: &Path, options: &Unlock, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(path)?;
    if !config.unlock.recovery {
        let what = "this node is not to have a recovery passphrase";
        let cure = "say unlock.recovery = true, or leave it as it is";
        return Err(
            ConfigError::value("unlock.recovery", "false", Problem::new(what, cure)).into(),
        );
    }
    let patience = Patience::from(config.timeouts.decrypt);
    let mut source = KbsSource::new(path.to_owned()).with_patience(patience);
    let mut facts = Vec::new();
    let mut text = String::new();
    for name in &options.names {
        let device = device(name, options.device.as_deref())?;
        let candidate = Candidate::find(name, &device, &config, Extent::Unlocking)?;
        let mut luks = Luks::load(&candidate.header)?;
        let opened = candidate.open(&mut luks, &mut source, config.unlock.vk_id)?;
        let keyslot = ensure_recovery(name, &device, &opened, &config, &mut source)?;
        facts.push(json!({ "name": name, "added_keyslot": keyslot }));
        text.push_str(&match keyslot {
            Some(keyslot) => added(name, keyslot),
            None => format!("{name} has the key slot of its recovery passphrase\n"),
        });
    }
    report::success(&json!({ "ok": true, "volumes": facts }), &text, json)
}

/// For a volume that has just been opened. That it does not work is no reason not to boot: it opens as before.
pub(super) fn ensure(
    candidate: &Candidate,
    opened: &Opened,
    config: &Config,
    source: &mut KbsSource,
) {
    let name = &candidate.name;
    match ensure_recovery(name, &candidate.header.device, opened, config, source) {
        Ok(None) => {}
        Ok(Some(keyslot)) => log::warn!("{}", added(name, keyslot).trim_end()),
        Err(error) => log::warn!(
            "{name} does not open with a recovery passphrase: {error}; {}",
            error.advice()
        ),
    }
}

fn added(name: &str, keyslot: u32) -> String {
    format!("{name} opens with its recovery passphrase too, by key slot {keyslot}\n")
}

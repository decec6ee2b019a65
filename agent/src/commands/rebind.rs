// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent rebind`: binds volumes to the secret that the KBS has now, after `sheepfold-operator rotate`. With
//! `unlock.rebind` in `agent.toml` the next boot does it by itself.

use super::unlock::device;
use crate::cli::Unlock;
use crate::config::Config;
use crate::error::Error;
use crate::kbs::Patience;
use crate::report;
use crate::source::KbsSource;
use crate::unlock::{Candidate, rebind};
use kbs_protocol::Blame as _;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(path: &Path, options: &Unlock, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(path)?;
    let patience = Patience::from(config.timeouts.decrypt);
    let mut facts = Vec::new();
    let mut text = String::new();
    for name in &options.names {
        let device = device(name, options.device.as_deref())?;
        // Each with an attestation of its own: what a volume is bound to is fetched, not remembered.
        let mut source = KbsSource::new(path.to_owned()).with_patience(patience);
        let rebound = rebind(name, &device, &config, &mut source)?;
        facts.push(json!({
            "name": name,
            "device": device.display().to_string(),
            "keyslot": rebound.keyslot,
            "removed_keyslots": rebound.removed,
        }));
        text.push_str(&format!(
            "{name} is bound to the present secret by key slot {}\n",
            rebound.keyslot
        ));
    }
    report::success(&json!({ "ok": true, "volumes": facts }), &text, json)
}

/// Binds volumes anew that opened with a secret which was rotated. That it does not work is no reason not to boot: the
/// old secret opens them again.
pub(super) fn after_rotation(rotated: &[&Candidate], config: &Config, source: &mut KbsSource) {
    for candidate in rotated {
        let name = &candidate.name;
        match rebind(name, &candidate.header.device, config, source) {
            Ok(rebound) => log::warn!(
                "{name} is bound to the new secret by key slot {}: say `sheepfold-operator rebound`",
                rebound.keyslot
            ),
            Err(error) => log::warn!("{name} is not bound anew: {error}; {}", error.advice()),
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent verify-binding`: on first boot, after Ignition has bound its volumes and thrown its own key away, and
//! before anything is written into them. Every LUKS2 volume that is open must open again from its header, judged as at
//! any later boot, with a secret fetched anew. The guard then knows them as ours, and the ids of their keys are
//! [handed over](record) to whoever keeps them for the next boot.

use super::{record, unlock};
use crate::config::{Config, VkId};
use crate::error::Error;
use crate::kbs::Patience;
use crate::report;
use crate::source::KbsSource;
use crate::unlock::{Candidate, Luks, UnlockError, active_volumes};
use luks_header::Extent;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(path: &Path, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(path)?;
    let active = active_volumes(Path::new("/sys")).map_err(|error| Error::Io {
        action: "look for open volumes in /sys",
        error,
    })?;
    if active.is_empty() {
        return Err(UnlockError::NothingActive.into());
    }
    // Every header is judged before anybody is asked for anything. A key slot of Ignition's that was left over is one
    // that no token names, and refused as such.
    let mut candidates = Vec::new();
    for (name, device) in &active {
        candidates.push(Candidate::find(name, device, &config, Extent::Unlocking)?);
    }
    let patience = Patience::from(config.timeouts.unlock);
    let mut source = KbsSource::new(path.to_owned()).with_patience(patience);
    let mut volumes = Vec::new();
    let mut facts = Vec::new();
    let mut text = String::new();
    for candidate in &candidates {
        let mut luks = Luks::load(&candidate.header)?;
        // Where the KBS keeps an id already, it must be this one. Where it has none yet, this boot is what records it.
        let opened = candidate.open(&mut luks, &mut source, VkId::IfPresent)?;
        unlock::record(candidate, &opened, &config)?;
        volumes.push(record::entry(candidate, &opened));
        let uuid = &candidate.header.volume.uuid;
        let vk_id = opened.vk_id.as_str();
        facts.push(json!({
            "name": candidate.name,
            "luks_uuid": uuid,
            "vk_id": vk_id,
            "vk_id_known": opened.known,
            "path": opened.path,
        }));
        text.push_str(&format!(
            "{} can be unlocked\nLUKS UUID        {uuid}\nvolume key id    {vk_id}\n",
            candidate.name
        ));
    }
    let recorded = record::hand_over(volumes, &config, &mut source)?;
    text.push_str(recorded.text());
    let facts = json!({ "ok": true, "volumes": facts, "recorded": recorded.as_str() });
    report::success(&facts, &text, json)
}

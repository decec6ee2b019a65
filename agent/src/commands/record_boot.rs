// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent record-boot`: tells the registrar which volumes this boot has opened. The TPM signs it, so it also shows
//! which boot that was. For people who look at a fleet: a KBS tells nobody which node attested, and when.
//!
//! Run by trustee-record.service between the guard and the seal, where `enroll.record_boots` asks for it. No boot
//! waits long for it or fails by it.

use super::enroll;
use crate::config::Config;
use crate::error::Error;
use crate::kbs::{Patience, Registrar};
use crate::report;
use crate::source::KbsSource;
use crate::state::{Phase, RunDirectory, State};
use kbs_protocol::volume_record::RecordedVolume;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

pub(super) fn run(path: &Path, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(path)?;
    let registrar = enroll::registrar(&config)?;
    let state = RunDirectory::open()?.read()?;
    if state.phase == Phase::Sealed {
        return Err(Error::Sealed);
    }
    let volumes = entries(&state);
    let names: Vec<String> = volumes.iter().map(|volume| volume.name.clone()).collect();
    if names.is_empty() {
        return nowhere("the agent has opened no volume in this boot", json);
    }
    let Some(record) = KbsSource::new(path.to_owned()).record(volumes)? else {
        return nowhere("this node has no TPM to sign with", json);
    };
    let receipt = Registrar::new(registrar, &config.timeouts)?.record(
        &record,
        Patience::For(LIMIT),
        &mut report::waiting("the record of this boot"),
    )?;
    let by = registrar.registrar.as_str();
    let text = format!("{} recorded by {by}\n", names.join(", "));
    // Known are the volumes; the boot is another one each time.
    let facts = json!({
        "ok": true, "recorded": "registrar", "volumes": names, "known": receipt.known,
    });
    report::success(&facts, &text, json)
}

fn nowhere(why: &str, json: bool) -> Result<ExitCode, Error> {
    log::warn!("the registrar is not told of this boot: {why}");
    let facts = json!({ "ok": true, "recorded": "nowhere", "why": why });
    report::success(&facts, "", json)
}

/// What this boot remembers of its volumes, in the form of a record.
fn entries(state: &State) -> Vec<RecordedVolume> {
    let volumes = state.volumes.iter();
    volumes
        .map(|(name, volume)| RecordedVolume {
            name: name.clone(),
            path: volume.path.clone(),
            luks_uuid: volume.luks_uuid.clone(),
            vk_id: volume.vk_id.clone(),
        })
        .collect()
}

/// All attempts together: the node is open already and wants to go on.
const LIMIT: Duration = Duration::from_secs(5);

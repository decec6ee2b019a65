// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent unlock`: opens volumes at boot, or shows with `--test` that they would open.

use super::record;
use crate::cli::Unlock;
use crate::config::{Config, ConfigError, Problem, UnlockMode, VkId};
use crate::error::Error;
use crate::kbs::Patience;
use crate::measure::{MeasureLog, Registers};
use crate::notify;
use crate::report;
use crate::source::KbsSource;
use crate::state::{self, RunDirectory};
use crate::unlock::{Active, Candidate, Luks, Meant, Opened, UnlockError, is_active, of_volume};
use luks_header::Extent;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) fn run(path: &Path, options: &Unlock, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(path)?;
    let mode = config.unlock.mode;
    if mode != UnlockMode::Native && !options.test {
        let what = "systemd-cryptsetup opens this node's volumes";
        let cure = "say mode = \"native\", or leave this unit out";
        let problem = Problem::new(what, cure);
        return Err(ConfigError::value("unlock.mode", mode.as_str(), problem).into());
    }
    // Every header is judged before anybody is asked for anything.
    let mut candidates = Vec::new();
    let mut facts = Vec::new();
    for name in &options.names {
        if !options.test && is_active(name) {
            if RunDirectory::open()?.read()?.volumes.contains_key(name) {
                continue;
            }
            return Err(UnlockError::Foreign { name: name.clone() }.into());
        }
        let device = device(name, options.device.as_deref())?;
        candidates.push(Candidate::find(name, &device, &config, Extent::Unlocking)?);
    }
    let patience = match options.test {
        true => config.timeouts.decrypt,
        false => config.timeouts.unlock,
    };
    let mut source = KbsSource::new(path.to_owned()).with_patience(Patience::from(patience));
    // What is about to be recorded cannot be there yet.
    let rule = match options.record {
        true => VkId::IfPresent,
        false => config.unlock.vk_id,
    };
    let mut text = String::new();
    let mut volumes = Vec::new();
    let mut rotated = Vec::new();
    for candidate in &candidates {
        let mut luks = Luks::load(&candidate.header)?;
        let opened = candidate.open(&mut luks, &mut source, rule)?;
        volumes.push(record::entry(candidate, &opened));
        if source.is_rotated(&opened.path) {
            rotated.push(candidate);
        }
        if !options.test {
            luks.activate(&candidate.name, &opened.key, &config.unlock.rules)?;
            if let Err(error) = record(candidate, &opened, &config) {
                // What nobody remembers, the guard would not let pass.
                luks.deactivate(&candidate.name);
                return Err(error);
            }
            if config.unlock.recovery {
                super::recovery::ensure(candidate, &opened, &config, &mut source);
            }
        }
        let volume = &candidate.header.volume;
        facts.push(json!({
            "name": candidate.name,
            "device": candidate.header.device.display().to_string(),
            "luks_uuid": volume.uuid,
            "vk_id": opened.vk_id.as_str(),
            "vk_id_known": opened.known,
            "cipher": volume.cipher.as_str(),
            "path": opened.path,
            "active": !options.test,
        }));
        let how = if options.test { "opens" } else { "is open" };
        let known = match opened.known {
            true => "the one that the KBS keeps",
            false => "not known to the KBS",
        };
        text.push_str(&format!(
            "{} {how} ({})\nLUKS UUID        {}\nvolume key id    {} ({known})\n",
            candidate.name,
            candidate.header.device.display(),
            volume.uuid,
            opened.vk_id.as_str(),
        ));
    }
    let mut facts = json!({ "ok": true, "volumes": facts });
    if options.record {
        let recorded = record::hand_over(volumes, &config, &mut source)?;
        text.push_str(recorded.text());
        if let Some(facts) = facts.as_object_mut() {
            facts.insert("recorded".to_owned(), json!(recorded.as_str()));
        }
    }
    if config.unlock.rebind && !options.test {
        super::rebind::after_rotation(&rotated, &config, &mut source);
    }
    notify::ready();
    report::success(&facts, &text, json)
}

pub(super) fn device(name: &str, given: Option<&Path>) -> Result<PathBuf, UnlockError> {
    if let Some(device) = given {
        return Ok(device.to_owned());
    }
    // A text that cannot be read names nothing.
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let table = std::fs::read_to_string("/etc/crypttab").unwrap_or_default();
    of_volume(name, &line, &table).ok_or_else(|| UnlockError::NoDevice {
        name: name.to_owned(),
    })
}

/// Writes down what was opened, from what the kernel says of it, and measures its key.
pub(super) fn record(candidate: &Candidate, opened: &Opened, config: &Config) -> Result<(), Error> {
    let volume = &candidate.header.volume;
    let source_number = candidate.header.number.clone();
    let meant = Meant::by(volume, &config.unlock.rules);
    let active = Active::default().read_back(&candidate.name, &meant, &source_number)?;
    let record = state::Volume {
        luks_uuid: volume.uuid.clone(),
        source: candidate.header.device.clone(),
        source_number,
        number: active.ok_or_else(|| UnlockError::NotActive {
            name: candidate.name.clone(),
        })?,
        vk_id: opened.vk_id.as_str().to_owned(),
        path: opened.path.clone(),
    };
    let run = RunDirectory::open()?;
    run.update(|state| {
        state.record_volume(&candidate.name, record);
        Ok::<(), Error>(())
    })?;
    // Nobody sees a register of a machine that shows none; RTMR 3 must not move before the seal.
    if !config.evidence.shows_pcrs() {
        return Ok(());
    }
    let log = MeasureLog::of(&run);
    let registers = Registers {
        tcti: &config.tpm.tcti,
        run: &run,
        log,
    };
    registers.volume_key(&candidate.name, &volume.uuid, opened.key.expose())?;
    Ok(())
}

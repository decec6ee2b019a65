// SPDX-License-Identifier: Apache-2.0

//! Hands over which volume keys this node has, for `verify-binding` and `unlock --record`: signed by the TPM, left in
//! `/run/trustee` where an administrator finds it, and sent to the registrar where there is one. From there
//! `sheepfold-operator provision` puts the ids beside the secrets, and the next boot compares.

use crate::config::{Config, VkId};
use crate::error::Error;
use crate::kbs::{Patience, Registrar};
use crate::report;
use crate::source::KbsSource;
use crate::state::RunDirectory;
use crate::unlock::{Candidate, Opened};
use kbs_protocol::volume_record::RecordedVolume;

/// What became of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// The registrar has it.
    AtRegistrar,
    /// It lies in `/run/trustee`.
    Here,
    /// Nobody could sign it.
    Unsigned,
}

impl Recorded {
    /// A line for a person.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::AtRegistrar => "recorded         by the registrar\n",
            Self::Here => {
                "recorded         in /run/trustee/volumes.json, to be named in the Machine's volumeRecords\n"
            }
            Self::Unsigned => "recorded         nowhere: this node has no TPM to sign with\n",
        }
    }

    /// The word for a program.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::AtRegistrar => "registrar",
            Self::Here => "file",
            Self::Unsigned => "nowhere",
        }
    }
}

/// What is said of a volume that has opened.
pub(super) fn entry(candidate: &Candidate, opened: &Opened) -> RecordedVolume {
    RecordedVolume {
        name: candidate.name.clone(),
        path: opened.path.clone(),
        luks_uuid: candidate.header.volume.uuid.clone(),
        vk_id: opened.vk_id.as_str().to_owned(),
    }
}

/// Signs the record and hands it over. A registrar that does not take it ends this only where a boot needs the ids:
/// with `unlock.vk_id = "required"`.
///
/// # Errors
/// The TPM, the directory of this boot, or the registrar.
pub(super) fn hand_over(
    volumes: Vec<RecordedVolume>,
    config: &Config,
    source: &mut KbsSource,
) -> Result<Recorded, Error> {
    let Some(record) = source.record(volumes)? else {
        log::warn!(
            "this node has no TPM to sign with: store the volume key ids in the KBS by hand, each at its secret's \
             path and `.vk`"
        );
        return Ok(Recorded::Unsigned);
    };
    RunDirectory::open()?.keep(FILE, &record.to_json())?;
    let Some(enroll) = &config.enroll else {
        return Ok(Recorded::Here);
    };
    let registrar = Registrar::new(enroll, &config.timeouts)?;
    let patience = Patience::from(config.timeouts.fetch);
    match registrar.record(
        &record,
        patience,
        &mut report::waiting("the record of the volumes"),
    ) {
        Ok(_) => Ok(Recorded::AtRegistrar),
        Err(error) if config.unlock.vk_id == VkId::Required => Err(error.into()),
        Err(error) => {
            log::warn!("the volume keys are not recorded: {error}");
            Ok(Recorded::Here)
        }
    }
}

/// In the directory of this boot.
const FILE: &str = "volumes.json";

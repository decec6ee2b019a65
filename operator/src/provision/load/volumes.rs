// SPDX-License-Identifier: Apache-2.0

//! What a machine has said of its volumes: with the registrar's file about its TPM, and in files of their own.

use super::machine::beside;
use super::yaml::wrong;
use crate::model::Tag;
use crate::provision::objects::{EnrolledTpm, Machine};
use crate::provision::{Error, Place};
use kbs_protocol::volume_record::SignedRecord;
use std::collections::BTreeSet;

/// All records of this machine, not yet believed.
pub(super) fn records(spec: &Machine, place: &Place) -> Result<Vec<SignedRecord>, Error> {
    let mut records = Vec::new();
    if let Some(file) = &spec.record_file {
        let file = beside(place, file);
        let bytes = std::fs::read(&file).map_err(Error::io("read", &file))?;
        // What is wrong with it, the machine's key has said or will say.
        let tpm: EnrolledTpm = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(place, format!("{}: {error}", file.display())))?;
        records.extend(tpm.keys.into_iter().flat_map(|key| key.volumes));
    }
    for file in &spec.volume_records {
        let file = beside(place, file);
        let bytes = std::fs::read(&file).map_err(Error::io("read", &file))?;
        let record = SignedRecord::parse(&bytes)
            .map_err(|error| wrong(place, format!("{}: {error}", file.display())))?;
        records.push(record);
    }
    Ok(records)
}

/// The place beside a volume's secret where its key's id lies is no volume's.
pub(super) fn have_room(name: &str, volumes: &BTreeSet<Tag>, place: &Place) -> Result<(), Error> {
    for tag in volumes {
        if volumes.contains(&tag.volume_key()?) {
            let why = format!("{name} has a volume {tag}.vk, where the id of {tag}'s key lies");
            return Err(wrong(place, why));
        }
    }
    Ok(())
}

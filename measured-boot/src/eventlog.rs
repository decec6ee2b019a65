// SPDX-License-Identifier: Apache-2.0

//! The TCG event log: what firmware says it extended into which PCR, in order.
//!
//! TCG PC Client Platform Firmware Profile (PFP) 1.06, section 10 "Event Logging": the first entry always
//! has the SHA-1 form (TCG_PCClientPCREvent, 10.2.1); when it holds a Specification ID Version Event
//! (10.4.5.1) with the signature `Spec ID Event03`, all further entries are crypto agile (TCG_PCR_EVENT2,
//! 10.2.2).
//!
//! A log proves nothing by itself: it is text that anybody could write. It counts when its replay
//! ([`crate::replay`]) gives PCR values that a TPM signed, and even then the *data* of an entry counts only
//! where the digest covers it ([`Event::covers_data`]).

mod kind;

pub use kind::EventType;

use crate::bank::{Bank, Digest};
use crate::bytes::Reader;
use crate::error::Error;
use std::collections::BTreeMap;

/// A parsed log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    /// Algorithms that the log announces (TPM_ALG_ID) with their digest sizes in bytes. A log in the SHA-1
    /// form announces none and has SHA-1 alone.
    pub algorithms: BTreeMap<u16, usize>,
    /// The entries in order, the Specification ID Version Event among them.
    pub events: Vec<Event>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where the entry begins in the file, in bytes.
    pub offset: usize,
    /// The PCR that was extended. In a log of a confidential computing guest (UEFI 2.10, section 38.4.1)
    /// the index of the measurement register: 0 for the build-time register, 1 for RTMR 0, and so on.
    pub pcr: u32,
    /// What kind of thing was measured.
    pub kind: EventType,
    /// What was extended, by TPM_ALG_ID.
    pub digests: BTreeMap<u16, Digest>,
    /// What firmware says about it.
    pub data: Vec<u8>,
}

impl EventLog {
    /// Reads a log as the kernel exposes it in `binary_bios_measurements`, or as the ACPI table points to
    /// it.
    ///
    /// Unused space at the end (all zeros or all ones) is not an error.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above 16 MiB, [`Error::Truncated`] and [`Error::Malformed`] with the structure
    /// and the offset of what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::limited(EVENT_SHA1, bytes, MAX_LOG)?;
        let first = sha1_event(&mut reader)?;
        let algorithms = specification_id(&first)?;
        let mut log = Self {
            algorithms: algorithms.unwrap_or_default(),
            events: vec![first],
        };
        let agile = !log.algorithms.is_empty();
        let mut reader = reader_of_the_rest(&mut reader, agile)?;
        while !is_unused_space(reader.peek()) {
            if log.events.len() >= MAX_EVENTS {
                return reader.wrong(format!("more than {MAX_EVENTS} entries"));
            }
            let event = match agile {
                true => agile_event(&mut reader, &log.algorithms)?,
                false => sha1_event(&mut reader)?,
            };
            if event.pcr > MAX_PCR && event.kind != EventType::NO_ACTION {
                return reader.wrong(format!("PCR {}, there are 24", event.pcr));
            }
            log.events.push(event);
        }
        Ok(log)
    }

    /// The banks that every entry could be replayed in.
    pub fn banks(&self) -> Vec<Bank> {
        match self.algorithms.is_empty() {
            true => vec![Bank::Sha1],
            false => self
                .algorithms
                .keys()
                .filter_map(|id| Bank::from_algorithm(*id))
                .collect(),
        }
    }

    /// The entries that extended a PCR, each with its place in the log: EV_NO_ACTION entries inform and
    /// extend nothing (PFP, 10.4.5).
    pub fn extends(&self) -> impl Iterator<Item = (usize, &Event)> {
        self.events
            .iter()
            .enumerate()
            .filter(|(_, event)| event.kind != EventType::NO_ACTION)
    }

    /// Those of [`EventLog::extends`] that extended this PCR.
    pub fn extends_of(&self, pcr: u8) -> impl Iterator<Item = (usize, &Event)> {
        self.extends()
            .filter(move |(_, event)| event.pcr == u32::from(pcr))
    }
}

impl Event {
    /// What was extended into this bank.
    pub fn digest(&self, bank: Bank) -> Option<&Digest> {
        self.digests.get(&bank.algorithm())
    }

    /// Whether the digest is the hash of the data, so that the text can be believed once the PCR is. For PE
    /// files, for instance, it is not: there the data is a path and the digest is that of the file.
    pub fn covers_data(&self, bank: Bank) -> bool {
        self.digest(bank) == Some(&bank.hash(&self.data))
    }
}

impl Event {
    /// The data as text, for messages: printable ASCII as it is, everything else escaped, 80 characters at
    /// most.
    pub fn text(&self) -> String {
        self.data
            .iter()
            .filter(|byte| **byte != 0)
            .take(80)
            .map(|byte| byte.escape_ascii().to_string())
            .collect()
    }
}

/// TCG_PCClientPCREvent (PFP, 10.2.1).
fn sha1_event(reader: &mut Reader<'_>) -> Result<Event, Error> {
    let offset = reader.offset();
    let pcr = reader.u32()?;
    let kind = EventType(reader.u32()?);
    let digest = Digest::new(reader.take(Bank::Sha1.size())?);
    let size = reader.length(MAX_EVENT_DATA)?;
    Ok(Event {
        offset,
        pcr,
        kind,
        digests: BTreeMap::from([(Bank::Sha1.algorithm(), digest)]),
        data: reader.take(size)?.to_vec(),
    })
}

/// TCG_PCR_EVENT2 (PFP, 10.2.2) with its TPML_DIGEST_VALUES.
fn agile_event(reader: &mut Reader<'_>, algorithms: &BTreeMap<u16, usize>) -> Result<Event, Error> {
    let offset = reader.offset();
    let pcr = reader.u32()?;
    let kind = EventType(reader.u32()?);
    let count = reader.length(MAX_ALGORITHMS)?;
    if count != algorithms.len() {
        return reader.wrong(format!(
            "{count} digests, the log announces {} algorithms",
            algorithms.len()
        ));
    }
    let mut digests = BTreeMap::new();
    for _ in 0..count {
        let id = reader.u16()?;
        let Some(size) = algorithms.get(&id) else {
            return reader.wrong(format!(
                "algorithm {id:#06x}, which the log does not announce"
            ));
        };
        if digests
            .insert(id, Digest::new(reader.take(*size)?))
            .is_some()
        {
            return reader.wrong(format!("two digests of algorithm {id:#06x}"));
        }
    }
    let size = reader.length(MAX_EVENT_DATA)?;
    Ok(Event {
        offset,
        pcr,
        kind,
        digests,
        data: reader.take(size)?.to_vec(),
    })
}

/// TCG_EfiSpecIDEvent (PFP, 10.4.5.1); `None` when the log stays in the SHA-1 form.
fn specification_id(first: &Event) -> Result<Option<BTreeMap<u16, usize>>, Error> {
    if first.kind != EventType::NO_ACTION || !first.data.starts_with(AGILE_SIGNATURE) {
        return Ok(None);
    }
    let mut reader = Reader::new(SPEC_ID, &first.data);
    reader.take(AGILE_SIGNATURE.len())?;
    let _platform_class = reader.u32()?;
    let _version_minor_major_errata_uintn: [u8; 4] = reader.array()?;
    let count = reader.length(MAX_ALGORITHMS)?;
    if count == 0 {
        return reader.wrong("no algorithm");
    }
    let mut algorithms = BTreeMap::new();
    for _ in 0..count {
        let (id, size) = (reader.u16()?, usize::from(reader.u16()?));
        let expected = Bank::from_algorithm(id).map_or(size, Bank::size);
        if size != expected || size == 0 || size > MAX_DIGEST {
            return reader.wrong(format!("a digest size of {size} for algorithm {id:#06x}"));
        }
        if algorithms.insert(id, size).is_some() {
            return reader.wrong(format!("algorithm {id:#06x} twice"));
        }
    }
    let vendor = usize::from(reader.u8()?);
    reader.take(vendor)?;
    reader.end()?;
    Ok(Some(algorithms))
}

/// The same position, under the name of what comes next.
fn reader_of_the_rest<'a>(reader: &mut Reader<'a>, agile: bool) -> Result<Reader<'a>, Error> {
    let left = reader.peek().len();
    reader.inner(if agile { EVENT_AGILE } else { EVENT_SHA1 }, left)
}

/// Whether no entry follows: the end, or the erased part of the log's area.
fn is_unused_space(rest: &[u8]) -> bool {
    rest.iter().all(|byte| *byte == 0) || rest.iter().all(|byte| *byte == 0xff)
}

const EVENT_SHA1: &str = "TCG_PCClientPCREvent";
const EVENT_AGILE: &str = "TCG_PCR_EVENT2";
const SPEC_ID: &str = "TCG_EfiSpecIDEvent";
const AGILE_SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
/// Real logs have 64 KiB, with a long dbx a few hundred.
const MAX_LOG: usize = 16 * 1024 * 1024;
const MAX_EVENTS: usize = 16_384;
/// A dbx is measured with its content; the largest today is some 20 KiB.
const MAX_EVENT_DATA: usize = 1024 * 1024;
/// A TPM has at most a handful of banks.
const MAX_ALGORITHMS: usize = 16;
const MAX_DIGEST: usize = 64;
const MAX_PCR: u32 = 23;

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! Why a machine shows another PCR than predicted: holds its event log against the prediction, PCR by PCR,
//! and names the first event that differs, in words.
//!
//! The log's *digests* are compared. Its text is used for words only, and where the digest does not cover
//! it, the words say so: whoever could write the log could write any text.

mod cause;

pub use cause::Cause;

use crate::bank::{Bank, Digest};
use crate::error::Error;
use crate::eventlog::{Event, EventLog, EventType};
use crate::predict::{PredictedEvent, Prediction};
use crate::replay::Pcrs;
use serde::Serialize;
use std::fmt;

/// A log beside a prediction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The bank that was compared.
    pub bank: Bank,
    /// Each predicted PCR and whether its events are those predicted.
    pub pcrs: Vec<(u8, bool)>,
    /// The first difference, in the order of the log.
    pub first: Option<Difference>,
}

/// One place where log and prediction part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The PCR.
    pub pcr: u8,
    /// Which of the PCR's events, counted from 1.
    pub position: usize,
    /// What was predicted at this place; `None` when the prediction ends before.
    pub expected: Option<Expected>,
    /// What the log has at this place; `None` when the log ends before.
    pub found: Option<Found>,
    /// What probably happened.
    pub cause: Cause,
}

/// What was predicted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// In words.
    pub what: String,
    /// What would have been extended.
    pub digest: Digest,
}

/// What a log has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Which entry of the log, counted from 0 as tools do.
    pub entry: usize,
    /// Where the entry begins in the file, in bytes.
    pub offset: usize,
    /// Its type.
    pub kind: EventType,
    /// What was extended.
    pub digest: Digest,
    /// The log's text about it, for people.
    pub text: String,
    /// Whether the digest covers the text.
    pub is_covered: bool,
}

/// Compares a log with a prediction.
///
/// # Errors
/// [`Error::NoDigest`] when the log or the facts do not have this bank.
pub fn explain(log: &EventLog, prediction: &Prediction, bank: Bank) -> Result<Explanation, Error> {
    let differences = differences(log, prediction, bank)?;
    let agrees = |pcr: &u8| !differences.iter().any(|difference| difference.pcr == *pcr);
    let pcrs = prediction.pcrs.iter().map(|pcr| (*pcr, agrees(pcr)));
    Ok(Explanation {
        bank,
        pcrs: pcrs.collect(),
        // What the log does not have any more comes after everything that it has.
        first: differences
            .iter()
            .min_by_key(|difference| {
                let found = difference.found.as_ref();
                found.map_or(usize::MAX, |found| found.entry)
            })
            .cloned(),
    })
}

/// The first difference of each PCR that is not as predicted.
///
/// # Errors
/// As [`explain`].
pub fn differences(
    log: &EventLog,
    prediction: &Prediction,
    bank: Bank,
) -> Result<Vec<Difference>, Error> {
    let mut differences = Vec::new();
    for pcr in &prediction.pcrs {
        differences.extend(compare(log, prediction, bank, *pcr)?);
    }
    Ok(differences)
}

/// The PCRs of a quote that the log does not lead to: it was cut, or changed, or something extended a PCR
/// after firmware stopped writing. Explanations of these PCRs are worth nothing.
///
/// # Errors
/// [`Error::NoDigest`] when the log does not have the quote's bank.
pub fn not_replayed(log: &EventLog, quoted: &Pcrs, of: &[u8]) -> Result<Vec<u8>, Error> {
    let replayed = log.replay(quoted.bank)?;
    let differs = |pcr: &u8| replayed.get(*pcr) != quoted.get(*pcr);
    Ok(of.iter().copied().filter(differs).collect())
}

fn compare(
    log: &EventLog,
    prediction: &Prediction,
    bank: Bank,
    pcr: u8,
) -> Result<Option<Difference>, Error> {
    let mut logged = log.extends_of(pcr);
    let mut predicted = prediction.logged(pcr);
    for position in 1_usize.. {
        let (expected, found) = (predicted.next(), logged.next());
        if expected.is_none() && found.is_none() {
            break;
        }
        let digest = expected.map(|event| event.digest(bank)).transpose()?;
        let found_digest = found
            .map(|(entry, event)| digest_of(entry, event, bank))
            .transpose()?;
        if digest == found_digest {
            continue;
        }
        let cause = Cause::of(expected, found.map(|(_, event)| event), prediction, bank);
        return Ok(Some(Difference {
            pcr,
            position,
            expected: expected.zip(digest).map(|(event, digest)| Expected {
                what: event.what.clone(),
                digest,
            }),
            found: found
                .zip(found_digest)
                .map(|((entry, event), digest)| Found::new(entry, event, digest, bank)),
            cause,
        }));
    }
    Ok(None)
}

fn digest_of(entry: usize, event: &Event, bank: Bank) -> Result<Digest, Error> {
    event.digest(bank).cloned().ok_or_else(|| Error::NoDigest {
        what: format!("entry {entry} of the event log"),
        bank,
    })
}

impl Found {
    fn new(entry: usize, event: &Event, digest: Digest, bank: Bank) -> Self {
        Self {
            entry,
            offset: event.offset,
            kind: event.kind,
            digest,
            text: cause::words(event),
            is_covered: event.covers_data(bank),
        }
    }
}

impl Explanation {
    /// Whether every event is as predicted.
    pub fn agrees(&self) -> bool {
        self.first.is_none()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |wanted: bool| {
            let pcrs = self.pcrs.iter().filter(|(_, agrees)| *agrees == wanted);
            pcrs.map(|(pcr, _)| pcr.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match &self.first {
            None => write!(
                f,
                "the {} log is as predicted in PCR {}",
                self.bank,
                list(true)
            ),
            Some(first) => write!(f, "not as predicted: PCR {}; first, {first}", list(false)),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR {}, event {}: ", self.pcr, self.position)?;
        match &self.expected {
            Some(expected) => write!(f, "{} was predicted", expected.what)?,
            None => f.write_str("nothing more was predicted")?,
        }
        match &self.found {
            Some(found) => {
                write!(
                    f,
                    ", entry {} of the log is {} {}",
                    found.entry, found.kind, found.text
                )?;
                if !found.is_covered && found.kind != EventType::BOOT_SERVICES_APPLICATION {
                    f.write_str(" (the digest does not cover this text)")?;
                }
            }
            None => f.write_str(", the log has no further event")?,
        }
        write!(f, "; {}", self.cause)
    }
}

/// The predicted event with this digest, when there is one.
fn known<'a>(
    prediction: &'a Prediction,
    digest: Option<&Digest>,
    bank: Bank,
) -> Option<&'a PredictedEvent> {
    prediction
        .events
        .iter()
        .find(|event| digest.is_some() && event.digest(bank).ok().as_ref() == digest)
}

// SPDX-License-Identifier: Apache-2.0

//! What probably happened, from the two events at the place where log and prediction part.

use super::known;
use crate::bank::Bank;
use crate::eventlog::{Event, EventType};
use crate::predict::{CALLING, Measured, PredictedEvent, Prediction, RETURNING};
use crate::uefi::{SignatureList, VariableData, guid};
use serde::Serialize;
use std::fmt;

/// What probably happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Cause {
    /// Firmware tried a boot option that did not boot.
    FailedBootOption,
    /// Something that was predicted elsewhere came here.
    ElsewhereInPrediction {
        /// What it is.
        what: String,
    },
    /// Another program than the one of the image.
    OtherProgram,
    /// A variable with another content.
    OtherVariable {
        /// Its name.
        name: String,
        /// How the contents differ.
        how: String,
    },
    /// Another entry of a list of keys authorised a program.
    OtherAuthority {
        /// The list.
        list: String,
    },
    /// Firmware reported an error or a debug mode.
    FirmwareState,
    /// The log ends before the prediction does: the boot took another way, or the log was cut.
    Missing,
    /// The log has more than the prediction.
    Additional,
    /// The content differs, and nothing says how.
    Other,
}

impl Cause {
    pub(super) fn of(
        expected: Option<&PredictedEvent>,
        found: Option<&Event>,
        prediction: &Prediction,
        bank: Bank,
    ) -> Self {
        let Some(found) = found else {
            return Self::Missing;
        };
        if found.covers_data(bank)
            && [CALLING, RETURNING]
                .iter()
                .any(|t| found.data == t.as_bytes())
        {
            return Self::FailedBootOption;
        }
        if found.kind == EventType::SEPARATOR || (found.pcr == 7 && found.kind == EventType::ACTION)
        {
            return Self::FirmwareState;
        }
        if let Some(event) = known(prediction, found.digest(bank), bank) {
            return Self::ElsewhereInPrediction {
                what: event.what.clone(),
            };
        }
        match (found.kind, expected) {
            (_, None) => Self::Additional,
            (EventType::BOOT_SERVICES_APPLICATION, _) => Self::OtherProgram,
            (_, Some(expected)) => variables(expected, found, bank).unwrap_or(Self::Other),
        }
    }
}

/// Two variables at one place: which, and how they differ.
fn variables(expected: &PredictedEvent, found: &Event, bank: Bank) -> Option<Cause> {
    let Measured::Bytes(bytes) = &expected.data else {
        return None;
    };
    let ours = VariableData::parse(bytes.as_ref()).ok()?;
    let theirs = VariableData::parse(&found.data)
        .ok()
        .filter(|_| found.covers_data(bank))?;
    if ours.name != theirs.name {
        return None;
    }
    let is_entry = found.kind == EventType::VARIABLE_AUTHORITY
        && ours.vendor == guid::IMAGE_SECURITY
        || ours.name == "MokListRT";
    Some(match is_entry {
        true => Cause::OtherAuthority { list: ours.name },
        false => Cause::OtherVariable {
            how: how_they_differ(&ours.data, &theirs.data),
            name: ours.name,
        },
    })
}

fn how_they_differ(ours: &[u8], theirs: &[u8]) -> String {
    let entries = |bytes: &[u8]| -> Option<Vec<Vec<u8>>> {
        let lists = SignatureList::parse_all(bytes).ok()?;
        let entries = lists.iter().flat_map(|list| &list.entries);
        Some(entries.map(|entry| entry.data.clone()).collect())
    };
    match (entries(ours), entries(theirs)) {
        (Some(ours), Some(theirs)) => {
            let extra = theirs.iter().filter(|entry| !ours.contains(entry)).count();
            let lacking = ours.iter().filter(|entry| !theirs.contains(entry)).count();
            match (extra, lacking) {
                (0, 0) => "the same entries in another order or of other owners".to_owned(),
                _ => format!("{extra} entries more and {lacking} entries fewer than predicted"),
            }
        }
        _ => format!("{:?} instead of {:?}", shortened(theirs), shortened(ours)),
    }
}

fn shortened(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(60);
    shown.map(|byte| byte.escape_ascii().to_string()).collect()
}

/// What the log says about an event, in a few words.
pub(super) fn words(event: &Event) -> String {
    match event.kind {
        EventType::VARIABLE_DRIVER_CONFIG | EventType::VARIABLE_AUTHORITY => {
            match VariableData::parse(&event.data) {
                Ok(variable) => format!("{} of {} bytes", variable.name, variable.data.len()),
                Err(_) => "that is not a variable".to_owned(),
            }
        }
        EventType::BOOT_SERVICES_APPLICATION => path_in(&event.data),
        EventType::SEPARATOR => event.data.escape_ascii().to_string(),
        _ => format!("{:?}", event.text()),
    }
}

/// The file path in a UEFI_IMAGE_LOAD_EVENT (PFP 1.06, section 10.2.3), for people: the printable UTF-16 in
/// it.
fn path_in(data: &[u8]) -> String {
    let (_, device_path) = data.split_at_checked(IMAGE_LOAD_HEADER).unwrap_or_default();
    let text: String = device_path
        .as_chunks::<2>()
        .0
        .iter()
        .skip_while(|pair| **pair != *b"\\\0")
        .map_while(|pair| match pair {
            [character @ b' '..=b'~', 0] => Some(char::from(*character)),
            _ => None,
        })
        .collect();
    match text.is_empty() {
        true => "without a path".to_owned(),
        false => text,
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailedBootOption => f.write_str(
                "the machine tried another number of boot options before the one that worked: correct the boot order, \
                 or state failed_boot_options if this platform always does that",
            ),
            Self::ElsewhereInPrediction { what } => {
                write!(f, "this is {what}, which was predicted at another place or fewer times")
            }
            Self::OtherProgram => f.write_str(
                "another program ran than the one of this image: another version is installed, or the machine booted \
                 something else",
            ),
            Self::OtherVariable { name, how } => {
                write!(f, "{name} on this machine has {how}: capture this platform, or approve its change")
            }
            Self::OtherAuthority { list } => write!(
                f,
                "another entry of {list} authorised the program: it is signed by somebody else, or the list differs"
            ),
            Self::FirmwareState => f.write_str(
                "firmware reports an error or a debug mode: do not approve this value, look at the firmware",
            ),
            Self::Missing => f.write_str("the boot took another way, or the log was cut short"),
            Self::Additional => f.write_str("something was measured that this boot path does not have"),
            Self::Other => f.write_str("the content differs"),
        }
    }
}

/// Address, length, link-time address and length of the device path, eight bytes each.
const IMAGE_LOAD_HEADER: usize = 32;

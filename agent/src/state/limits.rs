// SPDX-License-Identifier: Apache-2.0

//! What an honest state looks like. Checked when it is read, and before it is written, so that the agent never
//! writes what it would refuse to read.

use super::{Answered, Extend, Reason, State, Volume};
use kbs_protocol::encoding::hex;
use kbs_protocol::resource::ResourcePath;

/// The first thing about this state that cannot be, in words.
pub(super) fn problem(state: &State) -> Option<String> {
    if state.volumes.len() > VOLUMES || state.answered.len() > VOLUMES {
        return Some(format!("more than {VOLUMES} volumes"));
    }
    if state.extends.len() > EXTENDS {
        return Some(format!("more than {EXTENDS} extends"));
    }
    let volumes = state
        .volumes
        .iter()
        .find_map(|(name, volume)| volume_problem(name, volume));
    let mut answered = state.answered.iter();
    volumes
        .or_else(|| answered.find_map(|(name, answered)| answered_problem(name, answered)))
        .or_else(|| state.extends.iter().find_map(extend_problem))
        .or_else(|| other_problem(state))
}

fn volume_problem(name: &str, volume: &Volume) -> Option<String> {
    if !is_mapper_name(name) {
        return Some(format!("{:?} is no name of a volume", shorten(name)));
    }
    let wrong = if !is_uuid(&volume.luks_uuid) {
        "UUID"
    } else if !is_device_number(&volume.source_number) || !is_device_number(&volume.number) {
        "device number"
    } else if !volume.source.is_absolute() || volume.source.as_os_str().len() > TEXT {
        "source"
    } else if volume.vk_id.is_empty() || volume.vk_id.len() > TEXT {
        "volume-key id"
    } else if volume.path.parse::<ResourcePath>().is_err() {
        "resource path"
    } else {
        return None;
    };
    Some(format!("volume {name}: its {wrong} has another form"))
}

/// Such a volume has everything but a number; cipher and integrity are of ours, or it was not read.
fn answered_problem(name: &str, answered: &Answered) -> Option<String> {
    volume_problem(name, &answered.opened_as(&answered.source_number))
}

fn extend_problem(extend: &Extend) -> Option<String> {
    let is_value = match extend.register.starts_with("rtmr") {
        true => is_sha384,
        false => hex::is_sha256,
    };
    let good = is_word(&extend.register)
        && is_line(&extend.event)
        && is_value(&extend.before)
        && is_value(&extend.after);
    (!good).then(|| "an extend has another form".to_owned())
}

fn other_problem(state: &State) -> Option<String> {
    if let Some(attested) = &state.attested
        && !(is_line(&attested.server)
            && is_line(&attested.verdict)
            && attested.pcr11.as_deref().is_none_or(hex::is_sha256))
    {
        return Some("the attestation has another form".to_owned());
    }
    if state.waiting.len() > ENTRIES || state.refused.len() > ENTRIES {
        return Some(format!("more than {ENTRIES} that wait"));
    }
    let mut names = state.waiting.keys().chain(state.refused.keys());
    let waiting = state.waiting.values().map(|waiting| &waiting.reason);
    let mut reasons = waiting.chain(state.refused.values().map(|refused| &refused.reason));
    let good = names.all(|name| is_line(name)) && reasons.all(is_reason);
    (!good).then(|| "the reason to wait has another form".to_owned())
}

fn is_reason(reason: &Reason) -> bool {
    is_line(&reason.why) && is_line(&reason.owner) && is_line(&reason.advice)
}

/// As the device mapper takes it: no separator of paths, nothing that a terminal would obey.
fn is_mapper_name(name: &str) -> bool {
    (1..=MAPPER_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => hex::is_lower_digit(b),
        })
}

fn is_device_number(text: &str) -> bool {
    let number = |text: &str| text.len() <= 10 && text.parse::<u32>().is_ok();
    text.split_once(':')
        .is_some_and(|(major, minor)| number(major) && number(minor))
}

fn is_sha384(text: &str) -> bool {
    hex::is_lower(text, 48)
}

fn is_word(text: &str) -> bool {
    (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn is_line(text: &str) -> bool {
    text.len() <= TEXT && !text.chars().any(char::is_control)
}

/// Text for a line of the state: without control characters, and not longer than it may be.
pub(super) fn line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let end = (0..=TEXT.min(line.len()))
        .rev()
        .find(|at| line.is_char_boundary(*at))
        .unwrap_or(0);
    line.truncate(end);
    line
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A machine with more encrypted volumes is not one of ours.
const VOLUMES: usize = 64;
/// As many can wait or be refused.
pub(super) const ENTRIES: usize = VOLUMES;
/// One seal and one measurement a volume, with room for repetition.
const EXTENDS: usize = 256;
/// Bytes of a name that the device mapper takes (DM_NAME_LEN with its NUL is 128).
const MAPPER_NAME: usize = 127;
/// Bytes of any other text.
const TEXT: usize = 1024;

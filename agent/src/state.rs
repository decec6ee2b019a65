// SPDX-License-Identifier: Apache-2.0

//! What this boot has done so far: `/run/trustee/state.json`.
//!
//! The agent is not one process but many: a pin that Clevis starts, units that unlock, guard and seal. Each
//! leaves here what a later one must know. `unlock` records the volumes it has opened, `answer` those whose passphrase it
//! gave away, `guard` compares the root with them; whoever extends a register says so, because a register moves once per
//! boot or the next attestation fails; `status` reads it all. No secret is ever in it.
//!
//! The directory is memory (tmpfs), belongs to root, and moves with `/run` into the booted system. There it is
//! a record for people: root can rewrite it, so nothing but the agent in its initramfs rests on it. A file that is
//! not what this program writes is an error, never an empty state: an agent that has lost its memory opens and
//! passes nothing.

mod error;
mod file;
mod limits;
mod next_boot;
mod waiting;

pub use error::StateError;
pub use file::{AttestationLock, RunDirectory};
pub use next_boot::next_boot;
pub use waiting::{Reason, Refused, WaitRecord, Waiting};

use crate::unlock::Meant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The state of one boot. A boot that has done nothing yet has [`State::default`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: Version,
    /// Whether disk secrets can still be fetched.
    pub phase: Phase,
    /// Volumes that the agent opened, by their device-mapper name.
    pub volumes: BTreeMap<String, Volume>,
    /// Volumes whose passphrase the agent gave to systemd-cryptsetup, by their device-mapper name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answered: BTreeMap<String, Answered>,
    /// Every extend of a register by the agent, in their order.
    pub extends: Vec<Extend>,
    /// The last attestation that a server answered.
    pub attested: Option<Attested>,
    /// What the agent waits for, while it does: by the path of the resource.
    pub waiting: BTreeMap<String, Waiting>,
    /// What was refused to a Clevis pin, by the digest of its token.
    pub refused: BTreeMap<String, Refused>,
}

/// How far the boot is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The node may fetch disk secrets.
    #[default]
    Open,
    /// The register has moved: it may not any more, until the next boot.
    Sealed,
}

/// A LUKS2 volume that the agent opened itself, or that is open as it judged it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// The UUID of its header, lower case with hyphens.
    pub luks_uuid: String,
    /// The device that holds it, as it was opened.
    pub source: PathBuf,
    /// Major and minor number of that device, as sysfs writes them: `8:3`.
    pub source_number: String,
    /// Major and minor number of the open volume, as sysfs writes them: `254:0`.
    pub number: String,
    /// The id of its volume key, as the KBS keeps it.
    pub vk_id: String,
    /// Where its secret lies in the KBS.
    pub path: String,
}

/// A LUKS2 volume that somebody else opens with a passphrase of the agent's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// The device whose header was judged.
    pub source: PathBuf,
    /// Major and minor number of that device, as sysfs writes them: `8:3`.
    pub source_number: String,
    /// The id of its volume key, as the KBS keeps it.
    pub vk_id: String,
    /// Where its secret lies in the KBS.
    pub path: String,
    /// What the kernel must say of it, once it is open.
    pub table: Meant,
}

impl Answered {
    /// The same volume, once it is open as the device with this number.
    pub fn opened_as(&self, number: &str) -> Volume {
        Volume {
            luks_uuid: self.table.luks_uuid.clone(),
            source: self.source.clone(),
            source_number: self.source_number.clone(),
            number: number.to_owned(),
            vk_id: self.vk_id.clone(),
            path: self.path.clone(),
        }
    }
}

/// One extend of a register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extend {
    /// `pcr11`, `pcr15`, `rtmr3`.
    pub register: String,
    /// What was measured, in words.
    pub event: String,
    /// Value before, lower-case hex: SHA-256 of a PCR, SHA-384 of an RTMR.
    pub before: String,
    /// Value after, likewise.
    pub after: String,
}

/// The last quote of this boot, and what a server said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attested {
    /// When, in milliseconds since the kernel started: the clock belongs to the host.
    pub at_ms: u64,
    /// The server; empty until one has answered.
    pub server: String,
    /// Its verdict, in its own word; empty until then.
    pub verdict: String,
    /// PCR 11 as it was in the quote, lower-case hex; absent without a TPM.
    pub pcr11: Option<String>,
}

impl State {
    /// Notes a volume that was opened. A volume of this name that was opened before is forgotten: the device
    /// mapper knows a name once.
    pub fn record_volume(&mut self, name: &str, volume: Volume) {
        self.volumes.insert(name.to_owned(), volume);
    }

    /// Notes a volume whose passphrase is about to be given away. What was judged last is what counts.
    pub fn record_answered(&mut self, name: &str, answered: Answered) {
        self.answered.insert(name.to_owned(), answered);
    }

    /// Notes an extend.
    pub fn record_extend(&mut self, extend: Extend) {
        self.extends.push(extend);
    }

    /// Notes that a process waits for this.
    pub fn record_waiting(&mut self, what: &str, waiting: Waiting) {
        make_room(&mut self.waiting, what, |waiting| waiting.since_ms);
        self.waiting.insert(what.to_owned(), waiting);
    }

    /// Notes that a token's secret was refused.
    pub fn record_refused(&mut self, id: &str, refused: Refused) {
        make_room(&mut self.refused, id, |refused| refused.until_ms);
        self.refused.insert(id.to_owned(), refused);
    }

    /// The extend of this register by this event, if the agent has done it in this boot.
    pub fn extend(&self, register: &str, event: &str) -> Option<&Extend> {
        self.extends
            .iter()
            .find(|extend| extend.register == register && extend.event == event)
    }

    /// Whether an extend by this event is what gave this register the value that it has now.
    pub fn shows(&self, register: &str, event: &str, now: &str) -> bool {
        self.extends.iter().any(|extend| {
            extend.register == register && extend.event == event && extend.after == now
        })
    }
}

/// Forgets the oldest entry if there is no room for another one.
fn make_room<V>(map: &mut BTreeMap<String, V>, key: &str, age: impl Fn(&V) -> u64) {
    if map.len() < limits::ENTRIES || map.contains_key(key) {
        return;
    }
    let oldest = map.iter().min_by_key(|(_, value)| age(value));
    if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
        map.remove(&oldest);
    }
}

/// The version of the file's format; another one was not written by this program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Version;

impl From<Version> for u32 {
    fn from(_: Version) -> Self {
        VERSION
    }
}

impl TryFrom<u32> for Version {
    type Error = &'static str;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        if number == VERSION {
            Ok(Self)
        } else {
            Err("another version of the format")
        }
    }
}

const VERSION: u32 = 1;

#[cfg(test)]
mod tests;

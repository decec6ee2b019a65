// SPDX-License-Identifier: Apache-2.0

//! The same events without a TPM: Intel TDX's run-time measurement registers (UEFI 2.10, section 38.4
//! "Confidential Computing", the table of TPM PCR indexes and TDX measurement registers). Each RTMR takes
//! what several PCRs would, SHA-384 only, so that the order *between* these PCRs becomes part of the value.
//!
//! RTMR 0 and 1 also hold what only the platform knows (PCR 1 to 3 and 5), RTMR 2 what GRUB or the kernel's
//! EFI stub measure of each node (PCR 8 and 9). So there is no RTMR to predict from image and platform alone;
//! a log replays into them, and predicted events have their place among them.

use crate::bank::{Bank, Digest};
use crate::error::Error;
use crate::eventlog::EventLog;
use serde::Serialize;

/// Measurement register of a TDX guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Register {
    /// The build-time measurement, MRTD: fixed before anything is extended.
    Mrtd,
    /// RTMR 0 to 2. Firmware extends nothing into RTMR 3.
    Rtmr(u8),
}

/// RTMR 0, 1 and 2 at the end of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rtmrs([Digest; 3]);

impl Register {
    /// Where an event for this PCR goes; `None` for PCR 16 and above, which firmware does not use.
    pub fn of_pcr(pcr: u8) -> Option<Self> {
        match pcr {
            0 => Some(Self::Mrtd),
            1 | 7 => Some(Self::Rtmr(0)),
            2..=6 => Some(Self::Rtmr(1)),
            8..=15 => Some(Self::Rtmr(2)),
            _ => None,
        }
    }

    /// The index that stands in place of the PCR in a log of a TDX guest.
    pub fn log_index(self) -> u8 {
        match self {
            Self::Mrtd => 0,
            Self::Rtmr(number) => number.saturating_add(1),
        }
    }
}

impl Rtmrs {
    /// All zero, as after a reset.
    pub fn new() -> Self {
        Self([RTMR_BANK.zero(), RTMR_BANK.zero(), RTMR_BANK.zero()])
    }

    /// Extends the RTMR that takes the place of this PCR; nothing for PCR 0, whose place MRTD takes.
    pub fn extend_pcr(&mut self, pcr: u8, digest: &Digest) {
        if let Some(Register::Rtmr(number)) = Register::of_pcr(pcr) {
            self.extend(number, digest);
        }
    }

    /// Extends one RTMR.
    pub fn extend(&mut self, number: u8, digest: &Digest) {
        if let Some(value) = self.0.get_mut(usize::from(number)) {
            *value = RTMR_BANK.extend(value, digest);
        }
    }

    /// The value of RTMR 0, 1 or 2.
    pub fn get(&self, number: u8) -> Option<&Digest> {
        self.0.get(usize::from(number))
    }
}

impl Default for Rtmrs {
    fn default() -> Self {
        Self::new()
    }
}

impl EventLog {
    /// The RTMRs that a log of a TDX guest leads to.
    ///
    /// # Errors
    /// [`Error::NoDigest`] when an entry has no SHA-384 digest.
    pub fn replay_rtmrs(&self) -> Result<Rtmrs, Error> {
        let mut rtmrs = Rtmrs::new();
        for (index, event) in self.extends() {
            let digest = event.digest(RTMR_BANK).ok_or_else(|| Error::NoDigest {
                what: format!("entry {index} of the event log ({})", event.kind),
                bank: RTMR_BANK,
            })?;
            let register = u8::try_from(event.pcr).ok();
            if let Some(number) = register.and_then(|index| index.checked_sub(1)) {
                rtmrs.extend(number, digest);
            }
        }
        Ok(rtmrs)
    }
}

/// RTMRs know no other algorithm.
pub const RTMR_BANK: Bank = Bank::Sha384;

#[cfg(test)]
mod tests {
    use super::{RTMR_BANK, Register, Rtmrs};
    use crate::eventlog::{Event, EventLog, EventType};
    use std::collections::BTreeMap;

    #[test]
    fn each_pcr_has_its_register() {
        let registers: Vec<_> = (0..17)
            .map(|pcr| Register::of_pcr(pcr).map(Register::log_index))
            .collect();
        let expected = [0, 1, 2, 2, 2, 2, 2, 1, 3, 3, 3, 3, 3, 3, 3, 3];
        assert_eq!(registers[..16], expected.map(Some));
        assert_eq!(registers[16], None);
    }

    #[test]
    fn a_guests_log_leads_to_the_same_registers_as_the_events_by_pcr() {
        let mut rtmrs = Rtmrs::new();
        let mut log = EventLog {
            algorithms: BTreeMap::from([(0x0c, 48)]),
            events: vec![],
        };
        for pcr in [0, 7, 1, 4, 5, 4, 14, 11, 9] {
            let digest = RTMR_BANK.hash(&[pcr]);
            rtmrs.extend_pcr(pcr, &digest);
            log.events.push(Event {
                offset: 0,
                pcr: Register::of_pcr(pcr).unwrap().log_index().into(),
                kind: EventType::IPL,
                digests: BTreeMap::from([(0x0c, digest)]),
                data: vec![],
            });
        }
        assert_eq!(log.replay_rtmrs().unwrap(), rtmrs);
        assert!(rtmrs.get(3).is_none());
        let (zero, one) = (RTMR_BANK.zero(), RTMR_BANK.hash(&[7]));
        let by_hand = RTMR_BANK.extend(&RTMR_BANK.extend(&zero, &one), &RTMR_BANK.hash(&[1]));
        assert_eq!(rtmrs.get(0), Some(&by_hand));
        log.events[3].digests.clear();
        assert!(log.replay_rtmrs().is_err());
    }
}

// SPDX-License-Identifier: Apache-2.0

//! From events to PCR values: `pcr := H(pcr || digest)`, once per event, starting at zero
//! (TPM 2.0 Library, Part 1, "PCR Operations"). Works on a log that a machine wrote and on a prediction.

use crate::bank::{Bank, Digest};
use crate::error::Error;
use crate::eventlog::{Event, EventLog, EventType};
use serde::Serialize;
use std::collections::BTreeMap;

/// PCR values of one bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pcrs {
    /// The bank.
    pub bank: Bank,
    /// Values by number; a PCR that nothing extended is absent.
    values: BTreeMap<u8, Digest>,
}

impl Pcrs {
    /// All PCRs at their reset value.
    pub fn new(bank: Bank) -> Self {
        Self {
            bank,
            values: BTreeMap::new(),
        }
    }

    /// One extend.
    pub fn extend(&mut self, pcr: u8, digest: &Digest) {
        let value = self.bank.extend(&self.get(pcr), digest);
        self.values.insert(pcr, value);
    }

    /// Takes over a value that somebody read from a TPM or a quote.
    pub fn set(&mut self, pcr: u8, value: Digest) {
        self.values.insert(pcr, value);
    }

    /// The value of one PCR: zero where nothing was extended (true of PCR 0 to 16; those of a dynamic
    /// launch start with all ones, and nothing of ours looks at them).
    pub fn get(&self, pcr: u8) -> Digest {
        self.values
            .get(&pcr)
            .cloned()
            .unwrap_or_else(|| self.bank.zero())
    }

    /// The PCRs that were extended, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &Digest)> {
        self.values.iter().map(|(pcr, value)| (*pcr, value))
    }
}

impl EventLog {
    /// The PCR values that this log leads to.
    ///
    /// # Errors
    /// [`Error::NoDigest`] when the log does not have this bank.
    pub fn replay(&self, bank: Bank) -> Result<Pcrs, Error> {
        let mut pcrs = Pcrs::new(bank);
        if let Some(locality) = self.startup_locality() {
            let mut value = vec![0; bank.size()];
            if let Some(last) = value.last_mut() {
                *last = locality;
            }
            pcrs.set(0, Digest::new(value));
        }
        for (index, event) in self.extends() {
            let digest = event.digest(bank).ok_or_else(|| Error::NoDigest {
                what: format!("entry {index} of the event log ({})", event.kind),
                bank,
            })?;
            if let Ok(pcr) = u8::try_from(event.pcr) {
                pcrs.extend(pcr, digest);
            }
        }
        Ok(pcrs)
    }

    /// The locality that TPM2_Startup came from, which PCR 0 starts with (PFP 1.06, 10.4.5.3).
    fn startup_locality(&self) -> Option<u8> {
        self.events.iter().find_map(|event| match event {
            Event {
                pcr: 0,
                kind: EventType::NO_ACTION,
                data,
                ..
            } => match data.strip_prefix(STARTUP_LOCALITY) {
                Some([locality]) => Some(*locality),
                _ => None,
            },
            _ => None,
        })
    }
}

const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

#[cfg(test)]
mod tests {
    use super::Pcrs;
    use crate::bank::Bank;
    use crate::eventlog::{Event, EventLog, EventType};
    use std::collections::BTreeMap;

    fn event(pcr: u32, kind: EventType, data: &[u8]) -> Event {
        Event {
            offset: 0,
            pcr,
            kind,
            digests: BTreeMap::from([(0x0b, Bank::Sha256.hash(data))]),
            data: data.to_vec(),
        }
    }

    #[test]
    fn no_action_informs_and_locality_is_where_pcr_0_starts() {
        let mut log = EventLog {
            algorithms: BTreeMap::from([(0x0b, 32)]),
            events: vec![
                event(0, EventType::NO_ACTION, b"StartupLocality\0\x03"),
                event(4, EventType::SEPARATOR, &[0; 4]),
            ],
        };
        let pcrs = log.replay(Bank::Sha256).unwrap();
        assert_eq!(pcrs.get(0).as_bytes()[31], 3);
        let mut by_hand = Pcrs::new(Bank::Sha256);
        by_hand.extend(4, &Bank::Sha256.hash(&[0; 4]));
        assert_eq!(pcrs.get(4), by_hand.get(4));
        assert_eq!(pcrs.get(14), Bank::Sha256.zero());
        assert_eq!(pcrs.iter().map(|(pcr, _)| pcr).collect::<Vec<_>>(), [0, 4]);

        log.events[0].data.push(0);
        assert_eq!(
            log.replay(Bank::Sha256).unwrap().get(0),
            Bank::Sha256.zero()
        );
        let error = log.replay(Bank::Sha384).unwrap_err().to_string();
        assert!(error.contains("entry 1 of the event log (EV_SEPARATOR)"));
    }
}

// SPDX-License-Identifier: Apache-2.0

//! What the agent measures itself: each event once per boot, seen to have moved its register, written down in
//! the [state](crate::state) and in systemd's log of measurements. `unlock` measures each volume it opens, `seal`
//! the end of the initramfs.
//!
//! Registers are extended while no process of this boot attests, because a quote over a moving register convinces
//! nobody. So whoever holds the [attestation lock](crate::state::RunDirectory::attestation_lock) gives it back
//! before it calls this.

mod log_file;

pub use log_file::{EventType, MeasureLog};

use crate::evidence::rtmr::Rtmr3;
use crate::evidence::tpm_pcr::{self, Event, Pcr};
use crate::evidence::{TeeError, TpmError};
use crate::state::{Extend, RunDirectory, StateError};
use kbs_protocol::encoding::hex;
use kbs_protocol::{Blame, Owner, Persistence};
use std::fmt::Write as _;

/// The registers of this machine, and where their extends are written down.
#[derive(Debug)]
pub struct Registers<'a> {
    /// The TPM, as `tpm.tcti` names it.
    pub tcti: &'a str,
    /// The state of this boot.
    pub run: &'a RunDirectory,
    /// systemd's log.
    pub log: MeasureLog,
}

impl Registers<'_> {
    /// Measures the key of a volume that was just opened into PCR 15: HMAC over `cryptsetup:NAME:UUID`, keyed with
    /// the volume key, as systemd-cryptsetup does for volumes that it opens itself (`tpm2-measure-pcr=`). A volume
    /// that was measured in this boot is not measured again.
    ///
    /// # Errors
    /// [`MeasureError`].
    pub fn volume_key(
        &self,
        name: &str,
        luks_uuid: &str,
        volume_key: &[u8],
    ) -> Result<(), MeasureError> {
        let words = volume_words(name, luks_uuid);
        let _lock = self.run.attestation_lock()?;
        if self
            .run
            .read()?
            .extend(Pcr::Fifteen.as_str(), &words)
            .is_some()
        {
            return Ok(());
        }
        let event = Event::Keyed {
            words: &words,
            key: volume_key,
        };
        self.extend(Pcr::Fifteen, event, EventType::VolumeKey)?;
        Ok(())
    }

    /// Extends, whatever was before. The caller holds the attestation lock.
    pub(crate) fn extend(
        &self,
        pcr: Pcr,
        event: Event<'_>,
        kind: EventType,
    ) -> Result<(), MeasureError> {
        let words = event.words();
        let extended = self.log.around(
            || tpm_pcr::extend(self.tcti, pcr, event),
            |extended| log_file::record(pcr, words, kind, &extended.digests),
        )?;
        self.record(Extend {
            register: pcr.as_str().to_owned(),
            event: words.to_owned(),
            before: hex::encode(extended.before),
            after: hex::encode(extended.after),
        })
    }

    /// The same with RTMR 3, which has a log of its own.
    pub(crate) fn extend_rtmr3(&self, register: &Rtmr3, words: &str) -> Result<(), MeasureError> {
        let extended = register.extend_by(words)?;
        self.record(Extend {
            register: Rtmr3::NAME.to_owned(),
            event: words.to_owned(),
            before: hex::encode(extended.before),
            after: hex::encode(extended.after),
        })
    }

    fn record(&self, extend: Extend) -> Result<(), MeasureError> {
        self.run.update(|state| {
            state.record_extend(extend);
            Ok::<_, StateError>(())
        })?;
        Ok(())
    }
}

/// What systemd-cryptsetup measures for a volume. In its name, a colon and what is not printable ASCII are
/// escaped, so that no two volumes have the same words.
fn volume_words(name: &str, luks_uuid: &str) -> String {
    let mut words = "cryptsetup:".to_owned();
    for byte in name.bytes() {
        match byte {
            b' '..=b'~' if byte != b':' && byte != b'\\' => words.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(words, "\\x{byte:02x}")),
        }
    }
    words.push(':');
    words.push_str(luks_uuid);
    words
}

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The processor's own register.
    #[error(transparent)]
    Tee(#[from] TeeError),
    /// The memory of this boot.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Blame for MeasureError {
    fn owner(&self) -> Owner {
        match self {
            Self::Tpm(error) => error.owner(),
            Self::Tee(error) => error.owner(),
            Self::State(error) => error.owner(),
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Tpm(error) => error.persistence(),
            Self::Tee(error) => error.persistence(),
            Self::State(error) => error.persistence(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Tpm(error) => error.advice(),
            Self::Tee(error) => error.advice(),
            Self::State(error) => error.advice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::volume_words;

    #[test]
    fn volumes_are_named_as_systemd_names_them() {
        assert_eq!(volume_words("root", "u-1"), "cryptsetup:root:u-1");
        assert_eq!(volume_words("a:b\\c", "u"), "cryptsetup:a\\x3ab\\x5cc:u");
        assert_eq!(volume_words("ä", "u"), "cryptsetup:\\xc3\\xa4:u");
    }
}

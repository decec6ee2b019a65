// SPDX-License-Identifier: Apache-2.0

//! Extending a PCR, in every active bank, and making sure that it moved; for `measure`.
//!
//! The digests are those of systemd: the hash of an event's words, or for a volume an HMAC keyed with the volume's
//! key, so that policies over these PCRs hold for both (systemd-pcrextend(8), systemd-cryptsetup(8)).

use super::tcti;
use super::tpm::{active_banks, read_pcrs};
use super::tpm_error::TpmError;
use super::tpm_rc::Step;
use hmac::SimpleHmac;
use hmac::digest::core_api::BlockSizeUser;
use hmac::digest::{Digest as HashFunction, FixedOutput as _, KeyInit as _, Update as _};
use kbs_protocol::encoding::hex;
use sha2::{Sha256, Sha384, Sha512};
use tss_esapi::Context;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Digest, DigestValues};

/// The PCRs that the agent extends (UAPI Linux TPM PCR Registry).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pcr {
    /// What the kernel image and the phases of its boot are.
    Eleven,
    /// What the system is: its volumes.
    Fifteen,
}

/// What is measured.
#[derive(Clone, Copy)]
pub enum Event<'a> {
    /// Words.
    Words(&'a str),
    /// Words, under a key that only the measured system has.
    Keyed {
        /// The words.
        words: &'a str,
        /// The volume key.
        key: &'a [u8],
    },
}

/// An extend that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extended {
    /// The SHA-256 value before.
    pub before: [u8; 32],
    /// The SHA-256 value after.
    pub after: [u8; 32],
    /// Each bank that was extended, by the lower-case name of its hash, and the digest in lower-case hex.
    pub digests: Vec<(&'static str, String)>,
}

impl Pcr {
    /// Its name in states and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eleven => "pcr11",
            Self::Fifteen => "pcr15",
        }
    }

    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Eleven => 11,
            Self::Fifteen => 15,
        }
    }

    fn handle(self) -> PcrHandle {
        match self {
            Self::Eleven => PcrHandle::Pcr11,
            Self::Fifteen => PcrHandle::Pcr15,
        }
    }
}

impl Event<'_> {
    /// The words, which are no secret.
    pub fn words(&self) -> &str {
        match self {
            Self::Words(words) | Self::Keyed { words, .. } => words,
        }
    }

    /// The digest that goes into the SHA-256 bank.
    pub fn sha256(&self) -> Vec<u8> {
        self.digest::<Sha256>()
    }

    fn digest<H: HashFunction + BlockSizeUser>(&self) -> Vec<u8> {
        match self {
            Self::Words(words) => H::digest(words).to_vec(),
            // Keys of any length are fine for HMAC, so the `Err` is never seen.
            Self::Keyed { words, key } => SimpleHmac::<H>::new_from_slice(key)
                .map(|hmac| hmac.chain(words).finalize_fixed().to_vec())
                .unwrap_or_default(),
        }
    }
}

/// The SHA-256 value of a PCR after a digest was extended into it (TPM 2.0 Library Part 1 section 17.1).
pub fn extended(value: &[u8; 32], digest: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(value)
        .chain_update(digest)
        .finalize()
        .into()
}

/// Reads the SHA-256 value of a PCR.
///
/// # Errors
/// The TPM cannot be reached or keeps no such bank.
pub fn read(tcti: &str, pcr: Pcr) -> Result<[u8; 32], TpmError> {
    value(&mut tcti::open(tcti)?, pcr)
}

/// Extends a PCR by an event, in every active bank with a hash that this program knows, and reads it before and
/// after. (A SHA-1 bank is left alone: nobody is given anything for what it says.)
///
/// # Errors
/// The TPM cannot be reached, refuses, or says that it has done it and has not.
pub fn extend(tcti: &str, pcr: Pcr, event: Event<'_>) -> Result<Extended, TpmError> {
    let mut context = tcti::open(tcti)?;
    let before = value(&mut context, pcr)?;
    let mut digests = Vec::new();
    let mut values = DigestValues::new();
    for bank in active_banks(&mut context)? {
        let (name, algorithm, digest) = match bank.as_str() {
            "sha256" => ("sha256", HashingAlgorithm::Sha256, event.sha256()),
            "sha384" => ("sha384", HashingAlgorithm::Sha384, event.digest::<Sha384>()),
            "sha512" => ("sha512", HashingAlgorithm::Sha512, event.digest::<Sha512>()),
            _ => continue,
        };
        digests.push((name, hex::encode(&digest)));
        let digest = Digest::try_from(digest).map_err(refused)?;
        values.set(algorithm, digest);
    }
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.pcr_extend(pcr.handle(), values)
        })
        .map_err(refused)?;
    let after = value(&mut context, pcr)?;
    if after != extended(&before, &event.sha256()) {
        return Err(TpmError::Unexpected {
            step: Step::Extend,
            why: format!(
                "{} was {} and is {} now",
                pcr.as_str(),
                hex::encode(before),
                hex::encode(after)
            ),
        });
    }
    Ok(Extended {
        before,
        after,
        digests,
    })
}

fn value(context: &mut Context, pcr: Pcr) -> Result<[u8; 32], TpmError> {
    let (values, _) = read_pcrs(context)?;
    values
        .get(usize::from(pcr.number()))
        .copied()
        .ok_or_else(|| TpmError::Unexpected {
            step: Step::ReadPcrs,
            why: format!("{} is missing", pcr.as_str()),
        })
}

fn refused(error: tss_esapi::Error) -> TpmError {
    TpmError::response(Step::Extend, error)
}

#[cfg(test)]
mod tests {
    use super::{Event, extended};
    use kbs_protocol::encoding::hex;

    /// As `sha256sum` and `openssl dgst -sha256 -mac HMAC -macopt hexkey:5a5a...` give them.
    #[test]
    fn digests_are_those_of_other_programs() {
        let words = Event::Words("trustee:leave-initrd");
        assert_eq!(hex::encode(words.sha256()), WORDS);
        assert_eq!(hex::encode(extended(&[0; 32], &words.sha256())), SEALED);
        let keyed = Event::Keyed {
            words: "cryptsetup:root:0a1b2c3d-0000-4000-8000-0123456789ab",
            key: &[0x5a; 64],
        };
        assert_eq!(hex::encode(keyed.sha256()), KEYED);
    }

    const WORDS: &str = "0b61fd71dc850c8d45b64c9339cd0694806e00504ed9d99755d0e58d8c4fb335";
    const SEALED: &str = "e7e7e69e789eca2dd33f829c335bb6e92d6ee30af616db4b3cefab6fc4d80942";
    const KEYED: &str = "b089a8505c2e037081037ac44cb085dc4a1fba912d5d4a9bad645322e4e69f5b";
}

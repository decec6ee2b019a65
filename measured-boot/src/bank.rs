// SPDX-License-Identifier: Apache-2.0

//! PCR banks: one hash algorithm each, and the two operations a TPM knows (TPM 2.0 Library, Part 1,
//! section "PCR Operations").
//!
//! A digest of one bank is never derived from a digest of another: what has to be predicted for several
//! banks keeps its data, or all its [`Digests`].

use digest::Digest as _;
use kbs_protocol::encoding::hex;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use std::collections::BTreeMap;
use std::fmt;

/// A bank of PCRs, named as in `/sys/class/tpm/tpm0/pcr-<bank>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bank {
    /// TPM_ALG_SHA1. Readable, so that an old log can be explained; never to be accepted as evidence.
    Sha1,
    /// TPM_ALG_SHA256.
    Sha256,
    /// TPM_ALG_SHA384. Also the one algorithm of TDX's RTMRs.
    Sha384,
    /// TPM_ALG_SHA512.
    Sha512,
}

/// A digest or a PCR value; lower-case hexadecimal in JSON.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Vec<u8>);

/// The digests of one piece of data, for each bank that somebody computed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<Bank, Digest>")]
pub struct Digests(BTreeMap<Bank, Digest>);

impl Bank {
    /// All of them, weakest first.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The bank with this TPM_ALG_ID (TCG Algorithm Registry), when we have the algorithm.
    pub fn from_algorithm(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|bank| bank.algorithm() == id)
    }

    /// Its TPM_ALG_ID.
    pub fn algorithm(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// Length of a digest in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// `H(data)`.
    pub fn hash(self, data: &[u8]) -> Digest {
        Digest(match self {
            Self::Sha1 => Sha1::digest(data).to_vec(),
            Self::Sha256 => Sha256::digest(data).to_vec(),
            Self::Sha384 => Sha384::digest(data).to_vec(),
            Self::Sha512 => Sha512::digest(data).to_vec(),
        })
    }

    /// `PCR_new = H(PCR_old || digest)`.
    pub fn extend(self, pcr: &Digest, digest: &Digest) -> Digest {
        let mut data = pcr.0.clone();
        data.extend_from_slice(&digest.0);
        self.hash(&data)
    }

    /// What PCR 0 to 16 hold after a reset.
    pub fn zero(self) -> Digest {
        Digest(vec![0; self.size()])
    }
}

impl Digest {
    /// The digest with these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Digests {
    /// The digests of `data` in every bank.
    pub fn of(data: &[u8]) -> Self {
        let mut hashers = Hashers::default();
        digest::Update::update(&mut hashers, data);
        hashers.finish()
    }

    /// The digest for one bank, when it is known.
    pub fn get(&self, bank: Bank) -> Option<&Digest> {
        self.0.get(&bank)
    }

    /// Each known digest.
    pub fn iter(&self) -> impl Iterator<Item = (Bank, &Digest)> {
        self.0.iter().map(|(bank, digest)| (*bank, digest))
    }
}

impl TryFrom<BTreeMap<Bank, Digest>> for Digests {
    type Error = String;

    fn try_from(map: BTreeMap<Bank, Digest>) -> Result<Self, String> {
        match map
            .iter()
            .find(|(bank, digest)| digest.0.len() != bank.size())
        {
            Some((bank, digest)) => Err(format!(
                "a {bank} digest of {} bytes, expected {}",
                digest.0.len(),
                bank.size()
            )),
            None => Ok(Self(map)),
        }
    }
}

/// All banks at once, so that a large file is read once.
#[derive(Default)]
pub(crate) struct Hashers {
    sha1: Sha1,
    sha256: Sha256,
    sha384: Sha384,
    sha512: Sha512,
}

impl digest::Update for Hashers {
    fn update(&mut self, data: &[u8]) {
        digest::Update::update(&mut self.sha1, data);
        digest::Update::update(&mut self.sha256, data);
        digest::Update::update(&mut self.sha384, data);
        digest::Update::update(&mut self.sha512, data);
    }
}

impl Hashers {
    pub(crate) fn finish(self) -> Digests {
        Digests(BTreeMap::from([
            (Bank::Sha1, Digest(self.sha1.finalize().to_vec())),
            (Bank::Sha256, Digest(self.sha256.finalize().to_vec())),
            (Bank::Sha384, Digest(self.sha384.finalize().to_vec())),
            (Bank::Sha512, Digest(self.sha512.finalize().to_vec())),
        ]))
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode(&text)
            .filter(|bytes| Bank::ALL.iter().any(|bank| bank.size() == bytes.len()))
            .map(Self)
            .ok_or("expected a digest of 20, 32, 48 or 64 bytes in hexadecimal")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{Bank, Digests};

    #[test]
    fn one_pass_equals_one_hash_per_bank() {
        let all = Digests::of(b"abc");
        for bank in Bank::ALL {
            assert_eq!(all.get(bank), Some(&bank.hash(b"abc")));
            assert_eq!(bank.hash(b"abc").as_bytes().len(), bank.size());
            assert_eq!(Bank::from_algorithm(bank.algorithm()), Some(bank));
        }
        // FIPS 180-4 example.
        assert_eq!(
            Bank::Sha1.hash(b"abc").to_string(),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(Bank::from_algorithm(0x12), None);
    }

    #[test]
    fn digests_in_a_document_have_the_length_of_their_bank() {
        let right = format!("{{\"sha1\":\"{}\"}}", "0".repeat(40));
        assert!(serde_json::from_str::<Digests>(&right).is_ok());
        for wrong in [
            right.replace("sha1", "sha256"),
            right.replace("sha1", "md5"),
            right.replace("000", "00"),
            right.replace("000", "00g"),
        ] {
            assert!(serde_json::from_str::<Digests>(&wrong).is_err(), "{wrong}");
        }
    }
}

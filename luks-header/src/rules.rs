// SPDX-License-Identifier: Apache-2.0

//! What the measured configuration allows.

use crate::cipher::{Cipher, Integrity};
use std::ops::RangeInclusive;

/// `[unlock]` of `agent.toml`, as far as a header is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The ciphers that a volume may be encrypted with.
    pub ciphers: Vec<Cipher>,
    /// What must authenticate its sectors: exactly this.
    pub integrity: Integrity,
    /// Whether the header may ask for discards.
    pub discard: bool,
    /// Whether there may be key slots and tokens that are not Clevis', for example a recovery passphrase.
    pub other_keyslots: bool,
    /// What key derivation may cost.
    pub kdf: KdfLimits,
}

/// Limits of key derivation. Below them a passphrase is guessed, above them a boot never ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KdfLimits {
    /// Iterations of PBKDF2. Clevis takes 1000, because its passphrase has 256 random bits.
    pub pbkdf2_iterations: RangeInclusive<u32>,
    /// The most memory that Argon2 may take, in KiB.
    pub argon2_memory: u32,
    /// The most passes that Argon2 may make.
    pub argon2_time: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            ciphers: vec![Cipher::AesXts],
            integrity: Integrity::None,
            discard: false,
            other_keyslots: false,
            kdf: KdfLimits::default(),
        }
    }
}

impl Default for KdfLimits {
    /// What cryptsetup makes on machines between a small and a large one, with room at both ends.
    fn default() -> Self {
        Self {
            pbkdf2_iterations: 1_000..=10_000_000,
            argon2_memory: 1024 * 1024,
            argon2_time: 64,
        }
    }
}

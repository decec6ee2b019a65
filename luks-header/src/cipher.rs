// SPDX-License-Identifier: Apache-2.0

//! The ciphers that a volume may have at all. The configuration picks from these; nobody adds to them at run
//! time, so a null cipher has no way in.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A cipher as dm-crypt spells it; so it is written down, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Cipher {
    /// `aes-xts-plain64`, what cryptsetup takes by default.
    AesXts,
    /// `serpent-xts-plain64`.
    SerpentXts,
    /// `twofish-xts-plain64`.
    TwofishXts,
    /// `aes-gcm-random`: authenticates each sector; with `integrity = "aead"`.
    AesGcm,
    /// `aegis128-random`: authenticates each sector; with `integrity = "aead"`.
    Aegis128,
}

/// What protects sectors against being changed. Written down as in `agent.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Integrity {
    /// Nothing: a host can make noise of sectors, unnoticed.
    None,
    /// A tag of HMAC-SHA-256 beside each sector (dm-integrity).
    HmacSha256,
    /// The cipher's own tag beside each sector (dm-integrity).
    Aead,
}

impl Cipher {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::AesXts,
        Self::SerpentXts,
        Self::TwofishXts,
        Self::AesGcm,
        Self::Aegis128,
    ];

    /// The cipher of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.as_str() == name)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AesXts => "aes-xts-plain64",
            Self::SerpentXts => "serpent-xts-plain64",
            Self::TwofishXts => "twofish-xts-plain64",
            Self::AesGcm => "aes-gcm-random",
            Self::Aegis128 => "aegis128-random",
        }
    }

    /// Whether it authenticates what it encrypts.
    pub fn is_aead(self) -> bool {
        matches!(self, Self::AesGcm | Self::Aegis128)
    }

    /// The lengths its key may have, in bytes; of a mode with two keys both together.
    pub fn key_sizes(self) -> &'static [u32] {
        match self {
            Self::AesXts | Self::SerpentXts | Self::TwofishXts => &[32, 64],
            Self::AesGcm => &[16, 32],
            Self::Aegis128 => &[16],
        }
    }
}

impl Integrity {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::HmacSha256, Self::Aead];

    /// The word in `agent.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::HmacSha256 => "hmac-sha256",
            Self::Aead => "aead",
        }
    }

    /// `type` in a segment's `integrity`.
    pub(crate) fn in_header(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::HmacSha256 => Some("hmac(sha256)"),
            Self::Aead => Some("aead"),
        }
    }

    /// How much longer the volume key is for it, in bytes.
    pub(crate) fn key_size(self) -> u32 {
        match self {
            Self::HmacSha256 => 32,
            Self::None | Self::Aead => 0,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Cipher> for &'static str {
    fn from(cipher: Cipher) -> Self {
        cipher.as_str()
    }
}

impl TryFrom<String> for Cipher {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::named(&name).ok_or("no cipher that a volume may have")
    }
}

impl From<Integrity> for &'static str {
    fn from(integrity: Integrity) -> Self {
        integrity.as_str()
    }
}

impl TryFrom<String> for Integrity {
    type Error = &'static str;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        let mut all = Self::ALL.into_iter();
        all.find(|integrity| integrity.as_str() == word)
            .ok_or("nothing that authenticates a volume")
    }
}

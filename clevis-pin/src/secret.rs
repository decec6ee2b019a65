// SPDX-License-Identifier: Apache-2.0

//! The two secrets of this crate: the content key and the plaintext. Both wipe themselves, and neither can
//! be printed, compared, cloned or serialised.

use zeroize::Zeroizing;

/// A 256-bit content encryption key (RFC 7516 section 2, "CEK").
///
/// With upstream's secret format these are the 32 bytes of the *text* in the KBS, not a decoding of it.
pub struct Cek(Box<Zeroizing<[u8; Cek::LENGTH]>>);

impl Cek {
    /// Length in bytes.
    pub const LENGTH: usize = 32;

    /// Copies the key once, into memory that is wiped. Wiping the original is the caller's duty.
    pub fn new(key: &[u8; Self::LENGTH]) -> Self {
        let mut own = Box::new(Zeroizing::new([0; Self::LENGTH]));
        own.copy_from_slice(key);
        Self(own)
    }

    pub(crate) fn expose(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

/// What a token carries: a LUKS passphrase, or a share of one. Any bytes.
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    pub(crate) fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one place that writes them out.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

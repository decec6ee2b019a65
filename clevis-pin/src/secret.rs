// SPDX-License-Identifier: Apache-2.0

//! The two secrets of this crate: the content key and the plaintext. Both wipe themselves, and neither can
//! be printed, compared, cloned or serialised.

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::Sha256;
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

    /// `kid` = the first 16 bytes of HMAC-SHA256(key = CEK, message = "clevis-pin-trustee kid v1") (RFC 2104).
    ///
    /// It tells keys apart and tells nothing about them, so it may stand in a token.
    pub fn id(&self) -> [u8; 16] {
        // HMAC pads a key with zeros to its block of 64 bytes; with the padded key its set-up cannot fail.
        let mut block = Zeroizing::new([0_u8; 64]);
        for (to, from) in block.iter_mut().zip(self.expose()) {
            *to = *from;
        }
        let mut mac = <Hmac<Sha256> as KeyInit>::new((&*block).into());
        mac.update(KID_MESSAGE);
        let mut kid = [0; 16];
        for (to, from) in kid.iter_mut().zip(mac.finalize().into_bytes()) {
            *to = from;
        }
        kid
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

const KID_MESSAGE: &[u8] = b"clevis-pin-trustee kid v1";

#[cfg(test)]
mod tests {
    use super::Cek;

    /// Computed with Python's `hmac` module.
    #[test]
    fn the_key_id_is_a_truncated_hmac() {
        let cek = Cek::new(b"test-only-key-0123456789-abcdef!");
        assert_eq!(
            cek.id(),
            0x0ff7_29a9_3b69_993b_e444_31dc_6277_9b6e_u128.to_be_bytes()
        );
    }
}

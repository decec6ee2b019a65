// SPDX-License-Identifier: Apache-2.0

//! A LUKS2 header as what it is on a confidential node: a text that the host wrote.
//!
//! The checksum in a LUKS2 header is no signature, and its digest proves the volume key and nothing else.
//! Whoever can write to the disk can name another cipher, add a segment or a key slot, or ask for an hour of
//! key derivation, and the right passphrase still opens the volume. So nothing here is opened because it is
//! valid; it is opened because it is one of the few headers that we mean:
//!
//! ```text
//! bytes --binary::newest--> the one copy that counts --json--> Document --whitelist--> Volume --image--> bytes
//! ```
//!
//! [`examine`] is all of that. What libcryptsetup later opens is [`Volume::image`]: written anew from what was
//! understood, so that a second parser has nothing to understand otherwise. Bytes in, a verdict out: no file
//! is touched. The format is that of the LUKS2 On-Disk Format Specification 1.1.

mod binary;
mod cipher;
mod error;
mod image;
mod json;
mod rules;
mod whitelist;

pub use cipher::{Cipher, Integrity};
pub use error::Refusal;
pub use image::{Area, Extent, Image};
pub use rules::{KdfLimits, Rules};
pub use whitelist::{ClevisToken, Jwe, Volume};

/// Reads the beginning of a device and judges it. `head` is its first [`HEAD_SIZE`] bytes, or all of it if it
/// is shorter; what lies behind the two copies of the header is not looked at.
///
/// # Errors
/// [`Refusal`] naming the first thing that is not as it must be.
pub fn examine(head: &[u8], rules: &Rules) -> Result<Volume, Refusal> {
    let copy = binary::newest(head)?;
    let document = json::Document::parse(copy.json)?;
    whitelist::judge(copy, document, rules)
}

/// Two copies of the largest header there is, in bytes.
pub const HEAD_SIZE: usize = 2 * binary::LARGEST;

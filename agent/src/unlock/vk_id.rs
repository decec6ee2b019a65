// SPDX-License-Identifier: Apache-2.0

//! The name of a volume key: what the KBS keeps beside a secret, and what is measured.

use hmac::{Hmac, Mac};
use kbs_protocol::encoding::hex;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

/// HMAC-SHA-256 under the volume key over `cryptsetup:NAME:UUID`, in lower-case hex: the value that
/// systemd-cryptsetup measures as well, so that one reference value serves both.
///
/// It is no secret: it tells volume keys apart and tells nothing about them. Name and UUID are in it, so that one
/// volume cannot be shown under the name of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VkId(String);

impl VkId {
    /// The id of this key, under which the volume `name` with this LUKS UUID is encrypted.
    pub fn of(volume_key: &[u8], name: &str, uuid: &str) -> Self {
        // A MAC takes keys of any length; the error is for other constructions.
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(volume_key);
        let Ok(mut mac) = mac else {
            return Self(String::new());
        };
        mac.update(format!("cryptsetup:{name}:{uuid}").as_bytes());
        Self(hex::encode(mac.finalize().into_bytes()))
    }

    /// In hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is this one, in constant time.
    pub fn is(&self, expected: &str) -> bool {
        !self.0.is_empty() && self.0.as_bytes().ct_eq(expected.as_bytes()).into()
    }
}

// SPDX-License-Identifier: Apache-2.0

//! EFI_GUID (UEFI 2.10, appendix A) and the ones that Secure Boot uses.

use std::fmt;

/// A GUID as it lies in memory: the first three fields little endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid([u8; 16]);

impl Guid {
    /// From memory order.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// In memory order.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// From the five groups of the text form, each as a number.
    const fn new(a: u32, b: u16, c: u16, d: [u8; 8]) -> Self {
        let [a0, a1, a2, a3] = a.to_le_bytes();
        let [b0, b1] = b.to_le_bytes();
        let [c0, c1] = c.to_le_bytes();
        let [d0, d1, d2, d3, d4, d5, d6, d7] = d;
        Self([
            a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7,
        ])
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [
            a0,
            a1,
            a2,
            a3,
            b0,
            b1,
            c0,
            c1,
            d0,
            d1,
            d2,
            d3,
            d4,
            d5,
            d6,
            d7,
        ] = self.0;
        let a = u32::from_le_bytes([a0, a1, a2, a3]);
        let b = u16::from_le_bytes([b0, b1]);
        let c = u16::from_le_bytes([c0, c1]);
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d0:02x}{d1:02x}-")?;
        write!(f, "{d2:02x}{d3:02x}{d4:02x}{d5:02x}{d6:02x}{d7:02x}")
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// EFI_GLOBAL_VARIABLE: SecureBoot, PK, KEK.
pub const GLOBAL: Guid = Guid::new(
    0x8be4_df61,
    0x93ca,
    0x11d2,
    [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c],
);
/// EFI_IMAGE_SECURITY_DATABASE_GUID: db, dbx, dbt, dbr.
pub const IMAGE_SECURITY: Guid = Guid::new(
    0xd719_b2cb,
    0x3d3a,
    0x4596,
    [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f],
);
/// shim's own variables.
pub const SHIM_LOCK: Guid = Guid::new(
    0x605d_ab50,
    0xe046,
    0x4300,
    [0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23],
);
/// EFI_CERT_X509_GUID: entries are DER certificates.
pub const CERT_X509: Guid = Guid::new(
    0xa5c0_59a1,
    0x94e4,
    0x4aa7,
    [0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72],
);
/// EFI_CERT_SHA256_GUID: entries are Authenticode digests.
pub const CERT_SHA256: Guid = Guid::new(
    0xc1c4_1626,
    0x504c,
    0x4092,
    [0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28],
);

#[cfg(test)]
mod tests {
    use super::{CERT_SHA256, CERT_X509, GLOBAL, IMAGE_SECURITY, SHIM_LOCK};

    #[test]
    fn text_form_is_mixed_endian() {
        for (guid, text) in [
            (GLOBAL, "8be4df61-93ca-11d2-aa0d-00e098032b8c"),
            (IMAGE_SECURITY, "d719b2cb-3d3a-4596-a3bc-dad00e67656f"),
            (SHIM_LOCK, "605dab50-e046-4300-abb6-3dd810dd8b23"),
            (CERT_X509, "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"),
            (CERT_SHA256, "c1c41626-504c-4092-aca9-41f936934328"),
        ] {
            assert_eq!(guid.to_string(), text);
        }
        assert_eq!(GLOBAL.to_bytes()[..4], [0x61, 0xdf, 0xe4, 0x8b]);
    }
}

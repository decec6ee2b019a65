// SPDX-License-Identifier: Apache-2.0

//! The spellings of bytes that the protocol mixes (two base64 alphabets and hexadecimal), and how a stranger's
//! text is shown to a person.

/// A stranger's text for a console: one line, no escape sequences, at most `limit` characters.
pub fn printable(text: &str, limit: usize) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(limit)
        .collect()
}

/// RFC 4648 section 4: standard alphabet, padded. Nonces, keys and quotes of the `tpm` evidence.
pub mod b64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    /// Bytes to text.
    pub fn encode(bytes: impl AsRef<[u8]>) -> String {
        STANDARD.encode(bytes)
    }

    /// Text to bytes; `None` for anything but the canonical spelling.
    pub fn decode(text: &str) -> Option<Vec<u8>> {
        STANDARD.decode(text).ok()
    }
}

/// RFC 4648 section 5: URL-safe alphabet, no padding. Everything JOSE.
pub mod b64u {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    /// Bytes to text.
    pub fn encode(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Text to bytes; `None` for anything but the canonical spelling.
    pub fn decode(text: &str) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(text).ok()
    }

    /// Exactly `N` bytes, as coordinates, IVs and tags are.
    pub fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
        decode(text)?.try_into().ok()
    }
}

/// RFC 4648 section 5 with padding: blobs of the Azure evidence.
pub mod b64u_padded {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE;

    /// Bytes to text.
    pub fn encode(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE.encode(bytes)
    }

    /// Text to bytes; `None` for anything but the canonical spelling.
    pub fn decode(text: &str) -> Option<Vec<u8>> {
        URL_SAFE.decode(text).ok()
    }
}

/// Lower-case hexadecimal. PCR values and claims.
pub mod hex {
    use std::fmt::Write as _;

    /// Bytes to text.
    pub fn encode(bytes: impl AsRef<[u8]>) -> String {
        bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Accepts either case, an even number of digits and nothing else.
    pub fn decode(text: &str) -> Option<Vec<u8>> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        pairs
            .iter()
            .map(|[high, low]| Some((nibble(*high)? << 4) | nibble(*low)?))
            .collect()
    }

    /// Whether a text is so many bytes in the one spelling in which digests are compared as text: lower case.
    pub fn is_lower(text: &str, bytes: usize) -> bool {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        rest.is_empty() && pairs.len() == bytes && text.bytes().all(is_lower_digit)
    }

    /// As [`is_lower`], of a SHA-256 digest.
    pub fn is_sha256(text: &str) -> bool {
        is_lower(text, 32)
    }

    /// Of the digits 0 to f, in lower case.
    pub fn is_lower_digit(digit: u8) -> bool {
        matches!(digit, b'0'..=b'9' | b'a'..=b'f')
    }

    fn nibble(digit: u8) -> Option<u8> {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn hex_round_trip_and_refusals() {
        assert_eq!(hex::encode([0x00, 0x0f, 0xa5]), "000fa5");
        assert_eq!(hex::decode("000fA5").unwrap(), [0x00, 0x0f, 0xa5]);
        for bad in ["0", "0g", "é0", "+1", " 1"] {
            assert!(hex::decode(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_digest_has_one_spelling() {
        assert!(hex::is_lower("0f", 1) && hex::is_lower("", 0));
        let long = "a".repeat(64);
        assert!(hex::is_sha256(&long) && !hex::is_sha256(&long[2..]));
        for (bad, bytes) in [
            ("0f", 2),
            ("0f0f", 1),
            ("0f0", 1),
            ("0F", 1),
            ("0g", 1),
            ("é", 1),
            ("/:", 1),
        ] {
            assert!(!hex::is_lower(bad, bytes), "{bad}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Compact JWS (RFC 7515 section 7.1), the envelope of both the attestation token and the
//! administrator's token. Which signature is acceptable is decided by the callers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Signs `base64url(header).base64url(claims)`.
pub(crate) fn encode(
    header: &Value,
    claims: &Value,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(input.as_bytes()));
    format!("{input}.{signature}")
}

/// A token taken apart. Nothing about it is verified yet.
pub(crate) struct Unverified<'a> {
    pub(crate) header: Value,
    pub(crate) claims: Value,
    pub(crate) signing_input: &'a [u8],
    pub(crate) signature: Vec<u8>,
}

/// Splits a token; `None` when it is not three base64url parts with JSON objects in the first two.
pub(crate) fn decode(token: &str) -> Option<Unverified<'_>> {
    let (signing_input, signature) = token.rsplit_once('.')?;
    let (header, claims) = signing_input.split_once('.')?;
    let json = |part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice(&bytes).ok().filter(Value::is_object)
    };
    Some(Unverified {
        header: json(header)?,
        claims: json(claims)?,
        signing_input: signing_input.as_bytes(),
        signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
    })
}

impl Unverified<'_> {
    /// A string member of the header.
    pub(crate) fn header_text(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    /// Whether `exp` is present and not past, with the minute of leeway that Trustee grants.
    pub(crate) fn is_current(&self, now: u64) -> bool {
        let expires = self.claims.get("exp").and_then(Value::as_u64);
        expires.is_some_and(|expires| expires.saturating_add(LEEWAY_SECONDS) > now)
    }
}

const LEEWAY_SECONDS: u64 = 60;

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use serde_json::json;

    #[test]
    fn round_trip_and_expiry() {
        let token = encode(&json!({"alg": "none"}), &json!({"exp": 1000}), |_| {
            vec![1, 2]
        });
        assert_eq!(token, "eyJhbGciOiJub25lIn0.eyJleHAiOjEwMDB9.AQI");
        let parts = decode(&token).unwrap();
        assert_eq!(parts.signing_input, b"eyJhbGciOiJub25lIn0.eyJleHAiOjEwMDB9");
        assert_eq!(
            (parts.header_text("alg"), &parts.signature[..]),
            (Some("none"), &[1, 2][..])
        );
        assert!(parts.is_current(1059));
        assert!(!parts.is_current(1060));
    }

    #[test]
    fn tokens_without_a_usable_expiry_are_past() {
        for claims in [json!({}), json!({"exp": "9999999999"}), json!({"exp": -1})] {
            let token = encode(&json!({}), &claims, |_| Vec::new());
            assert!(!decode(&token).unwrap().is_current(0), "{claims}");
        }
    }

    #[test]
    fn garbage_is_none() {
        for bad in [
            "",
            ".",
            "..",
            "a.b.c",
            "e30.e30",
            "e30.e30.=",
            "W10.e30.AA",
            "e30.e30.e30.e30",
        ] {
            assert!(decode(bad).is_none(), "{bad}");
        }
    }
}

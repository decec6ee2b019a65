// SPDX-License-Identifier: Apache-2.0

//! The key of one handshake: made by the attester, bound by the evidence, used once by the server.

use crate::encoding::b64u;
use crate::error::Error;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use serde::{Deserialize, Serialize};

/// `tee-pubkey` as it stands on the wire (a JWK with exactly these members).
///
/// The server rebuilds this object from its own struct before it hashes it, so a further member (`kid`,
/// `use`, …) would change the hash on one side only. Hence the closed set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kty")]
pub enum TeePubKey {
    /// Elliptic curve, RFC 7518 section 6.2.
    #[serde(rename = "EC")]
    Ec {
        /// `P-256` or `P-521`.
        crv: String,
        /// `ECDH-ES+A256KW`.
        alg: String,
        /// Coordinate: big endian, of the field's full length, base64url.
        x: String,
        /// Coordinate, likewise.
        y: String,
    },
    /// RSA, RFC 7518 section 6.3.
    #[serde(rename = "RSA")]
    Rsa {
        /// `RSA-OAEP-256`.
        alg: String,
        /// Modulus: big endian, minimal, base64url.
        n: String,
        /// Public exponent, likewise.
        e: String,
    },
}

/// The attester's private key: EC P-256, fresh for each handshake, never stored. Wiped when dropped.
pub struct TeeKey(p256::SecretKey);

impl TeeKey {
    /// Makes a key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`Error::Random`] when the system has none.
    pub fn generate() -> Result<Self, Error> {
        let mut scalar = zeroize::Zeroizing::new([0_u8; 32]);
        // A random 256-bit number is no valid scalar with probability 2^-32: draw again.
        loop {
            rand_core::RngCore::try_fill_bytes(&mut rand_core::OsRng, scalar.as_mut())
                .map_err(|_| Error::Random)?;
            if let Ok(key) = p256::SecretKey::from_slice(scalar.as_ref()) {
                return Ok(Self(key));
            }
        }
    }

    /// The key with this private scalar (32 bytes, big endian). For test vectors and recordings only: a
    /// handshake always uses [`TeeKey::generate`].
    ///
    /// # Errors
    /// [`Error::Malformed`] when the scalar is not in the group's range.
    pub fn from_scalar(scalar: &[u8; 32]) -> Result<Self, Error> {
        p256::SecretKey::from_slice(scalar)
            .map(Self)
            .map_err(|_| Error::malformed("the private key", "the scalar is outside the group"))
    }

    /// The public half, as it goes into the runtime data.
    pub fn public(&self) -> TeePubKey {
        let [x, y] = coordinates(&self.0.public_key());
        TeePubKey::Ec {
            crv: "P-256".to_owned(),
            alg: ECDH_ES_A256KW.to_owned(),
            x: b64u::encode(x),
            y: b64u::encode(y),
        }
    }

    /// Z of RFC 7518 section 4.6: the x coordinate of the shared point.
    pub(crate) fn agree(&self, other: &p256::PublicKey) -> p256::ecdh::SharedSecret {
        p256::ecdh::diffie_hellman(self.0.to_nonzero_scalar(), other.as_affine())
    }
}

/// The affine coordinates of a P-256 point that is not the identity: a public key never is.
pub(crate) fn coordinates(key: &p256::PublicKey) -> [[u8; 32]; 2] {
    let point = key.to_encoded_point(false);
    [point.x(), point.y()].map(|c| c.copied().unwrap_or_default().into())
}

/// Reads a P-256 point from two JWK coordinates of full length; the point is checked to be on the curve.
pub(crate) fn p256_point(x: &str, y: &str) -> Option<p256::PublicKey> {
    let x: [u8; 32] = b64u::decode_array(x)?;
    let y: [u8; 32] = b64u::decode_array(y)?;
    p256::PublicKey::from_sec1_bytes(&[&[SEC1_UNCOMPRESSED][..], &x, &y].concat()).ok()
}

/// First byte of a point written as both coordinates (SEC 1 section 2.3.3).
pub(crate) const SEC1_UNCOMPRESSED: u8 = 4;
/// Key agreement with key wrapping: RFC 7518 section 4.6.
pub(crate) const ECDH_ES_A256KW: &str = "ECDH-ES+A256KW";

#[cfg(test)]
mod tests {
    use super::{TeeKey, TeePubKey};

    #[test]
    fn keys_are_fresh_and_of_full_length() {
        let keys = [
            TeeKey::generate().unwrap().public(),
            TeeKey::generate().unwrap().public(),
        ];
        assert_ne!(keys[0], keys[1]);
        for key in keys {
            let TeePubKey::Ec { x, y, .. } = key else {
                panic!("not EC")
            };
            assert_eq!((x.len(), y.len()), (43, 43));
        }
    }

    #[test]
    fn wire_form() {
        let rsa: TeePubKey = serde_json::from_str(
            r#"{"kty":"RSA","alg":"RSA-OAEP-256","n":"AQ","e":"AQAB","kid":"x"}"#,
        )
        .unwrap();
        assert_eq!(
            serde_json::to_string(&rsa).unwrap(),
            r#"{"kty":"RSA","alg":"RSA-OAEP-256","n":"AQ","e":"AQAB"}"#,
            "members outside the closed set do not survive"
        );
    }

    #[test]
    fn scalars_outside_the_group_are_refused() {
        assert!(TeeKey::from_scalar(&[0; 32]).is_err());
        assert!(TeeKey::from_scalar(&[0xff; 32]).is_err());
    }
}

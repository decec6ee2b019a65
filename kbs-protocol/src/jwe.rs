// SPDX-License-Identifier: Apache-2.0

//! A released resource: a JWE in flattened JSON (RFC 7516 section 7.2.2), encrypted to the key of this
//! handshake.
//!
//! `KEK = ConcatKDF(ECDH(ephemeral, recipient))` (RFC 7518 section 4.6), `CEK = AES-KW⁻¹(KEK,
//! encrypted_key)` (RFC 3394), `plaintext = AES-256-GCM⁻¹(CEK, iv, ciphertext, tag, AAD = protected)`.
//! There is an allow list and no negotiation. The text of `protected` is authenticated as it came: parsing
//! and writing it again would fail on any other member order than our own.

use crate::encoding::b64u;
use crate::error::Error;
use crate::message::{ATTESTATION_LIMIT, parse};
use crate::secret::Secret;
use crate::tee_key::{ECDH_ES_A256KW, TeeKey, p256_point};
use aes_gcm::aead::AeadInPlace as _;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

#[cfg(feature = "server")]
mod seal;

/// The five members of the flattened form. Servers in the supported range send no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceJwe {
    /// base64url of the protected header's JSON; as text, the associated data.
    pub protected: String,
    /// base64url of the wrapped content-encryption key.
    pub encrypted_key: String,
    /// base64url of 12 bytes.
    pub iv: String,
    /// base64url.
    pub ciphertext: String,
    /// base64url of 16 bytes.
    pub tag: String,
}

impl ResourceJwe {
    /// Reads the answer to a resource request.
    ///
    /// # Errors
    /// Too large, not JSON, or a member missing.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        parse(JWE, bytes, ATTESTATION_LIMIT)
    }

    /// Decrypts with the key of the handshake.
    ///
    /// # Errors
    /// [`Error::Algorithm`] for anything but `ECDH-ES+A256KW` on P-256 with `A256GCM`,
    /// [`Error::Malformed`] for wrong lengths or encodings, [`Error::NotAuthentic`] when the message is not
    /// for this key or was altered.
    pub fn open(&self, key: &TeeKey) -> Result<Secret, Error> {
        let header: Header = parse(HEADER, &decode("protected", &self.protected)?, HEADER_LIMIT)?;
        let kek = header.key_encryption_key(key)?;

        let wrapped = decode("encrypted_key", &self.encrypted_key)?;
        let mut cek = Zeroizing::new([0_u8; 32]);
        if wrapped.len() != WRAPPED_KEY_LENGTH {
            return Err(Error::malformed(JWE, "encrypted_key is not 40 bytes long"));
        }
        aes_kw::KekAes256::from(*kek)
            .unwrap(&wrapped, cek.as_mut())
            .map_err(|_| Error::NotAuthentic {
                what: "encrypted_key",
            })?;

        let iv: [u8; 12] = exact("iv", &self.iv)?;
        let tag: [u8; 16] = exact("tag", &self.tag)?;
        let mut text = Zeroizing::new(decode("ciphertext", &self.ciphertext)?);
        Aes256Gcm::new(cek.as_ref().into())
            .decrypt_in_place_detached(
                &iv.into(),
                self.protected.as_bytes(),
                &mut text,
                &tag.into(),
            )
            .map_err(|_| Error::NotAuthentic { what: "ciphertext" })?;
        Ok(Secret::from(text))
    }
}

/// The protected header as we accept it. Unknown members are harmless, as RFC 7516 section 4 says, except
/// those that would change the meaning of the message.
#[derive(Deserialize)]
struct Header {
    alg: String,
    enc: String,
    epk: Option<EphemeralKey>,
    crit: Option<serde_json::Value>,
    zip: Option<serde_json::Value>,
    apu: Option<serde_json::Value>,
    apv: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct EphemeralKey {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

impl Header {
    fn key_encryption_key(&self, key: &TeeKey) -> Result<Zeroizing<[u8; 32]>, Error> {
        allow(&self.alg, ECDH_ES_A256KW)?;
        allow(&self.enc, A256GCM)?;
        for (name, member) in [
            ("crit", &self.crit),
            ("zip", &self.zip),
            ("apu", &self.apu),
            ("apv", &self.apv),
        ] {
            if member.is_some() {
                return Err(Error::malformed(
                    HEADER,
                    format!("it must not contain {name}"),
                ));
            }
        }
        let epk = self
            .epk
            .as_ref()
            .ok_or_else(|| Error::malformed(HEADER, "epk is missing"))?;
        allow(&epk.kty, "EC")?;
        allow(&epk.crv, "P-256")?;
        let ephemeral = p256_point(&epk.x, &epk.y)
            .ok_or_else(|| Error::malformed(HEADER, "epk is not a point on P-256"))?;
        derive_kek(key.agree(&ephemeral).raw_secret_bytes())
    }
}

/// Concat KDF (RFC 7518 section 4.6.2) for `ECDH-ES+A256KW`: SHA-256 over counter, Z, the algorithm's
/// length and name, empty party information, and the key length in bits.
fn derive_kek(z: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
    let other_info = [
        b"\x00\x00\x00\x0e".as_slice(),
        ECDH_ES_A256KW.as_bytes(),
        &[0; 8],
        &256_u32.to_be_bytes(),
    ]
    .concat();
    let mut kek = Zeroizing::new([0_u8; 32]);
    concat_kdf::derive_key_into::<Sha256>(z, &other_info, kek.as_mut())
        .map_err(|_| Error::malformed(JWE, "no key can be derived"))?;
    Ok(kek)
}

fn allow(name: &str, allowed: &'static str) -> Result<(), Error> {
    if name != allowed {
        return Err(Error::Algorithm {
            what: HEADER,
            name: name.to_owned(),
            allowed,
        });
    }
    Ok(())
}

fn decode(member: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    b64u::decode(text)
        .ok_or_else(|| Error::malformed(JWE, format!("{member} is not base64url without padding")))
}

fn exact<const N: usize>(member: &'static str, text: &str) -> Result<[u8; N], Error> {
    b64u::decode_array(text)
        .ok_or_else(|| Error::malformed(JWE, format!("{member} is not {N} bytes in base64url")))
}

const JWE: &str = "the released resource (JWE)";
const HEADER: &str = "the protected header of the released resource";
const A256GCM: &str = "A256GCM";
/// 32 bytes of key and 8 of integrity check, RFC 3394.
const WRAPPED_KEY_LENGTH: usize = 40;
/// An honest header is under 300 bytes, even with a P-521 point.
const HEADER_LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::ResourceJwe;
    use crate::encoding::b64u;
    use crate::error::Error;
    use crate::tee_key::TeeKey;

    fn key() -> TeeKey {
        let scalar = b64u::decode_array("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X5fCE9-E9LI").unwrap();
        TeeKey::from_scalar(&scalar).unwrap()
    }

    fn vector() -> ResourceJwe {
        ResourceJwe {
            protected: "eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngiOiJnSTBHQUlMQmR1N1Q1M2FrckZtTXlHY3NGM241ZE83TW13TkJIS1c1U1YwIiwieSI6IlNMV194U2ZmemxQV3JIRVZJMzBESE1fNGVnVnd0M05RcWVVRDduTUZwcHMifX0".to_owned(),
            encrypted_key: "xgR-gpARRZKt1vAIxZtq7AkVleBCpZfscu3jdYeOSgqP7RaWGPg9uA".to_owned(),
            iv: "AAECAwQFBgcICQoL".to_owned(),
            ciphertext: "PCC-fqmJrTm3Y_nk1YxaEA".to_owned(),
            tag: "yVMOsj9z5WHXGZlPRlF6YQ".to_owned(),
        }
    }

    fn refusal(jwe: &ResourceJwe) -> Error {
        jwe.open(&key()).err().expect("a wrong message opened")
    }

    #[test]
    fn published_vector_opens() {
        assert_eq!(
            vector().open(&key()).unwrap().expose(),
            br#"{"hello":"node"}"#
        );
    }

    #[test]
    fn another_key_does_not_open_it() {
        let other = TeeKey::generate().unwrap();
        assert!(matches!(
            vector().open(&other).err(),
            Some(Error::NotAuthentic {
                what: "encrypted_key"
            })
        ));
    }

    #[test]
    fn every_changed_character_is_refused() {
        let members: [fn(&mut ResourceJwe) -> &mut String; 5] = [
            |j| &mut j.protected,
            |j| &mut j.encrypted_key,
            |j| &mut j.iv,
            |j| &mut j.ciphertext,
            |j| &mut j.tag,
        ];
        for member in members {
            for at in 0..member(&mut vector()).len() {
                let mut jwe = vector();
                let text = member(&mut jwe);
                let other = if &text[at..=at] == "A" { "B" } else { "A" };
                text.replace_range(at..=at, other);
                refusal(&jwe);
            }
        }
    }

    #[test]
    fn headers_outside_the_allow_list_are_refused() {
        let original = String::from_utf8(b64u::decode(&vector().protected).unwrap()).unwrap();
        for (from, to, reason) in [
            ("ECDH-ES+A256KW", "ECDH-ES", "\"ECDH-ES\""),
            ("ECDH-ES+A256KW", "A256GCM", "only ECDH-ES+A256KW"),
            ("ECDH-ES+A256KW", "RSA1_5", "RSA1_5"),
            (
                "\"enc\":\"A256GCM\"",
                "\"enc\":\"ECDH-ES+A256KW\"",
                "only A256GCM",
            ),
            (
                "\"enc\":\"A256GCM\"",
                "\"enc\":\"A256GCM\",\"zip\":\"DEF\"",
                "zip",
            ),
            (
                "\"enc\":\"A256GCM\"",
                "\"enc\":\"A256GCM\",\"crit\":[\"x\"]",
                "crit",
            ),
            (
                "\"enc\":\"A256GCM\"",
                "\"enc\":\"A256GCM\",\"apu\":\"QQ\"",
                "apu",
            ),
            (
                "\"enc\":\"A256GCM\"",
                "\"enc\":\"A256GCM\",\"apv\":\"QQ\"",
                "apv",
            ),
            (
                "\"enc\":\"A256GCM\"",
                "\"enc\":\"A256GCM\",\"enc\":\"A256GCM\"",
                "wrong type",
            ),
            ("P-256", "P-521", "P-521"),
            ("\"EC\"", "\"OKP\"", "OKP"),
            ("gI0G", "gI0H", "not a point"),
            ("\"epk\"", "\"kpe\"", "epk is missing"),
            ("{", "", "malformed"),
        ] {
            let header = original.replacen(from, to, 1);
            assert_ne!(header, original);
            let jwe = ResourceJwe {
                protected: b64u::encode(header),
                ..vector()
            };
            let error = refusal(&jwe).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn wrong_lengths_and_encodings_are_refused() {
        let with = |change: fn(&mut ResourceJwe)| {
            let mut jwe = vector();
            change(&mut jwe);
            refusal(&jwe).to_string()
        };
        assert!(with(|j| j.encrypted_key.truncate(40)).contains("40 bytes"));
        assert!(with(|j| j.iv.truncate(12)).contains("iv is not 12 bytes"));
        assert!(with(|j| j.tag.truncate(20)).contains("tag is not 16 bytes"));
        assert!(with(|j| j.tag.push_str("==")).contains("tag"));
        assert!(with(|j| j.ciphertext.push('+')).contains("base64url"));
        assert!(with(|j| j.ciphertext.clear()).contains("not authentic"));
        assert!(with(|j| j.protected = b64u::encode(vec![b' '; 5000])).contains("at most"));
    }
}

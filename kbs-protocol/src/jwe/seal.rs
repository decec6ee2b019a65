// SPDX-License-Identifier: Apache-2.0

//! The server's half of the resource JWE: encrypting to whatever key the attester bound.
//!
//! Member order matters here. Deployed clients parse the protected header, write it again and use *that* as
//! associated data, so the text must be what they would write: `alg`, `enc`, then the rest in byte order,
//! no spaces.

use super::{A256GCM, ResourceJwe, derive_kek};
use crate::encoding::b64u;
use crate::error::Error;
use crate::tee_key::{ECDH_ES_A256KW, SEC1_UNCOMPRESSED, TeePubKey, coordinates, p256_point};
use aes_gcm::aead::AeadInPlace as _;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use p521::elliptic_curve::sec1::ToEncodedPoint as _;
use rand_core::{OsRng, RngCore as _};
use rsa::traits::PublicKeyParts as _;
use zeroize::Zeroizing;

impl ResourceJwe {
    /// Encrypts to the key in the runtime data: EC P-256, EC P-521 or RSA (OAEP with SHA-256).
    ///
    /// # Errors
    /// [`Error::Algorithm`] or [`Error::Malformed`] when the key is of another kind or not valid,
    /// [`Error::Random`] when the system has no random numbers.
    pub fn seal(recipient: &TeePubKey, plaintext: &[u8]) -> Result<Self, Error> {
        Self::seal_spelled(recipient, plaintext, |header| header)
    }

    /// As [`ResourceJwe::seal`], with the protected header's JSON written as `spell` likes before it is
    /// authenticated. For tests of clients that must take the header as it comes.
    ///
    /// # Errors
    /// Those of [`ResourceJwe::seal`].
    pub fn seal_spelled(
        recipient: &TeePubKey,
        plaintext: &[u8],
        spell: impl FnOnce(String) -> String,
    ) -> Result<Self, Error> {
        let mut cek = Zeroizing::new([0_u8; 32]);
        let mut iv = [0_u8; 12];
        OsRng
            .try_fill_bytes(cek.as_mut())
            .map_err(|_| Error::Random)?;
        OsRng.try_fill_bytes(&mut iv).map_err(|_| Error::Random)?;

        let (header, encrypted_key) = wrap(recipient, &cek)?;
        let protected = b64u::encode(spell(header));
        let mut text = plaintext.to_vec();
        let tag = Aes256Gcm::new(cek.as_ref().into())
            .encrypt_in_place_detached(&iv.into(), protected.as_bytes(), &mut text)
            .map_err(|_| Error::malformed(KEY, "the resource is too long to encrypt"))?;
        Ok(Self {
            protected,
            encrypted_key: b64u::encode(encrypted_key),
            iv: b64u::encode(iv),
            ciphertext: b64u::encode(text),
            tag: b64u::encode(tag),
        })
    }
}

/// The protected header's JSON and the wrapped key.
fn wrap(recipient: &TeePubKey, cek: &[u8; 32]) -> Result<(String, Vec<u8>), Error> {
    match recipient {
        TeePubKey::Ec { crv, alg, x, y } => {
            allow(alg, ECDH_ES_A256KW)?;
            let (z, [epk_x, epk_y]) = match crv.as_str() {
                "P-256" => agree_p256(x, y)?,
                "P-521" => agree_p521(x, y)?,
                other => return Err(unsupported(other, "P-256 or P-521")),
            };
            let header = format!(
                r#"{{"alg":"{ECDH_ES_A256KW}","enc":"{A256GCM}","epk":{{"crv":"{crv}","kty":"EC","x":"{epk_x}","y":"{epk_y}"}}}}"#
            );
            let mut wrapped = vec![0; super::WRAPPED_KEY_LENGTH];
            aes_kw::KekAes256::from(*derive_kek(&z)?)
                .wrap(cek, &mut wrapped)
                .map_err(|_| Error::malformed(KEY, "the key cannot be wrapped"))?;
            Ok((header, wrapped))
        }
        TeePubKey::Rsa { alg, n, e } => {
            allow(alg, RSA_OAEP_256)?;
            let number = |text| b64u::decode(text).map(|bytes| rsa::BigUint::from_bytes_be(&bytes));
            let key = number(n)
                .zip(number(e))
                .and_then(|(n, e)| rsa::RsaPublicKey::new(n, e).ok())
                .filter(|key| key.n().bits() >= MINIMUM_RSA_BITS)
                .ok_or_else(|| {
                    Error::malformed(KEY, "it is not an RSA key of 2048 to 4096 bits")
                })?;
            let wrapped = key
                .encrypt(&mut OsRng, rsa::Oaep::new::<sha2::Sha256>(), cek)
                .map_err(|_| Error::malformed(KEY, "the key cannot be wrapped"))?;
            Ok((
                format!(r#"{{"alg":"{RSA_OAEP_256}","enc":"{A256GCM}"}}"#),
                wrapped,
            ))
        }
    }
}

/// Z and the ephemeral key's coordinates in base64url.
type Agreement = (Zeroizing<Vec<u8>>, [String; 2]);

fn agree_p256(x: &str, y: &str) -> Result<Agreement, Error> {
    let recipient = p256_point(x, y).ok_or_else(|| not_on_curve("P-256"))?;
    let ephemeral = p256::ecdh::EphemeralSecret::random(&mut OsRng);
    let z = ephemeral
        .diffie_hellman(&recipient)
        .raw_secret_bytes()
        .to_vec();
    Ok((
        Zeroizing::new(z),
        coordinates(&ephemeral.public_key()).map(b64u::encode),
    ))
}

fn agree_p521(x: &str, y: &str) -> Result<Agreement, Error> {
    let read = |text| b64u::decode_array::<66>(text).ok_or_else(|| not_on_curve("P-521"));
    let point = [&[SEC1_UNCOMPRESSED][..], &read(x)?, &read(y)?].concat();
    let recipient = p521::PublicKey::from_sec1_bytes(&point).map_err(|_| not_on_curve("P-521"))?;
    let ephemeral = p521::ecdh::EphemeralSecret::random(&mut OsRng);
    let z = ephemeral
        .diffie_hellman(&recipient)
        .raw_secret_bytes()
        .to_vec();
    let epk = ephemeral.public_key().to_encoded_point(false);
    let coordinates = [epk.x(), epk.y()].map(|c| c.map(b64u::encode).unwrap_or_default());
    Ok((Zeroizing::new(z), coordinates))
}

fn allow(name: &str, allowed: &'static str) -> Result<(), Error> {
    if name == allowed {
        Ok(())
    } else {
        Err(unsupported(name, allowed))
    }
}

fn unsupported(name: &str, allowed: &'static str) -> Error {
    Error::Algorithm {
        what: KEY,
        name: name.to_owned(),
        allowed,
    }
}

fn not_on_curve(curve: &str) -> Error {
    Error::malformed(KEY, format!("its coordinates are not a point on {curve}"))
}

const KEY: &str = "the attester's key (tee-pubkey)";
const RSA_OAEP_256: &str = "RSA-OAEP-256";
const MINIMUM_RSA_BITS: usize = 2048;

#[cfg(test)]
mod tests {
    use super::ResourceJwe;
    use crate::encoding::b64u;
    use crate::tee_key::{TeeKey, TeePubKey};
    use rsa::traits::PublicKeyParts as _;

    fn header(jwe: &ResourceJwe) -> String {
        String::from_utf8(b64u::decode(&jwe.protected).unwrap()).unwrap()
    }

    #[test]
    fn p256_round_trip_in_the_order_that_clients_write() {
        let key = TeeKey::generate().unwrap();
        let jwe = ResourceJwe::seal(&key.public(), b"resource").unwrap();
        assert_eq!(jwe.open(&key).unwrap().expose(), b"resource");
        let header = header(&jwe);
        assert!(
            header.starts_with(
                r#"{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":""#
            ),
            "{header}"
        );
        assert!(!header.contains(' '));
    }

    #[test]
    fn p521_header_has_66_byte_coordinates() {
        let secret = p521::SecretKey::random(&mut rand_core::OsRng);
        let point = p521::elliptic_curve::sec1::ToEncodedPoint::to_encoded_point(
            &secret.public_key(),
            false,
        );
        let public = TeePubKey::Ec {
            crv: "P-521".to_owned(),
            alg: "ECDH-ES+A256KW".to_owned(),
            x: b64u::encode(point.x().unwrap()),
            y: b64u::encode(point.y().unwrap()),
        };
        let jwe = ResourceJwe::seal(&public, b"resource").unwrap();
        let header: serde_json::Value = serde_json::from_str(&header(&jwe)).unwrap();
        assert_eq!(header["epk"]["x"].as_str().unwrap().len(), 88);

        // Unwrap as a client with a P-521 key would.
        let decode = |v: &serde_json::Value| b64u::decode_array::<66>(v.as_str().unwrap()).unwrap();
        let point = [
            &[4][..],
            &decode(&header["epk"]["x"]),
            &decode(&header["epk"]["y"]),
        ]
        .concat();
        let epk = p521::PublicKey::from_sec1_bytes(&point).unwrap();
        let z = p521::ecdh::diffie_hellman(secret.to_nonzero_scalar(), epk.as_affine());
        let kek = super::derive_kek(z.raw_secret_bytes()).unwrap();
        let mut cek = [0; 32];
        aes_kw::KekAes256::from(*kek)
            .unwrap(&b64u::decode(&jwe.encrypted_key).unwrap(), &mut cek)
            .unwrap();
    }

    #[test]
    fn rsa_wraps_with_oaep_sha256() {
        let secret = rsa::RsaPrivateKey::new(&mut rand_core::OsRng, 2048).unwrap();
        let public = TeePubKey::Rsa {
            alg: "RSA-OAEP-256".to_owned(),
            n: b64u::encode(secret.n().to_bytes_be()),
            e: b64u::encode(secret.e().to_bytes_be()),
        };
        let jwe = ResourceJwe::seal(&public, b"resource").unwrap();
        assert_eq!(header(&jwe), r#"{"alg":"RSA-OAEP-256","enc":"A256GCM"}"#);
        let wrapped = b64u::decode(&jwe.encrypted_key).unwrap();
        let cek = secret
            .decrypt(rsa::Oaep::new::<sha2::Sha256>(), &wrapped)
            .unwrap();
        assert_eq!(cek.len(), 32);
    }

    #[test]
    fn keys_that_are_not_accepted() {
        let ec = |crv: &str, alg: &str, x: &str| TeePubKey::Ec {
            crv: crv.to_owned(),
            alg: alg.to_owned(),
            x: x.to_owned(),
            y: "gvgKHDNAa29sBJFTR88IpIeMvFQRUFiM6pKBLI_Rfdc".to_owned(),
        };
        let x = "PW1QH4GMoB6UFY3hnkuvHiiyHV_3bFb9BAtO1rAeSV0";
        let kw = "ECDH-ES+A256KW";
        assert!(ResourceJwe::seal(&ec("P-256", kw, x), b"").is_ok());
        let rsa = |alg: &str, n: &str| TeePubKey::Rsa {
            alg: alg.to_owned(),
            n: n.to_owned(),
            e: "AQAB".to_owned(),
        };
        for (key, reason) in [
            (ec("P-256", "ECDH-ES", x), "ECDH-ES"),
            (ec("P-384", kw, x), "P-384"),
            (ec("P-256", kw, &x[1..]), "not a point"),
            (
                ec("P-256", kw, "gvgKHDNAa29sBJFTR88IpIeMvFQRUFiM6pKBLI_Rfdc"),
                "not a point",
            ),
            (ec("P-521", kw, x), "not a point on P-521"),
            (rsa("RSA1_5", "AQAB"), "RSA1_5"),
            (rsa("RSA-OAEP-256", &"x".repeat(171)), "2048 to 4096"),
            // 1024 bits, all of them set.
            (
                rsa("RSA-OAEP-256", &format!("{}8", "_".repeat(170))),
                "2048 to 4096",
            ),
            (rsa("RSA-OAEP-256", "+"), "2048 to 4096"),
        ] {
            let error = ResourceJwe::seal(&key, b"").unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}

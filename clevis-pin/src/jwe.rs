// SPDX-License-Identifier: Apache-2.0

//! The token itself: a compact JWE with direct encryption and AES-256-GCM (RFC 7516; RFC 7518 sections 4.5
//! and 5.3).
//!
//! ```text
//! token = b64u(header) "." "" "." b64u(iv, 12) "." b64u(ciphertext) "." b64u(tag, 16)
//! AAD   = the first segment, exactly as it was received
//! ```
//!
//! base64url is read without padding, white space or spare bits, so that a token has one spelling.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInPlace, KeyInit};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand_core::{OsRng, RngCore};
use zeroize::Zeroizing;

use crate::error::{Fault, Subject};
use crate::header::Header;
use crate::secret::{Cek, Plaintext};

/// A token that was read and not yet opened.
pub struct CompactJwe<'a> {
    parts: Parts<'a>,
    header: Header,
}

/// The segments of a token of direct encryption, whoever it is for.
pub(crate) struct Parts<'a> {
    protected: &'a [u8],
    iv: [u8; IV_LENGTH],
    ciphertext: Vec<u8>,
    tag: [u8; TAG_LENGTH],
}

impl<'a> CompactJwe<'a> {
    /// Reads a token. White space after it is ignored, as `jose` and `clevis decrypt` do.
    ///
    /// # Errors
    ///
    /// [`Fault::TooLarge`] above [`MAX_TOKEN`] bytes, [`Fault::TokenMalformed`], or what [`Header::parse`]
    /// refuses.
    pub fn parse(token: &'a [u8]) -> Result<Self, Fault> {
        let segments = segments(token)?;
        let [protected, ..] = segments;
        let header = Header::parse(&segment("header", protected)?)?;
        let parts = Parts::parse(segments)?;
        Ok(Self { parts, header })
    }

    /// What the token says. Not authenticated before [`CompactJwe::open`].
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Plaintext = AES-256-GCM-open(key = CEK, iv, AAD = protected segment, ciphertext, tag), RFC 7516
    /// section 5.2.
    ///
    /// # Errors
    ///
    /// [`Fault::NotAuthentic`]: another key, or a changed token.
    pub fn open(self, cek: &Cek) -> Result<Plaintext, Fault> {
        self.parts.open(cek)
    }
}

/// The five segments of a compact JWE.
pub(crate) fn segments(token: &[u8]) -> Result<[&[u8]; 5], Fault> {
    if token.len() > MAX_TOKEN {
        return Err(too_large(Subject::Token, token.len(), MAX_TOKEN));
    }
    let mut segments = token.trim_ascii_end().split(|&byte| byte == b'.');
    let five = [(); 5].map(|()| segments.next());
    match (five, segments.next()) {
        (
            [
                Some(protected),
                Some(key),
                Some(iv),
                Some(ciphertext),
                Some(tag),
            ],
            None,
        ) => Ok([protected, key, iv, ciphertext, tag]),
        _ => Err(Fault::TokenMalformed(
            "expected five segments between four dots".to_owned(),
        )),
    }
}

impl<'a> Parts<'a> {
    pub(crate) fn parse(
        [protected, key, iv, ciphertext, tag]: [&'a [u8]; 5],
    ) -> Result<Self, Fault> {
        if !key.is_empty() {
            return Err(Fault::TokenMalformed(
                "the encrypted key is not empty, as direct encryption has it".to_owned(),
            ));
        }
        let ciphertext = segment("ciphertext", ciphertext)?;
        if ciphertext.is_empty() {
            return Err(Fault::TokenMalformed("the ciphertext is empty".to_owned()));
        }
        Ok(Self {
            protected,
            iv: fixed_segment("initialisation vector", iv)?,
            ciphertext,
            tag: fixed_segment("tag", tag)?,
        })
    }

    pub(crate) fn open(self, cek: &Cek) -> Result<Plaintext, Fault> {
        let mut bytes = Zeroizing::new(self.ciphertext);
        Aes256Gcm::new(cek.expose().into())
            .decrypt_in_place_detached(
                (&self.iv).into(),
                self.protected,
                &mut bytes,
                (&self.tag).into(),
            )
            .map_err(|_| Fault::NotAuthentic)?;
        Ok(Plaintext::new(bytes))
    }
}

/// Makes a token with a fresh random initialisation vector (RFC 7516 section 5.1).
///
/// # Errors
///
/// [`Fault::TooLarge`], [`Fault::NoPlaintext`], or [`Fault::Random`].
pub fn seal(header: &Header, plaintext: &[u8], cek: &Cek) -> Result<String, Fault> {
    check_plaintext_length(plaintext)?;
    let protected = encode_b64u(header.to_json()?.as_bytes());
    let mut iv = [0; IV_LENGTH];
    OsRng
        .try_fill_bytes(&mut iv)
        .map_err(|error| Fault::Random(error.to_string()))?;
    let mut bytes = Zeroizing::new(plaintext.to_vec());
    let tag = Aes256Gcm::new(cek.expose().into())
        .encrypt_in_place_detached((&iv).into(), protected.as_bytes(), &mut bytes)
        .map_err(|_| too_large(Subject::Plaintext, plaintext.len(), MAX_PLAINTEXT))?;
    Ok(format!(
        "{protected}..{}.{}.{}",
        encode_b64u(&iv),
        encode_b64u(&bytes),
        encode_b64u(&tag)
    ))
}

/// Refuses a plaintext that [`seal`] would refuse, before anybody is asked for a key.
///
/// # Errors
///
/// [`Fault::NoPlaintext`] or [`Fault::TooLarge`].
pub fn check_plaintext_length(plaintext: &[u8]) -> Result<(), Fault> {
    match plaintext.len() {
        0 => Err(Fault::NoPlaintext),
        length if length > MAX_PLAINTEXT => {
            Err(too_large(Subject::Plaintext, length, MAX_PLAINTEXT))
        }
        _ => Ok(()),
    }
}

pub(crate) fn encode_b64u(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// base64url without padding (RFC 7515 section 2). Spare bits in the last character must be zero.
pub(crate) fn decode_b64u(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

pub(crate) fn segment(name: &str, text: &[u8]) -> Result<Vec<u8>, Fault> {
    decode_b64u(text).ok_or_else(|| {
        Fault::TokenMalformed(format!("the {name} is not base64url without padding"))
    })
}

fn fixed_segment<const N: usize>(name: &str, text: &[u8]) -> Result<[u8; N], Fault> {
    segment(name, text)?.try_into().map_err(|bytes: Vec<u8>| {
        Fault::TokenMalformed(format!(
            "the {name} has {} bytes, expected {N}",
            bytes.len()
        ))
    })
}

fn too_large(what: Subject, length: usize, limit: usize) -> Fault {
    Fault::TooLarge {
        what,
        length,
        limit,
    }
}

/// The longest plaintext of a new token, in bytes.
pub const MAX_PLAINTEXT: usize = 64 * 1024;

/// The longest token that is read, in bytes: room for every token that can be written.
pub const MAX_TOKEN: usize = 96 * 1024;

const IV_LENGTH: usize = 12;
const TAG_LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::{CompactJwe, Parts, decode_b64u, seal};
    use crate::error::Fault;
    use crate::header::Header;
    use crate::secret::Cek;

    /// RFC 7516 appendix A.1: its key encryption is RSA, its content encryption is ours.
    fn rfc_7516_a1() -> CompactJwe<'static> {
        CompactJwe {
            header: header(),
            parts: Parts {
            protected: b"eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ",
            iv: [227, 197, 117, 252, 2, 219, 233, 68, 180, 225, 77, 219],
            ciphertext: decode_b64u(
                b"5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6jiSdiwkIr3ajwQzaBtQD_A",
            )
            .unwrap(),
            tag: decode_b64u(b"XFBoMYUZodetZdvTiFvSkQ").unwrap().try_into().unwrap(),
            },
        }
    }

    const RFC_7516_A1_CEK: [u8; 32] = [
        177, 161, 244, 128, 84, 143, 225, 115, 63, 180, 3, 255, 107, 154, 212, 246, 138, 7, 110,
        91, 112, 46, 34, 105, 47, 130, 203, 46, 122, 234, 64, 252,
    ];

    #[test]
    fn the_vector_of_the_rfc_opens() {
        let plaintext = rfc_7516_a1().open(&Cek::new(&RFC_7516_A1_CEK)).unwrap();
        assert_eq!(
            plaintext.expose(),
            b"The true sign of intelligence is not knowledge but imagination."
        );
    }

    #[test]
    fn the_protected_segment_is_authenticated_as_received() {
        let mut token = rfc_7516_a1();
        token.parts.protected = b"eyJlbmMiOiJBMjU2R0NNIiwiYWxnIjoiUlNBLU9BRVAifQ";
        assert_eq!(
            token.open(&Cek::new(&RFC_7516_A1_CEK)).err(),
            Some(Fault::NotAuthentic)
        );
    }

    #[test]
    fn a_sealed_token_has_the_shape_of_direct_encryption() {
        let token = seal(&header(), b"x", &Cek::new(&[1; 32])).unwrap();
        let lengths: Vec<_> = token.split('.').map(str::len).skip(1).collect();
        assert_eq!(lengths, [0, 16, 2, 22]);
    }

    #[test]
    fn nothing_is_not_sealed() {
        let sealed = seal(&header(), b"", &Cek::new(&[1; 32]));
        assert_eq!(sealed, Err(Fault::NoPlaintext));
    }

    fn header() -> Header {
        Header {
            servers: Vec::new(),
            path: "a/b/c".into(),
            init_data: None,
            num_retries: None,
            attestation_key: None,
            trustee: None,
        }
    }
}

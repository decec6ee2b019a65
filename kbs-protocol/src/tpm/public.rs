// SPDX-License-Identifier: Apache-2.0

//! The public area of a TPM key: TPMT_PUBLIC, alone or as TPM2B_PUBLIC (TPM 2.0 Library, Part 2, 12.2).
//!
//! The node sends two of them when it enrols, its endorsement key and its attestation key; the registrar
//! reads them here. Only what such keys are made of is read: RSA and NIST P-256, nameAlg SHA-256. A public
//! area is a claim; what makes it a fact is the TPM that answers for the [name](PublicArea::name).

use super::{Reader, TPM_ALG_RSASSA, TPM_ALG_SHA256, sized};
use crate::error::Error;
use pkcs1::RsaPublicKey;
use sha2::{Digest as _, Sha256};
use spki::der::asn1::{AnyRef, BitStringRef, UintRef};
use spki::der::{self, Encode as _};
use spki::{AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfoRef};

/// A public area, read strictly: every field is known, nothing is left over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicArea {
    /// TPMA_OBJECT; compare with the constants of [`attribute`]. Reserved bits are clear.
    pub attributes: u32,
    /// Digest that a policy session must reach; empty for none.
    pub auth_policy: Vec<u8>,
    /// What a restricted decryption key protects its children and credentials with.
    pub symmetric: Option<Symmetric>,
    /// Scheme and, where the scheme has one, its hash (TPM_ALG_IDs).
    pub scheme: Option<(u16, Option<u16>)>,
    /// The key itself.
    pub key: PublicKey,
    /// The bytes that were read, as TPMT_PUBLIC.
    marshalled: Vec<u8>,
}

/// TPMT_SYM_DEF_OBJECT with AES (Part 2, 11.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symmetric {
    /// 128, 192 or 256.
    pub key_bits: u16,
    /// TPM_ALG_ID of the mode.
    pub mode: u16,
}

/// The public key and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// TPMS_RSA_PARMS and TPM2B_PUBLIC_KEY_RSA.
    Rsa {
        /// Never zero: the TPM's zero stands for 65537.
        exponent: u32,
        /// As long as the key, highest bit set.
        modulus: Vec<u8>,
    },
    /// TPMS_ECC_PARMS on NIST P-256, without key derivation scheme, and TPMS_ECC_POINT.
    P256 {
        /// Big endian, 32 bytes.
        x: [u8; 32],
        /// Big endian, 32 bytes.
        y: [u8; 32],
    },
}

impl PublicArea {
    /// Reads a TPM2B_PUBLIC: a 16-bit length, then TPMT_PUBLIC.
    ///
    /// # Errors
    /// As [`PublicArea::parse`], and a length that is not that of the rest.
    pub fn parse_sized(bytes: &[u8]) -> Result<Self, Error> {
        Self::parse(sized(PUBLIC, bytes)?)
    }

    /// Reads a TPMT_PUBLIC.
    ///
    /// # Errors
    /// [`Error::Algorithm`] for a kind of key, curve, hash or cipher that neither an endorsement nor an
    /// attestation key of ours has; [`Error::Malformed`] for reserved attributes, lengths that contradict
    /// each other, or bytes left over.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader {
            what: PUBLIC,
            rest: bytes,
        };
        let kind = reader.u16()?;
        let name_alg = reader.u16()?;
        only(name_alg, TPM_ALG_SHA256, "nameAlg SHA-256")?;
        let attributes = reader.u32()?;
        if attributes & attribute::RESERVED != 0 {
            return reader.wrong(format!(
                "attributes {attributes:#010x} with reserved bits set"
            ));
        }
        let auth_policy = reader.sized()?.to_vec();
        if !matches!(auth_policy.len(), 0 | 32) {
            return reader.wrong(format!("a policy of {} bytes", auth_policy.len()));
        }
        let symmetric = symmetric(&mut reader)?;
        let scheme = scheme(&mut reader)?;
        let key = match kind {
            TPM_ALG_RSA => rsa(&mut reader)?,
            TPM_ALG_ECC => p256(&mut reader)?,
            other => return Err(algorithm(other, "RSA or ECC")),
        };
        reader.end()?;
        Ok(Self {
            attributes,
            auth_policy,
            symmetric,
            scheme,
            key,
            marshalled: bytes.to_vec(),
        })
    }

    /// The name by which a TPM knows the key: nameAlg ‖ H_nameAlg(TPMT_PUBLIC) (Part 1, 16).
    pub fn name(&self) -> [u8; 34] {
        let mut name = [0; 34];
        let digest = Sha256::digest(&self.marshalled);
        let bytes = TPM_ALG_SHA256.to_be_bytes().into_iter().chain(digest);
        for (to, from) in name.iter_mut().zip(bytes) {
            *to = from;
        }
        name
    }

    /// DER SubjectPublicKeyInfo of the key: rsaEncryption (RFC 3279, 2.3.1) or id-ecPublicKey with a named
    /// curve and an uncompressed point (RFC 5480). The node id is derived from this.
    ///
    /// # Errors
    /// [`Error::Malformed`]; a parsed key has no way to cause it.
    pub fn spki_der(&self) -> Result<Vec<u8>, Error> {
        match &self.key {
            PublicKey::Rsa { exponent, modulus } => rsa_spki_der(*exponent, modulus),
            PublicKey::P256 { x, y } => p256_spki(x, y).map_err(not_der),
        }
    }

    /// Whether all these attributes are set.
    pub fn has(&self, attributes: u32) -> bool {
        self.attributes & attributes == attributes
    }
}

/// TPMA_OBJECT (Part 2, 8.3.2).
pub mod attribute {
    /// The hierarchy of the key cannot change.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// A saved context does not survive a TPM reset.
    pub const ST_CLEAR: u32 = 1 << 2;
    /// The parent of the key cannot change.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// The TPM made the private half.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// Its password suffices to use it.
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    /// Administration needs its policy.
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    /// No dictionary-attack protection.
    pub const NO_DA: u32 = 1 << 10;
    /// A duplicate is encrypted.
    pub const ENCRYPTED_DUPLICATION: u32 = 1 << 11;
    /// Works only on data of known form.
    pub const RESTRICTED: u32 = 1 << 16;
    /// Decrypts.
    pub const DECRYPT: u32 = 1 << 17;
    /// Signs.
    pub const SIGN: u32 = 1 << 18;

    pub(super) const RESERVED: u32 = !(FIXED_TPM
        | ST_CLEAR
        | FIXED_PARENT
        | SENSITIVE_DATA_ORIGIN
        | USER_WITH_AUTH
        | ADMIN_WITH_POLICY
        | NO_DA
        | ENCRYPTED_DUPLICATION
        | RESTRICTED
        | DECRYPT
        | SIGN);
}

/// TPMT_SYM_DEF_OBJECT: nothing, or AES.
fn symmetric(reader: &mut Reader<'_>) -> Result<Option<Symmetric>, Error> {
    match reader.u16()? {
        TPM_ALG_NULL => Ok(None),
        TPM_ALG_AES => Ok(Some(Symmetric {
            key_bits: reader.u16()?,
            mode: reader.u16()?,
        })),
        other => Err(algorithm(other, "AES")),
    }
}

/// TPMT_RSA_SCHEME or TPMT_ECC_SCHEME: those whose details are a hash, or nothing.
fn scheme(reader: &mut Reader<'_>) -> Result<Option<(u16, Option<u16>)>, Error> {
    match reader.u16()? {
        TPM_ALG_NULL => Ok(None),
        TPM_ALG_RSAES => Ok(Some((TPM_ALG_RSAES, None))),
        hashed
        @ (TPM_ALG_RSASSA | TPM_ALG_RSAPSS | TPM_ALG_OAEP | TPM_ALG_ECDSA | TPM_ALG_ECDH) => {
            Ok(Some((hashed, Some(reader.u16()?))))
        }
        other => Err(algorithm(
            other,
            "RSASSA, RSAPSS, OAEP, RSAES, ECDSA or ECDH",
        )),
    }
}

fn rsa(reader: &mut Reader<'_>) -> Result<PublicKey, Error> {
    let key_bits = reader.u16()?;
    let exponent = match reader.u32()? {
        0 => DEFAULT_EXPONENT,
        exponent => exponent,
    };
    let modulus = reader.sized()?;
    let whole = modulus.len().checked_mul(8) == Some(key_bits.into());
    if !whole || modulus.first().is_none_or(|first| first & 0x80 == 0) {
        return reader.wrong(format!(
            "an RSA modulus of {} bytes that is not {key_bits} bits long",
            modulus.len()
        ));
    }
    if exponent & 1 == 0 || exponent < 3 {
        return reader.wrong(format!("the RSA exponent {exponent}"));
    }
    Ok(PublicKey::Rsa {
        exponent,
        modulus: modulus.to_vec(),
    })
}

fn p256(reader: &mut Reader<'_>) -> Result<PublicKey, Error> {
    only(reader.u16()?, TPM_ECC_NIST_P256, "NIST P-256")?;
    only(reader.u16()?, TPM_ALG_NULL, "no key derivation scheme")?;
    Ok(PublicKey::P256 {
        x: coordinate(reader)?,
        y: coordinate(reader)?,
    })
}

/// Old TPMs leave leading zeros out.
fn coordinate(reader: &mut Reader<'_>) -> Result<[u8; 32], Error> {
    let bytes = reader.sized()?;
    let Some(zeros) = 32_usize.checked_sub(bytes.len()) else {
        return reader.wrong(format!("a coordinate of {} bytes", bytes.len()));
    };
    let mut coordinate = [0; 32];
    for (to, from) in coordinate.iter_mut().skip(zeros).zip(bytes) {
        *to = *from;
    }
    Ok(coordinate)
}

/// DER SubjectPublicKeyInfo of an RSA key as a TPM describes it: the exponent 0 stands for 65537 (Part 2,
/// TPMS_RSA_PARMS).
///
/// # Errors
/// [`Error::Malformed`] for a modulus longer than DER can say.
pub fn rsa_spki_der(exponent: u32, modulus: &[u8]) -> Result<Vec<u8>, Error> {
    let exponent = match exponent {
        0 => DEFAULT_EXPONENT,
        exponent => exponent,
    };
    rsa_spki(exponent, modulus).map_err(not_der)
}

fn rsa_spki(exponent: u32, modulus: &[u8]) -> der::Result<Vec<u8>> {
    let key = RsaPublicKey {
        modulus: UintRef::new(modulus)?,
        public_exponent: UintRef::new(&exponent.to_be_bytes())?,
    }
    .to_der()?;
    spki(RSA_ENCRYPTION, AnyRef::NULL, &key)
}

fn not_der(error: der::Error) -> Error {
    Error::malformed(PUBLIC, error.to_string())
}

fn p256_spki(x: &[u8; 32], y: &[u8; 32]) -> der::Result<Vec<u8>> {
    let point = [&[UNCOMPRESSED][..], x, y].concat();
    spki(EC_PUBLIC_KEY, AnyRef::from(&PRIME256V1), &point)
}

fn spki(oid: ObjectIdentifier, parameters: AnyRef<'_>, key: &[u8]) -> der::Result<Vec<u8>> {
    SubjectPublicKeyInfoRef {
        algorithm: AlgorithmIdentifierRef {
            oid,
            parameters: Some(parameters),
        },
        subject_public_key: BitStringRef::from_bytes(key)?,
    }
    .to_der()
}

fn only(came: u16, wanted: u16, allowed: &'static str) -> Result<(), Error> {
    if came == wanted {
        return Ok(());
    }
    Err(algorithm(came, allowed))
}

fn algorithm(came: u16, allowed: &'static str) -> Error {
    Error::Algorithm {
        what: PUBLIC,
        name: format!("{came:#06x}"),
        allowed,
    }
}

const PUBLIC: &str = "the TPM key (TPM2B_PUBLIC)";
// TPM_ALG_ID and TPM_ECC_CURVE: Part 2, 6.3 and 6.4.
const TPM_ALG_RSA: u16 = 0x0001;
const TPM_ALG_AES: u16 = 0x0006;
const TPM_ALG_NULL: u16 = 0x0010;
const TPM_ALG_RSAES: u16 = 0x0015;
const TPM_ALG_RSAPSS: u16 = 0x0016;
const TPM_ALG_OAEP: u16 = 0x0017;
const TPM_ALG_ECDSA: u16 = 0x0018;
const TPM_ALG_ECDH: u16 = 0x0019;
const TPM_ALG_ECC: u16 = 0x0023;
/// Cipher feedback, the mode of every storage and endorsement key.
pub const TPM_ALG_CFB: u16 = 0x0043;
const TPM_ECC_NIST_P256: u16 = 0x0003;
/// 2^16 + 1.
const DEFAULT_EXPONENT: u32 = 65537;
/// RFC 8017 appendix C.
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// RFC 5480 section 2.1.1.
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// RFC 5480 section 2.1.1.1, secp256r1.
const PRIME256V1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// SEC 1, 2.3.3.
const UNCOMPRESSED: u8 = 4;

#[cfg(test)]
mod tests;

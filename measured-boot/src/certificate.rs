// SPDX-License-Identifier: Apache-2.0

//! From a signer's certificate to the one that a platform trusts (RFC 5280, section 6.1, without the parts
//! that firmware skips: validity, usage and names are not looked at there either).

use crate::signature::SignatureFacts;
use cms::cert::IssuerAndSerialNumber;
use const_oid::db::rfc5912::{
    SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
};
use der::asn1::AnyRef;
use der::{Decode as _, Encode as _, Reader as _, SliceReader};
use rsa::RsaPublicKey;
use rsa::pkcs1v15::{Signature, VerifyingKey};
use rsa::pkcs8::DecodePublicKey as _;
use rsa::signature::Verifier as _;
use sha2::{Sha256, Sha384, Sha512};

/// Whether the signature's chain leads to `anchor` (DER): the signer itself, or an authority above it.
///
/// A step upwards needs the issuer's name *and* a signature that verifies under its key. RSA with SHA-256,
/// SHA-384 or SHA-512 is what Secure Boot uses; a step in anything else is not taken.
pub fn leads_to(signature: &SignatureFacts, anchor: &[u8]) -> bool {
    let carried = signature.others.iter().map(AsRef::as_ref);
    let mut current = signature.signer.as_ref();
    for _ in 0..MAX_STEPS {
        if current == anchor {
            return true;
        }
        let Some(child) = Certificate::parse(current) else {
            return false;
        };
        if child.is_issued_by(anchor) {
            return true;
        }
        match carried
            .clone()
            .find(|der| *der != current && child.is_issued_by(der))
        {
            Some(parent) => current = parent,
            None => return false,
        }
    }
    false
}

/// A certificate together with the bytes it came from.
pub(crate) struct Certificate<'a> {
    parsed: x509_cert::Certificate,
    /// TBSCertificate exactly as it was signed.
    signed: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// `None` for anything that is not a certificate: such an entry of a database authorises nothing.
    pub(crate) fn parse(der: &'a [u8]) -> Option<Self> {
        let parsed = x509_cert::Certificate::from_der(der).ok()?;
        let mut reader = SliceReader::new(AnyRef::from_der(der).ok()?.value()).ok()?;
        Some(Self {
            parsed,
            signed: reader.tlv_bytes().ok()?,
        })
    }

    pub(crate) fn is_named(&self, name: &IssuerAndSerialNumber) -> bool {
        let own = &self.parsed.tbs_certificate;
        own.issuer == name.issuer && own.serial_number == name.serial_number
    }

    fn is_issued_by(&self, issuer: &[u8]) -> bool {
        Certificate::parse(issuer).is_some_and(|issuer| {
            issuer.parsed.tbs_certificate.subject == self.parsed.tbs_certificate.issuer
                && self.verifies_under(&issuer).unwrap_or(false)
        })
    }

    fn verifies_under(&self, issuer: &Certificate<'_>) -> Option<bool> {
        let spki = issuer
            .parsed
            .tbs_certificate
            .subject_public_key_info
            .to_der();
        let key = RsaPublicKey::from_public_key_der(&spki.ok()?).ok()?;
        let signature = Signature::try_from(self.parsed.signature.as_bytes()?).ok()?;
        let verified = match self.parsed.signature_algorithm.oid {
            SHA_256_WITH_RSA_ENCRYPTION => {
                VerifyingKey::<Sha256>::new(key).verify(self.signed, &signature)
            }
            SHA_384_WITH_RSA_ENCRYPTION => {
                VerifyingKey::<Sha384>::new(key).verify(self.signed, &signature)
            }
            SHA_512_WITH_RSA_ENCRYPTION => {
                VerifyingKey::<Sha512>::new(key).verify(self.signed, &signature)
            }
            _ => return None,
        };
        Some(verified.is_ok())
    }
}

/// Longer than any chain under a platform key.
const MAX_STEPS: usize = 8;

// SPDX-License-Identifier: Apache-2.0

//! Certificates and revocation lists (RFC 5280), signed the way AMD (RSASSA-PSS with SHA-384) and Intel (ECDSA
//! with SHA-256) sign theirs.

use const_oid::ObjectIdentifier;
use der::asn1::{Any, BitString, OctetString, UintRef};
use der::{Decode as _, Encode as _};
use rsa::pkcs8::EncodePublicKey as _;
use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
use std::str::FromStr as _;
use std::time::Duration;
use x509_cert::Certificate;
use x509_cert::crl::{CertificateList, TbsCertList};
use x509_cert::ext::Extension;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{TbsCertificate, Version};

/// A key that signs certificates.
pub(crate) enum Issuer {
    /// AMD's kind.
    Rsa(Box<rsa::RsaPrivateKey>),
    /// Intel's kind.
    P256(p256::ecdsa::SigningKey),
}

impl Issuer {
    pub(crate) fn rsa() -> Self {
        // AMD's have 4096 bits; finding such primes would take most of a test's time.
        Self::Rsa(Box::new(
            rsa::RsaPrivateKey::new(&mut rand_core::OsRng, 2048).unwrap(),
        ))
    }

    pub(crate) fn p256() -> Self {
        Self::P256(p256::ecdsa::SigningKey::random(&mut rand_core::OsRng))
    }

    /// DER SubjectPublicKeyInfo.
    pub(crate) fn spki(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => key.to_public_key().to_public_key_der().unwrap().to_vec(),
            Self::P256(key) => key.verifying_key().to_public_key_der().unwrap().to_vec(),
        }
    }

    fn algorithm(&self) -> AlgorithmIdentifierOwned {
        match self {
            Self::Rsa(_) => AlgorithmIdentifierOwned {
                oid: ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10"),
                parameters: Some(Any::from_der(PSS_SHA384).unwrap()),
            },
            Self::P256(_) => AlgorithmIdentifierOwned {
                oid: ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2"),
                parameters: None,
            },
        }
    }

    fn sign(&self, message: &[u8]) -> BitString {
        let signature = match self {
            Self::Rsa(key) => rsa::pss::SigningKey::<sha2::Sha384>::new(*key.clone())
                .sign_with_rng(&mut rand_core::OsRng, message)
                .to_vec(),
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature =
                    p256::ecdsa::signature::Signer::sign(key, message);
                signature.to_der().as_bytes().to_vec()
            }
        };
        BitString::from_bytes(&signature).unwrap()
    }
}

/// What differs from certificate to certificate.
pub(crate) struct Subject<'s> {
    pub(crate) name: &'s str,
    pub(crate) spki: Vec<u8>,
    pub(crate) is_authority: bool,
    /// Seconds since 1970.
    pub(crate) validity: (u64, u64),
    pub(crate) extensions: Vec<(ObjectIdentifier, Vec<u8>)>,
}

/// A certificate, DER.
pub(crate) fn certificate(issuer: &Issuer, issuer_name: &str, subject: Subject<'_>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if subject.is_authority {
        // BasicConstraints with cA TRUE; keyCertSign and cRLSign.
        extensions.push(extension("2.5.29.19", true, &[0x30, 3, 1, 1, 0xff]));
        extensions.push(extension("2.5.29.15", true, &[3, 2, 1, 6]));
    }
    for (oid, value) in &subject.extensions {
        extensions.push(extension(&oid.to_string(), false, value));
    }
    let tbs = TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::from(7_u32),
        signature: issuer.algorithm(),
        issuer: name(issuer_name),
        validity: Validity {
            not_before: time(subject.validity.0),
            not_after: time(subject.validity.1),
        },
        subject: name(subject.name),
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(&subject.spki).unwrap(),
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: (!extensions.is_empty()).then_some(extensions),
    };
    let signature = issuer.sign(&tbs.to_der().unwrap());
    Certificate {
        tbs_certificate: tbs,
        signature_algorithm: issuer.algorithm(),
        signature,
    }
    .to_der()
    .unwrap()
}

/// An empty revocation list, or one that revokes every certificate of this maker, DER.
pub(crate) fn revocation_list(
    issuer: &Issuer,
    issuer_name: &str,
    validity: (u64, u64),
    revoke_all: bool,
) -> Vec<u8> {
    let revoked = x509_cert::crl::RevokedCert {
        serial_number: SerialNumber::from(7_u32),
        revocation_date: time(validity.0),
        crl_entry_extensions: None,
    };
    let tbs = TbsCertList {
        version: Version::V2,
        signature: issuer.algorithm(),
        issuer: name(issuer_name),
        this_update: time(validity.0),
        next_update: Some(time(validity.1)),
        revoked_certificates: revoke_all.then(|| vec![revoked]),
        crl_extensions: Some(vec![extension("2.5.29.20", false, &[2, 1, 1])]),
    };
    let signature = issuer.sign(&tbs.to_der().unwrap());
    CertificateList {
        tbs_cert_list: tbs,
        signature_algorithm: issuer.algorithm(),
        signature,
    }
    .to_der()
    .unwrap()
}

/// DER INTEGER.
pub(crate) fn integer(value: u64) -> Vec<u8> {
    UintRef::new(&value.to_be_bytes())
        .unwrap()
        .to_der()
        .unwrap()
}

/// PEM of certificates, in their order.
pub(crate) fn pem(certificates: &[&[u8]]) -> String {
    certificates
        .iter()
        .map(|der| der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der).unwrap())
        .collect()
}

fn extension(oid: &str, critical: bool, value: &[u8]) -> Extension {
    Extension {
        extn_id: ObjectIdentifier::new_unwrap(oid),
        critical,
        extn_value: OctetString::new(value).unwrap(),
    }
}

fn name(common: &str) -> Name {
    Name::from_str(&format!("CN={common}")).unwrap()
}

fn time(seconds: u64) -> Time {
    let time = der::DateTime::from_unix_duration(Duration::from_secs(seconds)).unwrap();
    match der::asn1::UtcTime::from_date_time(time) {
        Ok(time) => Time::UtcTime(time),
        Err(_) => Time::GeneralTime(time.into()),
    }
}

/// RSASSA-PSS-params: SHA-384, MGF1 with SHA-384, 48 bytes of salt, trailer 1 (RFC 4055 section 3.1).
const PSS_SHA384: &[u8] = &[
    0x30, 0x34, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
    0x02, 0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01,
    0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05,
    0x00, 0xa2, 0x03, 0x02, 0x01, 0x30,
];

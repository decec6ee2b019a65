// SPDX-License-Identifier: Apache-2.0

//! Endorsement key certificates: who vouches for a TPM (TCG EK Credential Profile for TPM Family 2.0).
//!
//! Two crates read each certificate. `webpki` walks the chain: signatures, dates, CA flags, critical
//! extensions nobody understands. `x509-parser` shows what webpki keeps to itself: the key and its usages.
//! Unlike a browser we look for no name: the subject of an EK certificate is a TPM model.

use super::config::ConfigError;
use kbs_protocol::enroll::{Refusal, RefusalKind};
use kbs_protocol::tpm::public::PublicKey;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as CertifiedKey;

/// Whom we believe about TPMs.
#[derive(Debug)]
pub struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    /// Believed only if an anchor vouches for them: makers publish them, few TPMs carry them.
    intermediates: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Reads two PEM bundles. Every certificate of the first is believed, a root or not.
    ///
    /// # Errors
    /// [`ConfigError`] for a text without any, or with an unusable one.
    pub fn parse(roots: &str, intermediates: &str) -> Result<Self, ConfigError> {
        let certificates = pem(ROOTS_FILE, roots)?;
        if certificates.is_empty() {
            return Err(ConfigError::value(ROOTS_FILE, "no certificate inside"));
        }
        let anchors = certificates.iter().enumerate().map(|(index, certificate)| {
            let anchor = anchor_from_trusted_cert(certificate).map_err(|error| {
                let number = index.saturating_add(1);
                ConfigError::value(
                    ROOTS_FILE,
                    format!("certificate {number} is unusable: {error}"),
                )
            })?;
            Ok(anchor.to_owned())
        });
        Ok(Self {
            anchors: anchors.collect::<Result<_, _>>()?,
            intermediates: pem(INTERMEDIATES_FILE, intermediates)?,
        })
    }

    /// How many certificates are believed.
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Never, once parsed.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }
}

/// Requires that `certificate` is a valid EK certificate for `ek` and chains to one of `roots`, through
/// `chain` or the configured intermediates.
///
/// # Errors
/// [`RefusalKind::EkNotTrusted`] when nobody known signed it, otherwise [`RefusalKind::EkCertificate`].
pub fn require(
    certificate: &[u8],
    chain: &[Vec<u8>],
    roots: &Roots,
    ek: &PublicKey,
    now: SystemTime,
) -> Result<(), Refusal> {
    let refuse = |why: String| Refusal::new(RefusalKind::EkCertificate, why);
    let (rest, read) = X509Certificate::from_der(certificate)
        .map_err(|_| refuse("it is not an X.509 certificate, or a part of one".to_owned()))?;
    if !rest.is_empty() {
        return Err(refuse(format!(
            "{} bytes follow the certificate",
            rest.len()
        )));
    }
    require_key(&read, ek)?;
    require_usage(&read, ek)?;

    let der = CertificateDer::from(certificate);
    let mut between: Vec<CertificateDer<'_>> = chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    between.extend(roots.intermediates.iter().cloned());
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let leaf = EndEntityCert::try_from(&der).map_err(|error| refuse(sentence(&error)))?;
    leaf.verify_for_usage(
        ALL_VERIFICATION_ALGS,
        &roots.anchors,
        &between,
        UnixTime::since_unix_epoch(now),
        // Intermediates need not name a purpose; the leaf was made to above.
        KeyUsage::required_if_present(EK_PURPOSE_DER),
        None,
        None,
    )
    .map(drop)
    .map_err(|error| match error {
        Error::UnknownIssuer => Refusal::new(
            RefusalKind::EkNotTrusted,
            format!(
                "no configured root vouches for the issuer {}",
                read.issuer()
            ),
        ),
        // An authority of the same name with another key is another authority.
        Error::InvalidSignatureForPublicKey => Refusal::new(
            RefusalKind::EkNotTrusted,
            "it, or a certificate above it, is not signed by the configured authority of that name",
        ),
        error => refuse(sentence(&error)),
    })
}

/// The certificate is about this key and no other.
fn require_key(certificate: &X509Certificate<'_>, ek: &PublicKey) -> Result<(), Refusal> {
    let same = match (certificate.public_key().parsed(), ek) {
        (Ok(CertifiedKey::RSA(named)), PublicKey::Rsa { exponent, modulus }) => {
            without_zeros(named.modulus) == without_zeros(modulus)
                && named
                    .try_exponent()
                    .is_ok_and(|named| named == u64::from(*exponent))
        }
        (Ok(CertifiedKey::EC(named)), PublicKey::P256 { x, y }) => {
            // RFC 5480: a named curve, and an uncompressed point (SEC 1, 2.3.3).
            let parameters = certificate.public_key().algorithm.parameters.as_ref();
            let curve = parameters.and_then(|parameters| parameters.as_oid().ok());
            curve == Some(PRIME256V1) && named.data() == [&[4][..], x, y].concat()
        }
        _ => false,
    };
    if same {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalKind::EkCertificate,
        "it is for another key than the endorsement key sent",
    ))
}

/// Key usage keyEncipherment for RSA, keyAgreement for ECC; extended key usage tcg-kp-EKCertificate.
fn require_usage(certificate: &X509Certificate<'_>, ek: &PublicKey) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(Refusal::new(RefusalKind::EkCertificate, why));
    let Ok(Some(usage)) = certificate.key_usage() else {
        return refuse("it does not say what its key is for (keyUsage)");
    };
    match ek {
        PublicKey::Rsa { .. } if !usage.value.key_encipherment() => {
            return refuse("its keyUsage lacks keyEncipherment");
        }
        PublicKey::P256 { .. } if !usage.value.key_agreement() => {
            return refuse("its keyUsage lacks keyAgreement");
        }
        _ => {}
    }
    let purpose = certificate
        .extended_key_usage()
        .ok()
        .flatten()
        .is_some_and(|extension| extension.value.other.contains(&EK_PURPOSE));
    match purpose {
        true => Ok(()),
        false => refuse("its extendedKeyUsage lacks tcg-kp-EKCertificate (2.23.133.8.1)"),
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// webpki names its errors for programmers.
fn sentence(error: &Error) -> String {
    match error {
        Error::CertExpired { .. } => "it, or a certificate above it, has expired".to_owned(),
        Error::CertNotValidYet { .. } => {
            "it, or a certificate above it, is not valid yet".to_owned()
        }
        Error::CaUsedAsEndEntity => {
            "it is the certificate of an authority, not of a TPM".to_owned()
        }
        Error::UnsupportedCriticalExtension => {
            "it has a critical extension that nobody here understands".to_owned()
        }
        other => format!("the chain does not verify: {other}"),
    }
}

fn pem(key: &'static str, text: &str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| ConfigError::value(key, format!("not PEM: {error}")))
}

const ROOTS_FILE: &str = "ek_roots_file";
const INTERMEDIATES_FILE: &str = "ek_intermediates_file";
/// tcg-kp-EKCertificate.
const EK_PURPOSE: Oid<'static> = oid!(2.23.133.8.1);
/// The curve NIST P-256.
const PRIME256V1: Oid<'static> = oid!(1.2.840.10045.3.1.7);
/// tcg-kp-EKCertificate as DER content, as webpki wants it.
const EK_PURPOSE_DER: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];

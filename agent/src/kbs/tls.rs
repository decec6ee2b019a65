// SPDX-License-Identifier: Apache-2.0

//! TLS as this agent speaks it: version 1.3, one provider, and only the configured trust anchors.
//!
//! Nothing is taken from the machine: an initramfs has no certificate store, and one on a disk would not
//! be measured. `http` asks for a [`client_config`] per server and turns failures into [`TlsProblem`]s.

use crate::config::Anchors;
use kbs_protocol::encoding::hex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;

/// A TLS 1.3 client that accepts exactly what the anchors say, and nobody if there are none.
pub(super) fn client_config(anchors: &Anchors) -> Result<ClientConfig, Error> {
    let provider = Arc::new(provider());
    let mut roots = RootCertStore::empty();
    for certificate in anchors.ca() {
        roots.add(certificate.clone())?;
    }
    let verifier = Verifier {
        roots,
        keys: anchors.spki().to_vec(),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // One connection serves the whole handshake: a session ticket would only be memory.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The one place that chooses who does the cryptography of TLS.
fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// Certificates and public keys, both where both are configured; see [`Anchors`].
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    keys: Vec<[u8; 32]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn check_key(&self, certificate: &ParsedCertificate<'_>) -> Result<(), Error> {
        let digest = Sha256::digest(certificate.subject_public_key_info()).into();
        if self.keys.contains(&digest) {
            return Ok(());
        }
        let other = OtherError(Arc::new(WrongKey(hex::encode(digest))));
        Err(Error::InvalidCertificate(CertificateError::Other(other)))
    }

    /// Checks the chain; with a pinned key at the time the certificates themselves call valid. The clock
    /// of a guest belongs to its host, so a date says less than the key that has been checked already.
    fn check_chain(
        &self,
        certificate: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        mut now: UnixTime,
    ) -> Result<(), Error> {
        let dates_count = self.keys.is_empty();
        for _ in 0..LONGEST_CHAIN {
            let verdict = verify_server_cert_signed_by_trust_anchor(
                certificate,
                &self.roots,
                intermediates,
                now,
                self.algorithms.all,
            );
            now = match verdict {
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext {
                    not_after,
                    ..
                })) if !dates_count => not_after,
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before,
                    ..
                })) if !dates_count => not_before,
                // An authority of the same name with another key is another authority.
                Err(Error::InvalidCertificate(CertificateError::BadSignature)) => {
                    return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
                }
                verdict => return verdict,
            };
        }
        Err(Error::InvalidCertificate(CertificateError::Expired))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !self.keys.is_empty() {
            self.check_key(&certificate)?;
        }
        // Without certificates the key alone decides; without either, nobody is accepted.
        if !self.roots.is_empty() || self.keys.is_empty() {
            self.check_chain(&certificate, intermediates, now)?;
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Carries the digest of an unpinned key through rustls.
#[derive(Debug)]
pub(super) struct WrongKey(pub(super) String);

impl fmt::Display for WrongKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the public key with SHA-256 {} is not pinned", self.0)
    }
}

impl std::error::Error for WrongKey {}

/// Leaf, intermediates and root whose dates may each have to be waived.
const LONGEST_CHAIN: usize = 8;

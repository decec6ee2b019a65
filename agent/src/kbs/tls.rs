// SPDX-License-Identifier: Apache-2.0

//! TLS as this agent speaks it: version 1.3, one provider, and only the configured trust anchors.
//!
//! Nothing is taken from the machine: an initramfs has no certificate store, and one on a disk would not
//! be measured. `http` asks for a [`client_config`] per server and turns failures into [`TlsProblem`]s.

use crate::config::Anchors;
use kbs_protocol::encoding::hex;
use kbs_protocol::{Owner, Persistence};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError,
    RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Why a TLS connection to a server did not come about.
///
/// Who is to blame cannot be told from a certificate alone: a server that was given a new key and an
/// impostor look alike. We call issuer, name and key *our configuration*, because that is what may be
/// changed if the server turns out to be genuine; dates are the server's or, before their time, our
/// clock's. All of these are permanent: asking again shows the same certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsProblem {
    /// No configured certificate authority vouches for it.
    UnknownIssuer,
    /// Its public key is not pinned.
    WrongKey {
        /// SHA-256 of the key it showed, in hexadecimal.
        shown: String,
    },
    /// Its certificate is for other names.
    WrongName {
        /// The names in the certificate.
        presented: Vec<String>,
    },
    /// Its certificate expired, by our clock.
    Expired {
        /// Our clock.
        now: SystemTime,
        /// The last moment of the certificate.
        not_after: SystemTime,
    },
    /// Its certificate is from the future, by our clock.
    NotValidYet {
        /// Our clock.
        now: SystemTime,
        /// The first moment of the certificate.
        not_before: SystemTime,
    },
    /// Its certificate is unacceptable for another reason.
    Certificate(String),
    /// It does not speak TLS 1.3.
    Version,
    /// It does not speak TLS at all.
    NotTls,
    /// Anything else, usually an alert by the server.
    Other(String),
}

impl From<&Error> for TlsProblem {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::AlertReceived(AlertDescription::ProtocolVersion)
            | Error::PeerIncompatible(_) => Self::Version,
            Error::InvalidMessage(_) => Self::NotTls,
            other => Self::Other(other.to_string()),
        }
    }
}

impl TlsProblem {
    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::ExpiredContext { time, not_after } => Self::Expired {
                now: system_time(*time),
                not_after: system_time(*not_after),
            },
            CertificateError::NotValidYetContext { time, not_before } => Self::NotValidYet {
                now: system_time(*time),
                not_before: system_time(*not_before),
            },
            CertificateError::NotValidForNameContext { presented, .. } => Self::WrongName {
                presented: presented.clone(),
            },
            CertificateError::Other(other) => match other.0.downcast_ref::<WrongKey>() {
                Some(WrongKey(shown)) => Self::WrongKey {
                    shown: shown.clone(),
                },
                None => Self::Certificate(other.0.to_string()),
            },
            other => Self::Certificate(Error::InvalidCertificate(other.clone()).to_string()),
        }
    }

    pub(super) fn owner(&self) -> Owner {
        match self {
            Self::UnknownIssuer | Self::WrongKey { .. } | Self::WrongName { .. } | Self::NotTls => {
                Owner::Configuration
            }
            Self::NotValidYet { .. } => Owner::Machine,
            Self::Expired { .. } | Self::Certificate(_) | Self::Version | Self::Other(_) => {
                Owner::Server
            }
        }
    }

    pub(super) fn persistence(&self) -> Persistence {
        match self {
            // An alert may be a proxy whose backend is away for a moment.
            Self::Other(_) => Persistence::Temporary,
            _ => Persistence::Permanent,
        }
    }

    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::UnknownIssuer => {
                "if the server is genuine, put the certificate of its authority into kbs.ca_file of the \
                 image; if not, something else answers at this address"
            }
            Self::WrongKey { .. } => {
                "if the server was given this key on purpose, add its digest to kbs.spki_sha256 of the \
                 image; if not, something else answers at this address"
            }
            Self::WrongName { .. } => {
                "use one of these names in kbs.servers, have the certificate issued for the name in use, \
                 or pin the key with kbs.spki_sha256 alone"
            }
            Self::Expired { .. } | Self::NotValidYet { .. } => {
                "compare the two dates: if our clock is wrong, that is the host's doing and no proof of \
                 anything (pin the key with kbs.spki_sha256, which needs no clock); if it is right, \
                 renew the server's certificate"
            }
            Self::Certificate(_) => {
                "give the server a certificate of version 3 for its name, issued by an authority in \
                 kbs.ca_file"
            }
            Self::Version => "let the server, or the proxy before it, speak TLS 1.3",
            Self::NotTls => {
                "correct scheme and port in kbs.servers: something answers there without TLS"
            }
            Self::Other(_) => "look at the log of the server or of the proxy before it",
        }
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |time: &SystemTime| httpdate::fmt_http_date(*time);
        match self {
            Self::UnknownIssuer => {
                f.write_str("its certificate is not issued by a configured authority")
            }
            Self::WrongKey { shown } => {
                write!(
                    f,
                    "its public key is not pinned, it showed the key with SHA-256 {shown}"
                )
            }
            Self::WrongName { presented } if presented.is_empty() => {
                f.write_str("its certificate bears no name")
            }
            Self::WrongName { presented } => {
                write!(f, "its certificate is for {}", presented.join(", "))
            }
            Self::Expired { now, not_after } => {
                write!(
                    f,
                    "its certificate expired at {}, our clock says {}",
                    date(not_after),
                    date(now)
                )
            }
            Self::NotValidYet { now, not_before } => write!(
                f,
                "its certificate begins at {}, our clock says {}",
                date(not_before),
                date(now)
            ),
            Self::Certificate(why) => write!(f, "its certificate is unacceptable: {why}"),
            Self::Version => f.write_str("it does not speak TLS 1.3"),
            Self::NotTls => f.write_str("it does not speak TLS"),
            Self::Other(why) => write!(f, "TLS failed: {why}"),
        }
    }
}

/// Carries the digest of an unpinned key through rustls.
#[derive(Debug)]
struct WrongKey(String);

impl fmt::Display for WrongKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the public key with SHA-256 {} is not pinned", self.0)
    }
}

impl std::error::Error for WrongKey {}

/// HTTP dates end with the year 9999, and so does this.
fn system_time(time: UnixTime) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(time.as_secs().min(LAST_SECOND)))
        .unwrap_or(UNIX_EPOCH)
}

/// Leaf, intermediates and root whose dates may each have to be waived.
const LONGEST_CHAIN: usize = 8;
/// 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

// SPDX-License-Identifier: Apache-2.0

//! What TLS failures mean: whose fault, whether waiting helps, what to do. `http` makes them from the
//! errors of rustls, [`super::KbsError`] carries them.

use super::tls::WrongKey;
use kbs_protocol::{Owner, Persistence};
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// HTTP dates end with the year 9999, and so does this.
fn system_time(time: UnixTime) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(time.as_secs().min(LAST_SECOND)))
        .unwrap_or(UNIX_EPOCH)
}

/// 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

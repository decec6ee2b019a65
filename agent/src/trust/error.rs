// SPDX-License-Identifier: Apache-2.0

//! Why a token, or the pin's configuration, is not followed. [`super::admit`] returns these.

use kbs_protocol::{Blame, Owner, Persistence};
use std::fmt;

/// Who says what is compared with the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// A token, from a disk.
    #[default]
    Token,
    /// The configuration given to `clevis encrypt trustee`, from an administrator.
    PinConfig,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "the token",
            Self::PinConfig => "the pin configuration",
        })
    }
}

/// Why a token is not followed. Always permanent: the same token says the same again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The token names a server that the configuration does not.
    #[error("{origin} names the server {named:?}, agent.toml allows {}", .allowed.join(", "))]
    Server {
        /// Who names it.
        origin: Origin,
        /// What the token says.
        named: String,
        /// The configured servers.
        allowed: Vec<String>,
    },
    /// The token names a certificate that the configuration does not trust.
    #[error("{origin} names a certificate {named:?} for {server:?} that agent.toml does not trust")]
    Certificate {
        /// Who names it.
        origin: Origin,
        /// The server, as the token names it.
        server: String,
        /// SHA-256 of the certificate, or the beginning of what stands in its place.
        named: String,
    },
    /// The token names another resource than this node's.
    #[error("{origin} names the resource {named:?}, this node's is {expected:?}")]
    Path {
        /// Who names it.
        origin: Origin,
        /// What the token says.
        named: String,
        /// The configured template with this node's id.
        expected: String,
    },
    /// The token carries other init-data than the configuration.
    #[error("{origin} carries init-data {named}, agent.toml {configured}")]
    InitData {
        /// Who carries it.
        origin: Origin,
        /// SHA-256 of what the token says.
        named: String,
        /// SHA-256 of what is configured, or that there is none.
        configured: String,
    },
    /// In header mode: the token cannot be followed either.
    #[error("{origin} does not say where to ask: {why}")]
    Unusable {
        /// Who does not.
        origin: Origin,
        /// What is missing or wrong.
        why: String,
    },
    /// The path template of the configuration gives no path.
    #[error("{0}")]
    Template(String),
}

impl TrustError {
    fn origin(&self) -> Option<Origin> {
        match self {
            Self::Server { origin, .. }
            | Self::Certificate { origin, .. }
            | Self::Path { origin, .. }
            | Self::InitData { origin, .. }
            | Self::Unusable { origin, .. } => Some(*origin),
            Self::Template(_) => None,
        }
    }
}

impl Blame for TrustError {
    fn owner(&self) -> Owner {
        match self.origin() {
            Some(Origin::Token) => Owner::Data,
            Some(Origin::PinConfig) | None => Owner::Configuration,
        }
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        if self.origin() == Some(Origin::PinConfig) {
            return "leave it out of the pin configuration, so that agent.toml decides, or change \
                    agent.toml of the image first"
                .to_owned();
        }
        match self {
            Self::Server { .. } | Self::Certificate { .. } => {
                "whoever can write to the disk can write this. If the token is yours, add the server or \
                 certificate to agent.toml of the image, or bind the volume again; if not, the disk was \
                 tampered with"
            }
            Self::Path { .. } => {
                "this is another node's volume, the node's attestation key is a new one, or kbs.path was \
                 changed: bind the volume again, or set kbs.path back"
            }
            Self::InitData { .. } => {
                "put the init-data of the token into kbs.init_data_file, byte for byte, or bind the \
                 volume again"
            }
            Self::Unusable { .. } => "bind the volume again",
            Self::Template(_) => {
                "correct kbs.path in agent.toml: default/{node}/{volume} gives each volume a secret"
            }
        }
        .to_owned()
    }
}

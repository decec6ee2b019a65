// SPDX-License-Identifier: Apache-2.0

//! What can go wrong between us and a KBS that we administrate.

use super::Dialect;
use crate::model::SecretId;
use crate::policy;
use kbs_protocol::{Blame, Owner, Persistence};

/// Why a KBS could not be managed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What we were given cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// A policy that would break the KBS; it was not sent.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// A plan names a secret that our own store does not have.
    #[error("there is no secret {:?} in our store", .0.0)]
    NoSuchSecret(SecretId),
    /// No answer.
    #[error("cannot reach the KBS at {url}: {why}")]
    Unreachable {
        /// Its address.
        url: String,
        /// Innermost cause.
        why: String,
    },
    /// It does not take us for an administrator.
    #[error("the KBS does not let us {what}: {detail:?} ({kind})")]
    Denied {
        /// Method and path.
        what: String,
        /// The name of its error.
        kind: String,
        /// Its own sentence.
        detail: String,
    },
    /// It refused for another reason, or failed.
    #[error("the KBS refused {what}: status {status}, {kind} {detail:?}")]
    Refused {
        /// Method and path.
        what: String,
        /// HTTP status.
        status: u16,
        /// The name of its error, if it has one.
        kind: String,
        /// Its own sentence.
        detail: String,
    },
    /// What answers there is no KBS of a supported release.
    #[error("{url} is no KBS that we know: without a token it answers status {status} {kind:?}")]
    Unknown {
        /// Its address.
        url: String,
        /// HTTP status.
        status: u16,
        /// The name of its error, if it has one.
        kind: String,
    },
    /// Policies do not help with a KBS that is set up like this.
    #[error("this KBS ({dialect}) is not fit to keep secrets: {fault}")]
    Unfit {
        /// Its release.
        dialect: Dialect,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// A set-up in which no policy can protect a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The admin API asks for no token.
    #[error("everybody may administrate it")]
    OpenAdministration,
    /// A bearer token signed by the key in its own header is believed.
    #[error("it believes a token that we made ourselves, so everybody can read every secret")]
    ForgedTokens,
    /// The probe with such a token had an answer that does not tell.
    #[error(
        "it does not say whether it believes a token that we made ourselves (status {status} {kind:?})"
    )]
    Unclear {
        /// HTTP status.
        status: u16,
        /// The name of its error, if it has one.
        kind: String,
    },
    /// A second write to the same name is lost.
    #[error("it does not replace what it has stored, so nothing can ever be revoked")]
    KeepsOldValues,
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        match self {
            Self::Configuration(_) | Self::Denied { .. } | Self::Unknown { .. } => {
                Owner::Configuration
            }
            Self::Policy(error) => error.owner(),
            Self::Unreachable { .. } => Owner::Network,
            Self::Refused { .. } | Self::Unfit { .. } => Owner::Server,
            Self::NoSuchSecret(_) => Owner::Data,
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Configuration(_) | Self::Unknown { .. } | Self::NoSuchSecret(_) => {
                Persistence::Permanent
            }
            Self::Policy(error) => error.persistence(),
            Self::Unreachable { .. } | Self::Refused { .. } => Persistence::Temporary,
            // Somebody has to change and restart the KBS; then the same attempt succeeds.
            Self::Denied { .. } | Self::Unfit { .. } => Persistence::UntilApproved,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Configuration(_) => {
                "correct the address, certificate or key of the KBS".to_owned()
            }
            Self::Policy(error) => error.advice(),
            Self::Unreachable { .. } => {
                "look at whether the KBS runs, whether its name resolves, whether a NetworkPolicy or firewall \
                 lets us reach its port, and whether its certificate is from the authority that we were given"
                    .to_owned()
            }
            Self::Denied { kind, .. } => denied(kind),
            Self::Refused { .. } => {
                "look at the log of the KBS: its storage may be full or gone".to_owned()
            }
            Self::Unknown { .. } => {
                "the address must be that of a Trustee KBS, release 0.20 or newer, \
                 without a proxy that answers in its place"
                    .to_owned()
            }
            Self::NoSuchSecret(_) => {
                "restore the store of secrets, or rotate the machine's secret: without \
                 it a new one locks the node out of what the old one opens"
                    .to_owned()
            }
            Self::Unfit { dialect, fault } => fault.advice(*dialect),
        }
    }
}

fn denied(kind: &str) -> String {
    match kind {
        "AdminAuth" => "add our public key to the KBS as an Ed25519 persona ([[admin.personas]]), and \
             compare the clocks: our tokens live for five minutes",
        _ => "add our public key to admin.authentication.bearer_jwt.identity_providers, with our issuer or \
             none and without an audience, give our role the resource, reference-value and policy endpoints \
             in admin.authorization.regex_acl, and compare the clocks: our tokens live for five minutes",
    }
    .to_owned()
}

impl Fault {
    /// The line of the KBS configuration to change, in the spelling of its release.
    fn advice(&self, dialect: Dialect) -> String {
        let change = match (self, dialect) {
            (Self::OpenAdministration, Dialect::Unnamed) => {
                "set type = \"Simple\" with our public key (0.20), or authorization_mode = \
                 \"AuthenticatedAuthorization\" (0.21 and newer), in [admin]"
            }
            (Self::OpenAdministration, Dialect::V0_20) => "set type = \"Simple\" in [admin]",
            (Self::OpenAdministration, Dialect::V0_21) => {
                "set authorization_mode = \"AuthenticatedAuthorization\" in [admin]"
            }
            (Self::ForgedTokens, Dialect::V0_20) => {
                "in [attestation_token] remove insecure_key = true and set trusted_certs_paths to the \
                 certificate of the token signer, which attestation_token_broker.signer must have as \
                 key_path and cert_path"
            }
            (Self::ForgedTokens, _) => {
                "in [attestation_token] remove insecure_header_jwk = true and set trusted_certs_paths to \
                 the certificate of the token signer, which attestation_token_broker.signer must have as \
                 key_path and cert_path"
            }
            (Self::Unclear { .. }, _) => {
                "enable the resource plugin, and let no proxy answer in place of the KBS"
            }
            (Self::KeepsOldValues, _) => {
                "set storage_type in [storage_backend] to LocalFs or Postgres; LocalJson keeps old values \
                 before release 0.21"
            }
        };
        format!(
            "{change}, then restart the KBS; `sheepfold-operator kbs-config` writes a configuration that is fit"
        )
    }
}

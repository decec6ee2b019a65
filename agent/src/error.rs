// SPDX-License-Identifier: Apache-2.0

//! Everything that can end a command. Each room has its own errors; this one only gathers them.

use crate::config::ConfigError;
use crate::evidence::EvidenceError;
use crate::guard::GuardError;
use crate::ignition::IgnitionError;
use crate::kbs::KbsError;
use crate::measure::MeasureError;
use crate::state::StateError;
use crate::trust::TrustError;
use crate::unlock::UnlockError;
use clevis_pin::Fault;
use clevis_pin::error::Subject;
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::{Blame, Owner, Persistence};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `agent.toml`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The TPM or TEE.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// A token that wants to be followed where the configuration does not go.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The handshake.
    #[error(transparent)]
    Kbs(#[from] KbsError),
    /// The root is not what was opened.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A register that did not move.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// An Ignition config, or what would take its place.
    #[error(transparent)]
    Ignition(#[from] IgnitionError),
    /// A path, or what the KBS stores.
    #[error(transparent)]
    Protocol(#[from] kbs_protocol::Error),
    /// What the KBS stores for a volume is no secret for it.
    #[error("{error}; asked for {path}")]
    Secret {
        /// The resource path.
        path: Box<ResourcePath>,
        /// What is wrong with it.
        error: kbs_protocol::Error,
    },
    /// The memory of this boot.
    #[error(transparent)]
    State(#[from] StateError),
    /// A volume that stays shut.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// What the KBS keeps beside a secret.
    #[error("the record of the volume key beside the secret is malformed: {0}")]
    VkRecord(String),
    /// What is to be shown of a boot, too late.
    #[error("this boot is sealed: its registers do not show any more what booted")]
    Sealed,
    /// What a person gave to be explained.
    #[error("standard input holds no attestation token: {0}")]
    NoToken(kbs_protocol::Error),
    /// The pin's configuration, token or plaintext.
    #[error(transparent)]
    Pin(#[from] Fault),
    /// Standard input or output.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
}

impl From<clevis_pin::Error<Error>> for Error {
    fn from(error: clevis_pin::Error<Error>) -> Self {
        match error {
            clevis_pin::Error::Source(error) => error,
            clevis_pin::Error::Fault(fault) => Self::Pin(fault),
        }
    }
}

impl Error {
    /// The room's own view of the error, where it has one.
    fn inner(&self) -> Option<&dyn Blame> {
        match self {
            Self::Config(error) => Some(error),
            Self::Evidence(error) => Some(error),
            Self::Trust(error) => Some(error),
            Self::Kbs(error) => Some(error),
            Self::Guard(error) => Some(error),
            Self::Measure(error) => Some(error),
            Self::Ignition(error) => Some(error),
            Self::Protocol(error) | Self::Secret { error, .. } => Some(error),
            Self::State(error) => Some(error),
            Self::Unlock(error) => Some(error),
            Self::NoToken(_)
            | Self::VkRecord(_)
            | Self::Sealed
            | Self::Pin(_)
            | Self::Io { .. } => None,
        }
    }
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        match self {
            Self::Pin(fault) => owner_of_fault(fault),
            Self::NoToken(_) => Owner::Data,
            Self::Sealed => Owner::Configuration,
            Self::VkRecord(_) => Owner::Server,
            other => other.inner().map_or(Owner::Machine, Blame::owner),
        }
    }

    fn persistence(&self) -> Persistence {
        self.inner()
            .map_or(Persistence::Permanent, Blame::persistence)
    }

    fn advice(&self) -> String {
        match self {
            Self::Pin(fault) => fault.advice().to_owned(),
            Self::VkRecord(_) => {
                "store {\"vk_id\":\"…\"} there, as `trustee-agent unlock --test --json` prints it"
                    .to_owned()
            }
            Self::NoToken(_) => {
                "give one token and nothing else: three parts in base64url between two dots"
                    .to_owned()
            }
            Self::Sealed => {
                "let trustee-record.service run it in the initramfs: say enroll.record_boots = true, and reboot"
                    .to_owned()
            }
            Self::Io { .. } => "look at what the command is connected to".to_owned(),
            other => other.inner().map(Blame::advice).unwrap_or_default(),
        }
    }
}

fn owner_of_fault(fault: &Fault) -> Owner {
    match fault {
        Fault::Config(_)
        | Fault::NoPlaintext
        | Fault::TooLarge {
            what: Subject::Config | Subject::Header | Subject::Plaintext,
            ..
        } => Owner::Configuration,
        Fault::Random(_) | Fault::SelfCheck(_) => Owner::Machine,
        Fault::TwoKeys => Owner::Server,
        _ => Owner::Data,
    }
}

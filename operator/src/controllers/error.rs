// SPDX-License-Identifier: Apache-2.0

//! What ends an operator, or a round of it.

use crate::kbs_admin;
use crate::provision;
use kbs_protocol::{Blame, Owner, Persistence};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no way to the API server.
    #[error("no API server: {0}")]
    NoApiServer(String),
    /// The system gives no threads.
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    /// Nobody could ask for metrics.
    #[error(transparent)]
    Metrics(#[from] super::metrics::ListenError),
    /// A file or directory for what was gathered.
    #[error("cannot write {path}: {error}", path = .path.display())]
    Directory {
        /// Where.
        path: std::path::PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Another operator works now.
    #[error("the lease is lost: {0}")]
    LeaseLost(String),
    /// The watches have ended.
    #[error("the watches have ended")]
    Blind,
    /// What the cluster says cannot be used.
    #[error("{0}")]
    Cluster(String),
    /// The Trustee that is run here does not answer yet.
    #[error("Trustee is deployed and not available: {0}")]
    Deploying(String),
    /// A key or certificate could not be made.
    #[error("{0}")]
    Keys(String),
    /// Somebody else manages this KBS.
    #[error("the KBS at {0} is managed by another operator, or by another cluster")]
    Managed(String),
    /// The KBS.
    #[error(transparent)]
    Kbs(#[from] kbs_admin::Error),
    /// Planning, writing, the record.
    #[error(transparent)]
    Provision(#[from] provision::Error),
}

impl Error {
    /// A request to the API server failed.
    pub(crate) fn api(action: &'static str, error: &kube::Error) -> Self {
        provision::Error::api(action, error).into()
    }

    /// `CamelCase`, for a condition.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "InvalidSpec",
            Self::Managed(_) => "ManagedByAnother",
            Self::Deploying(_) => "TrusteeNotAvailable",
            Self::Keys(_) => "NoKeys",
            Self::Kbs(_) | Self::Provision(provision::Error::Write { .. }) => "KbsFailed",
            Self::Provision(provision::Error::Piece { .. }) => "RecordDamaged",
            _ => "Failed",
        }
    }

    /// Whether the KBS is the one that did not do what it was asked.
    pub(super) fn is_about_the_kbs(&self) -> bool {
        self.reason() == "KbsFailed"
    }

    fn inner(&self) -> Option<&dyn Blame> {
        match self {
            Self::Kbs(error) => Some(error),
            Self::Provision(error) => Some(error),
            _ => None,
        }
    }
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        match self {
            Self::NoApiServer(_) | Self::LeaseLost(_) | Self::Blind => Owner::Network,
            Self::Runtime(_) | Self::Keys(_) | Self::Directory { .. } => Owner::Machine,
            Self::Deploying(_) => Owner::Server,
            other => other.inner().map_or(Owner::Configuration, Blame::owner),
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::LeaseLost(_) | Self::Blind | Self::Deploying(_) => Persistence::Temporary,
            other => other
                .inner()
                .map_or(Persistence::Permanent, Blame::persistence),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NoApiServer(_) => {
                "set KUBECONFIG, or run in a pod with a service account".to_owned()
            }
            Self::Runtime(_) => "look at the limits of the container".to_owned(),
            Self::LeaseLost(_) | Self::Blind => "start again; Kubernetes does that".to_owned(),
            Self::Directory { .. } => {
                "name a directory that does not exist yet, where you may write".to_owned()
            }
            Self::Metrics(_) => "choose another address for --metrics".to_owned(),
            Self::Cluster(_) => "correct the TrustedExecutionCluster".to_owned(),
            Self::Deploying(_) => {
                "wait, or look at `kubectl describe deployment trustee-deployment` and the log of its pods"
                    .to_owned()
            }
            Self::Keys(_) => "look at the clock and the limits of the operator's container".to_owned(),
            Self::Managed(_) => {
                "give this cluster a KBS of its own; a KBS serves one cluster".to_owned()
            }
            other => other.inner().map(Blame::advice).unwrap_or_default(),
        }
    }
}

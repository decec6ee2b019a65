// SPDX-License-Identifier: Apache-2.0

//! What can stop a provisioning.

use crate::{kbs_admin, model, plan};
use kbs_protocol::{Blame, Owner, Persistence};
use std::fmt;
use std::path::PathBuf;

/// A place in a file of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Why nothing, or not everything, was provisioned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {error}", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Something that is written down is wrong.
    #[error("{place}: {why}")]
    Object {
        /// Where.
        place: Place,
        /// What was expected and what came.
        why: String,
    },
    /// What an approved image boots cannot be computed.
    #[error("{place}: image {name}: {error}")]
    Image {
        /// Its object.
        name: String,
        /// Where that is.
        place: Place,
        /// Why.
        error: Box<refvals::Error>,
    },
    /// The directory does not describe a cluster.
    #[error("{dir}: {why}", dir = .dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What it lacks.
        why: String,
    },
    /// The administrator's key can be read by others.
    #[error("{path} can be read by everybody on this machine", path = .path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
    },
    /// There is no such machine.
    #[error("there is no machine {name:?} in {dir}", dir = .dir.display())]
    NoMachine {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A machine that has no secrets to rotate.
    #[error("machine {name} is {state}, only an approved one has secrets")]
    NotApproved {
        /// Its name.
        name: String,
        /// Its state.
        state: &'static str,
    },
    /// A machine without this volume.
    #[error("machine {name} has no volume {volume}")]
    NoVolume {
        /// Its name.
        name: String,
        /// The volume.
        volume: String,
    },
    /// Another operator is at work.
    #[error("another operator works with {path}", path = .path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// Our record of the KBS is not in a form that we know.
    #[error("{path} is damaged: {why}", path = .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The KBS is not the one that the record is about.
    #[error(
        "the KBS at {url} does not hold what {record} says: it has lost its storage, or it is another one",
        record = .record.display()
    )]
    Stranger {
        /// Its address.
        url: String,
        /// Our record.
        record: PathBuf,
    },
    /// Somebody else manages this KBS.
    #[error("the KBS at {url} is managed by an operator with another record than {record}", record = .record.display())]
    Managed {
        /// Its address.
        url: String,
        /// Our record.
        record: PathBuf,
    },
    /// The KBS is of another release than the cluster says.
    #[error("the cluster asks for release {wanted}, the KBS sounds like {found}")]
    Release {
        /// What is written down.
        wanted: String,
        /// What was found.
        found: String,
    },
    /// A secret is to be stored that this run has not made.
    #[error("the plan asks for a secret that is not at hand: {write}")]
    NoSecret {
        /// The write.
        write: String,
    },
    /// Many machines are no longer mentioned.
    #[error(
        "{count} machines are no longer in {dir}: provisioning would delete their secrets for ever",
        dir = .dir.display()
    )]
    ManyGone {
        /// How many.
        count: usize,
        /// The directory.
        dir: PathBuf,
    },
    /// The operator of a cluster does this now.
    #[error("what {dir} describes was handed over to the operator of {cluster}", dir = .dir.display())]
    HandedOver {
        /// The directory.
        dir: PathBuf,
        /// `namespace/name`.
        cluster: String,
    },
    /// A write did not succeed; what came before it is recorded.
    #[error("stopped at write {number} of {all} ({write}): {error}")]
    Write {
        /// From 1.
        number: usize,
        /// How many there are.
        all: usize,
        /// The write.
        write: String,
        /// Why.
        error: kbs_admin::Error,
    },
    /// A request to the API server of Kubernetes failed.
    #[error("cannot {action}: {why}")]
    ApiServer {
        /// What was being done.
        action: &'static str,
        /// What it said.
        why: String,
    },
    /// A piece of the record in the API server is not in a form that we know.
    #[error("{name} is damaged: {why}")]
    Piece {
        /// The ConfigMap.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The KBS.
    #[error(transparent)]
    Kbs(#[from] kbs_admin::Error),
    /// Something that is wanted.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// A path or a secret.
    #[error(transparent)]
    Protocol(#[from] kbs_protocol::Error),
}

impl Error {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io {
            action,
            path,
            error,
        }
    }

    pub(crate) fn api(action: &'static str, error: &kube::Error) -> Self {
        let why = match error {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        };
        Self::ApiServer { action, why }
    }

    pub(super) fn write(number: usize, all: usize, write: &plan::Write, error: Self) -> Self {
        match error {
            Self::Kbs(error) => Self::Write {
                number,
                all,
                write: write.to_string(),
                error,
            },
            other => other,
        }
    }

    fn inner(&self) -> Option<&dyn Blame> {
        match self {
            Self::Kbs(error) | Self::Write { error, .. } => Some(error),
            Self::Model(error) => Some(error),
            Self::Protocol(error) => Some(error),
            Self::Image { error, .. } => Some(error.as_ref()),
            _ => None,
        }
    }
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        match self {
            Self::Io { .. } | Self::Locked { .. } => Owner::Machine,
            Self::Record { .. } | Self::Piece { .. } => Owner::Data,
            Self::ApiServer { .. } => Owner::Network,
            Self::Stranger { .. } | Self::NoSecret { .. } => Owner::Server,
            other => other.inner().map_or(Owner::Configuration, Blame::owner),
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Locked { .. } | Self::ApiServer { .. } => Persistence::Temporary,
            other => other
                .inner()
                .map_or(Persistence::Permanent, Blame::persistence),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Io { .. } => "look at the path, its owner and its mode".to_owned(),
            Self::Object { .. } => format!("correct that line; {GUIDE} shows every field"),
            Self::Directory { .. } => {
                format!("a directory holds one Cluster, its ApprovedImages and its Machines: {GUIDE}")
            }
            Self::Exposed { path } => format!("run `chmod go= {}`", path.display()),
            Self::NoMachine { .. } => {
                "use the metadata.name or the id of a Machine; `status` lists them".to_owned()
            }
            Self::NotApproved { .. } => "set its state to approved first".to_owned(),
            Self::NoVolume { .. } => "add it to the volumes of the Machine first".to_owned(),
            Self::Locked { .. } => "wait until the other one has ended".to_owned(),
            Self::Record { .. } => {
                "restore the state directory from a backup: without it nobody knows what the KBS holds"
                    .to_owned()
            }
            Self::ApiServer { .. } => {
                "look at the API server and at the rights of the operator's service account".to_owned()
            }
            Self::Piece { .. } => {
                "restore the ConfigMap from a backup: without it nobody knows what the KBS holds".to_owned()
            }
            Self::Stranger { .. } => {
                "look at the storage of the KBS and restore it from its backup; only if its secrets are \
                 lost for good: `provision --new-record`, which makes new ones that open no existing disk"
                    .to_owned()
            }
            Self::Managed { .. } => {
                "use the other operator's state directory (--state); to take over without it: \
                 `provision --new-record`, which replaces every secret and opens no existing disk"
                    .to_owned()
            }
            Self::ManyGone { .. } => "look at whether files are missing; if the machines are really gone, \
                 allow it with --remove-many"
                .to_owned(),
            Self::HandedOver { .. } => {
                "change the objects there (`kubectl edit`): a KBS has one writer".to_owned()
            }
            Self::Release { .. } => "correct spec.kbs.release, or the address".to_owned(),
            Self::NoSecret { .. } => "run `provision` again".to_owned(),
            Self::Write { error, .. } => format!(
                "{}; then run the same command again, it continues where it stopped",
                error.advice()
            ),
            Self::Image { error, .. } => match error.as_ref() {
                refvals::Error::Unreachable { .. } => {
                    "look at the address, `HTTPS_PROXY`, and spec.registries.caFile when the registry has its own \
                     authority"
                        .to_owned()
                }
                refvals::Error::Registry {
                    status: 401 | 403, ..
                } => "log in to the registry, or name a file with credentials: spec.registries.authFile".to_owned(),
                error => super::images::advice(error),
            },
            other => other.inner().map(Blame::advice).unwrap_or_default(),
        }
    }
}

const GUIDE: &str = "docs/provisioning.md";

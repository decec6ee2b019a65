// SPDX-License-Identifier: Apache-2.0

//! What can go wrong between a reference to an image and its reference values, and who has to act.

use kbs_protocol::error::{Blame, Owner, Persistence};
use std::io;
use std::path::{Path, PathBuf};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the model says.
    #[error(transparent)]
    Boot(#[from] measured_boot::Error),
    /// A file or directory of this machine.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A reference to an image, or an option, that is none.
    #[error("{got:?} is not {expected}")]
    Reference {
        /// What was written.
        got: String,
        /// The form it must have.
        expected: &'static str,
    },
    /// The parts of the image do not say how it boots.
    #[error(
        "nothing in {image} says how it boots: there is no shim with boot loader and kernel, and no unified kernel image"
    )]
    NoRoute {
        /// The image.
        image: String,
    },
    /// An image, or a directory, that is of something else.
    #[error("{image} holds no kernel, boot loader or unified kernel image where a system has them")]
    NothingBoots {
        /// The image.
        image: String,
    },
    /// A system that is not made of deployments.
    #[error("nothing here says what boots next: there is no deployment of ostree or bootc")]
    NoDeployment,
    /// Bytes that are not those that were named.
    #[error("{what} is not what was named: expected {expected}, found {found}")]
    Digest {
        /// What was read.
        what: String,
        /// The digest that named it.
        expected: String,
        /// Its digest.
        found: String,
    },
    /// A blob that ended before its end, or went on after it.
    #[error("{what} could not be read to its end: {why}")]
    Cut {
        /// Its digest.
        what: String,
        /// What the connection or the disk said.
        why: String,
    },
    /// No answer.
    #[error("the registry {host} cannot be reached: {why}")]
    Unreachable {
        /// Whom we asked.
        host: String,
        /// What the network said.
        why: String,
    },
    /// An answer that is no.
    #[error("the registry {host} refuses {what} with status {status}")]
    Registry {
        /// Who answered.
        host: String,
        /// What we asked for.
        what: String,
        /// Status code of HTTP.
        status: u16,
    },
    /// A signature that should be there.
    #[error("{digest} is not signed: {why}")]
    Unsigned {
        /// The image.
        digest: String,
        /// What is missing.
        why: &'static str,
    },
    /// A document that is not what its format says.
    #[error("{what} is not valid: {why}")]
    Document {
        /// Which document, and where it came from.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    pub(crate) fn io<'p>(
        what: &'static str,
        path: impl AsRef<Path> + 'p,
    ) -> impl FnOnce(io::Error) -> Self + 'p {
        move |source| Self::Io {
            what,
            path: path.as_ref().to_owned(),
            source,
        }
    }

    pub(crate) fn document(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Document {
            what: what.into(),
            why: why.to_string(),
        }
    }
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        match self {
            Self::Boot(error) => error.owner(),
            Self::Io { .. } => Owner::Machine,
            Self::Reference { .. }
            | Self::NoRoute { .. }
            | Self::NothingBoots { .. }
            | Self::NoDeployment => Owner::Configuration,
            Self::Document { .. } | Self::Digest { .. } => Owner::Data,
            Self::Cut { .. } | Self::Unreachable { .. } => Owner::Network,
            Self::Registry { status, .. } => match status {
                401 | 403 | 404 => Owner::Configuration,
                _ => Owner::Server,
            },
            Self::Unsigned { .. } => Owner::Policy,
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Boot(error) => error.persistence(),
            Self::Cut { .. } | Self::Unreachable { .. } => Persistence::Temporary,
            Self::Registry {
                status: 429 | 500..=599,
                ..
            } => Persistence::Temporary,
            _ => Persistence::Permanent,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Boot(error) => return error.advice(),
            Self::Io { .. } => "look at the path and its permissions",
            Self::Reference { .. } => "write it as `refvals help` shows",
            Self::NoRoute { .. } => {
                "look at what `refvals image` finds in it, or state `--boot-path`"
            }
            Self::NothingBoots { .. } => {
                "name the image of a bootable system, or the directory in which its root or its ESP is mounted"
            }
            Self::NoDeployment => {
                "name the image, or the directory with its kernel, that will boot"
            }
            Self::Digest { .. } => {
                "do not approve this image; fetch it from another place and compare"
            }
            Self::Cut { .. } => "try again",
            Self::Unreachable { .. } => {
                "look at the address, `HTTPS_PROXY`, and `--ca` when the registry has its own"
            }
            Self::Registry {
                status: 401 | 403, ..
            } => "log in to the registry, and name the file with `--authfile`",
            Self::Registry { status: 404, .. } => {
                "look at repository and digest: the registry does not have it"
            }
            Self::Registry { .. } => "try again; if it stays, ask whoever runs the registry",
            Self::Unsigned { .. } => "have the image signed, or look whether this is the key",
            Self::Document { .. } => "look whether this is what was meant; if it is, get it again from where it came",
        }
        .to_owned()
    }
}

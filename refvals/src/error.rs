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
            Self::Reference { .. } | Self::NoRoute { .. } => Owner::Configuration,
            Self::Document { .. } => Owner::Data,
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Boot(error) => error.persistence(),
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
            Self::Document { .. } => "make the document again",
        }
        .to_owned()
    }
}

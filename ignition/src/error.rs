// SPDX-License-Identifier: Apache-2.0

//! Why a config is refused. Places and numbers, never content.

use super::LIMIT;
use kbs_protocol::{Blame, Owner, Persistence};

/// What is wrong with a config. Always permanent: trying again does not change it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Larger than any honest one.
    #[error("the Ignition config has {bytes} bytes, expected at most {LIMIT}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not JSON.
    #[error("the Ignition config{} is not JSON at line {line}, column {column}", shown(.within))]
    NotJson {
        /// The place of a config inside another one.
        within: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A specification that we have not read, or none.
    #[error("the Ignition config{} has {}, expected ignition.version 3.0.0 to 3.6.0", shown(.within), version(.found.as_deref()))]
    Version {
        /// The place of a config inside another one.
        within: String,
        /// What it says, if that looks like a version.
        found: Option<String>,
    },
    /// An object with two members of one name, for Ignition.
    #[error("the Ignition config has {place} twice")]
    Twice {
        /// Where.
        place: String,
    },
    /// Fetched from elsewhere, by nobody who attests.
    #[error("the Ignition config fetches {place} from elsewhere without a verification.hash")]
    Unpinned {
        /// Where.
        place: String,
    },
    /// A further config that is elsewhere: its own references cannot be seen from here.
    #[error(
        "the Ignition config takes {place} from elsewhere, where nobody can check what it fetches"
    )]
    Elsewhere {
        /// Where.
        place: String,
    },
    /// A further config inside, in a form that is not looked into.
    #[error("the Ignition config has {place} compressed or in a form that cannot be looked into")]
    Opaque {
        /// Where.
        place: String,
    },
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        Owner::Data
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        let advice = match self {
            Self::TooLarge { .. } => "put large files elsewhere, and their SHA-512 into the config",
            Self::Unpinned { .. } => {
                "add verification.hash (\"sha512-\" and the digest), or put the content into a data URL"
            }
            Self::Elsewhere { .. } | Self::Opaque { .. } => {
                "merge the two configs before they are stored, or put the other one into a plain data URL"
            }
            Self::NotJson { .. } => "store the JSON that Butane makes, not its YAML",
            Self::Version { .. } => {
                "store a config of a specification that the image's Ignition has"
            }
            Self::Twice { .. } => "leave one of them",
        };
        advice.to_owned()
    }
}

fn shown(within: &str) -> String {
    match within {
        "" => String::new(),
        place => format!(" in {place}"),
    }
}

fn version(found: Option<&str>) -> String {
    found.map_or("no known version".to_owned(), |found| {
        format!("version {found}")
    })
}

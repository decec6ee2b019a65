// SPDX-License-Identifier: Apache-2.0

//! What can be wrong with the memory of a boot.

use kbs_protocol::{Blame, Owner, Persistence};
use std::path::PathBuf;

/// Why the state of this boot cannot be used. Never an empty state instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something else stands where the agent keeps its state.
    #[error("{} is not a directory that belongs to this user alone: {why}", .path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// The content is not what this program writes.
    #[error("{} is not the state of a boot: {why}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first thing that is wrong.
        why: String,
    },
    /// Somebody wants to record what cannot be.
    #[error("this cannot become the state of a boot: {why}")]
    Impossible {
        /// What is wrong with it.
        why: String,
    },
}

impl Blame for StateError {
    fn owner(&self) -> Owner {
        Owner::Machine
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        match self {
            Self::Io { .. } => {
                "run it as root, where /run is a file system in memory with room left"
            }
            Self::NotOurs { .. } => "find out who made it, and boot again",
            Self::Damaged { .. } => {
                "boot again: the state is made anew by each boot, and nothing is opened without it"
            }
            Self::Impossible { .. } => "report it: the agent has recorded something wrong",
        }
        .to_owned()
    }
}

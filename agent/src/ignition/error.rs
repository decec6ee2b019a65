// SPDX-License-Identifier: Apache-2.0

//! Why a config does not reach Ignition. Places and numbers, never content.

use crate::cmdline::Refusal;
use kbs_protocol::{Blame, Owner, Persistence};
use std::path::PathBuf;

/// Why there is no config. Always permanent: trying again changes neither a config nor what a host did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IgnitionError {
    /// Something in the config.
    #[error(transparent)]
    Config(#[from] ignition_config::Error),
    /// The kernel command line has a config of its own, and it would win.
    #[error(transparent)]
    CommandLine(Refusal),
    /// Something had a config for Ignition before us.
    #[error("there is already {}, which this program did not write", .path.display())]
    Present {
        /// The file.
        path: PathBuf,
    },
    /// A file or directory.
    #[error("cannot {action} {}: {error}", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

impl Blame for IgnitionError {
    fn owner(&self) -> Owner {
        match self {
            Self::CommandLine(refusal) => refusal.owner(),
            Self::Present { .. } | Self::Io { .. } => Owner::Machine,
            Self::Config(error) => error.owner(),
        }
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        let advice = match self {
            Self::Config(error) => return error.advice(),
            Self::CommandLine(_) => {
                "somebody with access to the boot loader or the hypervisor wants another config: find out \
                 who; the node's own comes from the KBS"
            }
            Self::Present { .. } => {
                "find out what wrote it before the attestation: a service that copies a config from the boot \
                 partition or the platform must not be in this image"
            }
            Self::Io { .. } => {
                "look at the file system of the initramfs; it is memory, and may be full"
            }
        };
        advice.to_owned()
    }
}

// SPDX-License-Identifier: Apache-2.0

//! What can go wrong with a processor's report, as sentences with a cure; used by everything under `evidence`
//! that is no TPM.

use kbs_protocol::{Blame, Owner, Persistence, Tee};
use std::io;
use std::path::PathBuf;

/// Why the processor does not vouch for this machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TeeError {
    /// The kernel offers no interface to ask for a report.
    #[error("this machine offers no {tee} evidence: {why}")]
    Missing {
        /// What was configured.
        tee: Tee,
        /// What is not there.
        why: String,
        /// What to do.
        cure: &'static str,
    },
    /// Another processor's driver answers.
    #[error("this machine's reports come from {found:?}, {tee} needs {expected:?}")]
    Provider {
        /// What was configured.
        tee: Tee,
        /// What the kernel calls the driver that is there.
        found: String,
        /// What it would have to be.
        expected: &'static str,
    },
    /// A file of the kernel's interface does not read or write.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// `read`, `write`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another program used our entry while we did.
    #[error("another program wrote to our request for a report")]
    Conflict,
    /// The report is about something else than was asked for.
    #[error("the {tee} report does not carry the data that it was asked to sign")]
    Stale {
        /// The source.
        tee: Tee,
    },
    /// The guest does not run at the most privileged level, so neither do its reports.
    #[error(
        "this guest runs at privilege level {level} below a paravisor, whose report says nothing about its disks"
    )]
    Privilege {
        /// VMPL, 1 to 3.
        level: String,
    },
    /// A report of a version that verifiers refuse.
    #[error(
        "the processor's firmware makes reports of version {version}, verifiers accept 3 and later"
    )]
    OldFirmware {
        /// Version of the report.
        version: u32,
    },
    /// Init-data is configured, and the host launched the machine with another digest or none.
    #[error("{register} is {found}, our init-data needs {expected}")]
    InitData {
        /// `HOST_DATA`, `MRCONFIGID`, `PCR 8`.
        register: &'static str,
        /// What the machine was launched with, lower-case hex.
        found: String,
        /// What it should have been launched with, lower-case hex.
        expected: String,
    },
    /// The kernel takes an extend and the register does not show it.
    #[error("RTMR 3 was {before} and is {after} now, which is not what was extended")]
    Unmoved {
        /// The value before, lower-case hex.
        before: String,
        /// The value after, lower-case hex.
        after: String,
    },
    /// Azure's metadata service gives nothing to show.
    #[error("Azure's metadata service does not help with {tee} evidence: {why}")]
    Metadata {
        /// The source.
        tee: Tee,
        /// What it said, or why it could not be asked.
        why: String,
    },
    /// PCR 8 holds what a boot loader measured.
    #[error(
        "PCR 8 is {found}: a boot loader measures into it (GRUB does), so it cannot carry init-data"
    )]
    Pcr8Taken {
        /// The value, lower-case hex.
        found: String,
    },
    /// What came is no report, quote or table.
    #[error(transparent)]
    Malformed(#[from] kbs_protocol::Error),
}

impl TeeError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source,
        }
    }
}

/// Whether the kernel, or the host behind it, says no more than "not now".
pub(super) fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ResourceBusy
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::WouldBlock
    )
}

impl Blame for TeeError {
    fn owner(&self) -> Owner {
        match self {
            Self::Pcr8Taken { .. } => Owner::Configuration,
            Self::Metadata { .. } => Owner::Network,
            _ => Owner::Machine,
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Conflict | Self::Stale { .. } | Self::Metadata { .. } => Persistence::Temporary,
            Self::Io { source, .. } if is_busy(source) => Persistence::Temporary,
            _ => Persistence::Permanent,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Missing { cure, .. } => cure,
            Self::Provider { .. } => {
                "set evidence.primary in agent.toml to what this machine is, or start it as what the cluster \
                 expects; the agent never takes the next best"
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as root: reports are not for everybody"
            }
            Self::Io { source, .. } if is_busy(source) => {
                "wait: the host lets its guests ask for a report now and then only; if it stays so, ask whoever runs the \
                 host, and look for another program on this machine that asks for reports"
            }
            Self::Io { .. } => "look at the kernel's messages about the guest driver (dmesg)",
            Self::Conflict | Self::Stale { .. } => {
                "find the other program that asks for reports under our name, then try again"
            }
            Self::Privilege { .. } => {
                "use the paravisor's vTPM (evidence.primary = \"az-snp-vtpm\" on Azure), or start the guest at VMPL 0"
            }
            Self::Metadata { .. } => {
                "look at the route to 169.254.169.254, which every virtual machine of Azure has; it must not go through a \
                 proxy"
            }
            Self::OldFirmware { .. } => "update the firmware of the processor (SEV-SNP 1.55 or newer)",
            Self::InitData { .. } => {
                "start the machine with the digest of exactly this init-data, or correct kbs.init_data_file"
            }
            Self::Pcr8Taken { .. } => {
                "boot a unified kernel image, which leaves PCR 8 alone; or name nodes by their attestation key and \
                 remove kbs.init_data_file"
            }
            Self::Unmoved { .. } => {
                "find the other program that extends RTMR 3; or do not trust this machine's kernel"
            }
            Self::Malformed(_) => {
                "report this together with the processor's model and the kernel's version"
            }
        }
        .to_owned()
    }
}

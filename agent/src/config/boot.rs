// SPDX-License-Identifier: Apache-2.0

//! `[boot]`: how strict the initramfs is, and what shuts the door behind the last fetch. Read by the generator,
//! by `seal`, and by whoever opens volumes.

use super::{ConfigError, Problem, Sources, raw};
use serde::Deserialize;

/// `[boot]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Whether the host is the enemy: then there is no passphrase prompt, no recovery, and a kernel command line
    /// that could go round the attestation is refused. The default.
    pub confidential: bool,
    /// What moves when the node leaves its initramfs.
    pub seal: Seal,
    /// Kernel arguments that are accepted although the command-line policy refuses them, word for word.
    pub allow_arguments: Vec<String>,
}

/// `[boot] seal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seal {
    /// The agent extends PCR 11 itself. For a chain that measures nothing there: GRUB.
    Pcr11,
    /// `systemd-pcrphase-initrd.service` of a unified kernel image extends PCR 11 when the initramfs ends; the
    /// agent makes sure that it has, so that systemd's own policies over PCR 11 stay true.
    UkiPhases,
    /// Nothing: what is booted can ask for the disk's secret again.
    None,
}

impl Seal {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pcr11 => "pcr11",
            Self::UkiPhases => "uki-phases",
            Self::None => "none",
        }
    }
}

impl Boot {
    pub(super) fn parse(raw: raw::Boot, sources: &Sources) -> Result<Self, ConfigError> {
        if raw.confidential && raw.seal == Seal::None {
            let problem = Problem::new(
                "a confidential node must not be able to ask for its secret again once it has booted",
                "use pcr11 or uki-phases, or say confidential = false",
            );
            return Err(ConfigError::value("boot.seal", "none", problem));
        }
        if raw.seal != Seal::None && !sources.can_be_sealed() {
            let problem = Problem::new(
                "SEV-SNP alone has no register that a seal could move",
                "put a TPM beside it (evidence.additional = [\"tpm\"]); or say seal = \"none\" and confidential = false, \
                 and what is booted can fetch the disk's secret again",
            );
            return Err(ConfigError::value("boot.seal", raw.seal.as_str(), problem));
        }
        for argument in &raw.allow_arguments {
            argument_problem(argument)?;
        }
        Ok(Self {
            confidential: raw.confidential,
            seal: raw.seal,
            allow_arguments: raw.allow_arguments,
        })
    }
}

/// One argument each, as it stands on the command line: a pattern that allows more than it shows is not one.
fn argument_problem(argument: &str) -> Result<(), ConfigError> {
    let good = !argument.is_empty()
        && argument.len() <= LONGEST_ARGUMENT
        && !argument.chars().any(char::is_control);
    if good {
        return Ok(());
    }
    let problem = Problem::new(
        format!("expected one kernel argument of 1 to {LONGEST_ARGUMENT} bytes"),
        "write each argument as it stands on the kernel command line, name=value",
    );
    Err(ConfigError::value(
        "boot.allow_arguments",
        argument,
        problem,
    ))
}

/// The kernel takes a line of 2048 bytes on x86 (COMMAND_LINE_SIZE).
const LONGEST_ARGUMENT: usize = 2048;

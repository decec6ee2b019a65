// SPDX-License-Identifier: Apache-2.0

//! What can go wrong with a TPM, as sentences with a cure; used by everything under `evidence` that talks
//! to one.

use super::tpm_key::Weakness;
use super::tpm_rc::{Meaning, Step, advice, raw_code};
use kbs_protocol::{Blame, Owner, Persistence};

/// Why the TPM cannot attest this machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// `tpm.tcti` is not a string this build can use.
    #[error("tpm.tcti {text:?} is not usable: {why}")]
    BadTcti {
        /// The setting.
        text: String,
        /// What was expected.
        why: String,
    },
    /// `tpm.ak_handle` is not a handle under which the owner can keep a key.
    #[error(
        "tpm.ak_handle {handle:#010x} is not usable: the owner's persistent handles are 0x81000000 to \
         0x817fffff"
    )]
    BadHandle {
        /// The setting.
        handle: u32,
    },
    /// The device node does not exist.
    #[error("there is no TPM device {path}")]
    NoDevice {
        /// The device node.
        path: String,
    },
    /// The device node may not be opened by this user.
    #[error("this user may not open the TPM device {path}")]
    Forbidden {
        /// The device node.
        path: String,
    },
    /// A device without a resource manager is held by another program.
    #[error("another program holds the TPM device {path}")]
    Occupied {
        /// The device node.
        path: String,
    },
    /// The device node does not open for another reason.
    #[error("the TPM device {path} does not open: {source}")]
    Device {
        /// The device node.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The device node opens, but what is behind it does not talk like a TPM.
    #[error("the device {path} does not answer as a TPM")]
    Mute {
        /// The device node.
        path: String,
    },
    /// tpm2-tss has no library for this kind of TCTI.
    #[error("tpm2-tss has no library to reach the TPM at {tcti}")]
    NoLibrary {
        /// The setting.
        tcti: String,
    },
    /// Nothing answers at the address of a software TPM.
    #[error("no TPM answers at {tcti}")]
    NoAnswer {
        /// The setting.
        tcti: String,
    },
    /// The key at the AK's handle would not convince anybody, or could lock this node out.
    #[error("the key at {handle:#010x} is not an attestation key: {weakness}")]
    WeakKey {
        /// The persistent handle.
        handle: u32,
        /// Which property is wrong.
        weakness: Weakness,
    },
    /// Another key answered for the AK between reading it and quoting with it.
    #[error("the key at {handle:#010x} was replaced while this program used it")]
    KeyReplaced {
        /// The persistent handle.
        handle: u32,
    },
    /// The TPM keeps no SHA-256 PCRs.
    #[error("the TPM has no complete SHA-256 PCR bank, it keeps {active}")]
    NoSha256Bank {
        /// The active banks, for a sentence.
        active: String,
    },
    /// PCRs changed between quote and read, every time.
    #[error("PCRs changed during each of {attempts} attempts to quote them")]
    PcrsKeepChanging {
        /// How often it was tried.
        attempts: usize,
    },
    /// The TPM signs other PCR values than it shows, though nothing changed.
    #[error("the TPM's quote does not match the PCR values it shows, although no PCR changed")]
    Contradiction,
    /// The TPM or the TSS answered with an error code.
    #[error("{step} failed: {meaning} (response {code:#05x})")]
    Response {
        /// What was being done.
        step: Step,
        /// The code, for searching.
        code: u32,
        /// The code in words.
        meaning: Meaning,
    },
    /// The TSS binding refused a value, ours or the TPM's.
    #[error("{step} failed: the answer or parameter is not understood ({why})")]
    Unexpected {
        /// What was being done.
        step: Step,
        /// What was wrong.
        why: String,
    },
}

impl TpmError {
    /// An error of the TSS binding, in words.
    pub(super) fn response(step: Step, error: tss_esapi::Error) -> Self {
        match error {
            tss_esapi::Error::Tss2Error(code) => {
                let raw = raw_code(code);
                Self::Response {
                    step,
                    code: raw,
                    meaning: Meaning::of(code, raw).when(step),
                }
            }
            tss_esapi::Error::WrapperError(kind) => Self::Unexpected {
                step,
                why: kind.to_string(),
            },
        }
    }

    /// What the code means, if the TPM answered with one.
    pub(super) fn meaning(&self) -> Option<Meaning> {
        match self {
            Self::Response { meaning, .. } => Some(*meaning),
            _ => None,
        }
    }
}

impl Blame for TpmError {
    fn owner(&self) -> Owner {
        match self {
            Self::BadTcti { .. } | Self::BadHandle { .. } => Owner::Configuration,
            _ => Owner::Machine,
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Occupied { .. }
            | Self::Mute { .. }
            | Self::NoAnswer { .. }
            | Self::KeyReplaced { .. }
            | Self::PcrsKeepChanging { .. }
            | Self::Response {
                meaning: Meaning::Busy | Meaning::OutOfMemory | Meaning::Disconnected,
                ..
            } => Persistence::Temporary,
            _ => Persistence::Permanent,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::BadTcti { .. } => "set tpm.tcti in agent.toml, normally to device:/dev/tpmrm0",
            Self::BadHandle { .. } => "set tpm.ak_handle in agent.toml, normally to 0x81010002",
            Self::NoDevice { .. } => {
                "enable the TPM (or vTPM) in the firmware or hypervisor, put its driver into the \
                 initramfs, and order the unit after dev-tpmrm0.device"
            }
            Self::Forbidden { .. } => "run as root, or add this user to the group tss",
            Self::Occupied { .. } => {
                "use device:/dev/tpmrm0, which programs can share, or stop the other program"
            }
            Self::Device { .. } | Self::Mute { .. } => "look at the kernel's messages about the TPM (dmesg)",
            Self::NoLibrary { .. } => {
                "install the TCTI library of tpm2-tss (libtss2-tcti-device.so.0 for a device) and put \
                 it into the initramfs: it is loaded by name, so tools that follow links miss it"
            }
            Self::NoAnswer { .. } => "start the software TPM, or correct tpm.tcti in agent.toml",
            Self::WeakKey { handle, .. } => {
                return format!(
                    "make sure that no other program needs that key, remove it with \
                     `tpm2_evictcontrol -C o -c {handle:#010x}`, and this program creates a good one; \
                     or set tpm.ak_handle in agent.toml to a free handle"
                );
            }
            Self::KeyReplaced { .. } => {
                "find the other program that writes to this handle; the node's id changes with its key"
            }
            Self::NoSha256Bank { .. } => {
                "activate the SHA-256 bank in the firmware, or with `tpm2_pcrallocate sha256:all` and a \
                 reboot"
            }
            Self::PcrsKeepChanging { .. } => {
                "find out what extends PCRs all the time, then try again"
            }
            Self::Contradiction => {
                "do not trust this TPM: update its firmware (or the hypervisor's vTPM) or replace it"
            }
            Self::Response { step, meaning, .. } => advice(*step, *meaning),
            Self::Unexpected { .. } => {
                "report this together with the TPM's manufacturer and firmware version \
                 (`trustee-agent status`)"
            }
        }
        .to_owned()
    }
}

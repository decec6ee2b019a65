// SPDX-License-Identifier: Apache-2.0

//! Why a volume stays shut.

use kbs_protocol::{Blame, Owner, Persistence};
use luks_header::Refusal;
use std::path::PathBuf;

/// What stood between a device and an open volume, apart from the server and its secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnlockError {
    /// Nothing says which device the volume lies on.
    #[error("no device is named for the volume {name:?}")]
    NoDevice {
        /// The volume.
        name: String,
    },
    /// The device itself.
    #[error("cannot {action} {}: {error}", .device.display())]
    Device {
        /// What was being done.
        action: &'static str,
        /// The device.
        device: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A volume that is open, and of which the kernel does not tell.
    #[error("cannot see what the kernel made of the volume {name:?}: {error}")]
    Active {
        /// The volume.
        name: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A header that is not opened.
    #[error("{}: {refusal}", .device.display())]
    Header {
        /// The device.
        device: PathBuf,
        /// Why.
        refusal: Refusal,
    },
    /// No memory for the header.
    #[error("cannot keep the header in memory: {0}")]
    Memory(std::io::Error),
    /// Nothing to make a key slot for.
    #[error("the KBS keeps no recovery passphrase for this node")]
    NoRecovery,
    /// None of the volume's tokens is one that this pin opens.
    #[error("{}: none of its Clevis tokens is for this node: {why}", .device.display())]
    NoToken {
        /// The device.
        device: PathBuf,
        /// What was wrong with the last one.
        why: String,
    },
    /// The token is for another of this node's volumes.
    #[error("the volume {name:?} has a token for {path}, expected {expected}")]
    OtherVolume {
        /// The volume.
        name: String,
        /// What the token names.
        path: String,
        /// What the configuration makes of the volume's name.
        expected: String,
    },
    /// The token carries something else than the key slot's passphrase.
    #[error("the token's passphrase does not open key slot {keyslot}")]
    Passphrase {
        /// The key slot.
        keyslot: u32,
    },
    /// libcryptsetup.
    #[error("{}: libcryptsetup cannot {action}: {why}", .device.display())]
    Library {
        /// What was being done.
        action: &'static str,
        /// The device.
        device: PathBuf,
        /// What it said.
        why: String,
    },
    /// Two readings of one thing.
    #[error("{what} is {found}, expected {expected}")]
    Disagrees {
        /// Of what.
        what: &'static str,
        /// By libcryptsetup or the kernel.
        found: String,
        /// By the header that was judged.
        expected: String,
    },
    /// Another volume than the one that this node was bound to.
    #[error(
        "the volume {name:?} opens, but it is not this node's: its key is {found}, the KBS expects {expected}"
    )]
    OtherKey {
        /// The volume.
        name: String,
        /// The id of its key.
        found: String,
        /// The id that the KBS keeps.
        expected: String,
    },
    /// The KBS does not say which key the volume has.
    #[error("the KBS keeps no volume key id for {path}, and unlock.vk_id is \"required\"")]
    NoVkId {
        /// The resource path of the secret.
        path: String,
    },
    /// Gone, though it was there a moment ago.
    #[error("the volume {name:?} is not open any more")]
    NotActive {
        /// The volume.
        name: String,
    },
    /// Nothing to verify.
    #[error("no LUKS2 volume is open on this machine")]
    NothingActive,
    /// Somebody else has opened a volume under this name.
    #[error("the volume {name:?} is open already, and not by this agent")]
    Foreign {
        /// The volume.
        name: String,
    },
}

impl Blame for UnlockError {
    fn owner(&self) -> Owner {
        match self {
            Self::NoDevice { .. } | Self::NothingActive => Owner::Configuration,
            Self::Device { .. }
            | Self::Active { .. }
            | Self::NotActive { .. }
            | Self::Memory(_)
            | Self::Library { .. } => Owner::Machine,
            Self::NoVkId { .. } | Self::NoRecovery => Owner::Server,
            _ => Owner::Data,
        }
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        match self {
            Self::NoDevice { name } => format!(
                "name it with --device, as rd.luks.name=UUID={name} on the kernel command line, or in /etc/crypttab"
            ),
            Self::Device { .. } => "check that the disk is there and can be read".to_owned(),
            Self::Active { .. } => {
                "mount /sys, and check that the kernel has dm_crypt and that /dev/mapper/control is there".to_owned()
            }
            Self::Header { refusal, .. } => refusal.advice().to_owned(),
            Self::Memory(_) => "give the machine more memory".to_owned(),
            Self::NoToken { .. } => {
                "bind the volume with `clevis luks bind -d DEVICE trustee '{}'`, or find out who changed its header"
                    .to_owned()
            }
            Self::OtherVolume { .. } => {
                "bind the volume with its own path, or unlock it under the name that its path ends with; if nobody \
                 renamed it, find out who changed the disk"
                    .to_owned()
            }
            Self::Passphrase { .. } => {
                "restore the header from a backup, or bind the volume again; if nobody changed it, find out who did"
                    .to_owned()
            }
            Self::Library { .. } => {
                "check that the kernel has dm_crypt (and dm_integrity for authenticated volumes), then try again"
                    .to_owned()
            }
            Self::Disagrees { .. } => {
                "somebody has changed the header since it was judged, or the kernel opens volumes otherwise than \
                 expected: do not boot this volume; look at the disk with `cryptsetup luksDump`"
                    .to_owned()
            }
            Self::OtherKey { .. } => {
                "an old or foreign volume lies in this one's place: find out who changed the disk; if it is to \
                 be formatted anew, say so before: `sheepfold-operator renew-volume`"
                    .to_owned()
            }
            Self::NoVkId { .. } => {
                "run `sheepfold-operator provision`: it stores what this node has recorded on its first boot; a node that was \
                 bound before records it with `trustee-agent unlock --record`"
                    .to_owned()
            }
            Self::NoRecovery => {
                "say `recovery: {passphrase: escrowed}` in the cluster's spec and run `sheepfold-operator provision`, or leave \
                 unlock.recovery out"
                    .to_owned()
            }
            Self::NothingActive => {
                "let Ignition make the volume (storage.luks with a clevis binding), or leave this unit out".to_owned()
            }
            Self::NotActive { .. } => "find out who closed it, and start again".to_owned(),
            Self::Foreign { .. } => "find out who opened it, close it, and try again".to_owned(),
        }
    }
}

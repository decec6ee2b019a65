// SPDX-License-Identifier: Apache-2.0

//! The part of an Ignition config that encrypts a node's volumes on first boot and binds them to the pin
//! `trustee`. Pure: from typed wishes to the text of a config, which is merged into the node's own
//! (`ignition.config.merge`). Whoever hands configs to nodes calls [`Fragment::render`].
//!
//! The text is the same for every node of an image. It names neither server nor path: both stand in
//! `agent.toml` in the measured initramfs, and the agent refuses a token that says otherwise.

mod render;
mod spec;
mod volume;

pub use spec::{Form, SpecVersion};
pub use volume::{
    Existing, Filesystem, Format, Integrity, Label, MapperName, MetadataSize, MountPoint,
    OpenOption, Source, Volume, VolumeUuid,
};

use kbs_protocol::{Blame, Owner, Persistence};

/// Volumes to encrypt on first boot, in the order in which Ignition shall make them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// At least one; no two share a name or a device.
    pub volumes: Vec<Volume>,
}

impl Fragment {
    /// The config as JSON text of this specification version (Ignition configuration specification), with a
    /// newline at its end.
    ///
    /// # Errors
    /// [`Error`]: two volumes in each other's way, something this version cannot say, discards of
    /// authenticated sectors, or a metadata area with no room for the tokens.
    pub fn render(&self, spec: SpecVersion) -> Result<String, Error> {
        render::render(self, spec)
    }
}

/// Why a fragment cannot be rendered. Always ours to mend: nothing here depends on a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It has another form.
    #[error("{what} must be {expected}, got {got:?}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// Its beginning.
        got: String,
        /// The form it must have.
        expected: &'static str,
    },
    /// There is nothing to encrypt.
    #[error("a fragment must name a volume, it names none")]
    Empty,
    /// Two volumes want the same thing.
    #[error("two volumes have the {what} {value:?}, expected one")]
    Twice {
        /// What they share.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// The version's grammar has no word for it.
    #[error("volume {volume}: {what} needs specification 3.4.0 or newer, this is {spec}")]
    NotInSpec {
        /// The volume.
        volume: String,
        /// What was asked for.
        what: &'static str,
        /// The version.
        spec: SpecVersion,
    },
    /// A volume whose sectors are authenticated passes no discards on (cryptsetup(8), `--allow-discards`).
    #[error("volume {volume}: discard does not go with integrity {integrity}")]
    NoDiscards {
        /// The volume.
        volume: String,
        /// What was asked for besides.
        integrity: Integrity,
    },
    /// The LUKS2 header would overflow when the volume is bound anew.
    #[error(
        "volume {volume}: a metadata size of {size} leaves {room} bytes for two tokens, which may take {needed}"
    )]
    MetadataTooSmall {
        /// The volume.
        volume: String,
        /// What was asked for.
        size: MetadataSize,
        /// What is left of it for tokens, in bytes.
        room: usize,
        /// What two tokens of the largest kind take, in bytes.
        needed: usize,
    },
    /// No specification version of this Ignition does.
    #[error("Ignition {version} cannot bind a volume to this pin, expected 2.7 or newer")]
    TooOld {
        /// The version of Ignition.
        version: String,
    },
}

impl Error {
    fn malformed(what: &'static str, got: &str, expected: &'static str) -> Self {
        Self::Malformed {
            what,
            got: got.chars().take(SHOWN).collect(),
            expected,
        }
    }
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        Owner::Configuration
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        match self {
            Self::Malformed { .. } => "correct the value where it was written down",
            Self::Empty => "name the volume to encrypt, usually root",
            Self::Twice { .. } => "give each volume a name and a device of its own",
            Self::NotInSpec { .. } => {
                "use an image with Ignition 2.15 or newer, or leave the setting out"
            }
            Self::NoDiscards { .. } => {
                "leave discard out: what is trimmed could not be authenticated"
            }
            Self::MetadataTooSmall { .. } => "take 64k, the default",
            Self::TooOld { .. } => "use an image with a newer Ignition",
        }
        .to_owned()
    }
}

const SHOWN: usize = 80;

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! What can go wrong between foreign bytes and a predicted PCR, and who has to act.

use crate::bank::Bank;
use kbs_protocol::error::{Blame, Owner, Persistence};

/// Why a file could not be read or a boot could not be predicted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A structure announces more bytes than there are.
    #[error("{structure} is cut short at offset {offset}: {wanted} bytes expected, {left} left")]
    Truncated {
        /// The structure, by the name its specification gives it.
        structure: &'static str,
        /// Offset in the file, in bytes.
        offset: usize,
        /// Bytes that the structure needs next.
        wanted: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// A structure that breaks its specification.
    #[error("{structure} is malformed at offset {offset}: {why}")]
    Malformed {
        /// The structure, by the name its specification gives it.
        structure: &'static str,
        /// Offset in the file, in bytes.
        offset: usize,
        /// What was expected and what came.
        why: String,
    },
    /// A file above its limit.
    #[error("{structure} is {actual} bytes long, at most {limit} are accepted")]
    TooLarge {
        /// The structure, by the name its specification gives it.
        structure: &'static str,
        /// Its length in bytes.
        actual: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A file that was changed after it was signed: firmware would refuse it.
    #[error("{file} is not what was signed: its digest is {computed}, its signature says {signed}")]
    ChangedAfterSigning {
        /// The file.
        file: String,
        /// Authenticode digest of the file, in hexadecimal.
        computed: String,
        /// The digest inside the signature, in hexadecimal.
        signed: String,
    },
    /// A digest that the facts do not hold, because whoever wrote them computed other banks only.
    #[error("no {bank} digest is known of {what}")]
    NoDigest {
        /// What would be measured.
        what: String,
        /// The bank that was asked for.
        bank: Bank,
    },
    /// The boot path needs a part that the image does not have.
    #[error("the image {image} has no {part}, which this boot path needs")]
    MissingPart {
        /// The image.
        image: String,
        /// The part: `shim`, `boot loader`, `kernel`, `unified kernel image`, …
        part: &'static str,
    },
    /// No key or hash of the platform vouches for the file: the machine will not run it.
    #[error("{file} is not authorised by any key of {by}")]
    NotAuthorised {
        /// The file.
        file: String,
        /// Whose keys were tried.
        by: String,
    },
    /// A revocation names the file: the machine will not run it.
    #[error("{file} is revoked by {by}")]
    Revoked {
        /// The file.
        file: String,
        /// The list that names it: `dbx`, `MokListX` or `SbatLevel`.
        by: &'static str,
    },
    /// The number of times this boot loader measures the kernel was never observed.
    #[error(
        "it is not known how often {loader} measures the kernel, candidates are {candidates:?}"
    )]
    Uncalibrated {
        /// The boot loader, as its SBAT section names it.
        loader: String,
        /// The counts that are possible.
        candidates: Vec<u8>,
    },
    /// Something that is measured, but whose measurement is not modelled.
    #[error("{what} cannot be predicted: {why}")]
    Unsupported {
        /// What was found.
        what: String,
        /// Why there is no prediction.
        why: &'static str,
    },
    /// More combinations than anybody should approve.
    #[error("{count} {what}, at most {limit} are accepted")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// The bytes could not be had: a file, a connection or a decompressor said no.
    #[error("{structure} cannot be read after {offset} bytes: {why}")]
    Read {
        /// What was being read.
        structure: &'static str,
        /// How far it went, in bytes.
        offset: usize,
        /// What the reader said.
        why: String,
    },
    /// Several parts that could be the one that boots.
    #[error("the image {image} has several {what}: {}", candidates.join(", "))]
    Ambiguous {
        /// The image.
        image: String,
        /// What there should be one of.
        what: &'static str,
        /// Their paths.
        candidates: Vec<String>,
    },
    /// A document (facts, variable store) that is not what its format says.
    #[error("{what} is not valid: {why}")]
    Document {
        /// Which document.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// Whether it says that a machine in this state does not start, so that there is nothing to accept.
    pub fn means_no_boot(&self) -> bool {
        matches!(self, Self::NotAuthorised { .. } | Self::Revoked { .. })
    }
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        match self {
            Self::NotAuthorised { .. }
            | Self::Revoked { .. }
            | Self::MissingPart { .. }
            | Self::Ambiguous { .. }
            | Self::Uncalibrated { .. }
            | Self::Unsupported { .. }
            | Self::TooMany { .. } => Owner::Configuration,
            _ => Owner::Data,
        }
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        match self {
            Self::Truncated { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::Read { .. } => {
                "copy the file again from where it came; if it reads the same, report it with the file"
            }
            Self::ChangedAfterSigning { .. } => {
                "take the file from its package again: a machine with Secure Boot refuses this one"
            }
            Self::NoDigest { .. } => {
                "compute the facts again from the image itself: they then hold every bank"
            }
            Self::MissingPart { .. } => {
                "choose the boot path that the image was built for, or add the missing part to the image"
            }
            Self::NotAuthorised { .. } => {
                "enrol the signer's certificate on the platform, or sign the file with a key that is \
                 enrolled"
            }
            Self::Revoked { .. } => {
                "build the image with a newer boot loader before the revocation reaches the machines"
            }
            Self::Uncalibrated { .. } => {
                "boot one machine with this image, count the kernel's events in its log with `refvals \
                 explain`, and state the number as kernel_measurements"
            }
            Self::Unsupported { .. } => {
                "remove it from the image or the platform, or leave the PCR that it changes out of the policy"
            }
            Self::Ambiguous { .. } => {
                "remove all but one from the image, or say which one boots: `--select` with the beginning of its \
                 path"
            }
            Self::TooMany { .. } => {
                "approve fewer images at once: the current one and its predecessor are enough"
            }
            Self::Document { .. } => "write the document again with `refvals`",
        }
        .to_owned()
    }
}

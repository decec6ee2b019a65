// SPDX-License-Identifier: Apache-2.0

//! The header that libcryptsetup gets to see: written anew from what was understood.

use crate::binary::{self, Copy};
use crate::error::Refusal;
use crate::json::Document;
use crate::whitelist::Volume;

/// A header to be put into memory: the bytes to write, and the places to copy from the device.
#[derive(Debug, Clone)]
pub struct Image {
    /// Both copies of the header, to be written at byte 0.
    pub head: Vec<u8>,
    /// Key slot areas, to be copied to the same place.
    pub areas: Vec<Area>,
    /// Length of the whole in bytes, holes included.
    pub size: u64,
}

/// Where the device keeps one wrapped volume key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// The number of its key slot.
    pub keyslot: u32,
    /// In bytes from the beginning of the device.
    pub offset: u64,
    /// In bytes.
    pub size: u64,
}

/// How much of a header an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What unlocking takes: the key slots of Clevis and nothing else.
    Unlocking,
    /// All of it, foreign tokens and persistent flags included, to be changed and written back.
    Everything,
}

/// What an image is made from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    size: usize,
    sequence: u64,
    label: [u8; 48],
    subsystem: [u8; 48],
    salt: [u8; 64],
    document: Document,
    metadata: u64,
}

impl Source {
    pub(crate) fn new(copy: Copy<'_>, document: Document, metadata: u64) -> Self {
        Self {
            size: copy.size,
            sequence: copy.sequence,
            label: copy.label,
            subsystem: copy.subsystem,
            salt: copy.salt,
            document,
            metadata,
        }
    }
}

impl Volume {
    /// The header as it is to be opened.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if it does not fit where it came from, which only blanks in the original allow.
    pub fn image(&self, extent: Extent) -> Result<Image, Refusal> {
        let mut document = self.source.document.clone();
        if extent == Extent::Unlocking {
            let wanted = |number: &u32| self.tokens.iter().any(|token| token.keyslot == *number);
            document.keyslots.0.retain(|number, _| wanted(number));
            document.tokens.0.clear();
            document.config.flags.clear();
            for digest in document.digests.0.values_mut() {
                digest.keyslots.retain(|number| wanted(&number.0));
            }
        }
        let too_long = || Refusal::Malformed("it does not fit into its own place".to_owned());
        let json = serde_json::to_vec(&document).map_err(|_| too_long())?;
        let copy = Copy {
            size: self.source.size,
            sequence: self.source.sequence,
            uuid: &self.uuid,
            label: self.source.label,
            subsystem: self.source.subsystem,
            salt: self.source.salt,
            json: &json,
        };
        let mut head = Vec::with_capacity(copy.size.saturating_mul(2));
        for place in [0, copy.size] {
            head.extend(binary::write(&copy, place, &json).ok_or_else(too_long)?);
        }
        let areas = document.keyslots.0.iter().map(|(&keyslot, slot)| Area {
            keyslot,
            offset: slot.area.offset.0,
            size: slot.area.size.0,
        });
        Ok(Image {
            head,
            areas: areas.collect(),
            size: self.source.metadata,
        })
    }
}

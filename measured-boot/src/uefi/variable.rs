// SPDX-License-Identifier: Apache-2.0

//! UEFI_VARIABLE_DATA: a variable as PCR 7 measures it (PFP 1.06, section 10.2.6). The digest is over the
//! whole structure, name included.

use super::Guid;
use crate::bytes::Reader;
use crate::error::Error;

/// A variable with its content; without the attribute word that efivarfs puts in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableData {
    /// The vendor's GUID.
    pub vendor: Guid,
    /// The name.
    pub name: String,
    /// The content.
    pub data: Vec<u8>,
}

impl VariableData {
    /// A variable.
    pub fn new(vendor: Guid, name: &str, data: impl Into<Vec<u8>>) -> Self {
        Self {
            vendor,
            name: name.to_owned(),
            data: data.into(),
        }
    }

    /// Reads the data of an EV_EFI_VARIABLE_* event.
    ///
    /// # Errors
    /// [`Error::Truncated`] or [`Error::Malformed`] for lengths that do not fit, bytes that are left over,
    /// or a name that is not UTF-16.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(STRUCTURE, bytes);
        let vendor = Guid::from_bytes(reader.array()?);
        let characters = reader.long_length(MAX_NAME)?;
        let size = reader.long_length(MAX_DATA)?;
        let mut units = Vec::with_capacity(characters);
        for _ in 0..characters {
            units.push(reader.u16()?);
        }
        let Ok(name) = String::from_utf16(&units) else {
            return reader.wrong("a name that is not UTF-16");
        };
        let data = reader.take(size)?.to_vec();
        reader.end()?;
        Ok(Self { vendor, name, data })
    }

    /// The bytes whose hash is extended.
    pub fn to_bytes(&self) -> Vec<u8> {
        let units: Vec<u16> = self.name.encode_utf16().collect();
        let mut bytes = self.vendor.to_bytes().to_vec();
        // A usize has at most 64 bits on every platform that Rust knows.
        for length in [units.len(), self.data.len()] {
            bytes.extend(u64::try_from(length).unwrap_or(u64::MAX).to_le_bytes());
        }
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend_from_slice(&self.data);
        bytes
    }
}

/// The content of a file of efivarfs: what follows the 32-bit attribute word (kernel documentation,
/// efivarfs).
///
/// # Errors
/// [`Error::Truncated`] for a file without that word, [`Error::TooLarge`] above 1 MiB.
pub fn strip_attributes(file: &[u8]) -> Result<&[u8], Error> {
    let mut reader = Reader::limited("efivarfs file", file, MAX_DATA)?;
    reader.u32()?;
    Ok(reader.rest())
}

const STRUCTURE: &str = "UEFI_VARIABLE_DATA";
/// The longest name in use has some twenty characters.
const MAX_NAME: usize = 512;
/// A dbx of today has about 20 KiB.
pub(crate) const MAX_DATA: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::{VariableData, strip_attributes};
    use crate::uefi::guid;

    #[test]
    fn round_trip_and_refusals() {
        let variable = VariableData::new(guid::GLOBAL, "PK", [1, 2, 3]);
        let bytes = variable.to_bytes();
        assert_eq!(VariableData::parse(&bytes).unwrap(), variable);
        for end in 0..bytes.len() {
            assert!(VariableData::parse(&bytes[..end]).is_err(), "{end}");
        }
        assert!(VariableData::parse(&[bytes.as_slice(), &[0]].concat()).is_err());
        // A lone surrogate.
        let mut bad = bytes.clone();
        bad[32..34].copy_from_slice(&0xd800_u16.to_le_bytes());
        assert!(VariableData::parse(&bad).is_err());
        // A name of 2^63 characters.
        bad[23] = 0x80;
        let error = VariableData::parse(&bad).unwrap_err().to_string();
        assert!(error.contains("at most 512"), "{error}");
    }

    #[test]
    fn attributes_are_not_content() {
        assert_eq!(strip_attributes(&[7, 0, 0, 0, 1]).unwrap(), [1]);
        assert!(strip_attributes(&[7, 0, 0]).is_err());
    }
}

// SPDX-License-Identifier: Apache-2.0

//! EFI_SIGNATURE_LIST (UEFI 2.10, section 32.4.1): the content of PK, KEK, db, dbx, dbDefault and of shim's
//! MOK lists. A variable is any number of such lists, one after the other.

use super::{Guid, guid};
use crate::bytes::Reader;
use crate::error::Error;

/// One list: entries of one type and one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureList {
    /// What the entries are, such as [`guid::CERT_X509`].
    pub kind: Guid,
    /// Header of the list; no type in use has one.
    pub header: Vec<u8>,
    /// The entries.
    pub entries: Vec<SignatureEntry>,
}

/// EFI_SIGNATURE_DATA: who added an entry, and the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureEntry {
    /// Who added it.
    pub owner: Guid,
    /// A DER certificate or a hash, depending on the list.
    pub data: Vec<u8>,
}

impl SignatureList {
    /// Reads the content of a variable.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above 1 MiB, [`Error::Truncated`] or [`Error::Malformed`] for sizes that do not
    /// fit into each other.
    pub fn parse_all(bytes: &[u8]) -> Result<Vec<Self>, Error> {
        let mut reader = Reader::limited(STRUCTURE, bytes, super::variable::MAX_DATA)?;
        let mut lists = Vec::new();
        while !reader.is_empty() {
            lists.push(Self::parse_one(&mut reader)?);
        }
        Ok(lists)
    }

    fn parse_one(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let kind = Guid::from_bytes(reader.array()?);
        let total = reader.length(super::variable::MAX_DATA)?;
        let Some(inner) = total.checked_sub(HEADER_SIZE) else {
            return reader.wrong(format!("a list of {total} bytes, its header has 28"));
        };
        // Sizes of header and entries count towards the list, so that they come out of its bytes.
        let mut list = reader.inner(STRUCTURE, inner.saturating_add(2 * 4))?;
        let header_size = list.length(inner)?;
        // A list without entries still says how long one would be.
        let entry_size = list.length(super::variable::MAX_DATA)?;
        let header = list.take(header_size)?.to_vec();
        let Some(data_size) = entry_size.checked_sub(OWNER_SIZE).filter(|size| *size > 0) else {
            return list.wrong(format!(
                "entries of {entry_size} bytes, an owner alone has 16"
            ));
        };
        let mut entries = Vec::new();
        while !list.is_empty() {
            entries.push(SignatureEntry {
                owner: Guid::from_bytes(list.array()?),
                data: list.take(data_size)?.to_vec(),
            });
        }
        Ok(Self {
            kind,
            header,
            entries,
        })
    }

    /// One certificate in a list of its own.
    pub fn certificate(owner: Guid, der: &[u8]) -> Self {
        Self::single(guid::CERT_X509, owner, der)
    }

    /// One SHA-256 Authenticode digest in a list of its own.
    pub fn sha256(owner: Guid, digest: &[u8]) -> Self {
        Self::single(guid::CERT_SHA256, owner, digest)
    }

    fn single(kind: Guid, owner: Guid, data: &[u8]) -> Self {
        Self {
            kind,
            header: Vec::new(),
            entries: vec![SignatureEntry {
                owner,
                data: data.to_vec(),
            }],
        }
    }

    /// The list as it lies in a variable. Entries have the size of the first one.
    pub fn to_bytes(&self) -> Vec<u8> {
        let entry = self.entries.first().map_or(OWNER_SIZE, |entry| {
            entry.data.len().saturating_add(OWNER_SIZE)
        });
        let total = entry
            .saturating_mul(self.entries.len())
            .saturating_add(self.header.len())
            .saturating_add(HEADER_SIZE);
        let mut bytes = self.kind.to_bytes().to_vec();
        for size in [total, self.header.len(), entry] {
            bytes.extend(u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes.extend_from_slice(&self.header);
        for entry in &self.entries {
            bytes.extend(entry.to_bytes());
        }
        bytes
    }
}

impl SignatureEntry {
    /// EFI_SIGNATURE_DATA as bytes: what PCR 7 measures as an authority.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.owner.to_bytes().to_vec();
        bytes.extend_from_slice(&self.data);
        bytes
    }
}

const STRUCTURE: &str = "EFI_SIGNATURE_LIST";
/// Type, list size, header size, entry size.
const HEADER_SIZE: usize = 28;
const OWNER_SIZE: usize = 16;

#[cfg(test)]
mod tests {
    use super::{SignatureEntry, SignatureList};
    use crate::uefi::guid;

    fn two_hashes() -> SignatureList {
        let entry = |byte: u8| SignatureEntry {
            owner: guid::SHIM_LOCK,
            data: vec![byte; 32],
        };
        SignatureList {
            kind: guid::CERT_SHA256,
            header: vec![],
            entries: vec![entry(1), entry(2)],
        }
    }

    #[test]
    fn round_trip_of_several_lists() {
        let lists = vec![
            two_hashes(),
            SignatureList::certificate(guid::GLOBAL, b"not really DER"),
        ];
        let bytes: Vec<u8> = lists.iter().flat_map(SignatureList::to_bytes).collect();
        assert_eq!(SignatureList::parse_all(&bytes).unwrap(), lists);
        assert_eq!(SignatureList::parse_all(&[]).unwrap(), []);
        let first = lists[0].to_bytes().len();
        for end in (1..bytes.len()).filter(|end| *end != first) {
            assert!(SignatureList::parse_all(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn sizes_must_fit_into_each_other() {
        let good = two_hashes().to_bytes();
        let with = |at: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            SignatureList::parse_all(&bytes).unwrap_err().to_string()
        };
        assert!(with(16, 27).contains("a list of 27 bytes"));
        assert!(with(16, u32::MAX).contains("a length of 4294967295"));
        assert!(with(16, 125).contains("cut short"));
        assert!(with(20, 200).contains("a length of 200"));
        assert!(with(20, 1).contains("cut short"));
        assert!(with(24, 16).contains("entries of 16 bytes"));
        assert!(with(24, 0).contains("entries of 0 bytes"));
        assert!(with(24, 47).contains("cut short"));
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Walking over foreign bytes. Every parser of this crate reads through `Reader`, so that every length
//! is checked in one place and every error names the structure and the offset. Also [`Blob`], how raw
//! variable contents look in a JSON document.

use crate::error::Error;
use kbs_protocol::encoding::b64;
use serde::{Deserialize, Serialize};

/// Raw bytes; base64 (RFC 4648 section 4) in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Blob(pub Vec<u8>);

/// A position in foreign bytes. Integers are little endian, as everywhere in UEFI and TCG event logs.
pub(crate) struct Reader<'a> {
    /// What is being read, for the error.
    structure: &'static str,
    rest: &'a [u8],
    /// Where `rest` begins in the whole file.
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(structure: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            structure,
            rest: bytes,
            offset: 0,
        }
    }

    /// As [`Reader::new`], after a look at the size.
    pub(crate) fn limited(
        structure: &'static str,
        bytes: &'a [u8],
        limit: usize,
    ) -> Result<Self, Error> {
        check_size(structure, bytes, limit)?;
        Ok(Self::new(structure, bytes))
    }

    /// The next `count` bytes. The only place that moves.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Error::Truncated {
            structure: self.structure,
            offset: self.offset,
            wanted: count,
            left: self.rest.len(),
        })?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(count);
        Ok(taken)
    }

    /// The next `count` bytes as a structure of its own, whose errors count offsets from the same start.
    pub(crate) fn inner(&mut self, structure: &'static str, count: usize) -> Result<Self, Error> {
        let offset = self.offset;
        Ok(Self {
            structure,
            rest: self.take(count)?,
            offset,
        })
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    /// A 32-bit length, held against a limit before anything is read.
    pub(crate) fn length(&mut self, limit: usize) -> Result<usize, Error> {
        let length = u64::from(self.u32()?);
        self.within(length, limit)
    }

    /// A 64-bit length, held against a limit before anything is read.
    pub(crate) fn long_length(&mut self, limit: usize) -> Result<usize, Error> {
        let length = self.u64()?;
        self.within(length, limit)
    }

    fn within(&self, length: u64, limit: usize) -> Result<usize, Error> {
        match usize::try_from(length) {
            Ok(length) if length <= limit => Ok(length),
            _ => self.wrong(format!("a length of {length}, at most {limit} is accepted")),
        }
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.offset = self.offset.saturating_add(rest.len());
        self.rest = &[];
        rest
    }

    /// Looks at what is left without moving.
    pub(crate) fn peek(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Refuses bytes after the end.
    pub(crate) fn end(&self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            left => self.wrong(format!("{left} bytes after its end")),
        }
    }

    pub(crate) fn wrong<T>(&self, why: impl Into<String>) -> Result<T, Error> {
        Err(Error::Malformed {
            structure: self.structure,
            offset: self.offset,
            why: why.into(),
        })
    }
}

/// Refuses a file above its limit before anything looks inside it.
pub(crate) fn check_size(structure: &'static str, bytes: &[u8], limit: usize) -> Result<(), Error> {
    match bytes.len() {
        actual if actual > limit => Err(Error::TooLarge {
            structure,
            actual,
            limit,
        }),
        _ => Ok(()),
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<String> for Blob {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        b64::decode(&text)
            .map(Self)
            .ok_or("expected base64 with padding")
    }
}

impl From<Blob> for String {
    fn from(blob: Blob) -> Self {
        b64::encode(blob.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Blob, Reader};

    #[test]
    fn errors_name_the_structure_and_the_offset_in_the_whole() {
        let mut reader = Reader::new("outer", &[1, 0, 0, 0, 9, 9, 9]);
        assert_eq!(reader.length(10).unwrap(), 1);
        let mut inner = reader.inner("inner", 2).unwrap();
        inner.u8().unwrap();
        assert_eq!(
            inner.u32().unwrap_err().to_string(),
            "inner is cut short at offset 5: 4 bytes expected, 1 left"
        );
        assert_eq!(
            inner.end().unwrap_err().to_string(),
            "inner is malformed at offset 5: 1 bytes after its end"
        );
        assert_eq!(reader.rest(), &[9]);
        reader.end().unwrap();
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_the_bytes_are_asked_for() {
        let mut reader = Reader::new("list", &[0xff; 8]);
        let text = reader.length(100).unwrap_err().to_string();
        assert!(text.contains("a length of 4294967295, at most 100 is accepted"));
        assert!(Reader::new("list", &[0xff; 8]).long_length(100).is_err());
        assert!(Reader::limited("list", &[0; 5], 4).is_err());
    }

    #[test]
    fn blobs_are_base64_in_json() {
        let json = serde_json::to_string(&Blob(vec![0xff, 0])).unwrap();
        assert_eq!(json, "\"/wA=\"");
        assert_eq!(serde_json::from_str::<Blob>(&json).unwrap().0, [0xff, 0]);
        assert!(serde_json::from_str::<Blob>("\"/wA\"").is_err());
    }
}

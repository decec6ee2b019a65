// SPDX-License-Identifier: Apache-2.0

//! A blob on its way: hashed while it is read, and refused at its end when it is another one than was named.

use super::oci::Descriptor;
use crate::Error;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

pub(super) struct Verified<'a> {
    source: Box<dyn Read + 'a>,
    hasher: Sha256,
    name: String,
    expected: Option<String>,
    size: Option<u64>,
    count: u64,
    failed: Option<String>,
}

impl<'a> Verified<'a> {
    pub(super) fn new(source: Box<dyn Read + 'a>, descriptor: &Descriptor) -> Result<Self, Error> {
        descriptor.sha256()?;
        Ok(Self {
            source,
            hasher: Sha256::new(),
            name: descriptor.digest.clone(),
            expected: Some(descriptor.digest.clone()),
            size: descriptor.size,
            count: 0,
            failed: None,
        })
    }

    /// A layer that no digest names as it lies there: the DiffID of what is in it is compared by whoever unpacks it.
    pub(super) fn unnamed(source: Box<dyn Read + 'a>, name: &str) -> Self {
        Self {
            source,
            hasher: Sha256::new(),
            name: name.to_owned(),
            expected: None,
            size: None,
            count: 0,
            failed: None,
        }
    }

    /// How errors call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that have passed.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Reads what is left, and compares. Whatever went wrong before (`error`) may be due to the wrong bytes, so that
    /// the digest is named first. Returns the number of bytes.
    pub(super) fn finish_or(mut self, error: Option<measured_boot::Error>) -> Result<u64, Error> {
        if self.failed.is_none() {
            // The failure is kept.
            let _ = io::copy(&mut self, &mut io::sink());
        }
        if let Some(why) = self.failed {
            return Err(Error::Cut {
                what: self.name,
                why,
            });
        }
        if let Some(expected) = self.expected {
            let found = format!("sha256:{:x}", self.hasher.finalize());
            if found != expected {
                return Err(Error::Digest {
                    what: "a blob".to_owned(),
                    expected,
                    found,
                });
            }
        }
        match error {
            Some(error) => Err(error.into()),
            None => Ok(self.count),
        }
    }
}

impl Read for Verified<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(error.to_string());
            }
        })?;
        if self.expected.is_some() {
            self.hasher.update(buffer.get(..read).unwrap_or_default());
        }
        self.count = self
            .count
            .saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if self.size.is_some_and(|size| self.count > size) {
            let why = format!(
                "longer than the {} bytes that were announced",
                self.size.unwrap_or_default()
            );
            self.failed = Some(why.clone());
            return Err(io::Error::other(why));
        }
        Ok(read)
    }
}

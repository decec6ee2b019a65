// SPDX-License-Identifier: Apache-2.0

//! A program that is too large to hold: a unified kernel image with its initrd. Hashed while it passes; kept are
//! its headers, its signatures and `.sbat`.
//!
//! That works for files whose sections follow one another without a gap, as every tool that builds such images
//! writes them. Then the Authenticode rule (sorted sections, then what trails them) is the order of the file, and
//! any other file is refused. Section names longer than eight characters stay references: none is measured.

use super::{MAX_SECTIONS, MAX_SIGNATURES, STRUCTURE, malformed, malformed_at, text, zeros};
use crate::bank::Hashers;
use crate::bytes::Reader;
use crate::error::Error;
use crate::facts::SectionFacts;
use crate::pe::PeFacts;
use crate::signature::SignatureFacts;
use digest::Update as _;
use object::LittleEndian as LE;
use object::pe::{ImageDosHeader, ImageNtHeaders64};
use object::read::pe::ImageNtHeaders as _;
use std::io::Read;
use std::ops::Range;

/// Reads a PE32+ file of `size` bytes; its sections come in file order.
///
/// # Errors
/// As [`PeFacts::read`]; [`Error::Read`] for what the reader says.
pub fn read(
    name: &str,
    size: u64,
    file: &mut dyn Read,
) -> Result<(PeFacts, Vec<SectionFacts>), Error> {
    if size > MAX_STREAMED {
        return Err(Error::TooLarge {
            structure: STRUCTURE,
            actual: usize::try_from(size).unwrap_or(usize::MAX),
            limit: usize::try_from(MAX_STREAMED).unwrap_or(usize::MAX),
        });
    }
    let mut head = Vec::new();
    let read = file.take(HEAD).read_to_end(&mut head);
    read.map_err(|error| unreadable(0, &error))?;
    let layout = Layout::parse(&head, size)?;
    let mut pass = Pass::new(&layout);
    pass.bytes(&head);
    let mut buffer = vec![0; CHUNK];
    while pass.position < size {
        let count = file
            .read(&mut buffer)
            .map_err(|error| unreadable(pass.position, &error))?;
        match buffer.get(..count) {
            Some(chunk) if count > 0 => pass.bytes(chunk),
            _ => {
                return malformed_at(
                    index(pass.position),
                    format!("cut short, its size is {size}"),
                );
            }
        }
    }
    pass.finish(name)
}

/// Where what lies in the file; offsets in bytes.
struct Layout {
    sections: Vec<Planned>,
    /// Not hashed: the checksum, and the entry of the certificate table.
    skipped: [Range<u64>; 2],
    certificates: Range<u64>,
}

struct Planned {
    name: String,
    /// Its bytes in the file, up to its size in memory.
    range: Range<u64>,
    /// Zeros that follow in memory.
    missing: u64,
}

impl Layout {
    fn parse(head: &[u8], size: u64) -> Result<Self, Error> {
        let parsed = ImageDosHeader::parse(head).and_then(|dos| {
            let mut at = u64::from(dos.nt_headers_offset());
            let start = at;
            let (headers, directories) = ImageNtHeaders64::parse(head, &mut at)?;
            let sections = headers.sections(head, at)?;
            Ok((start, headers, directories, sections))
        });
        let (start, headers, directories, sections) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return malformed(error.to_string()),
        };
        if sections.len() > MAX_SECTIONS {
            return malformed(format!(
                "{} sections, at most {MAX_SECTIONS} are accepted",
                sections.len()
            ));
        }
        let Some(table) = directories
            .iter()
            .nth(object::pe::IMAGE_DIRECTORY_ENTRY_SECURITY)
        else {
            return malformed("no certificate table in the data directories");
        };
        let at = u64::from(table.virtual_address.get(LE));
        let length = u64::from(table.size.get(LE));
        let certificates = match (at, length) {
            (_, 0) => size..size,
            (at, length) if at.checked_add(length) == Some(size) && length <= MAX_CERTIFICATES => {
                at..size
            }
            _ => {
                return malformed_at(
                    index(at),
                    "a certificate table that is not the end of the file",
                );
            }
        };
        let mut end = u64::from(headers.optional_header.size_of_headers.get(LE));
        if end > HEAD {
            return malformed(format!(
                "headers of {end} bytes, at most {HEAD} are accepted"
            ));
        }
        let mut in_file: Vec<_> = sections.iter().collect();
        in_file.sort_by_key(|section| section.pointer_to_raw_data.get(LE));
        for section in in_file {
            let raw = u64::from(section.size_of_raw_data.get(LE));
            if raw == 0 {
                continue;
            }
            if u64::from(section.pointer_to_raw_data.get(LE)) != end {
                return malformed_at(
                    index(end),
                    "a gap or an overlap between the sections of so large a file",
                );
            }
            end = end.saturating_add(raw);
        }
        if end > certificates.start {
            return malformed_at(index(end), "sections that do not fit into the file");
        }
        let mut in_memory = 0_u64;
        let mut planned = Vec::new();
        for section in sections.iter() {
            let raw = u64::from(section.size_of_raw_data.get(LE));
            let start = u64::from(section.pointer_to_raw_data.get(LE));
            let virtual_size = u64::from(section.virtual_size.get(LE));
            in_memory = in_memory.saturating_add(virtual_size);
            if in_memory > MAX_STREAMED {
                return malformed_at(
                    index(start),
                    format!("sections of {in_memory} bytes in memory"),
                );
            }
            let shown = raw.min(virtual_size);
            planned.push(Planned {
                name: String::from_utf8_lossy(section.raw_name()).into_owned(),
                range: start..start.saturating_add(shown),
                missing: virtual_size.saturating_sub(shown),
            });
        }
        // Both offsets are fixed by the format: 24 bytes of headers before the optional one, in which the checksum
        // is at 64, and the directories begin at 112 (PE32+) with eight bytes each.
        let optional = start.saturating_add(24);
        let checksum = optional.saturating_add(64);
        let entry = optional.saturating_add(112 + 4 * 8);
        Ok(Self {
            sections: planned,
            skipped: [
                checksum..checksum.saturating_add(4),
                entry..entry.saturating_add(8),
            ],
            certificates,
        })
    }
}

/// One pass over the file.
struct Pass<'a> {
    layout: &'a Layout,
    position: u64,
    whole: Hashers,
    sections: Vec<Hashers>,
    sbat: Vec<u8>,
    certificates: Vec<u8>,
}

impl<'a> Pass<'a> {
    fn new(layout: &'a Layout) -> Self {
        Self {
            layout,
            position: 0,
            whole: Hashers::default(),
            sections: layout.sections.iter().map(|_| Hashers::default()).collect(),
            sbat: Vec::new(),
            certificates: Vec::new(),
        }
    }

    fn bytes(&mut self, chunk: &[u8]) {
        let start = self.position;
        let part = |range: &Range<u64>| overlap(chunk, start, range);
        let [checksum, entry] = &self.layout.skipped;
        for hashed in [
            0..checksum.start,
            checksum.end..entry.start,
            entry.end..self.layout.certificates.start,
        ] {
            self.whole.update(part(&hashed));
        }
        for (planned, hashers) in self.layout.sections.iter().zip(&mut self.sections) {
            let bytes = part(&planned.range);
            hashers.update(bytes);
            if planned.name == ".sbat" && self.sbat.len() < MAX_SBAT {
                self.sbat.extend_from_slice(bytes);
            }
        }
        self.certificates
            .extend_from_slice(part(&self.layout.certificates));
        let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        self.position = start.saturating_add(length);
    }

    fn finish(self, name: &str) -> Result<(PeFacts, Vec<SectionFacts>), Error> {
        let layout = self.layout;
        let has_sbat = layout
            .sections
            .iter()
            .any(|section| section.name == ".sbat");
        let file = PeFacts {
            name: name.to_owned(),
            authenticode: self.whole.finish(),
            signatures: signatures(&self.certificates)?,
            sbat: has_sbat.then(|| text(&self.sbat)).transpose()?,
        };
        file.check_signed_digests()?;
        let facts = |(planned, mut hashers): (&Planned, Hashers)| {
            zeros(&mut hashers, index(planned.missing));
            SectionFacts {
                name: planned.name.clone(),
                digests: hashers.finish(),
            }
        };
        let sections = layout
            .sections
            .iter()
            .zip(self.sections)
            .map(facts)
            .collect();
        Ok((file, sections))
    }
}

/// The part of a chunk, which begins at `start` in the file, that lies in a range.
fn overlap<'c>(chunk: &'c [u8], start: u64, range: &Range<u64>) -> &'c [u8] {
    let inside = |offset: u64| index(offset.saturating_sub(start)).min(chunk.len());
    chunk
        .get(inside(range.start)..inside(range.end))
        .unwrap_or_default()
}

/// WIN_CERTIFICATE entries, each at a multiple of eight (PE format, "The Attribute Certificate Table").
fn signatures(table: &[u8]) -> Result<Vec<SignatureFacts>, Error> {
    let mut reader = Reader::new("certificate table", table);
    let mut signatures = Vec::new();
    while !reader.is_empty() {
        if signatures.len() >= MAX_SIGNATURES {
            return malformed(format!("more than {MAX_SIGNATURES} signatures"));
        }
        let length = reader.length(table.len())?;
        let _revision = reader.u16()?;
        let kind = reader.u16()?;
        let data = reader.take(length.saturating_sub(8))?;
        if kind == authenticode::WIN_CERT_TYPE_PKCS_SIGNED_DATA {
            signatures.push(SignatureFacts::parse(data)?);
        }
        let padding = length.next_multiple_of(8).saturating_sub(length);
        reader.take(padding.min(reader.peek().len()))?;
    }
    Ok(signatures)
}

fn unreadable(offset: u64, error: &std::io::Error) -> Error {
    Error::Read {
        structure: STRUCTURE,
        offset: index(offset),
        why: error.to_string(),
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Headers of an EFI program have a page or two.
const HEAD: u64 = 64 * 1024;
const CHUNK: usize = 64 * 1024;
const MAX_SBAT: usize = 64 * 1024;
const MAX_CERTIFICATES: u64 = 1024 * 1024;
/// An image with a live system in its initrd has more than a gigabyte.
const MAX_STREAMED: u64 = 4 * 1024 * 1024 * 1024;

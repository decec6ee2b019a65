// SPDX-License-Identifier: Apache-2.0

//! The binary part of a header, of which a device has two copies, and which of them counts.
//!
//! A tool writes the first copy and then the second, so a power cut leaves two that differ; the specification
//! says that the newer whole one counts (section 2.1). Two whole copies of one age with different content
//! are never left by a tool, and are refused.

use crate::error::Refusal;
use sha2::{Digest as _, Sha256};

/// One whole copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copy<'a> {
    /// Binary part and JSON area together, in bytes.
    pub(crate) size: usize,
    /// Counts the changes.
    pub(crate) sequence: u64,
    pub(crate) uuid: &'a str,
    /// For people; decides nothing.
    pub(crate) label: [u8; 48],
    /// Also for people.
    pub(crate) subsystem: [u8; 48],
    pub(crate) salt: [u8; 64],
    /// The JSON text without its padding.
    pub(crate) json: &'a [u8],
}

/// The copy that counts.
pub(crate) fn newest(head: &[u8]) -> Result<Copy<'_>, Refusal> {
    let first = Copy::at(head, 0);
    // Without the first, the second can lie wherever a legal size puts it.
    let places: &[usize] = match &first {
        Ok(copy) => &[copy.size],
        Err(_) => &SIZES,
    };
    let mut second = Err(absent());
    for &place in places {
        second = Copy::at(head, place);
        if second.as_ref().err() != Some(&absent()) {
            break;
        }
    }
    match (first, second) {
        (Ok(first), Ok(second)) if first.sequence == second.sequence => {
            if (first.json, first.uuid, first.size) == (second.json, second.uuid, second.size) {
                Ok(first)
            } else {
                Err(Refusal::Damaged(
                    "its two copies are of one age and say different things".to_owned(),
                ))
            }
        }
        (Ok(first), Ok(second)) if first.sequence < second.sequence => Ok(second),
        (Ok(copy), _) | (Err(_), Ok(copy)) => Ok(copy),
        (Err(first), Err(second)) if first == absent() => Err(second),
        (Err(first), Err(_)) => Err(first),
    }
}

impl<'a> Copy<'a> {
    fn at(head: &'a [u8], place: usize) -> Result<Self, Refusal> {
        let binary: &[u8; BINARY] = head
            .get(place..)
            .and_then(<[u8]>::first_chunk)
            .ok_or_else(absent)?;
        let magic = if place == 0 {
            FIRST_MAGIC
        } else {
            SECOND_MAGIC
        };
        let mut fields = Fields(binary);
        if fields.take::<6>() != magic {
            return Err(absent());
        }
        let version = u16::from_be_bytes(fields.take());
        if version != VERSION {
            return Err(Refusal::NotLuks2(format!(
                "it is LUKS version {version}, expected {VERSION}"
            )));
        }
        let size = u64::from_be_bytes(fields.take());
        let size = SIZES
            .into_iter()
            .find(|&legal| u64::try_from(legal) == Ok(size))
            .ok_or_else(|| damaged(format!("a header of {size} bytes, which is no legal size")))?;
        let sequence = u64::from_be_bytes(fields.take());
        let label = fields.take::<48>();
        let algorithm = fields.take::<32>();
        if text(&algorithm) != Some(CHECKSUM) {
            return Err(damaged(format!("its checksum is not {CHECKSUM}")));
        }
        let salt = fields.take::<64>();
        let uuid = binary
            .get(UUID..UUID_END)
            .and_then(text)
            .filter(|uuid| is_uuid(uuid))
            .ok_or_else(|| damaged("its UUID is none".to_owned()))?;
        let subsystem = binary.get(SUBSYSTEM..OFFSET).and_then(<[u8]>::first_chunk);
        let subsystem = subsystem.copied().unwrap_or([0; 48]);
        let offset = binary
            .get(OFFSET..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        if u64::try_from(place) != Ok(offset) {
            return Err(damaged(format!(
                "a copy at byte {place} says that it lies at byte {offset}"
            )));
        }
        let whole = head
            .get(place..place.saturating_add(size))
            .ok_or_else(|| damaged("the device ends inside it".to_owned()))?;
        let stored = binary.get(CHECKSUM_AT..CHECKSUM_END).unwrap_or_default();
        let computed = checksum(whole);
        let (sum, rest) = stored.split_at_checked(computed.len()).unwrap_or_default();
        if sum != computed || rest.iter().any(|&byte| byte != 0) {
            return Err(damaged("its checksum does not fit".to_owned()));
        }
        let area = whole.get(BINARY..).unwrap_or_default();
        let end = area.iter().position(|&byte| byte == 0);
        let (json, padding) = area
            .split_at_checked(end.unwrap_or(area.len()))
            .unwrap_or_default();
        if end.is_none() || padding.iter().any(|&byte| byte != 0) {
            return Err(damaged("there is something behind its metadata".to_owned()));
        }
        Ok(Self {
            size,
            sequence,
            uuid,
            label,
            subsystem,
            salt,
            json,
        })
    }
}

/// The bytes of a copy at `place`. `None` if `json` does not fit.
pub(crate) fn write(copy: &Copy<'_>, place: usize, json: &[u8]) -> Option<Vec<u8>> {
    let mut whole = vec![0; copy.size];
    let (binary, area) = whole.split_at_mut_checked(BINARY)?;
    // At least one zero must follow the text.
    let (text, rest) = area.split_at_mut_checked(json.len())?;
    rest.first()?;
    text.copy_from_slice(json);
    let magic = if place == 0 {
        FIRST_MAGIC
    } else {
        SECOND_MAGIC
    };
    let size = u64::try_from(copy.size).ok()?.to_be_bytes();
    let offset = u64::try_from(place).ok()?.to_be_bytes();
    for (at, bytes) in [
        (0, &magic[..]),
        (6, &VERSION.to_be_bytes()),
        (8, &size),
        (16, &copy.sequence.to_be_bytes()),
        (24, &copy.label),
        (72, CHECKSUM.as_bytes()),
        (104, &copy.salt),
        (UUID, copy.uuid.as_bytes()),
        (SUBSYSTEM, &copy.subsystem),
        (OFFSET, &offset),
    ] {
        binary
            .get_mut(at..at.checked_add(bytes.len())?)?
            .copy_from_slice(bytes);
    }
    let sum = checksum(&whole);
    whole
        .get_mut(CHECKSUM_AT..CHECKSUM_AT.checked_add(sum.len())?)?
        .copy_from_slice(&sum);
    Some(whole)
}

/// SHA-256 over a copy in which the checksum is zero (section 2.1).
fn checksum(whole: &[u8]) -> [u8; 32] {
    let (before, rest) = whole.split_at_checked(CHECKSUM_AT).unwrap_or_default();
    let (stored, after) = rest
        .split_at_checked(CHECKSUM_END.saturating_sub(CHECKSUM_AT))
        .unwrap_or_default();
    Sha256::new()
        .chain_update(before)
        .chain_update(vec![0; stored.len()])
        .chain_update(after)
        .finalize()
        .into()
}

/// Reads fixed parts one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The next `N` bytes; zeros where there are none, which no caller reaches.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, rest) = self.0.split_first_chunk::<N>().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *bytes
    }
}

/// The text before the first zero; the rest must be zeros too.
fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|&byte| byte == 0)?;
    let (text, padding) = field.split_at_checked(end)?;
    let clean = padding.iter().all(|&byte| byte == 0);
    std::str::from_utf8(text).ok().filter(|_| clean)
}

/// As `uuid_unparse` writes it: it becomes part of a kernel object's name.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => matches!(c, '0'..='9' | 'a'..='f'),
        })
}

fn damaged(why: String) -> Refusal {
    Refusal::Damaged(why)
}

fn absent() -> Refusal {
    Refusal::NotLuks2("the device does not begin with one".to_owned())
}

/// Sizes of a copy that the specification allows (section 2.1), in bytes.
const SIZES: [usize; 9] = [
    0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, LARGEST,
];
pub(crate) const LARGEST: usize = 0x40_0000;
/// The binary part with its padding.
pub(crate) const BINARY: usize = 4096;
const FIRST_MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
const SECOND_MAGIC: [u8; 6] = *b"SKUL\xba\xbe";
const VERSION: u16 = 2;
const CHECKSUM: &str = "sha256";
const UUID: usize = 168;
const UUID_END: usize = 208;
const SUBSYSTEM: usize = 208;
const OFFSET: usize = 256;
const CHECKSUM_AT: usize = 448;
const CHECKSUM_END: usize = 512;

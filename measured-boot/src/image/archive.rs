// SPDX-License-Identifier: Apache-2.0

//! The entries of a tar archive, in order. The crate `tar` reads headers; what it would take into memory without
//! limit (long names, PAX records) is read here, and what two readers could understand in two ways is refused.

use crate::error::Error;
use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use tar::{Archive, EntryType, PaxExtensions};

/// One entry.
pub(super) struct Entry<'a> {
    /// Without leading slash, `.` and empty segments; never with `..`.
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
    /// Where its header begins in the uncompressed archive, in bytes.
    pub(super) offset: usize,
    pub(super) content: &'a mut dyn Read,
}

pub(super) enum Kind {
    File,
    Directory,
    /// The target, as it is written.
    Symlink(String),
    /// The other path of the same file.
    HardLink(String),
    /// Devices and pipes.
    Other,
}

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Calls `visit` for each entry.
pub(super) fn walk(
    source: &mut dyn Read,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let state = Progress::default();
    let mut archive = Archive::new(Counted {
        source,
        state: &state,
    });
    let entries = archive.entries().map_err(|error| state.error(&error))?;
    let mut extended: Option<Extended> = None;
    let mut end = 0_u64;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(|error| state.error(&error))?;
        let offset = position(entry.raw_header_position());
        let size = entry.size();
        end = padded_end(entry.raw_file_position(), size)
            .filter(|end| *end <= MAX_ARCHIVE)
            .map_or_else(|| malformed(offset, "an entry beyond 64 GiB"), Ok)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName | EntryType::GNULongLink => {
                let mut name = bounded(&mut entry, size, MAX_NAME, offset, &state)?;
                name.truncate(
                    name.iter()
                        .position(|byte| *byte == 0)
                        .unwrap_or(name.len()),
                );
                let pending = extended.get_or_insert_default();
                let slot = match kind {
                    EntryType::GNULongName => &mut pending.path,
                    _ => &mut pending.link,
                };
                if slot.replace(name).is_some() {
                    return malformed(offset, "two long names for one entry");
                }
            }
            EntryType::XHeader | EntryType::XGlobalHeader => {
                let records = bounded(&mut entry, size, MAX_PAX, offset, &state)?;
                let mut pending = extended.take().unwrap_or_default();
                let before = pending.names();
                pending.records(&records, offset)?;
                match kind {
                    EntryType::XHeader => extended = Some(pending),
                    _ if pending.names() != before => {
                        return malformed(offset, "a global header that names a path or a size");
                    }
                    _ => {}
                }
            }
            EntryType::GNUSparse => {
                return malformed(offset, "a sparse file, which layers do not have");
            }
            _ => {
                let Extended {
                    path,
                    link,
                    size: stated,
                } = extended.take().unwrap_or_default();
                if stated.is_some_and(|stated| stated != size) {
                    return malformed(offset, "two sizes of one file");
                }
                let header = entry.header();
                let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
                let link = link
                    .or_else(|| header.link_name_bytes().map(Vec::from))
                    .unwrap_or_default();
                let kind = match kind {
                    EntryType::Directory => Kind::Directory,
                    EntryType::Symlink => {
                        Kind::Symlink(String::from_utf8_lossy(&link).into_owned())
                    }
                    EntryType::Link => Kind::HardLink(normal(&link, offset)?),
                    EntryType::Char | EntryType::Block | EntryType::Fifo => Kind::Other,
                    // Before POSIX, a directory was a file whose name ends so.
                    _ if path.ends_with(b"/") => Kind::Directory,
                    _ => Kind::File,
                };
                let path = normal(&path, offset)?;
                let visited = visit(Entry {
                    path,
                    kind,
                    size,
                    offset,
                    content: &mut entry,
                });
                state.first_error(visited)?;
            }
        }
    }
    if extended.is_some() {
        return malformed(position(end), "an extended header without an entry");
    }
    // A zero block ends an archive. Without one, it was cut between two entries.
    match state.position.get() > end {
        true => Ok(()),
        false => malformed(position(end), "no end of the archive: it was cut short"),
    }
}

impl Extended {
    fn names(&self) -> (bool, bool, bool) {
        (
            self.path.is_some(),
            self.link.is_some(),
            self.size.is_some(),
        )
    }

    /// PAX records (POSIX.1-2001, pax, "Extended Header").
    fn records(&mut self, records: &[u8], offset: usize) -> Result<(), Error> {
        for record in PaxExtensions::new(records) {
            let Ok(record) = record else {
                return malformed(offset, "an extended header that cannot be read");
            };
            let value = || record.value_bytes().to_vec();
            match record.key_bytes() {
                b"path" => self.path = Some(value()),
                b"linkpath" => self.link = Some(value()),
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    let Some(size) = size else {
                        return malformed(offset, "a size that is no number");
                    };
                    self.size = Some(size);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return malformed(offset, "a sparse file, which layers do not have");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A path without what says nothing; refused when it leads upwards.
fn normal(path: &[u8], offset: usize) -> Result<String, Error> {
    let text = String::from_utf8_lossy(path);
    let segments: Vec<&str> = text
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    match segments
        .iter()
        .any(|part| *part == ".." || part.contains('\0'))
    {
        true => malformed(offset, format!("the path {text:?}")),
        false => Ok(segments.join("/")),
    }
}

fn bounded(
    entry: &mut dyn Read,
    size: u64,
    limit: u64,
    offset: usize,
    state: &Progress,
) -> Result<Vec<u8>, Error> {
    if size > limit {
        return malformed(
            offset,
            format!("an extended header of {size} bytes, at most {limit} are accepted"),
        );
    }
    let mut bytes = Vec::new();
    let read = entry.take(size).read_to_end(&mut bytes);
    read.map_err(|error| state.error(&error))?;
    match u64::try_from(bytes.len()).is_ok_and(|length| length == size) {
        true => Ok(bytes),
        false => malformed(offset, "an extended header that is cut short"),
    }
}

/// How far the source was read, and what it said last.
#[derive(Default)]
struct Progress {
    position: Cell<u64>,
    failed: RefCell<Option<String>>,
}

impl Progress {
    /// The source's own failure, else something wrong in the archive.
    fn error(&self, error: &io::Error) -> Error {
        let offset = position(self.position.get());
        match self.failed.borrow_mut().take() {
            Some(why) => Error::Read {
                structure: STRUCTURE,
                offset,
                why,
            },
            None => Error::Malformed {
                structure: STRUCTURE,
                offset,
                why: error.to_string(),
            },
        }
    }

    /// An entry that ends early because the source failed.
    fn first_error(&self, visited: Result<(), Error>) -> Result<(), Error> {
        visited.map_err(|error| match self.failed.borrow_mut().take() {
            Some(why) => Error::Read {
                structure: STRUCTURE,
                offset: position(self.position.get()),
                why,
            },
            None => error,
        })
    }
}

struct Counted<'a> {
    source: &'a mut dyn Read,
    state: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buffer) {
            Ok(count) => {
                let read = u64::try_from(count).unwrap_or(u64::MAX);
                let all = self.state.position.get().saturating_add(read);
                self.state.position.set(all);
                Ok(count)
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    *self.state.failed.borrow_mut() = Some(error.to_string());
                }
                Err(error)
            }
        }
    }
}

pub(super) fn malformed<T>(offset: usize, why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Malformed {
        structure: STRUCTURE,
        offset,
        why: why.into(),
    })
}

fn padded_end(start: u64, size: u64) -> Option<u64> {
    start.checked_add(size)?.checked_next_multiple_of(BLOCK)
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

const STRUCTURE: &str = "tar archive";
const BLOCK: u64 = 512;
const MAX_ARCHIVE: u64 = 64 * 1024 * 1024 * 1024;
const MAX_NAME: u64 = 64 * 1024;
/// Extended attributes and access lists come with it.
const MAX_PAX: u64 = 1024 * 1024;

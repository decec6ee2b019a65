// SPDX-License-Identifier: Apache-2.0

//! An archive put together from its files on the disk and a record of everything else in it: headers, padding, order. The
//! record has one JSON object a line: bytes as they are (`type` 2), or the name and size of a file whose content comes
//! here (`type` 1) (tar-split, "Metadata storage").

use crate::Error;
use kbs_protocol::encoding::b64;
use measured_boot::image::decompressed;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

/// The archive.
pub(super) struct Assembled {
    record: Box<dyn BufRead>,
    /// The directory of the files. Nothing outside of it is opened, whatever names and links say.
    files: File,
    now: Part,
}

enum Part {
    Bytes(Cursor<Vec<u8>>),
    Content { name: String, file: File, left: u64 },
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    name: Option<String>,
    /// A name that is no UTF-8, base64.
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
}

impl Assembled {
    pub(super) fn open(record: &Path, files: &Path) -> Result<Self, Error> {
        let file = File::open(record).map_err(Error::io("read", record))?;
        Ok(Self {
            record: Box::new(BufReader::new(decompressed(file)?)),
            files: File::open(files).map_err(Error::io("read", files))?,
            now: Part::Bytes(Cursor::default()),
        })
    }

    /// The next part; `None` after the last.
    fn next(&mut self) -> io::Result<Option<Part>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.record).take(MAX_LINE);
        let read = limited.read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        let entry: Entry = serde_json::from_slice(&line).map_err(io::Error::other)?;
        match entry.kind {
            SEGMENT => {
                let payload = entry.payload.unwrap_or_default();
                let bytes = b64::decode(&payload);
                let bytes = bytes.ok_or_else(|| io::Error::other("its record is damaged"))?;
                Ok(Some(Part::Bytes(Cursor::new(bytes))))
            }
            FILE if entry.size == 0 => Ok(Some(Part::Bytes(Cursor::default()))),
            FILE => {
                let name = match (entry.name, entry.name_raw) {
                    (Some(name), _) => Some(name.into_bytes()),
                    (None, raw) => raw.and_then(|raw| b64::decode(&raw)),
                };
                let name = name.ok_or_else(|| io::Error::other("its record is damaged"))?;
                let shown = String::from_utf8_lossy(&name).into_owned();
                let file = self
                    .file(&name)
                    .map_err(|error| io::Error::other(format!("{shown}: {error}")))?;
                Ok(Some(Part::Content {
                    name: shown,
                    file,
                    left: entry.size,
                }))
            }
            _ => Err(io::Error::other("its record is of another kind")),
        }
    }

    /// A regular file, found as if the directory were the root.
    fn file(&self, name: &[u8]) -> io::Result<File> {
        // A pipe would make us wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat2(
            &self.files,
            name,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )?;
        let file = File::from(file);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is no file any more")),
        }
    }
}

impl Read for Assembled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let read = match &mut self.now {
                Part::Bytes(bytes) => bytes.read(buffer)?,
                Part::Content { left: 0, .. } => 0,
                Part::Content { name, file, left } => {
                    let read = file.take(*left).read(buffer)?;
                    if read == 0 {
                        return Err(io::Error::other(format!("{name} is shorter than it was")));
                    }
                    *left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
                    read
                }
            };
            if read > 0 {
                return Ok(read);
            }
            match self.next()? {
                Some(part) => self.now = part,
                None => return Ok(0),
            }
        }
    }
}

const FILE: u8 = 1;
const SEGMENT: u8 = 2;
/// Padding at the end of an archive comes in pieces of at most 1 MiB.
const MAX_LINE: u64 = 16 * 1024 * 1024;

// SPDX-License-Identifier: Apache-2.0

//! What is kept of a file: the facts of a program, the text of a few small files, nothing of all others.
//!
//! Which files matter cannot be told by their paths alone: in layers made by ostree a file first appears as
//! `sysroot/ostree/repo/objects/…`, and its path is a hard link that comes later. So every program is looked at, and
//! objects that look like one of the texts.

use crate::error::Error;
use crate::facts::{ShimFacts, UkiFacts};
use crate::pe::{self, PeFacts};
use std::io::{self, Cursor, Read};
use std::rc::Rc;

#[derive(Clone)]
pub(super) enum Content {
    /// A file that begins as a PE file does; the error counts only when it would boot.
    Program(Rc<Result<Program, Error>>),
    Text(Rc<Vec<u8>>),
    /// A regular file that is neither, at a path where one of them was expected.
    Unknown,
}

/// An EFI program.
pub(super) struct Program {
    pub(super) file: PeFacts,
    pub(super) shim: Option<ShimFacts>,
    pub(super) uki: Option<UkiFacts>,
}

/// Reads as much as is needed; `None` for a file that does not matter.
pub(super) fn read(
    path: &str,
    size: u64,
    content: &mut dyn Read,
) -> Result<Option<Content>, Error> {
    let expected = is_expected(path);
    let is_object = path.contains("/repo/objects/");
    let mut start = [0; 2];
    let is_program = size >= SMALLEST_PROGRAM && {
        let filled = content.read_exact(&mut start);
        filled.map_err(|error| unreadable(&error))?;
        start == *b"MZ"
    };
    let mut content = Cursor::new(start)
        .take(if size >= SMALLEST_PROGRAM { 2 } else { 0 })
        .chain(content);
    if is_program {
        let program = match size {
            0..=IN_MEMORY => {
                let bytes = all(&mut content, size)?;
                program(path, &bytes)
            }
            _ => match pe::stream::read(path, size, &mut content) {
                Err(error @ Error::Read { .. }) => return Err(error),
                streamed => streamed.map(|(file, sections)| Program {
                    uki: UkiFacts::from_sections(file.clone(), sections),
                    file,
                    shim: None,
                }),
            },
        };
        return Ok(Some(Content::Program(Rc::new(program))));
    }
    if size <= MAX_TEXT && (expected || is_object) {
        let bytes = all(&mut content, size)?;
        if expected || looks_wanted(&bytes) {
            return Ok(Some(Content::Text(Rc::new(bytes))));
        }
    }
    Ok(expected.then_some(Content::Unknown))
}

fn program(path: &str, bytes: &[u8]) -> Result<Program, Error> {
    let has = |sections: &[pe::Section<'_>], name: &str| pe::find(sections, name).is_some();
    let sections = pe::sections(bytes)?;
    let file = PeFacts::read(path, bytes)?;
    Ok(Program {
        file,
        shim: has(&sections, ".vendor_cert")
            .then(|| ShimFacts::read(path, bytes))
            .transpose()?,
        uki: has(&sections, ".linux")
            .then(|| UkiFacts::read(path, bytes))
            .transpose()?,
    })
}

/// Paths where a text or a program is looked for.
fn is_expected(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    matches!(name, "os-release" | "vmlinuz")
        || name.starts_with("vmlinuz-")
        || name == "grub.cfg"
        || name.to_ascii_lowercase().ends_with(".csv") && path.contains("EFI/")
}

/// Whether an object of ostree could be one of the texts: os-release(5), GRUB's configuration, or what fallback reads
/// (UTF-16).
fn looks_wanted(bytes: &[u8]) -> bool {
    let lines = || bytes.split(|byte| *byte == b'\n');
    let is_csv = bytes.starts_with(&[0xff, 0xfe])
        || bytes.starts_with(b"s\0h\0i\0m\0")
        || bytes.starts_with(b"B\0O\0O\0T\0");
    is_csv
        || lines().any(|line| line.starts_with(b"ID="))
            && lines().any(|line| line.starts_with(b"NAME="))
        || lines().any(|line| line.trim_ascii_start().starts_with(b"configfile "))
}

fn all(content: &mut dyn Read, size: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    content
        .take(size)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(&error))?;
    match u64::try_from(bytes.len()).is_ok_and(|length| length == size) {
        true => Ok(bytes),
        false => Err(Error::Truncated {
            structure: "file",
            offset: bytes.len(),
            wanted: usize::try_from(size).unwrap_or(usize::MAX),
            left: bytes.len(),
        }),
    }
}

fn unreadable(error: &io::Error) -> Error {
    Error::Read {
        structure: "file",
        offset: 0,
        why: error.to_string(),
    }
}

/// The headers alone have more.
const SMALLEST_PROGRAM: u64 = 512;
/// Kernels and boot loaders have 1 to 20 MiB; larger ones are hashed as they pass.
const IN_MEMORY: u64 = 20 * 1024 * 1024;
const MAX_TEXT: u64 = 64 * 1024;

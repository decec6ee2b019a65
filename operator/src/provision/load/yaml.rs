// SPDX-License-Identifier: Apache-2.0

//! From files to documents to values, with the place of whatever is wrong.

use crate::provision::{Error, Place};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// The files to read, by name.
pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let yaml = [".yaml", ".yml"].iter().any(|end| name.ends_with(end));
        if yaml && !name.starts_with('.') && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The documents of a file (YAML 1.2 section 9.1.4), each with the number of its first line. Parsed one by
/// one, because each has a type of its own.
pub(super) fn documents(text: &str) -> Vec<(u64, String)> {
    let mut documents = Vec::new();
    let mut current = String::new();
    let mut first = 1u64;
    for (number, line) in (1u64..).zip(text.lines()) {
        let end = line.trim_end();
        if end == "---" || end.starts_with("--- #") {
            documents.push((first, std::mem::take(&mut current)));
            first = number.saturating_add(1);
        } else {
            current.push_str(line);
            current.push('\n');
        }
    }
    documents.push((first, current));
    documents.retain(|(_, text)| !is_blank(text));
    documents
}

/// Whether there are only comments.
pub(super) fn is_blank(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines.all(|line| line.is_empty() || line.starts_with('#'))
}

/// Reads a document that begins at this place.
pub(super) fn parse<T: DeserializeOwned>(text: &str, place: &Place) -> Result<T, Error> {
    serde_saphyr::from_str(text).map_err(|error| {
        let mut place = place.clone();
        let mut why = error.without_snippet().to_string();
        if let Some(at) = error.location() {
            place.line = place.line.saturating_add(at.line().saturating_sub(1));
            let suffix = format!(" at line {}, column {}", at.line(), at.column());
            why = why.replace(&suffix, "");
        }
        // The parser's advice to programmers.
        let why = why.split(", set DuplicateKeyPolicy").next().unwrap_or(&why);
        wrong(&place, why)
    })
}

/// Something is wrong at this place.
pub(super) fn wrong(place: &Place, why: impl Into<String>) -> Error {
    Error::Object {
        place: place.clone(),
        why: why.into(),
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Finds a secret in captured material, in any of the forms a careless program gives it: raw, hexadecimal,
//! base64 in both alphabets and at every alignment, and the decimal list that Rust's `Debug` prints.
//! The secrecy tests and the demo call it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem;

/// A secret's tell-tale forms.
#[derive(Debug)]
pub struct Scanner {
    needles: Vec<(String, Vec<u8>)>,
}

/// One place where a secret was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The material: a file, a stream of a command.
    pub place: String,
    /// The secret and its form.
    pub form: String,
}

impl Scanner {
    /// A scanner that knows no secret yet.
    pub fn new() -> Self {
        Self {
            needles: Vec::new(),
        }
    }

    /// Also looks for `secret`, called `name` in reports. Either half alone counts: a truncated leak is a
    /// leak. Secrets under eight bytes are refused, they would be found by accident.
    ///
    /// # Errors
    /// The secret is too short.
    pub fn add(&mut self, name: &str, secret: &[u8]) -> Result<()> {
        anyhow::ensure!(secret.len() >= 8, "`{name}` is too short to search for");
        let (head, tail) = secret.split_at(secret.len() / 2);
        let parts = if secret.len() < 16 {
            vec![(name.to_owned(), secret)]
        } else {
            vec![
                (format!("first half of {name}"), head),
                (format!("second half of {name}"), tail),
            ]
        };
        for (part, bytes) in parts {
            for (form, needle) in forms(bytes) {
                self.needles.push((format!("{part}, {form}"), needle));
            }
        }
        Ok(())
    }

    /// Every secret found in `material`.
    pub fn bytes(&self, place: &str, material: &[u8]) -> Vec<Leak> {
        self.needles
            .iter()
            .filter(|(_, needle)| memmem::find(material, needle).is_some())
            .map(|(form, _)| Leak {
                place: place.to_owned(),
                form: form.clone(),
            })
            .collect()
    }

    /// Every secret found in a file below `dir`, names included. Directories in `except` are skipped.
    ///
    /// # Errors
    /// A file or directory cannot be read.
    pub fn directory(&self, dir: &Path, except: &[&Path]) -> Result<Vec<Leak>> {
        let mut leaks = Vec::new();
        for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = entry?.path();
            let kind = fs::symlink_metadata(&path)?.file_type();
            leaks.extend(self.bytes("a file name", path.as_os_str().as_encoded_bytes()));
            if except.iter().any(|skipped| path.starts_with(skipped)) {
                continue;
            }
            if kind.is_dir() {
                leaks.extend(self.directory(&path, except)?);
            } else if kind.is_file() {
                let bytes =
                    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                leaks.extend(self.bytes(&path.display().to_string(), &bytes));
            }
        }
        Ok(leaks)
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

/// The forms of `bytes` worth looking for.
fn forms(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let debug = bytes.iter().map(u8::to_string).collect::<Vec<_>>();
    let mut forms = vec![
        ("raw".to_owned(), bytes.to_vec()),
        ("upper-case hex".to_owned(), hex.to_uppercase().into_bytes()),
        ("hex".to_owned(), hex.into_bytes()),
        ("decimal list".to_owned(), debug.join(", ").into_bytes()),
        (
            "compact decimal list".to_owned(),
            debug.join(",").into_bytes(),
        ),
    ];
    for offset in 0..3 {
        forms.push((
            format!("base64 at {offset}"),
            base64_inside(&STANDARD_NO_PAD, bytes, offset),
        ));
        forms.push((
            format!("base64url at {offset}"),
            base64_inside(&URL_SAFE_NO_PAD, bytes, offset),
        ));
    }
    forms
}

/// The base64 characters that depend on `bytes` alone when `offset` other bytes (modulo three) precede
/// them: the first and last character shared with a neighbour are cut off.
fn base64_inside(engine: &impl Engine, bytes: &[u8], offset: usize) -> Vec<u8> {
    let mut padded = vec![0; offset];
    padded.extend_from_slice(bytes);
    let text = engine.encode(&padded);
    let shared_first = if offset == 0 { 0 } else { offset + 1 };
    let shared_last = usize::from(!padded.len().is_multiple_of(3));
    let end = text.len().saturating_sub(shared_last);
    text.get(shared_first..end)
        .unwrap_or_default()
        .as_bytes()
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"yjDiVFr2/XaYqQmnhmEvt84/3ojpbmpu";

    fn scanner() -> Scanner {
        let mut scanner = Scanner::new();
        scanner.add("key", SECRET).unwrap();
        scanner
    }

    #[test]
    fn finds_every_form_at_every_alignment() {
        let scanner = scanner();
        for before in 0..7 {
            let mut plain = vec![b'x'; before];
            plain.extend_from_slice(SECRET);
            plain.extend_from_slice(b"tail");
            let hex: String = plain.iter().map(|b| format!("{b:02x}")).collect();
            for material in [
                plain.clone(),
                hex.clone().into_bytes(),
                hex.to_uppercase().into_bytes(),
                STANDARD_NO_PAD.encode(&plain).into_bytes(),
                URL_SAFE_NO_PAD.encode(&plain).into_bytes(),
                format!("{plain:?}").into_bytes(),
                serde_json::to_vec(&plain).unwrap(),
            ] {
                let leaks = scanner.bytes("here", &material);
                assert!(
                    leaks.len() >= 2,
                    "{before}: {:?}",
                    String::from_utf8_lossy(&material)
                );
            }
        }
    }

    #[test]
    fn finds_a_truncated_leak() {
        let leaks = scanner().bytes("log", &SECRET[..20]);
        assert_eq!(leaks.len(), 1);
        assert_eq!(leaks[0].form, "first half of key, raw");
    }

    #[test]
    fn finds_nothing_in_other_material() {
        assert_eq!(
            scanner().bytes("log", b"yjDiVFr2 and other words, 84/3ojp"),
            []
        );
    }

    #[test]
    fn refuses_a_secret_that_chance_would_find() {
        assert!(Scanner::new().add("pin", b"1234").is_err());
    }

    #[test]
    fn searches_files_and_their_names() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("server")).unwrap();
        fs::write(dir.path().join("server/state"), SECRET).unwrap();
        fs::write(dir.path().join("log"), [b"Key: ", SECRET].concat()).unwrap();
        let leaks = scanner()
            .directory(dir.path(), &[&dir.path().join("server")])
            .unwrap();
        assert_eq!(leaks.len(), 2, "{leaks:?}");
        assert!(leaks.iter().all(|leak| leak.place.ends_with("/log")));
    }
}

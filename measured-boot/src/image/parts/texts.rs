// SPDX-License-Identifier: Apache-2.0

//! What an image holds beside the parts that boot: its name, GRUB's configuration, and files that would be measured on
//! the way without being predicted.

use super::super::content::Content;
use super::Search;
use super::places::{OS_RELEASE, UKI_AND_ADDONS};
use crate::bank::Digests;
use crate::facts::{OsRelease, TextFacts};

impl<'a> Search<'a> {
    /// Measured on their way, and not predicted.
    pub(super) fn extras(&self, esp: &[&'a str]) -> Vec<String> {
        let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
        let beside_shim = esp.iter().copied().filter(|path| {
            let name = name(path);
            let is_efi = name.ends_with(".efi");
            is_efi && (name.starts_with("revocations") || name.starts_with("shim_certificate"))
        });
        let addons = self.files.keys().map(String::as_str).filter(|path| {
            path.ends_with(".addon.efi") && UKI_AND_ADDONS.iter().any(|dir| path.starts_with(dir))
        });
        let options = esp
            .iter()
            .copied()
            .filter(|path| name(path).ends_with(".csv"));
        let with_options = options.filter(|path| match self.files.get(*path) {
            Some(Content::Text(text)) => hands_options(text),
            _ => false,
        });
        let extras = beside_shim.chain(addons).map(str::to_owned);
        extras
            .chain(with_options.map(|path| format!("{path} (load options for shim)")))
            .collect()
    }

    pub(super) fn os(&self) -> Option<OsRelease> {
        let text = OS_RELEASE
            .iter()
            .find_map(|path| match self.files.get(*path) {
                Some(Content::Text(text)) => Some(String::from_utf8_lossy(text).into_owned()),
                _ => None,
            })?;
        let value = |key: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default()
                .trim_matches(['"', '\''])
                .to_owned()
        };
        Some(OsRelease {
            id: value("ID"),
            version_id: value("VERSION_ID"),
            pretty_name: value("PRETTY_NAME"),
        })
    }

    pub(super) fn grub_configs(&self) -> Vec<TextFacts> {
        let configs = self
            .files
            .iter()
            .filter(|(path, _)| path.ends_with("grub.cfg"));
        configs
            .filter_map(|(path, content)| match content {
                Content::Text(text) => Some(TextFacts {
                    path: path.clone(),
                    digests: Digests::of(text),
                }),
                _ => None,
            })
            .collect()
    }
}

/// Whether a line of what fallback reads (UTF-16: program, label, options, description) has options.
fn hands_options(text: &[u8]) -> bool {
    let units: Vec<u16> = text
        .as_chunks::<2>()
        .0
        .iter()
        .map(|unit| u16::from_le_bytes(*unit))
        .collect();
    let text = String::from_utf16_lossy(&units);
    text.lines().any(|line| {
        line.split(',')
            .nth(2)
            .is_some_and(|options| !options.trim().is_empty())
    })
}

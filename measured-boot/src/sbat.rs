// SPDX-License-Identifier: Apache-2.0

//! SBAT: generations of boot components, and the level below which shim refuses them (shim, SBAT.md).
//!
//! The level matters to PCR 7: shim measures the text of the SbatLevel variable as it is in NVRAM *after*
//! shim looked at it. So the PCR remembers the newest shim that ever ran on the machine.

use crate::bytes::{Blob, Reader};
use crate::error::Error;
use serde::{Deserialize, Serialize};

/// The revocations that a shim brings along: its `.sbatlevel` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SbatLevels {
    /// What it writes by itself; older builds call it "previous".
    pub automatic: Blob,
    /// What it writes after `mokutil --set-sbat-policy latest`.
    pub latest: Blob,
}

impl SbatLevels {
    /// Reads a `.sbatlevel` section: format version 0, then two offsets (relative to where they begin) of
    /// texts that end in a zero.
    ///
    /// # Errors
    /// [`Error::Truncated`] or [`Error::Malformed`] for another version or an offset outside of the
    /// section.
    pub fn parse(section: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::limited(STRUCTURE, section, MAX_SECTION)?;
        let version = reader.u32()?;
        if version != 0 {
            return reader.wrong(format!("format version {version}, only 0 is known"));
        }
        let payload = reader.peek();
        let mut text = || {
            let offset = reader.length(MAX_SECTION)?;
            let mut at = Reader::new(STRUCTURE, payload);
            at.take(offset)?;
            match at.rest().split(|byte| *byte == 0).next() {
                Some(text) if text.len() < payload.len().saturating_sub(offset) => {
                    Ok(Blob::from(text))
                }
                _ => reader.wrong("a text that does not end"),
            }
        };
        Ok(Self {
            automatic: text()?,
            latest: text()?,
        })
    }
}

/// What SbatLevel holds once a shim that brings `levels` has run.
///
/// With Secure Boot, an existing text of the same or a newer date stays. Without, shim puts the original
/// text back.
pub fn level_after(
    existing: Option<&Blob>,
    levels: Option<&SbatLevels>,
    secure_boot: bool,
    latest: bool,
) -> Blob {
    let original = || Blob::from(ORIGINAL_LEVEL);
    if !secure_boot {
        return original();
    }
    let candidate = match levels {
        Some(levels) if latest => levels.latest.clone(),
        Some(levels) => levels.automatic.clone(),
        None => original(),
    };
    match existing {
        Some(existing) if date(existing) >= date(&candidate) => existing.clone(),
        _ => candidate,
    }
}

/// The component of `sbat` that `level` revokes: one whose generation is below the level's.
pub fn revoked_component<'a>(level: &Blob, sbat: &'a str) -> Option<&'a str> {
    let level = String::from_utf8_lossy(level.as_ref()).into_owned();
    rows(sbat).find_map(|(component, generation)| {
        rows(&level)
            .any(|(name, minimum)| name == component && generation < minimum)
            .then_some(component)
    })
}

/// The columns of one component: name, generation, vendor, package, version, URL.
pub(crate) fn columns(sbat: &str, is_wanted: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    sbat.lines().find_map(|line| {
        let mut columns = line.split(',');
        let name = columns.next().filter(|name| is_wanted(name))?;
        Some((name, columns.nth(3)?))
    })
}

/// Component and generation of each line.
fn rows(csv: &str) -> impl Iterator<Item = (&str, u32)> {
    csv.lines().filter_map(|line| {
        let mut columns = line.split(',');
        Some((columns.next()?, columns.next()?.trim().parse().ok()?))
    })
}

/// Version and date of a level, `sbat,1,2025021800`; a text without them is older than any.
fn date(level: &Blob) -> Option<(u32, u64)> {
    let text = std::str::from_utf8(level.as_ref()).ok()?;
    let mut columns = text.lines().next()?.split(',');
    columns.next().filter(|name| *name == "sbat")?;
    Some((
        columns.next()?.parse().ok()?,
        columns.next()?.trim().parse().ok()?,
    ))
}

/// The level of a machine that was never updated.
pub(crate) const ORIGINAL_LEVEL: &[u8] = b"sbat,1,2021030218\n";
const STRUCTURE: &str = ".sbatlevel section";
const MAX_SECTION: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::{ORIGINAL_LEVEL, SbatLevels, level_after, revoked_component};
    use crate::bytes::Blob;

    fn blob(text: &str) -> Blob {
        Blob::from(text.as_bytes())
    }

    fn levels() -> SbatLevels {
        SbatLevels {
            automatic: blob("sbat,1,2024010900\nshim,4\n"),
            latest: blob("sbat,1,2025010900\nshim,4\ngrub,5\n"),
        }
    }

    #[test]
    fn the_newer_text_stays() {
        let ours = levels();
        let newer = blob("sbat,1,2025021800\nshim,4\n");
        let older = blob("sbat,1,2023012900\nshim,2\n");
        let same_date = blob("sbat,1,2024010900\nother,1\n");
        let broken = blob("nonsense");
        for (existing, secure_boot, latest, expected) in [
            (None, true, false, &ours.automatic),
            (Some(&older), true, false, &ours.automatic),
            (Some(&broken), true, false, &ours.automatic),
            (Some(&same_date), true, false, &same_date),
            (Some(&newer), true, false, &newer),
            (Some(&older), true, true, &ours.latest),
            (Some(&newer), false, false, &Blob::from(ORIGINAL_LEVEL)),
        ] {
            assert_eq!(
                &level_after(existing, Some(&ours), secure_boot, latest),
                expected
            );
        }
        let old_shim = level_after(None, None, true, false);
        assert_eq!(old_shim.as_ref(), ORIGINAL_LEVEL);
    }

    #[test]
    fn a_generation_below_the_level_is_revoked() {
        let sbat = "sbat,1,x\nshim,3,UEFI shim,shim,15.7,url\nshim.debian,1,Debian,shim,15.7,url\n";
        assert_eq!(revoked_component(&levels().automatic, sbat), Some("shim"));
        assert_eq!(
            revoked_component(&levels().automatic, &sbat.replace("shim,3", "shim,4")),
            None
        );
        assert_eq!(revoked_component(&blob("sbat,1,1\n"), sbat), None);
    }

    #[test]
    fn the_section_is_read_within_its_bounds() {
        let mut section = vec![0, 0, 0, 0, 8, 0, 0, 0, 10, 0, 0, 0];
        section.extend(b"a\0b\0");
        let levels = SbatLevels::parse(&section).unwrap();
        assert_eq!(levels.automatic.as_ref(), b"a");
        assert_eq!(levels.latest.as_ref(), b"b");
        for end in 0..section.len() {
            assert!(SbatLevels::parse(&section[..end]).is_err(), "{end}");
        }
        section[0] = 1;
        let error = SbatLevels::parse(&section).unwrap_err().to_string();
        assert!(error.contains("format version 1"), "{error}");
    }
}

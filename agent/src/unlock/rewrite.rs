// SPDX-License-Identifier: Apache-2.0

//! Writes a changed header back to its device, so that the power may go at any byte. [`rebind`](super::rebind) and
//! [`recovery`](super::recovery) do it in two turns:
//!
//! 1. a new key slot goes where no key slot is, and then both copies of the header, one after the other ([`adding`]).
//!    While the first copy is torn, the second says what was before; from then on the first, whole and newer, says that
//!    there is one key slot more;
//! 2. when something is to go: both copies again, without it, and last the places where no key slot is any more
//!    ([`removing`]).

use super::{Header, Luks, UnlockError, VkId, VolumeKey};
use crate::config::Config;
use crate::error::Error;
use kbs_protocol::Secret;
use luks_header::Extent;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The first turn: a key slot for this passphrase and its token, in memory and on the device. Returns its number.
///
/// # Errors
/// libcryptsetup, or the device.
pub(super) fn add_slot(
    header: &Header,
    luks: &mut Luks<'_>,
    key: &VolumeKey,
    passphrase: &Secret,
    token: impl FnOnce(u32) -> Value,
) -> Result<u32, UnlockError> {
    let before = header.bytes()?;
    let keyslot = luks.bind(key, passphrase.expose(), token)?;
    let both = header.bytes()?;
    write(&header.device, &adding(&before, &both, header.copy()))?;
    Ok(keyslot)
}

/// The second turn: without these tokens, and the key slot of each.
///
/// # Errors
/// libcryptsetup, the device, or a header that would be refused.
pub(super) fn remove_slots(
    header: &Header,
    luks: &mut Luks<'_>,
    config: &Config,
    slots: &[(u32, u32)],
) -> Result<(), Error> {
    for (token, keyslot) in slots {
        luks.unbind(*token, *keyslot)?;
    }
    let after = header.bytes()?;
    let used = used(header, config, &after)?;
    write(&header.device, &removing(&after, header.copy(), &used))?;
    Ok(())
}

/// What a new key slot gave is the key that the volume has.
///
/// # Errors
/// [`UnlockError::Disagrees`].
pub(super) fn is_same_key(
    what: &'static str,
    found: &VkId,
    expected: &VkId,
) -> Result<(), UnlockError> {
    if found == expected {
        return Ok(());
    }
    Err(UnlockError::Disagrees {
        what,
        found: found.as_str().to_owned(),
        expected: expected.as_str().to_owned(),
    })
}

/// One step of writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// These bytes at this place.
    Write(usize, Vec<u8>),
    /// Nothing of what follows before all of what was is on the disk.
    Flush,
}

/// What differs behind the copies, then the copies.
pub(super) fn adding(before: &[u8], after: &[u8], copy: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let pieces = before.chunks(PIECE).zip(after.chunks(PIECE));
    let changed = (0_usize..)
        .zip(pieces)
        .filter_map(|(number, (before, after))| {
            let at = number.saturating_mul(PIECE);
            (at >= copy.saturating_mul(2) && before != after).then_some((at, after))
        });
    for (at, piece) in changed {
        match steps.last_mut() {
            Some(Step::Write(begin, bytes)) if begin.saturating_add(bytes.len()) == at => {
                bytes.extend_from_slice(piece);
            }
            _ => steps.push(Step::Write(at, piece.to_vec())),
        }
    }
    steps.push(Step::Flush);
    steps.extend(copies(after, copy));
    steps
}

/// The copies, then zeros wherever no key slot is.
pub(super) fn removing(after: &[u8], copy: usize, used: &[(usize, usize)]) -> Vec<Step> {
    let mut steps = copies(after, copy);
    let mut at = copy.saturating_mul(2);
    let mut used = used.to_vec();
    used.sort_unstable();
    for (begin, end) in used.into_iter().chain([(after.len(), after.len())]) {
        while at < begin {
            let length = begin.saturating_sub(at).min(ZEROS);
            steps.push(Step::Write(at, vec![0; length]));
            at = at.saturating_add(length);
        }
        at = at.max(end);
    }
    steps.push(Step::Flush);
    steps
}

/// One copy of the header, and then the other.
fn copies(after: &[u8], copy: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for (number, bytes) in (0_usize..2).zip(after.chunks(copy)) {
        steps.push(Step::Write(number.saturating_mul(copy), bytes.to_vec()));
        steps.push(Step::Flush);
    }
    steps
}

/// Where key slots are, in a header as it will be. It is judged once more before anything of it is written.
pub(super) fn used(
    header: &Header,
    config: &Config,
    after: &[u8],
) -> Result<Vec<(usize, usize)>, Error> {
    let refused = |refusal| UnlockError::Header {
        device: header.device.clone(),
        refusal,
    };
    let volume = luks_header::examine(after, &config.unlock.rules).map_err(refused)?;
    let image = volume.image(Extent::Everything).map_err(refused)?;
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let area = |area: &luks_header::Area| {
        let end = area.offset.saturating_add(area.size);
        (place(area.offset), place(end))
    };
    Ok(image.areas.iter().map(area).collect())
}

fn write(device: &Path, steps: &[Step]) -> Result<(), UnlockError> {
    let failed = |action| {
        move |error| UnlockError::Device {
            action,
            device: device.to_owned(),
            error,
        }
    };
    let file: File = OpenOptions::new()
        .write(true)
        .open(device)
        .map_err(failed("open for writing"))?;
    for step in steps {
        match step {
            Step::Write(at, bytes) => {
                let at = u64::try_from(*at).unwrap_or(u64::MAX);
                file.write_all_at(bytes, at).map_err(failed("write to"))?;
            }
            Step::Flush => file.sync_all().map_err(failed("flush"))?,
        }
    }
    Ok(())
}

/// The most that a disk writes at once.
const PIECE: usize = 4096;
/// Zeros in one write.
const ZEROS: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::is_same_key;
    use crate::unlock::VkId;

    #[test]
    fn another_key_behind_a_new_slot_is_no_success() {
        let id = |uuid: &str| VkId::of(b"key", "root", uuid);
        assert!(is_same_key("it", &id("a"), &id("a")).is_ok());
        let refused = is_same_key("it", &id("a"), &id("b")).unwrap_err();
        assert!(refused.to_string().contains(id("a").as_str()), "{refused}");
    }
}

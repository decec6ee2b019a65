// SPDX-License-Identifier: Apache-2.0

//! Binds a volume anew after its secret was rotated: a new passphrase in a new key slot, a new token for it, and then the
//! old ones go. The subcommands `rebind` and `unlock` call this.
//!
//! The header is changed in memory, where it was judged, and written back in two turns. The power may go at any byte:
//!
//! 1. the new key slot goes where no key slot is, and then both copies of the header, one after the other ([`adding`]).
//!    While the first copy is torn, the second says what was before; from then on the first, whole and newer, says that
//!    there are two bindings;
//! 2. once the new binding has opened the volume from the device, both copies again, without the old one, and last the
//!    places where no key slot is any more ([`removing`]).
//!
//! Key slots and tokens of others stay as they are. What an interrupted turn leaves behind, the next one removes.

use super::{Candidate, Header, Luks, Opened, UnlockError};
use crate::config::{Config, VkId as VkIdRule};
use crate::error::Error;
use crate::source::KbsSource;
use kbs_protocol::Secret;
use kbs_protocol::encoding::b64u;
use luks_header::Extent;
use rand_core::{OsRng, RngCore as _};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebound {
    /// The new key slot.
    pub keyslot: u32,
    /// The key slots that went.
    pub removed: Vec<u32>,
}

/// Binds the volume on `device` to the secret that the KBS has now.
///
/// # Errors
/// Whatever keeps the volume from being opened by its old or by its new binding. It opens with one of them all the same.
pub fn rebind(
    name: &str,
    device: &Path,
    config: &Config,
    source: &mut KbsSource,
) -> Result<Rebound, Error> {
    let old = Candidate::find(name, device, config, Extent::Everything)?;
    let header = &old.header;
    let mut luks = Luks::load(header)?;
    let Opened {
        key, vk_id, path, ..
    } = old.open(&mut luks, source, config.unlock.vk_id)?;

    let before = header.bytes()?;
    let passphrase = passphrase()?;
    let pin = clevis_pin::Config::parse(&json!({ "path": path }).to_string())?;
    let jwe = clevis_pin::encrypt(&pin, passphrase.expose(), source)?;
    let keyslot = luks.bind(&key, passphrase.expose(), |keyslot| token(keyslot, &jwe))?;
    drop((passphrase, key));
    let both = header.bytes()?;
    write(device, &adding(&before, &both, header.copy()))?;

    // As at the next boot: from the device, with the new token.
    let mut new = Candidate::find(name, device, config, Extent::Unlocking)?;
    new.bindings
        .retain(|binding| binding.token.keyslot == keyslot);
    let opened = new.open(&mut Luks::load(&new.header)?, source, VkIdRule::IfPresent)?;
    if opened.vk_id != vk_id {
        return Err(UnlockError::Disagrees {
            what: "the volume key behind the new key slot",
            found: opened.vk_id.as_str().to_owned(),
            expected: vk_id.as_str().to_owned(),
        }
        .into());
    }

    let mut removed = Vec::new();
    for binding in old.bindings.iter().filter(|binding| binding.path == path) {
        luks.unbind(binding.token.id, binding.token.keyslot)?;
        removed.push(binding.token.keyslot);
    }
    let after = header.bytes()?;
    write(
        device,
        &removing(&after, header.copy(), &used(header, config, &after)?),
    )?;
    Ok(Rebound { keyslot, removed })
}

/// One step of writing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// These bytes at this place.
    Write(usize, Vec<u8>),
    /// Nothing of what follows before all of what was is on the disk.
    Flush,
}

/// What differs behind the copies, then the copies.
fn adding(before: &[u8], after: &[u8], copy: usize) -> Vec<Step> {
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
fn removing(after: &[u8], copy: usize, used: &[(usize, usize)]) -> Vec<Step> {
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
fn used(header: &Header, config: &Config, after: &[u8]) -> Result<Vec<(usize, usize)>, Error> {
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

/// As Clevis makes one: random bytes in base64url.
fn passphrase() -> Result<Secret, Error> {
    let mut bytes = Zeroizing::new([0_u8; RANDOM]);
    OsRng
        .try_fill_bytes(bytes.as_mut())
        .map_err(|error| clevis_pin::Fault::Random(error.to_string()))?;
    Ok(Secret::new(b64u::encode(bytes.as_slice()).into_bytes()))
}

/// A token of Clevis: the JWE in flattened form.
fn token(keyslot: u32, jwe: &str) -> Value {
    let mut parts = jwe.split('.');
    let mut part = || parts.next().unwrap_or_default();
    json!({
        "type": "clevis",
        "keyslots": [keyslot.to_string()],
        "jwe": {
            "protected": part(), "encrypted_key": part(), "iv": part(), "ciphertext": part(), "tag": part(),
        },
    })
}

/// The most that a disk writes at once.
const PIECE: usize = 4096;
/// Zeros in one write.
const ZEROS: usize = 1 << 20;
/// Bytes of a passphrase.
const RANDOM: usize = 40;

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! Key slots: what wraps the volume key, what it costs to unwrap it, and where it lies.

use super::{HASHES, LAST_KEYSLOT, PAGE, copies, salt_is_one};
use crate::binary::Copy;
use crate::cipher::Cipher;
use crate::error::{Refusal, not_allowed, quoted, refused};
use crate::image::Area;
use crate::json::{Document, Kdf, Keyslot};
use crate::rules::{KdfLimits, Rules};

pub(super) fn keyslot_is_plain(
    number: u32,
    keyslot: &Keyslot,
    rules: &Rules,
) -> Result<(), Refusal> {
    let wrong = |why: String| refused(format!("key slot {number}: {why}"));
    if number > LAST_KEYSLOT || keyslot.r#type != "luks2" {
        return wrong(format!(
            "its type is {}, expected luks2",
            quoted(&keyslot.r#type)
        ));
    }
    let af = &keyslot.af;
    if af.r#type != "luks1" || af.stripes != STRIPES || !HASHES.contains(&af.hash.as_str()) {
        return wrong(format!(
            "anti-forensic splitting {} with {} stripes and {}, expected luks1 with {STRIPES} and SHA-2",
            quoted(&af.r#type),
            af.stripes,
            quoted(&af.hash)
        ));
    }
    let area = &keyslot.area;
    if area.r#type != "raw" {
        return wrong(format!(
            "its area is of type {}, expected raw",
            quoted(&area.r#type)
        ));
    }
    // Never an authenticating cipher: there is no room for its tags.
    let cipher = Cipher::named(&area.encryption).filter(|cipher| !cipher.is_aead());
    let allowed = cipher.filter(|c| *c == Cipher::AesXts || rules.ciphers.contains(c));
    let Some(cipher) = allowed else {
        return wrong(format!(
            "the volume key in it is encrypted with {}, which would give it away",
            quoted(&area.encryption)
        ));
    };
    if !cipher.key_sizes().contains(&area.key_size) {
        return wrong(format!("a key of {} bytes for {cipher}", area.key_size));
    }
    if keyslot.priority.is_some_and(|priority| priority > 2) {
        return wrong("it has a priority that does not exist".to_owned());
    }
    kdf_is_bearable(number, &keyslot.kdf, &rules.kdf)
}

fn kdf_is_bearable(number: u32, kdf: &Kdf, limits: &KdfLimits) -> Result<(), Refusal> {
    let beyond = |key, why: String| not_allowed(key, format!("key slot {number}: {why}"));
    let salt = match kdf {
        Kdf::Pbkdf2 {
            hash,
            iterations,
            salt,
        } => {
            if !HASHES.contains(&hash.as_str()) {
                return refused(format!("key slot {number}: PBKDF2 with {}", quoted(hash)));
            }
            if !limits.pbkdf2_iterations.contains(iterations) {
                return beyond(
                    "unlock.pbkdf2_iterations",
                    format!("{iterations} iterations of PBKDF2"),
                );
            }
            salt
        }
        Kdf::Argon2i {
            time,
            memory,
            cpus,
            salt,
        }
        | Kdf::Argon2id {
            time,
            memory,
            cpus,
            salt,
        } => {
            if *memory > limits.argon2_memory {
                return beyond(
                    "unlock.argon2_memory",
                    format!("Argon2 wants {memory} KiB of memory"),
                );
            }
            if *time > limits.argon2_time {
                return beyond("unlock.argon2_time", format!("Argon2 wants {time} passes"));
            }
            if !(1..=ARGON2_LANES).contains(cpus) || *time == 0 || *memory < ARGON2_LEAST {
                return refused(format!(
                    "key slot {number}: Argon2 with {time} passes, {memory} KiB and {cpus} lanes"
                ));
            }
            salt
        }
    };
    salt_is_one(&format!("key slot {number}"), salt)
}

/// Inside the key slot region, on whole pages, large enough, and none over another.
pub(super) fn areas(copy: Copy<'_>, document: &Document, metadata: u64) -> Result<(), Refusal> {
    let mut areas: Vec<Area> = Vec::new();
    for (&keyslot, slot) in &document.keyslots.0 {
        let (offset, size) = (slot.area.offset.0, slot.area.size.0);
        let needed = u64::from(slot.key_size).saturating_mul(STRIPES.into());
        let end = offset.checked_add(size).filter(|end| *end <= metadata);
        if offset < copies(copy)
            || end.is_none()
            || size < needed
            || !offset.is_multiple_of(PAGE)
            || !size.is_multiple_of(PAGE)
        {
            return refused(format!(
                "key slot {keyslot}: its area of {size} bytes at byte {offset} is not a place for one, which lies \
                 between {} and {metadata}",
                copies(copy)
            ));
        }
        areas.push(Area {
            keyslot,
            offset,
            size,
        });
    }
    areas.sort_by_key(|area| area.offset);
    for pair in areas.windows(2) {
        if let [one, next] = pair
            && one.offset.saturating_add(one.size) > next.offset
        {
            return refused(format!(
                "the areas of key slots {} and {} overlap",
                one.keyslot, next.keyslot
            ));
        }
    }
    Ok(())
}

const STRIPES: u32 = 4000;
/// What libcryptsetup takes at most and at least.
const ARGON2_LANES: u32 = 4;
const ARGON2_LEAST: u32 = 32;

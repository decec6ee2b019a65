// SPDX-License-Identifier: Apache-2.0

//! The few headers that we mean. Each rule is one function; none of them trusts another to have run.

mod keyslots;
mod tokens;

pub use tokens::{ClevisToken, Jwe};

use crate::binary::{BINARY, Copy};
use crate::cipher::{Cipher, Integrity};
use crate::error::{Refusal, not_allowed, quoted, refused};
use crate::image::Source;
use crate::json::{Digest, Document, Number, Segment};
use crate::rules::{KdfLimits, Rules};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;

/// A volume that may be opened.
#[derive(Debug, Clone)]
pub struct Volume {
    /// As 36 characters.
    pub uuid: String,
    /// Counts the changes of the header.
    pub sequence: u64,
    /// What sectors are encrypted with.
    pub cipher: Cipher,
    /// What authenticates them: what the rules say.
    pub integrity: Integrity,
    /// Length of the volume key in bytes.
    pub key_size: u32,
    /// 512 or 4096 bytes.
    pub sector_size: u32,
    /// Where the payload begins, in bytes.
    pub payload: u64,
    /// The tokens of Clevis, by number.
    pub tokens: Vec<ClevisToken>,
    /// Key slots that no token of Clevis names. Empty unless the rules allow them.
    pub other_keyslots: Vec<u32>,
    pub(crate) source: Source,
}

pub(crate) fn judge(copy: Copy<'_>, document: Document, rules: &Rules) -> Result<Volume, Refusal> {
    let segment = only(&document.segments.0, "segment")?;
    let (cipher, integrity) = encryption(segment, rules)?;
    let key_size = volume_key_size(&document, cipher, integrity)?;
    let metadata = metadata_size(copy, &document)?;
    payload(segment, metadata)?;
    for (number, keyslot) in &document.keyslots.0 {
        keyslots::keyslot_is_plain(*number, keyslot, rules)?;
    }
    keyslots::areas(copy, &document, metadata)?;
    digest(&document, &rules.kdf)?;
    flags(&document, rules)?;
    let tokens = tokens::tokens(&document, rules)?;
    let bound: BTreeSet<u32> = tokens.iter().map(|token| token.keyslot).collect();
    let other_keyslots: Vec<u32> = document
        .keyslots
        .0
        .keys()
        .filter(|number| !bound.contains(number))
        .copied()
        .collect();
    if let Some(number) = other_keyslots.first().filter(|_| !rules.other_keyslots) {
        return not_allowed(
            OTHER_KEYSLOTS,
            format!("key slot {number} belongs to no Clevis token"),
        );
    }
    Ok(Volume {
        uuid: copy.uuid.to_owned(),
        sequence: copy.sequence,
        cipher,
        integrity,
        key_size,
        sector_size: segment.sector_size,
        payload: segment.offset.0,
        tokens,
        other_keyslots,
        source: Source::new(copy, document, metadata),
    })
}

/// Exactly one, with the number 0.
fn only<'t, T>(
    table: &'t std::collections::BTreeMap<u32, T>,
    what: &str,
) -> Result<&'t T, Refusal> {
    match (table.get(&0), table.len()) {
        (Some(only), 1) => Ok(only),
        (_, count) => refused(format!("{count} {what}s, expected one, number 0")),
    }
}

fn encryption(segment: &Segment, rules: &Rules) -> Result<(Cipher, Integrity), Refusal> {
    let cipher = Cipher::named(&segment.encryption);
    let Some(cipher) = cipher.filter(|cipher| rules.ciphers.contains(cipher)) else {
        return not_allowed(
            "unlock.ciphers",
            format!("the volume's cipher is {}", quoted(&segment.encryption)),
        );
    };
    let found = segment.integrity.as_ref();
    let expected = rules.integrity.in_header();
    if found.map(|integrity| integrity.r#type.as_str()) != expected {
        let found = found.map_or("nothing".to_owned(), |found| quoted(&found.r#type));
        return not_allowed(
            "unlock.integrity",
            format!(
                "{found} authenticates the volume's sectors, not {}",
                rules.integrity.as_str()
            ),
        );
    }
    if let Some(found) = found
        && (found.journal_encryption != "none" || found.journal_integrity != "none")
    {
        return refused("its integrity journal has keys of its own");
    }
    if cipher.is_aead() != (rules.integrity == Integrity::Aead) {
        return refused(format!(
            "{cipher} does not go with integrity {}",
            rules.integrity.as_str()
        ));
    }
    if !SECTOR_SIZES.contains(&segment.sector_size) {
        return refused(format!(
            "sectors of {} bytes, expected 512 or 4096",
            segment.sector_size
        ));
    }
    if segment.iv_tweak.0 != 0 {
        return refused(format!(
            "sectors are counted from {}, not from 0",
            segment.iv_tweak.0
        ));
    }
    if segment.size != "dynamic" {
        return refused(format!(
            "its segment ends after {} bytes; the rest of the device would not be encrypted",
            quoted(&segment.size)
        ));
    }
    Ok((cipher, rules.integrity))
}

/// One length for the segment and all key slots, and one that the cipher has.
fn volume_key_size(
    document: &Document,
    cipher: Cipher,
    integrity: Integrity,
) -> Result<u32, Refusal> {
    let mut sizes = document.keyslots.0.values().map(|keyslot| keyslot.key_size);
    let Some(size) = sizes.next() else {
        return refused("it has no key slot");
    };
    if sizes.any(|other| other != size) {
        return refused("its key slots are for keys of different lengths");
    }
    let own = size.checked_sub(integrity.key_size());
    if !own.is_some_and(|own| cipher.key_sizes().contains(&own)) {
        return refused(format!(
            "a key of {size} bytes, which {cipher} does not take"
        ));
    }
    Ok(size)
}

/// Both copies and the key slots behind them, in bytes.
fn metadata_size(copy: Copy<'_>, document: &Document) -> Result<u64, Refusal> {
    let json = copy
        .size
        .checked_sub(BINARY)
        .and_then(|size| u64::try_from(size).ok());
    if json != Some(document.config.json_size.0) {
        return refused(format!(
            "its metadata area has {} bytes by its binary part and {} by its JSON",
            json.unwrap_or_default(),
            document.config.json_size.0
        ));
    }
    let keyslots = document.config.keyslots_size.0;
    if keyslots > MOST_KEYSLOTS || !keyslots.is_multiple_of(PAGE) {
        return refused(format!("a key slot area of {keyslots} bytes"));
    }
    Ok(copies(copy).saturating_add(keyslots))
}

/// Bytes that the two copies take.
fn copies(copy: Copy<'_>) -> u64 {
    u64::try_from(copy.size)
        .unwrap_or(u64::MAX)
        .saturating_mul(2)
}

fn payload(segment: &Segment, metadata: u64) -> Result<(), Refusal> {
    let offset = segment.offset.0;
    if offset < metadata {
        return refused(format!(
            "its payload begins at byte {offset}, inside the metadata, which ends at {metadata}"
        ));
    }
    if !offset.is_multiple_of(PAGE) || offset > MOST_PAYLOAD_OFFSET {
        return refused(format!("its payload begins at byte {offset}"));
    }
    Ok(())
}

/// One, for the segment and every key slot: two volume keys in one header are one too many.
fn digest(document: &Document, limits: &KdfLimits) -> Result<(), Refusal> {
    let digest: &Digest = only(&document.digests.0, "digest")?;
    if digest.r#type != "pbkdf2" || !HASHES.contains(&digest.hash.as_str()) {
        return refused(format!(
            "a digest of type {} with {}, expected pbkdf2 with SHA-2",
            quoted(&digest.r#type),
            quoted(&digest.hash)
        ));
    }
    if !limits.pbkdf2_iterations.contains(&digest.iterations) {
        return not_allowed(
            "unlock.pbkdf2_iterations",
            format!(
                "the digest takes {} iterations of PBKDF2",
                digest.iterations
            ),
        );
    }
    if digest.segments != [Number(0)] {
        return refused("its digest is not for segment 0 alone");
    }
    let linked: BTreeSet<u32> = digest.keyslots.iter().map(|number| number.0).collect();
    let same = linked.iter().eq(document.keyslots.0.keys());
    if !same || linked.len() != digest.keyslots.len() {
        return refused("its digest is not for exactly the key slots that there are");
    }
    salt_is_one("the digest", &digest.salt)?;
    match STANDARD.decode(&digest.digest) {
        Ok(bytes) if DIGEST_LENGTHS.contains(&bytes.len()) => Ok(()),
        _ => refused("its digest is not 20 to 64 bytes of base64"),
    }
}

fn flags(document: &Document, rules: &Rules) -> Result<(), Refusal> {
    for flag in &document.config.flags {
        match flag.as_str() {
            "allow-discards" if !rules.discard => {
                return not_allowed("unlock.discard", "it asks for discards");
            }
            flag if FLAGS.contains(&flag) => {}
            other => return refused(format!("the flag {}", quoted(other))),
        }
    }
    Ok(())
}

fn salt_is_one(what: &str, salt: &str) -> Result<(), Refusal> {
    match STANDARD.decode(salt) {
        Ok(bytes) if SALT_LENGTHS.contains(&bytes.len()) => Ok(()),
        _ => refused(format!("{what}: its salt is not 8 to 64 bytes of base64")),
    }
}

const OTHER_KEYSLOTS: &str = "unlock.other_keyslots";
/// Specification section 3.2: numbers go from 0 to 31.
const LAST_KEYSLOT: u32 = 31;
const HASHES: [&str; 3] = ["sha256", "sha384", "sha512"];
const SECTOR_SIZES: [u32; 2] = [512, 4096];
/// Flags that change how fast a volume is and not who can read it (specification section 3.6). They are
/// allowed, and ignored: the volume is activated with the flags of the configuration.
const FLAGS: [&str; 6] = [
    "allow-discards",
    "same-cpu-crypt",
    "submit-from-crypt-cpus",
    "no-journal",
    "no-read-workqueue",
    "no-write-workqueue",
];
/// The unit of areas and payload, in bytes.
const PAGE: u64 = 4096;
/// cryptsetup's own limit.
const MOST_KEYSLOTS: u64 = 128 * 1024 * 1024;
/// cryptsetup takes 16 MiB; aligning to a large RAID stripe makes it more.
const MOST_PAYLOAD_OFFSET: u64 = 1024 * 1024 * 1024;
const SALT_LENGTHS: std::ops::RangeInclusive<usize> = 8..=64;
const DIGEST_LENGTHS: std::ops::RangeInclusive<usize> = 20..=64;

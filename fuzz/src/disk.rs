// SPDX-License-Identifier: Apache-2.0

//! A LUKS2 header: the host writes it, checksums included.

use luks_header::{Extent, Integrity, Rules, examine};
use sha2::{Digest as _, Sha256};

/// The input is the metadata, around which a host puts a good binary header, twice. What is accepted has the cipher and
/// the integrity that the rules allow, and written anew it is accepted again as the same volume.
pub fn luks2_header(bytes: &[u8]) -> bool {
    let rules = Rules::default();
    // As it is, without help.
    let _ = examine(bytes, &rules);
    let Some(head) = around(bytes) else {
        return false;
    };
    let Ok(volume) = examine(&head, &rules) else {
        return false;
    };
    assert!(rules.ciphers.contains(&volume.cipher));
    assert_eq!(volume.integrity, Integrity::None);
    for extent in [Extent::Unlocking, Extent::Everything] {
        // Only blanks in the original can make it too long for its place.
        let Ok(image) = volume.image(extent) else {
            continue;
        };
        // What is for unlocking has no token left: libcryptsetup gets a passphrase and nothing to ask for.
        if extent == Extent::Everything {
            let again = examine(&image.head, &rules).unwrap();
            assert_eq!((again.cipher, &again.uuid), (volume.cipher, &volume.uuid));
            assert_eq!(again.tokens.len(), volume.tokens.len());
        }
        for area in image.areas {
            assert!(area.offset.checked_add(area.size).unwrap() <= image.size);
        }
    }
    true
}

/// Both copies of a header with this metadata (LUKS2 On-Disk Format Specification 1.1, binary header).
pub fn around(json: &[u8]) -> Option<Vec<u8>> {
    let mut head = Vec::with_capacity(2 * SIZE);
    for (magic, place) in [(b"LUKS\xba\xbe", 0), (b"SKUL\xba\xbe", SIZE)] {
        let mut copy = vec![0; SIZE];
        let mut put = |at: usize, bytes: &[u8]| copy[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, magic);
        put(6, &2_u16.to_be_bytes());
        put(8, &u64::try_from(SIZE).unwrap().to_be_bytes());
        put(16, &3_u64.to_be_bytes());
        put(72, b"sha256");
        put(104, &[0x5a; 64]);
        put(168, b"01234567-89ab-4def-8123-456789abcdef");
        put(256, &u64::try_from(place).unwrap().to_be_bytes());
        if json.len() >= SIZE - BINARY {
            return None;
        }
        put(BINARY, json);
        let sum = Sha256::digest(&copy);
        copy[448..480].copy_from_slice(&sum);
        head.extend(copy);
    }
    Some(head)
}

const SIZE: usize = 16 * 1024;
const BINARY: usize = 4096;

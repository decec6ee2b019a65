// SPDX-License-Identifier: Apache-2.0
//! Any bytes, and any byte changed: an error or a volume that is still within the rules, and never a panic.

use super::made::{Head, bound};
use luks_header::{Cipher, Rules, examine};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        assert!(examine(&bytes, &Rules::default()).is_err());
    }

    /// With the checksums made good, so that the JSON parser gets to see it.
    #[test]
    fn any_change_of_the_text(at in 0_usize..2000, byte in any::<u8>()) {
        let mut text = bound().json().to_string().into_bytes();
        let at = at % text.len();
        text[at] = byte.max(1);
        let Ok(text) = String::from_utf8(text) else { return Ok(()) };
        if let Ok(volume) = bound().with_text(&text).examine(&Rules::default()) {
            assert_eq!(volume.cipher, Cipher::AesXts);
            assert_eq!(volume.key_size, 64);
            assert!(volume.other_keyslots.is_empty());
        }
    }

    #[test]
    fn a_changed_byte_is_noticed(at in 0_usize..0x8000, bit in 0_u8..8) {
        let Head(mut head) = bound();
        head[at] ^= 1 << bit;
        // One copy is left; what it says is what was there.
        let volume = examine(&head, &Rules::default()).unwrap();
        assert_eq!(volume.tokens, bound().examine(&Rules::default()).unwrap().tokens);
    }
}

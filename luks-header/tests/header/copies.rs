// SPDX-License-Identifier: Apache-2.0
//! Two copies, checksums, and power cuts between them.

use super::made::{Head, bound, format, import_token, token};
use luks_header::Rules;
use std::ops::Range;

fn sequence(head: &mut Head, copy: usize, value: u64) {
    let at = copy * head.size() + 16;
    head.0[at..at + 8].copy_from_slice(&value.to_be_bytes());
    head.sum(copy);
}

fn flip(head: &Head, at: usize) -> Head {
    let mut head = head.clone();
    head.0[at] ^= 1;
    head
}

#[test]
fn one_damaged_copy_is_a_power_cut_and_two_are_damage() {
    let head = bound();
    let size = head.size();
    for at in [110, 5000] {
        assert!(flip(&head, at).examine(&Rules::default()).is_ok());
        assert!(flip(&head, size + at).examine(&Rules::default()).is_ok());
        let both = flip(&flip(&head, at), size + at);
        assert!(both.refusal().contains("checksum does not fit"));
        // What is there says more than what is not.
        for (absent, damaged) in [(0, size + at), (size, at)] {
            let neither = flip(&flip(&head, absent), damaged);
            assert!(neither.refusal().contains("checksum does not fit"));
        }
    }
    assert!(
        flip(&flip(&head, 0), size)
            .refusal()
            .contains("no LUKS2 header")
    );
}

#[test]
fn the_second_copy_is_found_wherever_a_legal_size_puts_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = format(dir.path(), &["--luks2-metadata-size", "64k"]);
    import_token(&path, &token(0));
    let head = Head::of(&path);
    assert_eq!(head.size(), 65536);
    assert!(flip(&head, 0).examine(&Rules::default()).is_ok());
}

#[test]
fn the_newer_whole_copy_counts() {
    let changed = |copy| {
        let mut head = bound();
        let text = head
            .json()
            .to_string()
            .replace("aes-xts-plain64", "cipher_null-ecb");
        head.set_text(copy, &text);
        sequence(&mut head, copy, 1_000_000);
        head
    };
    for copy in [0, 1] {
        assert!(changed(copy).refusal().contains("cipher_null-ecb"));
        let mut older = changed(copy);
        sequence(&mut older, copy, 0);
        assert!(
            older.examine(&Rules::default()).is_ok(),
            "an old copy decides nothing"
        );
        // Newer, and not whole: the other one is what the disk says.
        let at = copy * older.size() + 5000;
        assert!(flip(&changed(copy), at).examine(&Rules::default()).is_ok());
    }
}

#[test]
fn two_copies_of_one_age_must_agree() {
    for copy in [0, 1] {
        let mut head = bound();
        let text = head.json().to_string().replace("1000", "1001");
        head.set_text(copy, &text);
        assert!(head.refusal().contains("say different things"));
    }
    let mut head = bound();
    let at = head.size() + 168;
    head.0[at] = if head.0[at] == b'a' { b'b' } else { b'a' };
    head.sum(1);
    assert!(head.refusal().contains("say different things"));
}

#[test]
fn swapped_copies_are_none() {
    let mut head = bound();
    let size = head.size();
    let (first, second) = head.0.split_at_mut(size);
    first.swap_with_slice(&mut second[..size]);
    assert!(head.refusal().contains("no LUKS2 header"));
}

#[test]
fn a_copy_says_where_it_lies() {
    for copy in [0, 1] {
        let mut head = bound();
        let at = copy * head.size() + 256;
        head.0[at..at + 8].copy_from_slice(&77_u64.to_be_bytes());
        head.sum(copy);
        // The other copy still counts; without it there is none.
        assert!(head.examine(&Rules::default()).is_ok());
        let other = (1 - copy) * head.size() + 100;
        assert!(flip(&head, other).examine(&Rules::default()).is_err());
    }
}

#[test]
fn the_binary_part_is_read_strictly() {
    let change = |range: Range<usize>, bytes: &[u8]| {
        let mut head = bound();
        let size = head.size();
        for copy in [0, 1] {
            head.0[copy * size..][range.clone()].copy_from_slice(bytes);
        }
        for copy in [0, 1] {
            head.sum(copy);
        }
        head.refusal()
    };
    assert!(change(6..8, &[0, 1]).contains("LUKS version 1"));
    assert!(change(72..78, b"sha512").contains("checksum is not sha256"));
    assert!(change(72..80, b"sha256\0x").contains("checksum is not sha256"));
    assert!(change(168..169, b"/").contains("UUID"));
    assert!(change(168..169, b"A").contains("UUID"));
    let mut head = bound();
    head.0[8..16].copy_from_slice(&0x5000_u64.to_be_bytes());
    head.0[0x4008..0x4010].copy_from_slice(&0x5000_u64.to_be_bytes());
    assert!(head.refusal().contains("no legal size"));
    // As long as the field, which the checksum is not.
    let mut head = bound();
    let size = head.size();
    for copy in [0, 1] {
        head.0[copy * size + 511] = 1;
    }
    assert!(head.refusal().contains("checksum does not fit"));
    // Something behind the text: another parser may read on.
    let mut head = bound();
    let size = head.size();
    for copy in [0, 1] {
        head.0[(copy + 1) * size - 1] = b'{';
        head.sum(copy);
    }
    assert!(head.refusal().contains("something behind its metadata"));
}

#[test]
fn a_device_that_ends_early_is_no_volume() {
    let head = bound();
    for length in [0, 1, 4095, 4096, 5000] {
        let cut = Head(head.0[..length].to_vec());
        assert!(cut.examine(&Rules::default()).is_err(), "{length}");
    }
}

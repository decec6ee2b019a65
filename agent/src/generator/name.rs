// SPDX-License-Identifier: Apache-2.0

//! Names of units (systemd.unit(5), "String Escaping for Inclusion in Unit Names"); only the generator uses it.

use std::fmt::Write as _;

/// A word as part of a unit's name.
pub(super) fn escape(word: &str) -> String {
    let mut name = String::with_capacity(word.len());
    for (at, byte) in word.bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b':' | b'_' | b'.' => {
                name.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(name, "\\x{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::escape;

    /// As `systemd-escape` of systemd 252 and 257 prints them.
    #[test]
    fn names_are_those_of_systemd() {
        for (word, name) in [
            ("root", "root"),
            ("my-root", "my\\x2droot"),
            ("a_b.c:d", "a_b.c:d"),
            (".hidden", "\\x2ehidden"),
            ("a b\\c", "a\\x20b\\x5cc"),
            ("a/b", "a-b"),
            ("ä", "\\xc3\\xa4"),
        ] {
            assert_eq!(escape(word), name);
        }
    }
}

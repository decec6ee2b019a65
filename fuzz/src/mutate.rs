// SPDX-License-Identifier: Apache-2.0

//! Changes bytes, many ways, the same in every run: the part of a fuzzer that needs no instrumentation.

/// A small generator of numbers (xorshift64*), seeded by hand so that a case can be found again.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence with this number.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// A number below `end`; 0 for 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap();
        usize::try_from(self.next().checked_rem(end).unwrap_or(0)).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// One of the seeds with one to five changes.
pub fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(5) {
        change(&mut bytes, seeds, random);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len());
    let end = bytes.len().min(at.saturating_add(random.below(16)));
    match random.below(12) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.byte(),
        2 => bytes[at..end].fill(if random.below(2) == 0 { 0 } else { 0xff }),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        5 => bytes.truncate(at),
        // Lengths, counts and offsets of both kinds.
        6 => overwrite(bytes, at, &number(random).to_be_bytes(), random),
        7 => overwrite(bytes, at, &number(random).to_le_bytes(), random),
        // The rest of another seed.
        8 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len());
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
        // What texts are made of.
        9 => {
            let word = WORDS[random.below(WORDS.len())];
            bytes.splice(at..at, word.bytes());
        }
        10 => {
            let word = WORDS[random.below(WORDS.len())];
            bytes.splice(at..end, word.bytes());
        }
        _ => {
            let other = random.below(bytes.len());
            if !bytes.is_empty() {
                bytes.swap(at, other);
            }
        }
    }
}

/// Writes one, two, four or eight of these bytes over what is there.
fn overwrite(bytes: &mut [u8], at: usize, number: &[u8; 8], random: &mut Random) {
    let width = [1, 2, 4, 8][random.below(4)];
    let low = match random.below(2) {
        0 => &number[..width],
        _ => &number[8 - width..],
    };
    for (to, from) in bytes.iter_mut().skip(at).zip(low) {
        *to = *from;
    }
}

fn number(random: &mut Random) -> u64 {
    let edges = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x100,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0xffff_ffff,
    ];
    let edge: u64 = edges[random.below(edges.len())];
    match random.below(3) {
        0 => edge,
        1 => edge.wrapping_add(random.next() & 3).wrapping_sub(1),
        _ => u64::MAX.wrapping_sub(edge),
    }
}

const WORDS: [&str; 24] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "1e999",
    "0",
    "\\u0000",
    "\n",
    "\u{1b}",
    "\u{e9}",
    ".",
    "=",
    "==",
    "default/{node}/root",
    "\"clevis\":",
    "AAAA",
    "18446744073709551616",
];

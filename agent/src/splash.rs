// SPDX-License-Identifier: Apache-2.0

//! What a person sees who sits before a machine on which Plymouth covers the console: the same sentence, as
//! `plymouth display-message` shows it. `report` calls this for whoever waits.
//!
//! Plymouth is asked at its socket, as systemd does it, so that a process that holds secrets starts no other. Where nobody
//! listens there is no splash, and that is no error. The request is a letter, 2, the length with the zero at the end,
//! the text and the zero; Plymouth needs no more to be said afterwards, and its answer is not waited for.

use std::io::{self, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};

/// A sentence on the splash; it goes when this is dropped.
#[derive(Debug, Default)]
pub struct Splash {
    shown: Option<String>,
}

impl Splash {
    /// Shows this in place of what was shown before.
    pub fn show(&mut self, sentence: &str) {
        self.hide();
        let text = short(&format!("trustee-agent: {sentence}"));
        if ask(b'M', &text).is_ok() {
            self.shown = Some(text);
        }
    }

    fn hide(&mut self) {
        if let Some(text) = self.shown.take() {
            // Plymouth has ended since, and what it showed with it.
            let _ = ask(b'm', &text);
        }
    }
}

impl Drop for Splash {
    fn drop(&mut self) {
        self.hide();
    }
}

/// Only a Plymouth that has left thousands of requests unread could hold this up.
fn ask(what: u8, text: &str) -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(PLYMOUTH)?;
    UnixStream::connect_addr(&address)?.write_all(&request(what, text))
}

fn request(what: u8, text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len())
        .unwrap_or(u8::MAX)
        .saturating_add(1);
    [&[what, 2, length], text.as_bytes(), &[0]].concat()
}

/// In one line and as long as Plymouth takes it. What comes next is said last, so the middle is what is left out.
fn short(sentence: &str) -> String {
    let line: String = sentence
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if line.len() <= LONGEST {
        return line;
    }
    // Not in the midst of a character, which has four bytes at most.
    let boundary = |at: usize| (0..=at).rev().find(|at| line.is_char_boundary(*at));
    let head = boundary(HEAD).and_then(|end| line.get(..end));
    let tail = boundary(line.len().saturating_sub(TAIL)).and_then(|start| line.get(start..));
    format!(
        "{}{CUT}{}",
        head.unwrap_or_default(),
        tail.unwrap_or_default()
    )
}

/// An abstract address.
const PLYMOUTH: &[u8] = b"/org/freedesktop/plymouthd";
/// Bytes: what one of length can say, without the zero.
const LONGEST: usize = 254;
const HEAD: usize = LONGEST - TAIL - CUT.len() - 3;
const TAIL: usize = 100;
const CUT: &str = " … ";

#[cfg(test)]
mod tests {
    use super::{LONGEST, request, short};

    #[test]
    fn a_request_is_what_plymouth_itself_sends() {
        // Of `plymouth display-message --text="hello there"`, version 22.02.
        assert_eq!(request(b'M', "hello there"), b"M\x02\x0chello there\0");
    }

    #[test]
    fn the_middle_of_a_long_sentence_is_left_out() {
        for text in ["a", "é", "€", "𝄞"] {
            let long = format!("who{}next", text.repeat(400));
            let cut = short(&long);
            assert!((245..=LONGEST).contains(&cut.len()), "{} {cut}", cut.len());
            assert!(cut.starts_with("who") && cut.ends_with("next"), "{cut}");
            assert_eq!(usize::from(request(b'M', &cut)[2]), cut.len() + 1);
        }
        assert_eq!(short("two\nlines"), "two lines");
    }
}

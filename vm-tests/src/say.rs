// SPDX-License-Identifier: Apache-2.0
//! Tells the person at the terminal what is being done. A boot in software emulation takes a minute or five: who
//! sees nothing for that long stops it.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Instant;

/// One line with the seconds since the story began. Not `eprintln!`: the test runner would keep that to itself.
pub fn say(what: &str) {
    let line = format!("[{:6.1} s] {what}\n", began().elapsed().as_secs_f64());
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// When the first word was said.
fn began() -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    *BEGAN.get_or_init(Instant::now)
}

// SPDX-License-Identifier: Apache-2.0

//! What a person at the console of a booting machine reads, and the end of a machine that must not go on.

use crate::initramfs;
use rustix::system::{RebootCommand, reboot};
use std::io::Write as _;
use std::time::Duration;

/// One line on the console, and to standard error for the journal.
pub fn say(sentence: &str) {
    eprintln!("trustee-agent: {sentence}");
    kernel_log(sentence);
}

/// One line in the kernel's log, with the priority of an error, which a quiet console shows too. In an initramfs only:
/// a running system has its journal.
pub fn kernel_log(sentence: &str) {
    if !initramfs::here() {
        return;
    }
    let line: String = sentence
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect();
    // One write is one record. Without the device there is only the journal.
    let _ = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(format!("<3>trustee-agent: {line}\n").as_bytes()));
}

/// Powers the machine off, past systemd, after time to read why. In an initramfs only: on a running system there is
/// nothing left to keep shut, and nobody wants the machine gone.
pub fn power_off() {
    if !initramfs::here() {
        return;
    }
    say(&format!("powering off in {} s", TO_READ.as_secs()));
    std::thread::sleep(TO_READ);
    rustix::fs::sync();
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        say(&format!("cannot power off: {error}"));
    }
}

const TO_READ: Duration = Duration::from_secs(10);
/// A record of the kernel's log takes about a thousand bytes.
const LONGEST: usize = 600;

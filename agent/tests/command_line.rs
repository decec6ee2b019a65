// SPDX-License-Identifier: Apache-2.0

//! What a caller sees of the program before any TPM or KBS is asked.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

/// Runs the agent under a name, with standard output on a device that is always full.
fn on_a_full_disk(name: &str, argument: &str) -> Output {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    Command::new(env!("CARGO_BIN_EXE_trustee-agent"))
        .arg0(name)
        .arg(argument)
        .stdout(full)
        .output()
        .unwrap()
}

#[test]
fn output_that_was_lost_is_no_success() {
    for (name, argument, code) in [
        ("trustee-agent", "--help", 11),
        ("clevis-encrypt-trustee", "--summary", 1),
    ] {
        let output = on_a_full_disk(name, argument);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{name}: {said}");
        assert!(
            said.contains("cannot write to standard output: No space left"),
            "{name}: {said}"
        );
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Where answers and errors go.

use crate::Error;
use kbs_protocol::Blame;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Prints an error as sentence, party and next step, and gives its exit code.
pub(super) fn failure(error: &Error) -> ExitCode {
    eprintln!("refvals: {error}");
    eprintln!("  to act:  {}", error.owner());
    eprintln!("  next:    {}", error.advice());
    ExitCode::from(error.owner().exit_code())
}

/// Writes to standard output. A reader that has gone away is no error worth a message.
pub(super) fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

/// Writes to a file when one is named.
pub(super) fn write_or_say(file: Option<&Path>, text: &str) -> Result<(), Error> {
    match file {
        Some(file) => std::fs::write(file, text).map_err(Error::io("write", file)),
        None => {
            say(text);
            Ok(())
        }
    }
}

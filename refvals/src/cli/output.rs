// SPDX-License-Identifier: Apache-2.0

//! Where answers and errors go.

use crate::Error;
use indicatif::{ProgressBar, ProgressStyle};
use kbs_protocol::Blame;
use std::io::{IsTerminal as _, Write as _};
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

/// Writes a file that others read: whole, or not at all.
pub(super) fn write_whole(file: &Path, text: &str) -> Result<(), Error> {
    let part = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, text)
        .and_then(|()| std::fs::rename(&part, file))
        .map_err(Error::io("write", file))
}

/// A bar for the bytes of an image, where somebody watches.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(super) fn new() -> Self {
        Self(None)
    }

    /// How many bytes, of how many.
    pub(super) fn set(&mut self, done: u64, all: u64) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.0.get_or_insert_with(|| {
            let bar = ProgressBar::new(all);
            let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}, {eta} left");
            style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
        });
        bar.set_position(done);
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

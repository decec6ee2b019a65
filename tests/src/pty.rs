// SPDX-License-Identifier: Apache-2.0
//! Runs a program with a terminal on one of its standard streams. The pin behaves differently there, and
//! only a real pseudo-terminal shows it.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::process::{Captured, Run};

impl Run {
    /// Runs the program with a terminal as standard input, at which nobody types.
    ///
    /// # Errors
    /// As [`Run::capture`], or there are no pseudo-terminals.
    pub fn capture_with_terminal_input(self) -> Result<Captured> {
        let (master, terminal) = terminal()?;
        let captured = self.capture_with(|command: &mut Command| {
            command.stdin(Stdio::from(terminal));
        });
        drop(master);
        captured
    }

    /// Runs the program with a terminal as standard output; its standard input is as set before.
    ///
    /// # Errors
    /// As [`Run::capture`], or there are no pseudo-terminals.
    pub fn capture_with_terminal_output(self) -> Result<Captured> {
        let (master, terminal) = terminal()?;
        // The last copy of the terminal goes with the program; reading then ends with an error.
        let reader = thread::spawn(move || {
            let (mut bytes, mut buffer) = (Vec::new(), [0; 1024]);
            let mut master = File::from(master);
            while let Ok(n @ 1..) = master.read(&mut buffer) {
                bytes.extend_from_slice(buffer.get(..n).unwrap_or_default());
            }
            bytes
        });
        let mut captured = self.capture_with(|command: &mut Command| {
            command.stdout(Stdio::from(terminal));
        })?;
        captured.stdout = reader
            .join()
            .ok()
            .context("the terminal could not be read")?;
        Ok(captured)
    }
}

/// The two ends of a new pseudo-terminal.
fn terminal() -> Result<(OwnedFd, File)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("no pseudo-terminal")?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(name.into_bytes()));
    let terminal = File::options().read(true).write(true).open(path)?;
    Ok((master, terminal))
}

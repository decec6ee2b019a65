// SPDX-License-Identifier: Apache-2.0
//! Ends the servers of a test that was killed: nothing of it is left to drop them.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// Ends a process group as soon as this process is gone. Dropped before that, it lets the group go: do so before the
/// group's first process is waited for, because afterwards its number may be another's.
#[derive(Debug)]
pub struct Leash(Child);

impl Leash {
    /// For a child that leads a process group of its own.
    ///
    /// # Errors
    /// There is no shell.
    pub fn on(child: &Child) -> Result<Self> {
        Command::new("sh")
            .args(["-c", "read -r _ || kill -KILL \"-$0\""])
            .arg(child.id().to_string())
            // Not of our group: who interrupts a test at a terminal means all of it, and this must come last.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
            .context("cannot start a shell")
    }

    /// As the end of this process does it: nobody writes into the pipe any more.
    #[cfg(test)]
    fn snap(mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            drop(stdin.write_all(b"\n"));
        }
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        command.arg("600").process_group(0).spawn().unwrap()
    }

    #[test]
    fn who_is_killed_takes_its_children_along() {
        let mut child = sleeper();
        Leash::on(&child).unwrap().snap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn who_ends_in_order_lets_go() {
        let mut child = sleeper();
        drop(Leash::on(&child).unwrap());
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

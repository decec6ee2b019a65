// SPDX-License-Identifier: Apache-2.0
//! The host's end of the second serial port: asks the probe inside (`guest/99probe`) to run something, in the
//! initramfs while a boot waits there or in the booted system.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::console::Console;
use crate::machine::BOOT;

/// Where the guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the initramfs, the root not yet there.
    Initramfs,
    /// In the booted system.
    System,
}

/// The connection.
#[derive(Debug)]
pub struct Probe {
    line: UnixStream,
    heard: Console,
    asked: u32,
}

impl Probe {
    /// Connects to QEMU's socket.
    ///
    /// # Errors
    /// QEMU does not make it.
    pub fn connect(socket: &Path, log: &Path, emulator: u32) -> Result<Self> {
        let until = Instant::now() + Duration::from_secs(60);
        let line = loop {
            match UnixStream::connect(socket) {
                Ok(line) => break line,
                Err(error) if Instant::now() > until => {
                    return Err(error).context("QEMU does not start");
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        };
        Ok(Self {
            heard: Console::listen(line.try_clone()?, log)?.of(emulator),
            line,
            asked: 0,
        })
    }

    /// Waits until the probe is there.
    ///
    /// # Errors
    /// The deadline passed or the machine ended.
    pub fn wait(&mut self, place: Place, deadline: Duration) -> Result<()> {
        let word = match place {
            Place::Initramfs => "probe initrd\n",
            Place::System => "probe system\n",
        };
        self.heard.wait_for_any(&[word], deadline).map(drop)
    }

    /// Runs a script of bash inside and returns what it wrote. It may be run more than once.
    ///
    /// # Errors
    /// It failed, or there was no answer.
    pub fn ask(&mut self, script: &str) -> Result<String> {
        let (status, output) = self.run(script)?;
        if status != 0 {
            bail!("`{script}` in the machine ended with {status}: {output}");
        }
        Ok(output)
    }

    /// As [`Probe::ask`], whatever the exit code, which comes first.
    ///
    /// # Errors
    /// There was no answer.
    pub fn run(&mut self, script: &str) -> Result<(i32, String)> {
        let mut outcome = Err(anyhow!("nobody was asked"));
        for _ in 0..TRIES {
            self.asked += 1;
            let id = format!("ask-{}", self.asked);
            writeln!(self.line, "{id} {}", STANDARD.encode(script))?;
            outcome = self.answer(&format!("{id} "));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Runs a script of bash inside that ends the probe, so that no answer can come.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn tell(&mut self, script: &str) -> Result<()> {
        self.asked += 1;
        writeln!(self.line, "ask-{} {}", self.asked, STANDARD.encode(script))?;
        Ok(())
    }

    /// Asks again and again until the output of this script has `text` in it; returns that output.
    ///
    /// # Errors
    /// It did not within `deadline`; the message has the last output.
    pub fn ask_until(&mut self, script: &str, text: &str, deadline: Duration) -> Result<String> {
        let clock = self.heard.clock();
        loop {
            let output = self.ask(script)?;
            if output.contains(text) {
                return Ok(output);
            }
            if clock.elapsed() > deadline {
                bail!("waiting for {text:?}; last came:\n{output}");
            }
            thread::sleep(AGAIN);
        }
    }

    /// Waits until a command of bash succeeds inside, tried there ten times a second.
    ///
    /// # Errors
    /// It does not within [`BOOT`].
    pub fn wait_until(&mut self, condition: &str) -> Result<()> {
        let script = format!(
            "for i in {{1..100}}; do {{ {condition}; }} >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1"
        );
        let clock = self.heard.clock();
        while self.run(&script)?.0 != 0 {
            if clock.elapsed() > BOOT {
                bail!("it never came about that {condition}");
            }
        }
        Ok(())
    }

    fn answer(&mut self, id: &str) -> Result<(i32, String)> {
        self.heard.wait_for_any(&[id], ANSWER)?;
        self.heard.wait_for_any(&["\n"], ANSWER)?;
        let text = self.heard.text();
        let line = text.lines().rev().find_map(|line| line.strip_prefix(id));
        let (status, output) = line
            .and_then(|line| line.split_once(' '))
            .context("half an answer")?;
        Ok((
            status.parse()?,
            String::from_utf8_lossy(&STANDARD.decode(output)?).into_owned(),
        ))
    }
}

/// The probe of the initramfs may have ended while it was asked; and machines are slow.
const ANSWER: Duration = Duration::from_secs(120);
const TRIES: usize = 3;
/// Each question costs an emulated machine a second.
const AGAIN: Duration = Duration::from_secs(5);

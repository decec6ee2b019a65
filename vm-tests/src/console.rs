// SPDX-License-Identifier: Apache-2.0
//! What a machine says on a serial port: kept with the time of each line, and waited for by stories.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::processor::Clock;

/// A serial port that is being listened to.
#[derive(Debug)]
pub struct Console {
    heard: Arc<Heard>,
    log: PathBuf,
    emulator: Option<u32>,
    /// Up to here the story has read.
    read: usize,
}

#[derive(Debug, Default)]
struct Heard {
    text: Mutex<Text>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Text {
    said: String,
    ended: bool,
}

impl Console {
    /// Listens to `port` until it closes and writes each line to `log`, with the seconds since now.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn listen(port: impl Read + Send + 'static, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let heard = Arc::new(Heard::default());
        let listener = Arc::clone(&heard);
        thread::spawn(move || listener.listen(port, file));
        Ok(Self {
            heard,
            log: log.to_path_buf(),
            emulator: None,
            read: 0,
        })
    }

    /// What speaks here is a machine of this emulator: limits are of its time, by [`Clock`].
    #[must_use]
    pub fn of(self, emulator: u32) -> Self {
        Self {
            emulator: Some(emulator),
            ..self
        }
    }

    /// A clock that has just been started.
    pub fn clock(&self) -> Clock {
        Clock::of(self.emulator)
    }

    /// Waits until one of `texts` is said after what was waited for before; says which.
    ///
    /// # Errors
    /// The deadline passed, or the port closed first. The message has the last lines.
    pub fn wait_for_any(&mut self, texts: &[&str], deadline: Duration) -> Result<usize> {
        let clock = self.clock();
        let mut text = self.heard.lock();
        loop {
            let unread = text.said.get(self.read..).unwrap_or_default();
            let found = texts
                .iter()
                .enumerate()
                .filter_map(|(which, wanted)| Some((unread.find(wanted)? + wanted.len(), which)))
                .min();
            if let Some((end, which)) = found {
                self.read += end;
                return Ok(which);
            }
            let left = deadline.saturating_sub(clock.elapsed());
            if text.ended || left.is_zero() {
                let why = if text.ended {
                    "the machine ended"
                } else {
                    "nothing came"
                };
                bail!(
                    "waiting for {texts:?}: {why}; it is all in {}, and ends with:\n{}",
                    self.log.display(),
                    tail(&text.said)
                );
            }
            text = self
                .heard
                .changed
                .wait_timeout(text, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Everything that was said so far.
    pub fn text(&self) -> String {
        self.heard.lock().said.clone()
    }

    /// Waits until the port closes.
    ///
    /// # Errors
    /// The deadline passed.
    pub fn wait_for_end(&self, deadline: Duration) -> Result<()> {
        let clock = self.clock();
        let mut text = self.heard.lock();
        while !text.ended {
            let left = deadline.saturating_sub(clock.elapsed());
            if left.is_zero() {
                bail!(
                    "the machine does not end; its console, {}, ends with:\n{}",
                    self.log.display(),
                    tail(&text.said)
                );
            }
            text = self
                .heard
                .changed
                .wait_timeout(text, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, mut port: impl Read, mut log: File) {
        let began = Instant::now();
        let mut buffer = vec![0; 16 * 1024];
        let mut line = String::new();
        while let Ok(n @ 1..) = port.read(&mut buffer) {
            let new = readable(buffer.get(..n).unwrap_or_default());
            for part in new.split_inclusive('\n') {
                line.push_str(part);
                if line.ends_with('\n') {
                    let _ = write!(log, "{:8.2} {line}", began.elapsed().as_secs_f64());
                    line.clear();
                }
            }
            self.lock().said.push_str(&new);
            self.changed.notify_all();
        }
        let _ = writeln!(log, "{:8.2} {line}", began.elapsed().as_secs_f64());
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

/// Without carriage returns and the bytes that steer terminals.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .filter(|c| *c == '\n' || *c == '\t' || !c.is_control())
        .collect()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(25);
    lines.get(start..).unwrap_or_default().join("\n")
}

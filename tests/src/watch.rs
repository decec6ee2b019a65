// SPDX-License-Identifier: Apache-2.0
//! Watches programs as a curious administrator could: their standard streams, the arguments and
//! environment of every process they start, the files they leave. Keeps it all, to be searched for secrets
//! that may become known only later.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::paths;
use crate::process::{Captured, Run, display};
use crate::scan::{Leak, Scanner};

/// Everything seen so far.
#[derive(Debug)]
pub struct Watch {
    material: Vec<(String, Vec<u8>)>,
    traces: TempDir,
    strace: Option<PathBuf>,
    processes: Processes,
}

impl Watch {
    /// Begins. Processes are recognised by `mark`, a string in their environment; the world's directory
    /// is one, since it is in `PATH` of everything on the node.
    ///
    /// # Errors
    /// No place for the traces.
    pub fn new(mark: &Path) -> Result<Self> {
        // Installed is not enough: some containers forbid to trace.
        let strace = paths::tool("strace").filter(|strace| {
            let tried = Run::new(strace)
                .args(["-f", "-etrace=execve", "true"])
                .capture();
            tried.is_ok_and(|tried| tried.code == Some(0))
        });
        if strace.is_none() {
            // Not `eprintln!`, which the test runner keeps to itself.
            let _ = writeln!(
                std::io::stderr(),
                "REDUCED: no strace; only processes that live some milliseconds are watched"
            );
        }
        Ok(Self {
            material: Vec::new(),
            traces: tempfile::tempdir()?,
            strace,
            processes: Processes::watch(mark.as_os_str().as_bytes().to_vec()),
        })
    }

    /// Runs a program whose standard output must hold no secret.
    ///
    /// # Errors
    /// As [`Run::capture`].
    pub fn run(&mut self, run: Run) -> Result<Captured> {
        let captured = self.run_for_its_output(run)?;
        self.keep(
            format!("standard output of {}", display(&captured.argv)),
            &captured.stdout,
        );
        Ok(captured)
    }

    /// Runs a program whose standard output is the secret itself, for its caller only. Everything else of it
    /// is watched.
    ///
    /// # Errors
    /// As [`Run::capture`].
    pub fn run_for_its_output(&mut self, run: Run) -> Result<Captured> {
        let trace = self.traces.path().join("trace");
        let run = match &self.strace {
            Some(strace) => run.wrapped(&[
                strace.as_os_str(),
                "-f".as_ref(),
                "-v".as_ref(),
                // Every string whole, as hexadecimal, so that no byte is ambiguous.
                "-xx".as_ref(),
                "-s1000000".as_ref(),
                "-etrace=execve".as_ref(),
                "-o".as_ref(),
                trace.as_os_str(),
            ])?,
            None => run,
        };
        let captured = run.capture()?;
        let name = display(&captured.argv);
        if self.strace.is_some() {
            let text = unescape(&fs::read(&trace)?);
            self.keep(format!("an argument or variable below {name}"), &text);
        }
        self.keep(format!("standard error of {name}"), &captured.stderr);
        Ok(captured)
    }

    /// Also searches this later: what passed over the network, say.
    pub fn keep(&mut self, place: impl Into<String>, bytes: &[u8]) {
        self.material.push((place.into(), bytes.to_vec()));
    }

    /// Whether processes are traced, however short they live.
    pub fn traces(&self) -> bool {
        self.strace.is_some()
    }

    /// How many processes were seen through `/proc`.
    pub fn processes(&self) -> usize {
        self.processes.seen().len()
    }

    /// Every place where the scanner's secrets turn up: in what was kept, and in the files below `dir`
    /// except those below `except`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn leaks(&self, scanner: &Scanner, dir: &Path, except: &[&Path]) -> Result<Vec<Leak>> {
        let mut leaks = scanner.directory(dir, except)?;
        for (place, bytes) in &self.material {
            leaks.extend(scanner.bytes(place, bytes));
        }
        for bytes in self.processes.seen() {
            leaks.extend(scanner.bytes("an argument or variable in /proc", &bytes));
        }
        Ok(leaks)
    }
}

/// Turns the `\x41` of a trace back into bytes.
fn unescape(trace: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(trace.len() / 4);
    let mut rest = trace;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(b"\\x")
            .and_then(|digits| digits.split_at_checked(2))
            .and_then(|(digits, tail)| {
                let digits = std::str::from_utf8(digits).ok()?;
                Some((u8::from_str_radix(digits, 16).ok()?, tail))
            });
        let (byte, tail) = escaped.unwrap_or((byte, tail));
        bytes.push(byte);
        rest = tail;
    }
    bytes
}

/// Looks through `/proc` for as long as it lives.
#[derive(Debug)]
struct Processes {
    seen: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Processes {
    fn watch(mark: Vec<u8>) -> Self {
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (kept, ended) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                look_around(&mark, &kept);
                thread::sleep(INTERVAL);
            }
        });
        Self {
            seen,
            stop,
            thread: Some(thread),
        }
    }

    fn seen(&self) -> BTreeSet<Vec<u8>> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn look_around(mark: &[u8], seen: &Mutex<BTreeSet<Vec<u8>>>) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        // Not a process, another user's, or already gone: each is normal.
        let Ok(environment) = fs::read(entry.path().join("environ")) else {
            continue;
        };
        if environment.windows(mark.len()).any(|window| window == mark) {
            let mut bytes = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            bytes.extend(environment);
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(bytes);
        }
    }
}

const INTERVAL: Duration = Duration::from_millis(3);

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn traces_become_bytes_again() {
        assert_eq!(
            unescape(br#"execve("\x2f\x62\xff", [""])"#),
            b"execve(\"/b\xff\", [\"\"])"
        );
        assert_eq!(unescape(br"\x4"), br"\x4");
        assert_eq!(unescape(br"\xzz\x41"), br"\xzzA");
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Runs one program to its end: bytes in, bytes and exit code out, with a deadline. Whoever starts a
//! short-lived program in the harness does it here, so that every output is captured.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// A program about to run.
#[derive(Debug)]
pub struct Run {
    command: Command,
    argv: Vec<OsString>,
    stdin: Vec<u8>,
    socket: Option<OwnedFd>,
    deadline: Duration,
}

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// The exit code, `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Everything written to standard output.
    pub stdout: Vec<u8>,
    /// Everything written to standard error.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub elapsed: Duration,
}

impl Run {
    /// `program` without arguments, with empty standard input.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let mut command = Command::new(program);
        // Its own process group: a deadline must end a shell script's children too.
        command.process_group(0);
        Self {
            command,
            argv: vec![program.to_owned()],
            stdin: Vec::new(),
            socket: None,
            deadline: DEADLINE,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(self, args: I) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs in `dir`.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Gives `bytes` on standard input, then end of file.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Gives it this socket as standard input, as systemd does.
    #[must_use]
    pub fn stdin_socket(mut self, socket: OwnedFd) -> Self {
        self.socket = Some(socket);
        self
    }

    /// Ends the program, and everything it started, after `deadline`.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same, killed before the write with this number, counted from 1, into a file at a place of its own (pwrite64).
    /// Needs `strace`.
    ///
    /// # Errors
    /// As [`Run::wrapped`].
    pub fn killed_at_write(self, number: u32) -> Result<Self> {
        let inject = format!("inject=pwrite64:signal=SIGKILL:when={number}");
        let quiet = ["strace", "-f", "-qq", "-o", "/dev/null"];
        self.wrapped(&[&quiet[..], &["-e", "trace=pwrite64", "-e", &inject]].concat())
    }

    /// The same program and environment, run under `wrapper` (for example `strace -f`).
    ///
    /// # Errors
    /// The wrapper names no program.
    pub fn wrapped<S: AsRef<OsStr>>(self, wrapper: &[S]) -> Result<Self> {
        let (program, options) = wrapper.split_first().context("an empty wrapper")?;
        let mut run = Self::new(program).args(options).args(&self.argv);
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                run.command.env(name, value);
            }
        }
        if let Some(dir) = self.command.get_current_dir() {
            run.command.current_dir(dir);
        }
        Ok(Self {
            stdin: self.stdin,
            socket: self.socket,
            deadline: self.deadline,
            ..run
        })
    }

    /// Starts the program without waiting; its three streams are pipes.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(mut self) -> Result<Child> {
        self.start(|_| ())
    }

    /// Runs the program to its end and captures what it wrote, whatever its exit code.
    ///
    /// # Errors
    /// The program cannot be started, or ran past its deadline.
    pub fn capture(self) -> Result<Captured> {
        self.capture_with(|_| ())
    }

    /// As [`Run::capture`], after `change` had the last word on the streams. One that it replaced is not
    /// captured.
    pub(crate) fn capture_with(mut self, change: impl FnOnce(&mut Command)) -> Result<Captured> {
        let started = Instant::now();
        let mut child = self.start(change)?;
        if let Some(mut stdin) = child.stdin.take() {
            let input = std::mem::take(&mut self.stdin);
            // A program may end without reading its input: a broken pipe here is not our failure.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().map(drain);
        let Some(status) = wait(&mut child, started + self.deadline)? else {
            let _ = pid(&child).map(|pid| kill_process_group(pid, Signal::KILL));
            drop(child.wait());
            bail!(
                "{} did not end within {:?}; standard error so far: {}",
                display(&self.argv),
                self.deadline,
                String::from_utf8_lossy(&take(stderr))
            );
        };
        Ok(Captured {
            code: status.code(),
            signal: status.signal(),
            elapsed: started.elapsed(),
            stdout: take(stdout),
            stderr: take(stderr),
            argv: self.argv,
        })
    }

    /// Runs a program that waits for something until it says so, a line with `sentence` on standard error, and ends
    /// it there. What it wrote up to then is captured; there is no exit code.
    ///
    /// # Errors
    /// As [`Run::capture`], or it ended without saying so.
    pub fn until_it_says(mut self, sentence: &str) -> Result<Captured> {
        let started = Instant::now();
        let mut child = self.start(|_| ())?;
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().context("no standard error")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
            while lines.next().is_some_and(|line| sender.send(line).is_ok()) {}
        });
        let mut said = String::new();
        let heard = loop {
            let left = (started + self.deadline).saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                break false;
            };
            said = said + &line + "\n";
            if line.contains(sentence) {
                break true;
            }
        };
        let _ = pid(&child).map(|pid| kill_process_group(pid, Signal::KILL));
        drop(child.wait());
        if !heard {
            bail!("{} did not say {sentence:?}: {said}", display(&self.argv));
        }
        Ok(Captured {
            code: None,
            signal: Some(Signal::KILL.as_raw()),
            elapsed: started.elapsed(),
            stdout: take(stdout),
            stderr: said.into_bytes(),
            argv: self.argv,
        })
    }

    fn start(&mut self, change: impl FnOnce(&mut Command)) -> Result<Child> {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(socket) = self.socket.take() {
            self.command.stdin(socket);
        }
        change(&mut self.command);
        let child = self
            .command
            .spawn()
            .with_context(|| format!("cannot start {}", display(&self.argv)));
        // The command would keep a stream it was given open for as long as it lives.
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        child
    }

    /// As [`Run::capture`], and the program must succeed.
    ///
    /// # Errors
    /// Also if the exit code is not zero; the message carries what the program said.
    pub fn success(self) -> Result<Captured> {
        self.capture()?.success()
    }
}

impl Captured {
    /// Passes a program that ended with exit code zero.
    ///
    /// # Errors
    /// Any other end; the message carries what the program said.
    pub fn success(self) -> Result<Self> {
        if self.code == Some(0) {
            return Ok(self);
        }
        Err(anyhow!("{self}"))
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl std::fmt::Display for Captured {
    /// For failure reports: the command, how it ended, and what it wrote to standard error. Standard
    /// output is left out: of the commands here it may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        let said = self.err();
        write!(
            f,
            "{} ended with {end}; standard error: {}",
            display(&self.argv),
            said.trim_end()
        )
    }
}

/// Sends `signal` to a child started here.
///
/// # Errors
/// The child is gone.
pub fn signal(child: &Child, signal: Signal) -> Result<()> {
    rustix::process::kill_process(pid(child)?, signal).context("cannot signal the child")
}

/// The command line for people.
pub fn display(argv: &[OsString]) -> String {
    // The programs' directories are noise, their names are not.
    let shown = |arg| Path::new(arg).file_name().unwrap_or(arg).to_string_lossy();
    argv.iter()
        .map(|arg| shown(arg))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Waits until the child ends or `until` has passed.
fn wait(child: &mut Child, until: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the child")? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Reads a pipe to its end in the background.
fn drain(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            bytes.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
        drop(sender.send(bytes));
    });
    receiver
}

/// What a drained pipe gave. A grandchild that keeps the pipe open costs at most [`LINGER`].
fn take(pipe: Option<mpsc::Receiver<Vec<u8>>>) -> Vec<u8> {
    pipe.and_then(|pipe| pipe.recv_timeout(LINGER).ok())
        .unwrap_or_default()
}

fn pid(child: &Child) -> Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("the child has no process id")
}

/// Longer than any step of a healthy test on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(2);
const LINGER: Duration = Duration::from_secs(5);

// SPDX-License-Identifier: Apache-2.0

//! A real software TPM 2.0 (`swtpm`) for tests, the demo and the benchmark, which can be restarted, lose
//! its power, be extended by a bystander, and whose every command is counted.
//!
//! `swtpm` serves one connection at a time and has no resource manager. So a [`front::Front`] stands
//! before it: it lets several programs in at once, command by command, as the kernel's `/dev/tpmrm0`
//! does, and keeps the list of what they asked. `swtpm` itself listens on a Unix socket in its state
//! directory, where no other test can take its port, and runs with `--terminate`: when this process ends,
//! however it ends, the front's connection closes and the TPM goes with it.

mod authority;
pub mod front;
mod wire;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::paths;
use crate::process::{Captured, Run};
use crate::swtpm::front::{Exchange, Front};

pub use authority::Authority;

/// A running software TPM with its own state; both go when it is dropped.
#[derive(Debug)]
pub struct SoftTpm {
    front: Front,
    process: Child,
    state: TempDir,
}

impl SoftTpm {
    /// The first program that is needed and not installed: `swtpm`, or `tpm2` for [`SoftTpm::tool`].
    pub fn missing() -> Option<&'static str> {
        ["swtpm", "tpm2"]
            .into_iter()
            .find(|name| paths::tool(name).is_none())
    }

    /// A new TPM, never used before, started.
    ///
    /// # Errors
    /// `swtpm` is not installed or does not come up.
    pub fn start() -> Result<Self> {
        Self::power_on(tempfile::Builder::new().prefix("swtpm-").tempdir()?)
    }

    /// A new TPM whose maker, `authority`, gave certificates to its endorsement keys; started.
    ///
    /// # Errors
    /// `swtpm_setup` or one of its helpers is not installed, or fails.
    pub fn certified(authority: &Authority) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("swtpm-").tempdir()?;
        authority.manufacture(state.path())?;
        Self::power_on(state)
    }

    fn power_on(state: TempDir) -> Result<Self> {
        let (process, line) = power_on(state.path())?;
        let front = Front::start(line)?;
        Ok(Self {
            front,
            process,
            state,
        })
    }

    /// What `tpm.tcti` and `TPM2TOOLS_TCTI` take: `swtpm:host=127.0.0.1,port=N`.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.front.port())
    }

    /// An orderly reboot: TPM2_Shutdown(CLEAR), power off, power on. PCRs start anew.
    ///
    /// # Errors
    /// The TPM does not answer or does not come up again.
    pub fn restart(&mut self) -> Result<()> {
        self.front.exchange().shutdown()?;
        self.power_cut()
    }

    /// Power off without a word, power on.
    ///
    /// # Errors
    /// The TPM does not come up again.
    pub fn power_cut(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        let (process, line) = power_on(self.state.path())?;
        self.process = process;
        self.front.exchange().reconnect(line);
        Ok(())
    }

    /// An orderly shutdown for the last time: TPM2_Shutdown(CLEAR), power off. Its state is moved to `dir`, for a
    /// machine that goes on with it.
    ///
    /// # Errors
    /// The TPM does not answer, or its state cannot be moved.
    pub fn shut_down(mut self, dir: &Path) -> Result<()> {
        self.front.exchange().shutdown()?;
        self.process.kill()?;
        self.process.wait()?;
        std::fs::copy(self.state.path().join(PERMANENT), dir.join(PERMANENT))?;
        Ok(())
    }

    /// Extends a SHA-256 PCR, as a bystander would.
    ///
    /// # Errors
    /// The TPM refuses.
    pub fn extend(&self, pcr: u8, digest: &[u8; 32]) -> Result<()> {
        self.front.exchange().extend(pcr, digest)
    }

    /// PCR 0 to 23 of the SHA-256 bank.
    ///
    /// # Errors
    /// The TPM refuses, or keeps no such bank.
    pub fn read_pcrs(&self) -> Result<Vec<[u8; 32]>> {
        self.front.exchange().read_pcrs()
    }

    /// The commands that programs sent since this was last called, by their names in TPM 2.0 Library
    /// Part 3. What the harness itself sends does not count, and neither does what [`SoftTpm::tool`] runs.
    pub fn take_commands(&self) -> Vec<String> {
        self.front.exchange().take_commands()
    }

    /// Calls `hook` with each command name and response before the response goes back to the program
    /// that asked. The hook may send commands of its own and change the response.
    pub fn on_response(
        &self,
        hook: impl FnMut(&mut Exchange, &str, &mut Vec<u8>) + Send + 'static,
    ) {
        self.front.exchange().set_hook(Box::new(hook));
    }

    /// Runs a program of tpm2-tools on this TPM, `args` beginning with its name without `tpm2_`, in the
    /// TPM's directory. Transient keys that it leaves are flushed, as `/dev/tpmrm0` would do.
    ///
    /// # Errors
    /// The program is not installed or fails.
    pub fn tool(&self, args: &[&str]) -> Result<Captured> {
        let program = paths::tool("tpm2").context("tpm2 (tpm2-tools) is not installed")?;
        self.front.exchange().count(false);
        let outcome = Run::new(program)
            .args(args)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .dir(self.state.path())
            .success();
        let mut exchange = self.front.exchange();
        exchange.count(true);
        exchange.flush_transient()?;
        outcome
    }

    /// Puts a file where [`SoftTpm::tool`] finds it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_file(&self, name: &str, content: &[u8]) -> Result<()> {
        Ok(std::fs::write(self.state.path().join(name), content)?)
    }

    /// A file that [`SoftTpm::tool`] wrote into the TPM's directory.
    ///
    /// # Errors
    /// It is not there.
    pub fn read_file(&self, name: &str) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.state.path().join(name))?)
    }
}

impl Drop for SoftTpm {
    fn drop(&mut self) {
        // Already gone is fine.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Starts `swtpm` on the state in `dir`; it sends itself TPM2_Startup(CLEAR). It lives as long as the
/// connection that comes with it.
fn power_on(dir: &Path) -> Result<(Child, UnixStream)> {
    let socket = dir.join(SOCKET);
    // A TPM that lost its power leaves its socket behind.
    drop(std::fs::remove_file(&socket));
    let program = paths::tool("swtpm").context("swtpm is not installed")?;
    let mut process = Command::new(program)
        .args(["socket", "--tpm2", "--terminate"])
        .args(["--flags", "not-need-init,startup-clear"])
        .args([
            "--server",
            &format!("type=unixio,path={}", socket.display()),
        ])
        .args(["--tpmstate", &format!("dir={}", dir.display())])
        .args([
            "--log",
            &format!("file={}", dir.join("swtpm.log").display()),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start swtpm")?;
    match front::connect(&socket) {
        Ok(line) => Ok((process, line)),
        Err(error) => {
            drop(process.kill());
            drop(process.wait());
            let log = std::fs::read_to_string(dir.join("swtpm.log")).unwrap_or_default();
            Err(error.context(format!("swtpm does not come up: {log}")))
        }
    }
}

/// The command socket in the TPM's directory.
const SOCKET: &str = "swtpm.sock";
/// What `swtpm` keeps for ever.
const PERMANENT: &str = "tpm2-00.permall";

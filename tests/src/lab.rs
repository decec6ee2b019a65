// SPDX-License-Identifier: Apache-2.0
//! Starts the laboratory KBS as its own process and administers it through its command line, which
//! speaks the same admin API as Trustee.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::leash::Leash;
use crate::paths;
use crate::process::{Captured, Run};

/// A running laboratory KBS; it ends when dropped, or when this process is killed. Its directory stays.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    url: String,
    child: Child,
    leash: Option<Leash>,
}

impl Lab {
    /// Makes keys and certificates in `dir` if there are none, and serves on a free loopback port.
    /// `options` are further arguments of `lab-kbs serve`.
    ///
    /// # Errors
    /// The program is not built, or did not say where it listens within ten seconds.
    pub fn start(dir: &Path, options: &[&str]) -> Result<Self> {
        init(dir)?;
        Self::serve(dir, "127.0.0.1:0", options)
    }

    /// Serves the existing directory `dir` on `listen`.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn serve(dir: &Path, listen: &str, options: &[&str]) -> Result<Self> {
        let log = std::fs::File::create(dir.join("server.log"))?;
        let mut child = Command::new(paths::binary("lab-kbs")?)
            .arg("serve")
            .arg("--dir")
            .arg(dir)
            .args(["--listen", listen])
            .args(options)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start lab-kbs")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        let mut lab = Self {
            dir: dir.to_path_buf(),
            url: String::new(),
            leash: Some(Leash::on(&child)?),
            child,
        };
        let Ok(line) = lines.recv_timeout(READY) else {
            bail!(
                "lab-kbs did not say where it listens; it said: {}",
                lab.log()
            );
        };
        let url = line.strip_prefix("listening on ").with_context(|| {
            format!("expected `listening on URL` from lab-kbs, it said: {line}")
        })?;
        lab.url = url.to_owned();
        Ok(lab)
    }

    /// Its URL, `https://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its address and port.
    ///
    /// # Errors
    /// The URL names no IP address and port.
    pub fn address(&self) -> Result<SocketAddr> {
        let (_, authority) = self
            .url
            .split_once("://")
            .context("the URL has no scheme")?;
        authority
            .parse()
            .with_context(|| format!("not an address and port: {authority}"))
    }

    /// The certificate that signed its TLS certificate, PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Its directory: private keys, and every secret it keeps.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    /// One call of the admin API: `operation` with its arguments, and its body.
    ///
    /// # Errors
    /// The server refused; the message says why.
    pub fn admin(&self, operation: &[&str], body: &[u8]) -> Result<Captured> {
        Run::new(paths::binary("lab-kbs")?)
            .args(["admin", "--dir"])
            .arg(&self.dir)
            .args(["--url", &self.url])
            .args(operation)
            .stdin(body)
            .success()
    }

    /// Ends the server, as a crash would.
    ///
    /// # Errors
    /// It cannot be ended.
    pub fn stop(&mut self) -> Result<()> {
        drop(self.leash.take());
        self.child.kill().context("cannot end lab-kbs")?;
        self.child.wait().context("cannot wait for lab-kbs")?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

/// Makes the keys, certificates and empty state of a server in `dir`.
///
/// # Errors
/// The program is not built or cannot write there.
pub fn init(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    Run::new(paths::binary("lab-kbs")?)
        .args(["init", "--dir"])
        .arg(dir)
        .success()?;
    Ok(())
}

const READY: Duration = Duration::from_secs(10);

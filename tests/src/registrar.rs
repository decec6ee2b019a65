// SPDX-License-Identifier: Apache-2.0
//! Starts the registrar as its own process, believing the maker of the software TPMs. The demo and the tests of
//! enrolment join their nodes through it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};

use crate::paths;
use crate::process::Run;
use crate::swtpm::Authority;

/// A running registrar; it ends when dropped, its list of nodes stays.
#[derive(Debug)]
pub struct Registrar {
    dir: PathBuf,
    url: String,
    child: Child,
}

impl Registrar {
    /// Serves on a free loopback port with the TLS certificate and key in `tls`, a directory made by
    /// `lab-kbs init`. Only TPMs of this maker are let in.
    ///
    /// # Errors
    /// The program is not built or does not start, or the maker has made no TPM yet.
    pub fn start(dir: &Path, maker: &Authority, tls: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("roots.pem"), maker.root()?)?;
        fs::write(dir.join("intermediates.pem"), maker.intermediate()?)?;
        let config = dir.join("register.toml");
        fs::write(
            &config,
            format!(
                "listen = \"127.0.0.1:0\"\ntls_certificate_file = {:?}\ntls_key_file = {:?}\n\
                 identity = \"ek-certificate\"\nek_roots_file = \"roots.pem\"\n\
                 ek_intermediates_file = \"intermediates.pem\"\nstate_directory = {STATE:?}\n",
                tls.join("tls.crt"),
                tls.join("tls.key"),
            ),
        )?;
        let (child, url) = serve(&config)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            url,
            child,
        })
    }

    /// Its URL, `https://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("register.toml")
    }

    /// `sheepfold-operator register` on this registrar's list, with these arguments.
    ///
    /// # Errors
    /// The program is not built.
    pub fn command(&self, args: &[&str]) -> Result<Run> {
        Ok(Run::new(paths::binary("sheepfold-operator")?)
            .args(["register", "--config"])
            .arg(self.config_file())
            .args(args))
    }

    /// The file about the TPM whose attestation key gave this node id: what `recordFile` of a Machine names.
    ///
    /// # Errors
    /// No such node has enrolled.
    pub fn record_file(&self, node: &str) -> Result<PathBuf> {
        for entry in fs::read_dir(self.dir.join(STATE))? {
            let path = entry?.path();
            if path.is_file() && fs::read_to_string(&path)?.contains(node) {
                return Ok(path);
            }
        }
        bail!("the registrar has no record of {node}")
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Starts the program and waits until it says where it listens.
fn serve(config: &Path) -> Result<(Child, String)> {
    let mut child = Command::new(paths::binary("sheepfold-operator")?)
        .args(["register", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start sheepfold-operator")?;
    let mut lines = BufReader::new(child.stderr.take().context("no standard error")?).lines();
    let mut said = String::new();
    for line in lines.by_ref().map_while(Result::ok) {
        if let Some((_, url)) = line.split_once("listening on ") {
            let url = url.to_owned();
            // Its pipe must not fill up.
            thread::spawn(move || lines.for_each(drop));
            return Ok((child, url));
        }
        said.push_str(&line);
    }
    child.wait()?;
    bail!("the registrar does not start: {said}")
}

/// Where the list of nodes lies.
const STATE: &str = "registry";

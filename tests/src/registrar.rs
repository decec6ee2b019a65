// SPDX-License-Identifier: Apache-2.0
//! Starts the registrar as its own process, believing the maker of the software TPMs. The demo and the tests of
//! enrolment join their nodes through it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::leash::Leash;
use crate::paths;
use crate::process::Run;
use crate::swtpm::{Authority, SoftTpm};
use crate::world::World;

/// A running registrar; it ends when dropped, or when this process is killed. Its list of nodes stays.
#[derive(Debug)]
pub struct Registrar {
    dir: PathBuf,
    url: String,
    child: Child,
    leash: Option<Leash>,
}

impl Registrar {
    /// Serves on a free loopback port with the TLS certificate and key in `tls`, a directory made by
    /// `lab-kbs init`. Only TPMs of this maker are let in.
    ///
    /// # Errors
    /// The program is not built or does not start, or the maker has made no TPM yet.
    pub fn start(dir: &Path, maker: &Authority, tls: &Path) -> Result<Self> {
        Self::start_at("127.0.0.1:0", dir, maker, tls)
    }

    /// The same on this address and port.
    ///
    /// # Errors
    /// As [`Registrar::start`].
    pub fn start_at(listen: &str, dir: &Path, maker: &Authority, tls: &Path) -> Result<Self> {
        let list = format!("state_directory = {STATE:?}\n");
        Self::run(listen, dir, maker, tls, &list, &[])
    }

    /// The same with other last lines of its configuration than the place of its list, in this environment.
    ///
    /// # Errors
    /// As [`Registrar::start`].
    pub fn start_with(
        dir: &Path,
        maker: &Authority,
        tls: &Path,
        last_lines: &str,
        env: &[(&str, &Path)],
    ) -> Result<Self> {
        Self::run("127.0.0.1:0", dir, maker, tls, last_lines, env)
    }

    fn run(
        listen: &str,
        dir: &Path,
        maker: &Authority,
        tls: &Path,
        last_lines: &str,
        env: &[(&str, &Path)],
    ) -> Result<Self> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("roots.pem"), maker.root()?)?;
        fs::write(dir.join("intermediates.pem"), maker.intermediate()?)?;
        let config = dir.join("register.toml");
        fs::write(
            &config,
            format!(
                "listen = {listen:?}\ntls_certificate_file = {:?}\ntls_key_file = {:?}\n\
                 identity = \"ek-certificate\"\nek_roots_file = \"roots.pem\"\n\
                 ek_intermediates_file = \"intermediates.pem\"\n{last_lines}",
                tls.join("tls.crt"),
                tls.join("tls.key"),
            ),
        )?;
        let (child, url) = serve(&config, &[], env)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            url,
            leash: Some(Leash::on(&child)?),
            child,
        })
    }

    /// Ends it, if it is still there, as a crash would, and starts it again on its list, under this wrapper
    /// (for example `strace -f`; empty for none). Its URL is a new one.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart_under(&mut self, wrapper: &[String]) -> Result<()> {
        self.stop();
        (self.child, self.url) = serve(&self.config_file(), wrapper, &[])?;
        self.leash = Some(Leash::on(&self.child)?);
        Ok(())
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Its URL, `https://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("register.toml")
    }

    /// Its list of nodes.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join(STATE)
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
        for entry in fs::read_dir(self.state_dir())? {
            let path = entry?.path();
            if path.is_file() && fs::read_to_string(&path)?.contains(node) {
                return Ok(path);
            }
        }
        bail!("the registrar has no record of {node}")
    }
}

impl Registrar {
    /// With what it was wrapped in.
    fn stop(&mut self) {
        drop(self.leash.take());
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            // Already gone is fine.
            let _ = kill_process_group(group, Signal::KILL);
        }
        drop(self.child.wait());
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.stop();
    }
}

impl World {
    /// A world whose node can enrol: a registrar beside the KBS believes the maker of its TPM.
    ///
    /// # Errors
    /// As [`World::with_tpm`] and [`Registrar::start`].
    pub fn with_registrar() -> Result<(Self, Registrar, Authority)> {
        let maker = Authority::new()?;
        let mut world = Self::with_tpm(SoftTpm::certified(&maker)?, &[])?;
        let dir = world.dir().join("registrar");
        let registrar = Registrar::start(&dir, &maker, world.lab.dir())?;
        world.settings.registrar = Some(registrar.url().to_owned());
        world.configure()?;
        Ok((world, registrar, maker))
    }
}

/// Starts the program and waits until it says where it listens.
fn serve(config: &Path, wrapper: &[String], env: &[(&str, &Path)]) -> Result<(Child, String)> {
    let program = paths::binary("sheepfold-operator")?;
    let mut command = match wrapper.split_first() {
        None => Command::new(program),
        Some((wrapper, options)) => {
            let mut command = Command::new(wrapper);
            command.args(options).arg(program);
            command
        }
    };
    let mut child = command
        .envs(env.iter().copied())
        .process_group(0)
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

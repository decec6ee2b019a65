// SPDX-License-Identifier: Apache-2.0
//! A machine's identity and belongings while it is switched off: the TPM that it was made with, the disk, the
//! firmware's variables. It is enrolled by the real agent, as in a factory, and provisioned by the real operator.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use measured_boot::bank::Bank;
use serde_json::Value;
use sheepfold_tests::clevis::Links;
use sheepfold_tests::process::Run;
use sheepfold_tests::registrar::Registrar;
use sheepfold_tests::swtpm::SoftTpm;

use crate::chain::Chain;
use crate::say::say;
use crate::site::{REGISTRAR, Site};

/// A machine that is switched off.
#[derive(Debug)]
pub struct Node {
    /// Its name at this site.
    pub name: String,
    /// Its node id, derived from its attestation key.
    pub id: String,
    dir: PathBuf,
}

/// How the volume is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// The pin by its own name.
    Direct,
    /// Inside `sss`, as Ignition before 2.26 has it.
    Wrapped,
    /// Inside `sss` to the TPM alone, with a pin of Clevis's own, for comparison.
    Tpm2,
}

/// A node whose TPM is in the host's hands.
pub struct InFactory {
    node: Node,
    tpm: SoftTpm,
    links: Links,
}

impl Node {
    /// Makes a machine, enrols it, and adds it to the administrator's directory. Its TPM stays with the host until
    /// [`InFactory::leave`].
    ///
    /// # Errors
    /// A program is missing, or somebody refuses.
    pub fn manufacture(site: &mut Site, name: &str) -> Result<InFactory> {
        say(&format!("making and enrolling the machine {name}"));
        let dir = site.dir().join(name);
        fs::create_dir_all(&dir)?;
        let tpm = SoftTpm::certified(&site.maker)?;
        if site.registrar.is_none() {
            let (listen, dir) = (
                format!("127.0.0.1:{REGISTRAR}"),
                site.dir().join("registrar"),
            );
            let registrar = Registrar::start_at(&listen, &dir, &site.maker, site.lab.dir())?;
            site.registrar = Some(registrar);
        }
        let registrar = site.registrar.as_ref().context("no registrar")?;
        let mut settings = site.settings();
        settings.ca_file = Some(site.lab.ca_file());
        settings.tcti = tpm.tcti();
        settings.registrar = Some(registrar.url().to_owned());
        fs::write(dir.join("factory.toml"), settings.to_toml())?;
        let links = Links::create(&dir.join("bin"))?;
        let mut factory = InFactory {
            node: Self {
                name: name.to_owned(),
                id: String::new(),
                dir,
            },
            tpm,
            links,
        };
        let enrolled = factory.agent(site, &["enroll", "--json"])?.success()?;
        let outcome: Value = serde_json::from_slice(&enrolled.stdout)?;
        let id = outcome.get("node_id").and_then(Value::as_str);
        id.context("enrolment gave no node id")?
            .clone_into(&mut factory.node.id);
        let record = registrar.record_file(&factory.node.id)?;
        site.cluster.add(name, &record)?;
        Ok(factory)
    }

    /// Its directory: disk, TPM, firmware variables, what its consoles said.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The disk, as a host can read and write it.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }
}

impl InFactory {
    /// The agent on the host, on this machine's TPM.
    ///
    /// # Errors
    /// The host's files cannot be written.
    pub fn agent(&self, site: &Site, args: &[&str]) -> Result<Run> {
        site.on_host(
            self.with_settings(self.links.run("trustee-agent"))
                .args(args),
        )
    }

    /// Has the TPM measure what this chain will measure when it boots, as if it had. Only such a machine is given
    /// its secret.
    ///
    /// # Errors
    /// The TPM refuses, or the prediction lacks a digest.
    pub fn as_if_booted(&mut self, chain: &Chain) -> Result<()> {
        self.tpm.restart()?;
        for event in &chain.prediction.events {
            let digest = event.digest(Bank::Sha256)?;
            self.tpm.extend(event.pcr, digest.as_bytes().try_into()?)?;
        }
        Ok(())
    }

    /// Binds a LUKS2 volume in a file with the real Clevis, and throws the first key away, as Ignition does.
    ///
    /// # Errors
    /// The KBS refuses, or Clevis fails.
    pub fn bind(
        &self,
        site: &mut Site,
        volume: &Path,
        first_key: &Path,
        binding: Binding,
    ) -> Result<()> {
        say("binding the volume with clevis");
        let (pin, config) = match binding {
            Binding::Direct => ("trustee", "{}"),
            Binding::Wrapped => ("sss", r#"{"t":1,"pins":{"trustee":{}}}"#),
            Binding::Tpm2 => ("sss", r#"{"t":1,"pins":{"tpm2":{}}}"#),
        };
        let bind = self.clevis(&["luks", "bind", "-f", "-k"]).arg(first_key);
        let bind = bind.arg("-d").arg(volume).args([pin, config]);
        site.on_host(bind)?.success()?;
        Run::new(sheepfold_tests::paths::tool("cryptsetup").context("no cryptsetup")?)
            .args(["luksRemoveKey", "--batch-mode"])
            .args([volume, first_key])
            .success()?;
        let pass = self.clevis(&["luks", "pass", "-s", "1", "-d"]).arg(volume);
        let passphrase = site.on_host(pass)?.success()?;
        site.keep_secret(
            &format!("passphrase of {}", self.node.name),
            &passphrase.stdout,
        )?;
        self.learn_secret(site)
    }

    /// Makes the story know the node's secret, so that it can be searched for.
    ///
    /// # Errors
    /// The KBS refuses.
    pub fn learn_secret(&self, site: &mut Site) -> Result<()> {
        let stored = self.agent(site, &["fetch"])?.success()?;
        site.keep_resource_secret(&self.node.name, &stored.stdout)
    }

    /// The machine leaves the factory: its TPM is shut down in good order.
    ///
    /// # Errors
    /// The TPM does not answer.
    pub fn leave(self) -> Result<Node> {
        let state = self.node.dir.join("tpm");
        fs::create_dir_all(&state)?;
        self.tpm.shut_down(&state)?;
        Ok(self.node)
    }

    /// The machine's directory.
    pub fn dir(&self) -> &Path {
        &self.node.dir
    }

    fn clevis(&self, args: &[&str]) -> Run {
        self.with_settings(self.links.clevis()).args(args)
    }

    fn with_settings(&self, run: Run) -> Run {
        run.env("TRUSTEE_AGENT_CONFIG", self.node.dir.join("factory.toml"))
            .env("TPM2TOOLS_TCTI", self.tpm.tcti())
            .env("TSS2_LOG", "all+none")
    }
}

// SPDX-License-Identifier: Apache-2.0
//! A whole small world in one directory: a software TPM, a laboratory KBS over TLS, a node's
//! configuration and its Clevis links. The tests, the demo and the benchmark all live in one.
//!
//! ```text
//! clevis --> trustee-agent --tcti--> swtpm
//!                 |
//!                 +--TLS--> lab-kbs <--admin API-- the test, as administrator
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::NodeId;
use kbs_protocol::resource::ResourcePath;
use tempfile::TempDir;

use crate::administrator::Stored;
use crate::clevis::Links;
use crate::lab::Lab;
use crate::luks::Volume;
use crate::process::{Captured, Run};
use crate::settings::Settings;
use crate::swtpm::SoftTpm;

/// The world. Everything in it ends and is deleted when it is dropped.
#[derive(Debug)]
pub struct World {
    /// The KBS.
    pub lab: Lab,
    /// The node's TPM.
    pub tpm: SoftTpm,
    /// The node's configuration; after a change call [`World::configure`].
    pub settings: Settings,
    links: Links,
    journal: Mutex<Vec<Captured>>,
    dir: TempDir,
}

/// Who the node is, read from its TPM without the agent's help.
#[derive(Debug, Clone)]
pub struct Node {
    /// The attestation key's SubjectPublicKeyInfo, base64 of DER: what policies compare.
    pub ak_public: String,
    /// The id derived from it.
    pub id: NodeId,
}

impl World {
    /// A fresh TPM, a fresh KBS, a configured node of which the KBS knows nothing.
    ///
    /// # Errors
    /// A program is missing or does not start.
    pub fn new() -> Result<Self> {
        Self::with_lab(&[])
    }

    /// As [`World::new`], with further arguments for `lab-kbs serve`.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn with_lab(options: &[&str]) -> Result<Self> {
        Self::with_tpm(SoftTpm::start()?, options)
    }

    /// As [`World::with_lab`], with a TPM of the caller's choice.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn with_tpm(tpm: SoftTpm, options: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sheepfold-").tempdir()?;
        let lab = Lab::start(&dir.path().join("kbs"), options)?;
        let links = Links::create(&dir.path().join("bin"))?;
        fs::create_dir(dir.path().join("node"))?;
        let settings = Settings::new(lab.url(), lab.ca_file(), tpm.tcti());
        let journal = Mutex::default();
        let world = Self {
            lab,
            tpm,
            settings,
            links,
            journal,
            dir,
        };
        world.configure()?;
        Ok(world)
    }

    /// A world whose node is enrolled: its key and its boot are known, its secret is stored.
    ///
    /// # Errors
    /// As [`World::new`], or the agent could not make its key.
    pub fn enrolled() -> Result<(Self, Node, Stored)> {
        Self::enrolled_with_lab(&[])
    }

    /// As [`World::enrolled`], with further arguments for `lab-kbs serve`.
    ///
    /// # Errors
    /// As [`World::enrolled`].
    pub fn enrolled_with_lab(options: &[&str]) -> Result<(Self, Node, Stored)> {
        let world = Self::with_lab(options)?;
        // The first attestation makes the key. The server knows nobody yet, which does not matter here.
        let first = world.run(world.agent(["attest"]))?;
        let node = world
            .node()
            .with_context(|| format!("no attestation key after: {first}"))?;
        world.enrol(&node)?;
        let stored = world.store_secret(&node)?;
        Ok((world, node, stored))
    }

    /// From now on the node runs the agent at `agent` instead of the one built with the tests.
    ///
    /// # Errors
    /// The links cannot be made.
    pub fn use_agent(&mut self, agent: &Path) -> Result<()> {
        self.links = Links::to(agent, &self.dir.path().join("other-bin"))?;
        Ok(())
    }

    /// Ends the KBS and starts it again on its old state with these arguments for `lab-kbs serve`; the
    /// node's configuration follows.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart_lab(&mut self, options: &[&str]) -> Result<()> {
        self.lab.stop()?;
        let dir = self.lab.dir().to_path_buf();
        self.lab = Lab::serve(&dir, "127.0.0.1:0", options)?;
        self.settings.servers = vec![self.lab.url().to_owned()];
        self.configure()
    }

    /// Writes init-data beside the node's configuration, which names it from the next [`World::configure`] on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn give_init_data(&mut self, text: &str) -> Result<()> {
        let file = self.node_dir().join("init-data.toml");
        std::fs::write(&file, text)?;
        self.settings.init_data_file = Some(file);
        Ok(())
    }

    /// The path under which this node's secret is stored.
    ///
    /// # Errors
    /// The TPM has no attestation key yet.
    pub fn path(&self) -> Result<ResourcePath> {
        Ok(ResourcePath::expand(PATH, &self.node()?.id)?)
    }

    /// The world's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The node's own directory: its configuration, its disk, whatever a test puts there.
    pub fn node_dir(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// Keeps the directory after the end.
    pub fn keep(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }

    /// Writes [`World::settings`] to the node's `agent.toml`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self) -> Result<()> {
        let file = self.config_file();
        fs::write(&file, self.settings.to_toml())
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// The node's `agent.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.node_dir().join("agent.toml")
    }

    /// What stands for `/run/trustee` on this node. A restart of its TPM does not empty it.
    pub fn run_dir(&self) -> PathBuf {
        self.node_dir().join("run")
    }

    /// `trustee-agent` with these arguments, on this node.
    pub fn agent<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        self.on_node(self.links.run("trustee-agent")).args(args)
    }

    /// `clevis` with these arguments, on this node.
    pub fn clevis<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        self.on_node(self.links.clevis()).args(args)
    }

    /// `clevis luks bind` of a volume, by the passphrase that it was formatted with.
    pub fn bind(&self, volume: &Volume, pin: &str, config: &str) -> Run {
        self.clevis(["luks", "bind", "-f", "-k"])
            .arg(&volume.key_file)
            .arg("-d")
            .arg(&volume.path)
            .args([pin, config])
    }

    /// A new volume of the node with one key slot, that of Clevis.
    ///
    /// # Errors
    /// `cryptsetup` or `clevis` refuses.
    pub fn bound_volume(&self, name: &str, pin: &str, config: &str) -> Result<Volume> {
        let volume = Volume::format(&self.node_dir(), name)?;
        self.bind(&volume, pin, config).success()?;
        volume.remove_first_key()?;
        Ok(volume)
    }

    /// `clevis-encrypt-trustee`, called directly.
    pub fn encrypt<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        self.on_node(self.links.run("clevis-encrypt-trustee"))
            .args(args)
    }

    /// `clevis-decrypt-trustee`, called directly.
    pub fn decrypt<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        self.on_node(self.links.run("clevis-decrypt-trustee"))
            .args(args)
    }

    /// Runs a program and keeps what it wrote, see [`World::journal`].
    ///
    /// # Errors
    /// As [`Run::capture`].
    pub fn run(&self, run: Run) -> Result<Captured> {
        let captured = run.capture()?;
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(captured.clone());
        Ok(captured)
    }

    /// Everything that [`World::run`] ran, in order.
    pub fn journal(&self) -> Vec<Captured> {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the node's identity from its TPM.
    ///
    /// # Errors
    /// The TPM has no attestation key yet.
    pub fn node(&self) -> Result<Node> {
        let file = self.node_dir().join("ak.der");
        let path = file.to_str().context("a directory name that is not text")?;
        self.tpm
            .tool(&["readpublic", "-Q", "-c", AK_HANDLE, "-f", "der", "-o", path])
            .context("no attestation key")?;
        let spki = fs::read(&file)?;
        Ok(Node {
            ak_public: STANDARD.encode(&spki),
            id: NodeId::from_spki_der(&spki),
        })
    }

    /// Extends one PCR, as if the node had booted something else.
    ///
    /// # Errors
    /// The TPM refuses.
    pub fn tamper(&self, pcr: u8) -> Result<()> {
        self.tpm.extend(pcr, &[0x5a; 32])
    }

    /// The environment every program on the node has.
    fn on_node(&self, run: Run) -> Run {
        run.env("TRUSTEE_AGENT_CONFIG", self.config_file())
            .env("TRUSTEE_AGENT_RUN", self.run_dir())
            .env("TPM2TOOLS_TCTI", self.tpm.tcti())
            .env("TMPDIR", self.node_dir())
            .dir(&self.node_dir())
    }
}

/// The default of `kbs.path`.
pub(crate) const PATH: &str = "default/{node}/root";
/// The default of `tpm.ak_handle`.
const AK_HANDLE: &str = "0x81010002";

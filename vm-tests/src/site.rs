// SPDX-License-Identifier: Apache-2.0
//! Everything outside of the machines: the laboratory KBS, the registrar, the directory that the administrator
//! keeps, a maker of TPMs. One site for each story, in a directory of its own that stays afterwards.
//!
//! A machine reaches the host's loopback at 10.0.2.2 (QEMU's user network). It and the host call the KBS by the
//! same name, so that a volume bound on the host is one that the machine opens.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::Secret;
use kbs_protocol::encoding::hex;
use kbs_protocol::resource_secret::ResourceSecret;
use serde_json::{Map, Value, json};
use sheepfold_tests::cluster::Cluster;
use sheepfold_tests::lab::Lab;
use sheepfold_tests::paths;
use sheepfold_tests::process::Run;
use sheepfold_tests::registrar::Registrar;
use sheepfold_tests::scan::Scanner;
use sheepfold_tests::settings::Settings;
use sheepfold_tests::swtpm::Authority;

use crate::cache::{self, Key};
use crate::chain::Chain;
use crate::disk::LUKS_UUID;
use crate::machine::{BOOT, Machine};
use crate::node::Node;
use crate::say::say;

/// The world around the machines of one story.
pub struct Site {
    /// The KBS.
    pub lab: Lab,
    /// What the administrator keeps.
    pub cluster: Cluster,
    pub(crate) maker: Authority,
    pub(crate) registrar: Option<Registrar>,
    dir: PathBuf,
    secrets: Scanner,
}

impl Site {
    /// Opens an empty site under `target/vm-test/STORY`, with a KBS that has never heard of any node.
    ///
    /// # Errors
    /// A program is not built or does not start.
    pub fn open(story: &str) -> Result<Self> {
        say(&format!("story {story}"));
        let dir = stories()?.join(story);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        // The same certificates for all stories: they are in the initramfs, which need not be built again.
        let keys = cache::directory("vm-kbs-keys", &Key::default(), |dir| {
            let init = Run::new(paths::binary("lab-kbs")?).args(["init", "--dir"]);
            let hosts = ["--host", NAME, "--host", "127.0.0.1", "--host", "localhost"];
            init.arg(dir).args(hosts).success().map(drop)
        })?;
        let kbs = dir.join("kbs");
        Run::new("cp").arg("-a").args([&keys, &kbs]).success()?;
        let lab = Lab::serve(&kbs, &format!("127.0.0.1:{PORT}"), &[])?;
        let cluster = Cluster::new(&dir.join("cluster"), &lab)?;
        Ok(Self {
            lab,
            cluster,
            maker: Authority::new()?,
            registrar: None,
            dir,
            secrets: Scanner::new(),
        })
    }

    /// Where the story's files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a node of this site has as `agent.toml`: the KBS by its name, the authority that vouches for it, the
    /// TPM behind the kernel.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::new(
            &self.url(),
            "/etc/trustee/kbs-ca.pem".into(),
            "device:/dev/tpmrm0".to_owned(),
        );
        settings.overall = "90s";
        settings.unlock = "mode = \"clevis\"\n";
        settings
    }

    /// [`Site::settings`] of a node whose agent opens the root itself and tells the registrar of it.
    pub fn native_settings(&self) -> Settings {
        let mut settings = self.settings();
        settings.unlock = "mode = \"native\"\n";
        settings.registrar = Some(Self::url_at(REGISTRAR));
        settings.enroll = "record_boots = true\n".to_owned();
        settings
    }

    /// The KBS as machines and the host call it.
    pub fn url(&self) -> String {
        Self::url_at(PORT)
    }

    /// A server of the same name on another port.
    pub fn url_at(port: u16) -> String {
        format!("https://{NAME}:{port}")
    }

    /// How often the KBS has answered on this path since it was started.
    pub fn answers(&self, path: &str) -> usize {
        self.lab.log().matches(&format!(" {path} -> ")).count()
    }

    /// Waits until the KBS has answered this machine on this path: more often than that.
    ///
    /// # Errors
    /// It has not within [`BOOT`].
    pub fn wait_for_answer(&self, machine: &Machine, path: &str, before: usize) -> Result<()> {
        let clock = machine.console.clock();
        while self.answers(path) <= before {
            ensure!(
                clock.elapsed() < BOOT,
                "nobody has asked the KBS for {path}"
            );
            thread::sleep(Duration::from_millis(20));
        }
        say(&format!("the KBS has answered {path}"));
        Ok(())
    }

    /// Approves this boot for all nodes of the site: what the chain is predicted to measure.
    ///
    /// # Errors
    /// The KBS refuses, or the prediction lacks a register.
    pub fn approve(&self, name: &str, chain: &Chain) -> Result<()> {
        say(&format!("the administrator approves {name}"));
        let tuple: Map<String, Value> = chain
            .tuple()?
            .into_iter()
            .map(|(index, value)| (format!("pcr{index:02}"), hex::encode(value).into()))
            .collect();
        self.cluster.approve_tuple(name, &Value::Object(tuple))?;
        self.provision()
    }

    /// Takes an approval back.
    ///
    /// # Errors
    /// There was none, or the KBS refuses.
    pub fn disapprove(&self, name: &str) -> Result<()> {
        say(&format!(
            "the administrator takes back the approval of {name}"
        ));
        self.cluster.disapprove(name)?;
        self.provision()
    }

    /// The administrator writes an Ignition config for this machine and has the root encrypted besides.
    ///
    /// # Errors
    /// The operator or the KBS refuses.
    pub fn configure(&self, node: &Node, config: &str) -> Result<()> {
        say(&format!("the administrator configures {}", node.name));
        let file = format!("{}.ign", node.name);
        self.cluster.file(&file, config)?;
        let registrar = self.registrar.as_ref().context("no registrar")?;
        let record = registrar.record_file(&node.id)?;
        let root = json!({
            "name": "root",
            "device": "/dev/disk/by-partlabel/root",
            "label": "luks-root",
            "uuid": LUKS_UUID,
            "filesystem": { "format": "ext4", "label": "root" },
        });
        let more = format!("  ignition:\n    configFile: {file}\n    luks: [{root}]\n");
        self.cluster.add_with(&node.name, &record, &more)?;
        self.provision()
    }

    /// The administrator wants a recovery passphrase for each node of the site.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn escrow(&mut self) -> Result<()> {
        say("the administrator asks for recovery passphrases");
        let more = "  recovery:\n    passphrase: escrowed\n";
        self.cluster = Cluster::with(&self.dir.join("cluster"), &self.lab, more)?;
        Ok(())
    }

    /// A node's recovery passphrase, as whoever runs the KBS finds it in its storage.
    ///
    /// # Errors
    /// The KBS keeps none.
    pub fn recovery(&mut self, node: &Node) -> Result<Secret> {
        let state = fs::read(self.lab.dir().join("state.json"))?;
        let state: Value = serde_json::from_slice(&state)?;
        let path = format!("default/{}/recovery", node.id);
        let stored = state.get("resources").and_then(|all| all.get(&path));
        let stored = stored.and_then(Value::as_str).context("none is kept")?;
        let stored: Value = serde_json::from_slice(&STANDARD.decode(stored)?)?;
        let key = stored.get("key").and_then(Value::as_str);
        let passphrase = Secret::new(key.context("no key")?.as_bytes().to_vec());
        self.keep_secret("the recovery passphrase", passphrase.expose())?;
        Ok(passphrase)
    }

    /// `sheepfold-operator provision`.
    ///
    /// # Errors
    /// The KBS or the operator refuses.
    pub fn provision(&self) -> Result<()> {
        let provisioned = self.cluster.provision(&[])?.success()?;
        drop(provisioned);
        Ok(())
    }

    /// Ends the KBS, as a crash would.
    ///
    /// # Errors
    /// It cannot be ended.
    pub fn stop_kbs(&mut self) -> Result<()> {
        say("the KBS goes down");
        self.lab.stop()
    }

    /// Starts it again, on what it has stored.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_kbs(&mut self) -> Result<()> {
        say("the KBS comes back");
        let dir = self.lab.dir().to_path_buf();
        self.lab = Lab::serve(&dir, &format!("127.0.0.1:{PORT}"), &[])?;
        Ok(())
    }

    /// A program on the host that finds the KBS by its name.
    ///
    /// # Errors
    /// The host's own file cannot be written.
    pub(crate) fn on_host(&self, run: Run) -> Result<Run> {
        let hosts = self.dir.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost {NAME}\n"))?;
        let hosts = hosts
            .to_str()
            .context("a directory name that is not text")?;
        run.wrapped(&["unshare", "-m", "sh", "-c", HOSTS, "sh", hosts])
    }

    /// From now on this must not be found in anything that a machine or a program says.
    ///
    /// # Errors
    /// It is too short to be searched for.
    pub(crate) fn keep_secret(&mut self, name: &str, secret: &[u8]) -> Result<()> {
        self.secrets.add(name, secret)
    }

    /// As [`Site::keep_secret`], for both what the KBS stores and the key in it.
    pub(crate) fn keep_resource_secret(&mut self, name: &str, stored: &[u8]) -> Result<()> {
        let secret = ResourceSecret::parse(&Secret::new(stored.to_vec()))?;
        self.keep_secret(&format!("key of {name}"), secret.key())
    }

    /// Ends the story: searches everything that was said for the secrets, consoles and journals among it.
    ///
    /// # Errors
    /// One was found, or there was nothing to search for.
    pub fn close(self) -> Result<()> {
        say("searching consoles and journals for secrets");
        let mut except = vec![self.lab.dir().to_path_buf()];
        for entry in fs::read_dir(&self.dir)? {
            let dir = entry?.path();
            // What was built before there was a secret, and the key that was thrown away.
            except.extend(["esp", "first-key"].map(|name| dir.join(name)));
            for name in ["disk.raw", "root.luks", "vmlinuz", "initrd.img"] {
                drop(fs::remove_file(dir.join(name)));
            }
        }
        let except: Vec<&Path> = except.iter().map(PathBuf::as_path).collect();
        let leaks = self.secrets.directory(&self.dir, &except)?;
        ensure!(leaks.is_empty(), "secrets were written down: {leaks:#?}");
        say(&format!(
            "done; consoles and journals are in {}",
            self.dir.display()
        ));
        Ok(())
    }
}

/// Where the stories keep their files.
///
/// # Errors
/// The running program has no build directory.
pub fn stories() -> Result<PathBuf> {
    let cache = paths::cache()?;
    let target = cache.parent().context("a cache without a parent")?;
    Ok(target.join("vm-test"))
}

/// The KBS's name; `/etc/hosts` of host and guest say where that is.
pub const NAME: &str = "kbs.test";
/// The KBS's port. It is in the initramfs, so it is the same in each story; a story has a loopback device of its own
/// (`src/bin/stories.rs`).
pub const PORT: u16 = 18_443;
/// Where the registrar of every story listens.
pub const REGISTRAR: u16 = 18_446;
/// `FILE PROGRAM ARG*`: the program sees FILE as `/etc/hosts`.
const HOSTS: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

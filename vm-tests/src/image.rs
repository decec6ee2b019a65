// SPDX-License-Identifier: Apache-2.0
//! An image: a guest's root with our files in it, the initramfs that its dracut builds from them, and a file system
//! of both. Kept as long as nothing that went in has changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sheepfold_tests::node_root::Suite;
use sheepfold_tests::paths;
use sheepfold_tests::process::Run;

use crate::cache::{self, Key};
use crate::inside::Inside;
use crate::say::say;
use crate::site::{NAME, Site};
use crate::trees;

/// A built image; its files are not to be changed.
#[derive(Debug, Clone)]
pub struct Image {
    /// The guest's root as Debian left it.
    pub guest: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs, compressed.
    pub initramfs: PathBuf,
    /// An ext4 file system with the root.
    pub root: PathBuf,
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Which Debian.
    pub suite: Suite,
    /// `agent.toml`; none: an image without us, to be compared with.
    pub agent_toml: Option<String>,
    /// More lines for dracut's configuration.
    pub dracut: String,
}

impl Image {
    /// The same with one file more in its initramfs, which is put into `dir`.
    ///
    /// # Errors
    /// A tool fails.
    pub fn with_file(&self, name: &str, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        fs::copy(&self.initramfs, dir.join(INITRAMFS))?;
        Inside::of(&self.guest)
            .with(dir, "/mnt")
            .run(["sh", "-euc", APPEND, "sh", name, INITRAMFS])
            .success()?;
        Ok(Self {
            initramfs: dir.join(INITRAMFS),
            ..self.clone()
        })
    }
}

impl Recipe {
    /// An ordinary node of this site.
    pub fn node(site: &Site) -> Self {
        Self {
            suite: Suite::Trixie,
            agent_toml: Some(site.settings().to_toml()),
            // It would come by itself, and is a fifth of the image.
            dracut: "omit_dracutmodules+=\" ignition \"\n".to_owned(),
        }
    }

    /// A node whose agent opens the root itself.
    pub fn native(site: &Site) -> Self {
        Self {
            agent_toml: Some(site.native_settings().to_toml()),
            ..Self::node(site)
        }
    }

    /// A node that Ignition sets up on its first boot.
    pub fn with_ignition(site: &Site) -> Self {
        Self {
            dracut: "add_dracutmodules+=\" ignition seed \"\n".to_owned(),
            ..Self::node(site)
        }
    }

    /// [`Recipe::with_ignition`], and the agent opens the root itself.
    pub fn native_with_ignition(site: &Site) -> Self {
        Self {
            agent_toml: Some(site.native_settings().to_toml()),
            ..Self::with_ignition(site)
        }
    }

    /// The same without anything of ours, for comparison: Clevis with its pin `tpm2`, and all that binding on first boot
    /// takes.
    #[must_use]
    pub fn stock(self) -> Self {
        Self {
            agent_toml: None,
            dracut: format!("{}{TPM2}", self.dracut),
            ..self
        }
    }

    /// The same with nothing that could open a volume, for comparison.
    #[must_use]
    pub fn unencrypted(self) -> Self {
        Self {
            agent_toml: None,
            dracut: format!("{}{UNENCRYPTED}", self.dracut),
            ..self
        }
    }

    /// Builds it, or takes it from the cache.
    ///
    /// # Errors
    /// dracut fails or complains, or the agent is not built (`make dist`).
    pub fn build(&self, site: &Site) -> Result<Image> {
        let guest = trees::guest(self.suite)?;
        let agent = agent()?;
        let ca = fs::read(site.lab.ca_file())?;
        let workspace = paths::workspace();
        let key = Key::default()
            .bytes(guest.as_os_str().as_encoded_bytes())
            .path(&agent)?
            .path(&workspace.join("dracut/65trustee"))?
            .path(&workspace.join("systemd"))?
            .path(&workspace.join("Makefile"))?
            .path(&trees::here().join("guest"))?
            .bytes(self.agent_toml.as_deref().unwrap_or_default().as_bytes())
            .bytes(self.dracut.as_bytes())
            .bytes(&ca);
        let dir = cache::directory("vm-image", &key, |dir| self.make(dir, &guest, &agent, &ca))?;
        let kernel = guest
            .join("boot")
            .join(format!("vmlinuz-{}", trees::kernel_version(&guest)?));
        Ok(Image {
            guest,
            kernel,
            initramfs: dir.join(INITRAMFS),
            root: dir.join(ROOT),
        })
    }

    fn make(&self, dir: &Path, guest: &Path, agent: &Path, ca: &[u8]) -> Result<()> {
        let layer = dir.join("layer");
        let files = layer.join("files");
        self.put_files(&files, agent, ca)?;
        say("building the initramfs with dracut");
        let version = trees::kernel_version(guest)?;
        let dracut = [
            "dracut",
            "--force",
            "--no-early-microcode",
            "--kver",
            &version,
            "/mnt/initrd.img",
        ];
        let built = Inside::of(guest)
            .over(&layer)
            .with(dir, "/mnt")
            .run(dracut)
            .success()?;
        let said = format!("{}{}", built.out(), built.err());
        let complaint = said
            .lines()
            .find(|line| COMPLAINTS.iter().any(|mark| line.contains(mark)));
        ensure!(
            complaint.is_none(),
            "dracut built an image, but complained: {said}"
        );
        let listed = Inside::of(guest)
            .with(dir, "/mnt")
            .run(["lsinitrd", "/mnt/initrd.img"])
            .success()?
            .out();
        confidential_modules(guest, &version, &listed)?;
        let size = fs::metadata(dir.join(INITRAMFS))?.len();
        say(&format!("initramfs: {size} bytes"));

        say("making the root file system");
        let enable = ["systemctl", "--quiet", "enable", "vm-probe.service"];
        Inside::of(guest).over(&layer).run(enable).success()?;
        // The overlay once more, without /proc and its like, as the source of a file system.
        let made = Run::new("unshare").args(["-m", "sh", "-euc", MKFS, "sh"]);
        made.args([guest, &layer, &trees::toolbox()?, dir])
            .success()?;
        fs::remove_dir_all(&layer)?;
        Ok(())
    }

    /// Our part, as `make install` and an administrator put it there, and the harness's probe.
    fn put_files(&self, files: &Path, agent: &Path, ca: &[u8]) -> Result<()> {
        let source = trees::here().join("guest");
        let put = |path: &str, content: &[u8]| -> Result<()> {
            let to = files.join(path);
            fs::create_dir_all(to.parent().context("a file has a directory")?)?;
            fs::write(&to, content).with_context(|| format!("cannot write {}", to.display()))
        };
        let mut conf = fs::read_to_string(source.join("dracut.conf"))?;
        if self.suite == Suite::Bookworm {
            // A part of `crypt` until dracut 103.
            conf = conf.replace(" systemd-cryptsetup ", " ");
        }
        put(
            "etc/dracut.conf.d/60-vm.conf",
            format!("{conf}{}", self.dracut).as_bytes(),
        )?;
        // systemd 252 does not take it from the kernel command line.
        put(
            "etc/systemd/system.conf.d/60-vm.conf",
            b"[Manager]\nDefaultDeviceTimeoutSec=600\n",
        )?;
        // What a story wants of it, it asks for in the boot that wrote it.
        put(
            "etc/systemd/journald.conf.d/60-vm.conf",
            b"[Journal]\nStorage=volatile\n",
        )?;
        put(
            "etc/hosts",
            format!("127.0.0.1 localhost\n10.0.2.2 {NAME}\n").as_bytes(),
        )?;
        let module = files.join("usr/lib/dracut/modules.d");
        fs::create_dir_all(&module)?;
        fs::create_dir_all(files.join("usr/bin"))?;
        fs::create_dir_all(files.join("etc/systemd/system"))?;
        Run::new("cp")
            .arg("-a")
            .args([source.join("99probe"), source.join("99seed")])
            .arg(&module)
            .success()?;
        Run::new("cp")
            .arg("-a")
            .arg(source.join("99probe/probe"))
            .arg(files.join("usr/bin/vm-probe"))
            .success()?;
        let unit = source.join("99probe/vm-probe.service");
        Run::new("cp")
            .arg("-a")
            .arg(unit)
            .arg(files.join("etc/systemd/system"))
            .success()?;
        Run::new("chown").args(["-R", "0:0"]).arg(files).success()?;
        let Some(agent_toml) = &self.agent_toml else {
            return Ok(());
        };
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        Run::new("make")
            .args(["--no-print-directory", "-C"])
            .arg(paths::workspace())
            .args([
                "install-files".to_owned(),
                set("DESTDIR", files),
                set("DIST", agent),
            ])
            .success()?;
        put("etc/trustee/agent.toml", agent_toml.as_bytes())?;
        put("etc/trustee/kbs-ca.pem", ca)?;
        Ok(())
    }
}

/// The agent as an initramfs carries it.
fn agent() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SHEEPFOLD_DIST_AGENT") {
        return Ok(path.into());
    }
    let cache = paths::cache()?;
    let target = cache.parent().context("a cache without a parent")?;
    let agent = target.join("dist/trustee-agent");
    ensure!(
        agent.is_file(),
        "{} is not built: run `make dist`",
        agent.display()
    );
    Ok(agent)
}

/// What this kernel has for SEV-SNP and TDX as modules is in the initramfs, whatever machine built it.
fn confidential_modules(guest: &Path, version: &str, listed: &str) -> Result<()> {
    let modules = guest
        .join("usr/lib/modules")
        .join(version)
        .join("modules.dep");
    let known = fs::read_to_string(&modules)
        .with_context(|| format!("cannot read {}", modules.display()))?;
    for name in ["sev-guest", "tdx-guest", "tsm", "tsm_report", "configfs"] {
        let file = format!("/{name}.ko");
        ensure!(
            !known.contains(&file) || listed.contains(&file),
            "the kernel has {name} and the initramfs does not"
        );
    }
    Ok(())
}

const INITRAMFS: &str = "initrd.img";
const ROOT: &str = "root.ext4";
/// What Clevis's own module leaves out is for `clevis luks bind`.
const TPM2: &str = "add_dracutmodules+=\" clevis-pin-tpm2 \"\n\
install_items+=\" /usr/bin/clevis /usr/bin/clevis-luks-bind /usr/bin/clevis-encrypt-tpm2 \
/usr/bin/tpm2_create /usr/bin/tpm2_pcrread /usr/bin/tpm2_createpolicy \"\n";
/// dracut's configuration is bash. Modules that are only left out there would come by themselves.
const UNENCRYPTED: &str = r#"
add_dracutmodules=${add_dracutmodules/ systemd-cryptsetup crypt dm clevis clevis-pin-sss / }
omit_dracutmodules+=" systemd-cryptsetup crypt dm clevis clevis-pin-null clevis-pin-sss clevis-pin-tang clevis-pin-tpm2 "
"#;
/// `NAME INITRAMFS`. The kernel unpacks one archive after the other; each begins at a multiple of four bytes.
const APPEND: &str = r#"
echo "put here by the host" >"$1"
truncate -s %4 "$2"
echo "$1" | cpio --quiet -o -H newc >>"$2"
"#;
/// dracut 059 marks nothing; later ones put the level behind their name.
const COMPLAINTS: [&str; 3] = ["dracut[E]", "dracut[F]", "FAILED"];
/// `GUEST LAYER TOOLBOX DIR`. 16 MiB less than the partition: room for the LUKS2 header that comes before it.
const MKFS: &str = r#"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/files,workdir=$2/work" "$2/merged"
mount --bind "$4" "$3/mnt"
mount --bind "$2/merged" "$3/media"
truncate -s 576M "$4/root.ext4"
exec chroot "$3" mke2fs -q -t ext4 -L root -d /media /mnt/root.ext4 560M
"#;

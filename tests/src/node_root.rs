// SPDX-License-Identifier: Apache-2.0
//! A node's operating system as a directory: Debian with systemd, dracut and Clevis, unpacked by
//! `scripts/node-root` and never installed, so that a developer's own machine keeps its boot image. Tests put
//! the agent into a copy, build an initramfs there with the real dracut, and run programs inside both.
//!
//! Programs run in a mount and user namespace of their own: no root is needed, and the machine's devices,
//! above all its TPM, cannot be reached.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::paths;
use crate::process::{Captured, Run};

/// Which Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12: dracut 059, systemd 252, clevis 19.
    Bookworm,
    /// Debian 13: dracut 106, systemd 257, clevis 20.
    Trixie,
}

/// A directory in which programs of its own can run.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

/// A copy of a node's operating system, deleted when it is dropped.
#[derive(Debug)]
pub struct NodeRoot {
    /// The copy.
    pub tree: Tree,
    _dir: TempDir,
}

/// An initramfs that dracut built.
#[derive(Debug)]
pub struct Initramfs {
    /// Its content, unpacked inside the [`NodeRoot`] it was built in.
    pub tree: Tree,
    /// The size of the image, uncompressed, in bytes.
    pub bytes: u64,
}

impl NodeRoot {
    /// A fresh copy of this Debian. `None`, loudly, where it cannot be had: no Debian, or no namespaces.
    ///
    /// # Errors
    /// The packages cannot be fetched, or the copy cannot be made.
    pub fn new(suite: Suite) -> Result<Option<Self>> {
        if Run::new("unshare").args(["-rm", "true"]).success().is_err() {
            paths::skipped(
                "`unshare -rm` does not work here, so nothing can run inside a node's root",
            );
            return Ok(None);
        }
        let Some(original) = original(suite)? else {
            return Ok(None);
        };
        // Beside the original, so that files can be shared instead of copied. Whoever changes one replaces it.
        let cache = original.parent().context("a cache without a parent")?;
        let dir = tempfile::Builder::new().prefix("copy-").tempdir_in(cache)?;
        let root = dir.path().join("root");
        Run::new("cp")
            .arg("-al")
            .args([&original, &root])
            .success()?;
        let tree = Tree { root };
        Ok(Some(Self { tree, _dir: dir }))
    }

    /// `make install-files` into this root, with the agent built with the tests.
    ///
    /// # Errors
    /// The agent is not built, or cannot be started on this Debian.
    pub fn install(&self) -> Result<()> {
        make_install(&self.tree.root)?;
        self.tree.run(["trustee-agent", "--version"]).success()?;
        Ok(())
    }

    /// Builds an initramfs with these further arguments for dracut. What dracut said is in the error, or
    /// thrown away.
    ///
    /// # Errors
    /// dracut failed, or complained and went on, which leaves an image that does not boot.
    pub fn dracut(&self, args: &[&str]) -> Result<Initramfs> {
        let built = self
            .tree
            .run([
                "dracut",
                "--force",
                "--no-hostonly",
                "--no-hostonly-cmdline",
            ])
            .args(["--no-early-microcode", "--no-compress", "--kver", KVER])
            .args(args)
            .arg(IMAGE)
            .success()?;
        let said = format!("{}{}", built.out(), built.err());
        if let Some(complaint) = said.lines().find(|line| is_complaint(line)) {
            bail!("dracut built an image, but said: {complaint}\n{said}");
        }
        // Without its device nodes, which a namespace may not make.
        let unpack = format!(
            "rm -rf {UNPACKED}; mkdir {UNPACKED} && cd {UNPACKED} && cpio -idm --quiet -f 'dev/*' <{IMAGE}"
        );
        self.tree.run(["sh", "-c", &unpack]).success()?;
        Ok(Initramfs {
            bytes: fs::metadata(self.tree.path(IMAGE))?.len(),
            tree: Tree {
                root: self.tree.path(UNPACKED),
            },
        })
    }
}

impl Tree {
    /// The absolute path `inside`, as seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// Whether there is something at `inside`. A link counts, wherever it points.
    pub fn has(&self, inside: &str) -> bool {
        self.path(inside).symlink_metadata().is_ok()
    }

    /// The text of the file at `inside`.
    ///
    /// # Errors
    /// It is missing or not text.
    pub fn read(&self, inside: &str) -> Result<String> {
        fs::read_to_string(self.path(inside)).with_context(|| format!("cannot read {inside}"))
    }

    /// Writes a file at `inside`, with its directories, in the place of what was there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, inside: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(inside);
        let dir = path.parent().context("a file has a directory")?;
        fs::create_dir_all(dir)?;
        // Replaced, not overwritten: the file may be shared with other copies.
        drop(fs::remove_file(&path));
        fs::write(&path, content).with_context(|| format!("cannot write {inside}"))
    }

    /// Deletes what matches this file name pattern (one `*` at its end) anywhere below; says how many.
    ///
    /// # Errors
    /// `find` is missing.
    pub fn remove(&self, name: &str) -> Result<usize> {
        let found = Run::new("find")
            .arg(&self.root)
            .args(["-name", name, "-print", "-delete"])
            .success()?;
        Ok(found.out().lines().count())
    }

    /// The directory of its shared libraries.
    ///
    /// # Errors
    /// There is none.
    pub fn libdir(&self) -> Result<PathBuf> {
        let usr_lib = self.path("/usr/lib");
        let entries = fs::read_dir(&usr_lib)?.filter_map(Result::ok);
        entries
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with("-linux-gnu"))
            .with_context(|| format!("no library directory in {}", usr_lib.display()))
    }

    /// A program of the tree, about to run inside it: with the processes and the network of this machine,
    /// and of its devices only those that are no device.
    pub fn run<const N: usize>(&self, argv: [&str; N]) -> Run {
        Run::new("unshare")
            .args(["-rm", "sh", "-c", ENTER, "sh"])
            .arg(&self.root)
            .args(argv)
            .deadline(DEADLINE)
    }
}

/// Copies what packagers get into `root`.
///
/// # Errors
/// The agent is not built, or a file cannot be copied.
pub fn make_install(root: &Path) -> Result<Captured> {
    let set = |name: &str, value: &Path| format!("{name}={}", value.display());
    Run::new("make")
        .args(["--no-print-directory", "-C"])
        .arg(paths::workspace())
        .arg("install-files")
        .arg(set("DESTDIR", root))
        .arg(set("DIST", &paths::binary("trustee-agent")?))
        .success()
}

/// The tree as `scripts/node-root` made it, now or earlier.
fn original(suite: Suite) -> Result<Option<PathBuf>> {
    let name = match suite {
        Suite::Bookworm => "bookworm",
        Suite::Trixie => "trixie",
    };
    let script = paths::workspace().join("scripts/node-root");
    // Another script makes another tree.
    let text = fs::read(&script)?;
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&text);
    let short: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
    let dir = paths::cache()?.join(format!("node-root-{name}-{short}"));
    let made = Run::new(script)
        .arg(name)
        .arg(&dir)
        .deadline(DEADLINE)
        .capture()?;
    if made.code == Some(NOT_DEBIAN) {
        paths::skipped(made.err().trim_end());
        return Ok(None);
    }
    made.success().context("no node's root")?;
    Ok(Some(dir))
}

/// dracut 059 marks nothing; later ones put the level behind their name.
fn is_complaint(line: &str) -> bool {
    ["dracut[E]", "dracut[F]", "FAILED"]
        .iter()
        .any(|mark| line.contains(mark))
}

/// The kernel version of the image. There is no such kernel: whoever needs modules makes some.
pub const KVER: &str = "6.0.0-test";
const IMAGE: &str = "/var/tmp/initrd.img";
/// Where an image is unpacked, inside the root it was built in.
pub const UNPACKED: &str = "/var/tmp/initrd";
/// What `scripts/node-root` says where there is no apt.
const NOT_DEBIAN: i32 = 3;
/// Fetching packages over a slow line, or dracut on a busy machine.
const DEADLINE: Duration = Duration::from_secs(600);
/// Gives the directory `$1` /proc and the harmless part of /dev, and runs the rest of the arguments in it.
const ENTER: &str = r#"
set -eu
root=$1
shift
mkdir -p "$root/proc" "$root/dev" "$root/run" "$root/tmp"
mount --rbind /proc "$root/proc"
mount -t tmpfs none "$root/dev"
for device in null zero full random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
# The environment is made outside: an initramfs has no `env`.
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C chroot "$root" "$@"
"#;

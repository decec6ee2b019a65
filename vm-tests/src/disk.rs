// SPDX-License-Identifier: Apache-2.0
//! Disks without device-mapper or partitioned loop devices: an ESP and a root, encrypted in user space, put into a
//! GPT. All identifiers are fixed, as PCR 5 and the kernel command line depend on them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sheepfold_tests::process::Run;

use crate::chain::{Chain, FIRST_BOOT};
use crate::image::Image;
use crate::inside::Inside;
use crate::say::say;
use crate::trees;

/// Writes `dir/root.luks`: the image's root, encrypted with the passphrase in `dir/first-key`.
///
/// # Errors
/// cryptsetup fails.
pub fn encrypt(dir: &Path, image: &Image) -> Result<()> {
    say("encrypting the root file system");
    plain(dir, image)?;
    fs::write(
        dir.join("first-key"),
        "the passphrase that nobody needs after the binding",
    )?;
    let encrypt = [
        "cryptsetup",
        "reencrypt",
        "--encrypt",
        "--type",
        "luks2",
        "--reduce-device-size",
        "16M",
        "--batch-mode",
        "--uuid",
        LUKS_UUID,
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
        "--key-file",
        "first-key",
        "root.luks",
    ];
    Inside::of(&trees::toolbox()?)
        .with(dir, "/mnt")
        .run(encrypt)
        .success()?;
    Ok(())
}

/// Writes `dir/root.luks` as a host can: a file system of its own, not encrypted, under the label of the root.
///
/// # Errors
/// It cannot be written.
pub fn plain(dir: &Path, image: &Image) -> Result<()> {
    Run::new("cp")
        .arg("--sparse=always")
        .arg(&image.root)
        .arg(dir.join("root.luks"))
        .success()?;
    Ok(())
}

/// Writes `dir/disk.raw` with the chain's ESP and `dir/root.luks`.
///
/// # Errors
/// A tool fails.
pub fn assemble(dir: &Path, chain: &Chain) -> Result<()> {
    say("putting the disk together");
    Inside::of(&trees::toolbox()?)
        .with(dir, "/mnt")
        .with(&chain.esp, "/media")
        .run(["sh", "-euc", ASSEMBLE])
        .success()?;
    Ok(())
}

/// Writes `dir/disk.raw` as it comes from a factory: the chain's ESP with the mark of a first boot, the image's root as
/// a seed, an empty partition for the encrypted one.
///
/// # Errors
/// A tool fails.
pub fn unencrypted(dir: &Path, image: &Image, chain: &Chain) -> Result<()> {
    say("putting together a disk on which nothing is encrypted yet");
    mark_first_boot(chain)?;
    let seed = image.root.parent().context("an image has a directory")?;
    Inside::of(&trees::toolbox()?)
        .with(dir, "/mnt")
        .with(&chain.esp, "/media")
        .with(seed, "/opt")
        .run(["sh", "-euc", UNENCRYPTED])
        .success()?;
    Ok(())
}

/// Marks the next boot with this chain's ESP as a first one.
///
/// # Errors
/// It cannot be written.
pub fn mark_first_boot(chain: &Chain) -> Result<()> {
    Ok(fs::write(
        chain.esp.join(FIRST_BOOT.trim_start_matches('/')),
        "",
    )?)
}

/// The LUKS2 metadata of the root on `dir/disk.raw` as [`unencrypted`] has made it.
///
/// # Errors
/// cryptsetup finds no header.
pub fn first_boot_header(dir: &Path) -> Result<Value> {
    fs::write(dir.join("header"), read(dir, 737, 16)?)?;
    let dump = ["cryptsetup", "luksDump", "--dump-json-metadata", "header"];
    let dumped = Inside::of(&trees::toolbox()?)
        .with(dir, "/mnt")
        .run(dump)
        .success()?;
    fs::remove_file(dir.join("header"))?;
    Ok(serde_json::from_slice(&dumped.stdout)?)
}

fn read(dir: &Path, from_mib: u64, mib: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; mib * 1024 * 1024];
    File::open(dir.join("disk.raw"))?.read_exact_at(&mut bytes, from_mib * 1024 * 1024)?;
    Ok(bytes)
}

/// Replaces the ESP of `dir/disk.raw`, as a host can whenever it likes.
///
/// # Errors
/// A tool fails.
pub fn replace_esp(dir: &Path, chain: &Chain) -> Result<()> {
    Inside::of(&trees::toolbox()?)
        .with(dir, "/mnt")
        .with(&chain.esp, "/media")
        .run(["sh", "-euc", ESP])
        .success()?;
    Ok(())
}

/// The UUID of the root's LUKS2 header.
pub const LUKS_UUID: &str = "5eef0000-0000-4000-8000-000000000001";
/// 160 MiB of ESP, 576 of root.
const ASSEMBLE: &str = r"
rm -f disk.raw
truncate -s 738M disk.raw
sfdisk -q disk.raw <<GPT
label: gpt
label-id: 5eef0000-0000-4000-8000-000000000010
start=1MiB, size=160MiB, type=U, name=ESP, uuid=5eef0000-0000-4000-8000-000000000011
start=161MiB, size=576MiB, type=L, name=root, uuid=5eef0000-0000-4000-8000-000000000012
GPT
rm -f esp.img
truncate -s 160M esp.img
mkfs.vfat -F32 -n ESP --invariant -i 12345678 esp.img >/dev/null
cd /media
mcopy -i /mnt/esp.img -s * ::/
cd /mnt
dd if=esp.img of=disk.raw bs=1M seek=1 conv=notrunc,sparse status=none
dd if=root.luks of=disk.raw bs=1M seek=161 conv=notrunc,sparse status=none
rm esp.img root.luks
";
const UNENCRYPTED: &str = r"
rm -f disk.raw
truncate -s 1378M disk.raw
sfdisk -q disk.raw <<GPT
label: gpt
label-id: 5eef0000-0000-4000-8000-000000000010
start=1MiB, size=160MiB, type=U, name=ESP, uuid=5eef0000-0000-4000-8000-000000000011
start=161MiB, size=576MiB, type=L, name=seed, uuid=5eef0000-0000-4000-8000-000000000013
start=737MiB, size=640MiB, type=L, name=root, uuid=5eef0000-0000-4000-8000-000000000012
GPT
truncate -s 160M esp.img
mkfs.vfat -F32 -n ESP --invariant -i 12345678 esp.img >/dev/null
cd /media
mcopy -i /mnt/esp.img -s * ::/
cd /mnt
dd if=esp.img of=disk.raw bs=1M seek=1 conv=notrunc,sparse status=none
dd if=/opt/root.ext4 of=disk.raw bs=1M seek=161 conv=notrunc,sparse status=none
rm esp.img
";
const ESP: &str = r"
rm -f esp.img
truncate -s 160M esp.img
mkfs.vfat -F32 -n ESP --invariant -i 12345678 esp.img >/dev/null
cd /media
mcopy -i /mnt/esp.img -s * ::/
cd /mnt
dd if=esp.img of=disk.raw bs=1M seek=1 conv=notrunc status=none
rm esp.img
";

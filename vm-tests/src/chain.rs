// SPDX-License-Identifier: Apache-2.0
//! The way from the firmware to the kernel: the files on the ESP, the firmware's code and variables, and what a
//! machine will measure on it, predicted from these files before it boots.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use measured_boot::bank::Bank;
use measured_boot::facts::{ImageFacts, ShimFacts, UkiFacts};
use measured_boot::path::{BootPath, Route};
use measured_boot::pe::PeFacts;
use measured_boot::platform::PlatformFacts;
use measured_boot::predict::{Prediction, predict};
use sheepfold_tests::process::Run;

use crate::image::Image;
use crate::inside::Inside;
use crate::say::say;
use crate::trees;

/// Who starts whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Secure Boot with Microsoft's keys, shim, GRUB, Debian's signed kernel.
    ShimGrub,
    /// Secure Boot with a key of our own, a unified kernel image.
    Uki,
}

/// A boot chain: what lies on the ESP and what it measures.
#[derive(Debug)]
pub struct Chain {
    /// Which one.
    pub kind: Kind,
    /// The directory that becomes the ESP.
    pub esp: PathBuf,
    /// The file with the firmware's variables, to be copied for each machine.
    pub variables: PathBuf,
    /// What a machine will measure.
    pub prediction: Prediction,
}

impl Chain {
    /// Puts the files together in `dir`.
    ///
    /// # Errors
    /// A tool fails, or something on the way is not modelled.
    pub fn build(dir: &Path, kind: Kind, image: &Image, command_line: &str) -> Result<Self> {
        say(&format!(
            "boot chain {kind:?}: files and predicted measurements"
        ));
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        let esp = dir.join("esp");
        fs::create_dir_all(esp.join("EFI/BOOT"))?;
        let toolbox = trees::toolbox()?;
        let facts = match kind {
            Kind::ShimGrub => shim_grub(&esp, image, command_line)?,
            Kind::Uki => uki(dir, &esp, image, command_line)?,
        };
        let (_, variables) = kind.firmware();
        let variables = toolbox.join("usr/share/OVMF").join(variables);
        fs::copy(&variables, dir.join("vars.fd"))?;
        let dump = [
            "virt-fw-vars",
            "--input",
            "vars.fd",
            "--output-json",
            "vars.json",
        ];
        Inside::of(&toolbox).with(dir, "/mnt").run(dump).success()?;
        let platform =
            PlatformFacts::from_variable_store("qemu", &fs::read(dir.join("vars.json"))?)?;
        let route = match kind {
            Kind::ShimGrub => BootPath::new(Route::ShimGrub),
            // The initramfs has passed its first phase by the time it wants the disk.
            Kind::Uki => BootPath {
                phases: vec!["enter-initrd".to_owned()],
                ..BootPath::new(Route::Uki)
            },
        };
        let prediction = predict(&facts, &platform, &route)?;
        Ok(Self {
            kind,
            esp,
            variables,
            prediction,
        })
    }

    /// The registers that an approval names, with their predicted values.
    ///
    /// # Errors
    /// The facts do not hold a SHA-256 digest.
    pub fn tuple(&self) -> Result<BTreeMap<u8, [u8; 32]>> {
        let pcrs = self.prediction.pcrs(Bank::Sha256)?;
        let named: &[u8] = match self.kind {
            Kind::ShimGrub => &[4, 7, 14],
            Kind::Uki => &[4, 7, 11, 14],
        };
        named
            .iter()
            .map(|index| Ok((*index, pcrs.get(*index).as_bytes().try_into()?)))
            .collect()
    }
}

impl Kind {
    /// The firmware's code and variables, of those in Debian's package `ovmf`.
    pub fn firmware(self) -> (&'static str, &'static str) {
        match self {
            Self::ShimGrub => ("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd"),
            Self::Uki => ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.snakeoil.fd"),
        }
    }
}

/// The kernel command line of a node whose root is the LUKS2 volume [`crate::disk::LUKS_UUID`]. The words after
/// `quiet` save emulated machines a minute; none has to do with the disk.
pub fn command_line() -> String {
    let uuid = crate::disk::LUKS_UUID;
    format!(
        "root=/dev/mapper/root rd.luks.name={uuid}=root rd.luks.options={uuid}=_netdev \
         console=ttyS0 panic=-1 {QUICK}"
    )
}

/// The same for a root that is not encrypted, whoever has put it there.
pub fn unencrypted_command_line() -> String {
    let line: Vec<String> = command_line()
        .split_whitespace()
        .filter(|word| !word.starts_with("rd.luks."))
        .map(|word| word.replace("/dev/mapper/root", "PARTLABEL=root"))
        .collect();
    line.join(" ")
}

fn shim_grub(esp: &Path, image: &Image, command_line: &str) -> Result<ImageFacts> {
    let read = |path: &str| {
        fs::read(image.guest.join(path)).with_context(|| format!("cannot read {path}"))
    };
    let shim = read("usr/lib/shim/shimx64.efi.signed")?;
    let grub = read("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")?;
    let kernel = fs::read(&image.kernel)?;
    let boot = esp.join("EFI/BOOT");
    fs::write(boot.join("BOOTX64.EFI"), &shim)?;
    fs::write(boot.join("grubx64.efi"), &grub)?;
    fs::write(
        boot.join("mmx64.efi"),
        read("usr/lib/shim/mmx64.efi.signed")?,
    )?;
    fs::write(esp.join("vmlinuz"), &kernel)?;
    fs::copy(&image.initramfs, esp.join("initrd.img"))?;
    // Where Debian's signed GRUB looks.
    fs::create_dir_all(esp.join("EFI/debian"))?;
    fs::write(esp.join("EFI/debian/grub.cfg"), grub_cfg(command_line))?;
    Ok(ImageFacts {
        name: "debian".to_owned(),
        shim: Some(ShimFacts::read("shimx64.efi", &shim)?),
        boot_loader: Some(PeFacts::read("grubx64.efi", &grub)?),
        kernel: Some(PeFacts::read("vmlinuz", &kernel)?),
        ..ImageFacts::default()
    })
}

/// GRUB's configuration. On a first boot, which a file on the ESP marks, Ignition makes the root, and nobody else may
/// wait for it under the same name.
fn grub_cfg(command_line: &str) -> String {
    let first = command_line
        .split_whitespace()
        .filter(|word| !word.starts_with("rd.luks."))
        .collect::<Vec<_>>()
        .join(" ");
    format!(
        "set timeout=0\nserial --unit=0 --speed=115200\nterminal_output serial\n\
         search --no-floppy --label ESP --set=root\n\
         if [ -f {FIRST_BOOT} ]; then\n\
         linux /vmlinuz {first} ignition.firstboot=1 ignition.platform.id=qemu rd.shell=0 rd.emergency=poweroff\n\
         else\n\
         linux /vmlinuz {command_line}\nfi\ninitrd /initrd.img\nboot\n"
    )
}

fn uki(dir: &Path, esp: &Path, image: &Image, command_line: &str) -> Result<ImageFacts> {
    let toolbox = trees::toolbox()?;
    Run::new("cp")
        .args([&image.kernel, &image.initramfs])
        .arg(dir)
        .success()?;
    let kernel = image.kernel.file_name().context("a kernel has a name")?;
    fs::rename(dir.join(kernel), dir.join("vmlinuz"))?;
    fs::write(dir.join("cmdline"), command_line)?;
    let inside = || Inside::of(&toolbox).with(dir, "/mnt");
    let key = [
        "openssl",
        "rsa",
        "-in",
        "/usr/share/ovmf/PkKek-1-snakeoil.key",
        "-passin",
        "pass:snakeoil",
        "-out",
        "key.pem",
    ];
    inside().run(key).success()?;
    let build = [
        "ukify",
        "build",
        "--linux",
        "vmlinuz",
        "--initrd",
        "initrd.img",
        "--cmdline",
        "@cmdline",
        "--os-release",
        "@/etc/os-release",
        "--stub",
        "/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
        "--secureboot-private-key",
        "key.pem",
        "--secureboot-certificate",
        "/usr/share/ovmf/PkKek-1-snakeoil.pem",
        "--output",
        "esp/EFI/BOOT/BOOTX64.EFI",
    ];
    inside().run(build).success()?;
    let file = fs::read(esp.join("EFI/BOOT/BOOTX64.EFI"))?;
    Ok(ImageFacts {
        name: "debian-uki".to_owned(),
        uki: Some(UkiFacts::read("BOOTX64.EFI", &file)?),
        ..ImageFacts::default()
    })
}

/// The file on the ESP that marks a first boot.
pub const FIRST_BOOT: &str = "/ignition.firstboot";
const QUICK: &str = "rw quiet systemd.show_status=0 systemd.log_color=0 \
     cryptomgr.notests no_timer_check random.trust_cpu=on audit=0 lsm=lockdown,integrity mitigations=off \
     init_on_alloc=0 rcupdate.rcu_expedited=1";

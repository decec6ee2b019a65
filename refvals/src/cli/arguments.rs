// SPDX-License-Identifier: Apache-2.0

//! Arguments that several commands take, and what they stand for.

use super::output::Bar;
use crate::{Error, Given, platform, source};
use clap::{Args, ValueEnum};
use measured_boot::bank;
use measured_boot::facts::ImageFacts;
use measured_boot::image::{Architecture, Choice};
use measured_boot::path::{BootPath, Fallback, Route};
use measured_boot::platform::PlatformFacts;
use std::path::PathBuf;

/// An image, and what a person decides about it.
#[derive(Debug, Args)]
pub(super) struct OneImage {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub(super) struct ChoiceArgs {
    /// Beginning of the path of the kernel, shim or image that boots, where there are several.
    #[arg(long, value_name = "PATH")]
    select: Vec<String>,
    /// Who starts whom, where the image does not say.
    #[arg(long, value_enum)]
    boot_path: Option<RouteArg>,
    /// Whose programs.
    #[arg(long, value_enum, default_value = "x64")]
    arch: Arch,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RouteArg {
    /// Firmware, shim, GRUB, kernel.
    ShimGrub,
    /// Firmware, GRUB, kernel.
    Grub,
    /// Firmware, shim, unified kernel image.
    ShimUki,
    /// Firmware, systemd-boot, unified kernel image.
    SdbootUki,
    /// Firmware, unified kernel image.
    Uki,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Arch {
    /// x86-64.
    X64,
    /// AArch64.
    Aa64,
}

impl ChoiceArgs {
    pub(super) fn get(&self) -> Choice {
        Choice {
            select: self.select.clone(),
            route: self.boot_path.map(|route| match route {
                RouteArg::ShimGrub => Route::ShimGrub,
                RouteArg::Grub => Route::Grub,
                RouteArg::ShimUki => Route::ShimUki,
                RouteArg::SdbootUki => Route::SdbootUki,
                RouteArg::Uki => Route::Uki,
            }),
            architecture: match self.arch {
                Arch::X64 => Architecture::X64,
                Arch::Aa64 => Architecture::Aa64,
            },
        }
    }
}

impl OneImage {
    pub(super) fn load(&self) -> Result<ImageFacts, Error> {
        self.how.load(&self.image)
    }
}

/// How to open images.
#[derive(Debug, Args)]
pub(super) struct How {
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Credentials for registries (containers-auth.json); default: those of podman or docker.
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Certificate authorities of registries, PEM; default: the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// HOST=MIRROR[/PREFIX]: ask this mirror first.
    #[arg(long, value_name = "HOST=MIRROR")]
    mirror: Vec<String>,
    /// Speak to this host without TLS, in a laboratory.
    #[arg(long, value_name = "HOST")]
    plain_http: Vec<String>,
    /// Insist on a signature by this public key (PEM), as cosign keeps it.
    #[arg(long, value_name = "FILE")]
    cosign_key: Option<PathBuf>,
    /// Do not use, and do not keep, facts of this digest from before.
    #[arg(long)]
    no_cache: bool,
}

/// What holds nothing that could boot was named by mistake.
fn boots(facts: ImageFacts) -> Result<ImageFacts, Error> {
    let programs = [&facts.boot_loader, &facts.fallback, &facts.kernel];
    let is_empty = programs.iter().all(|program| program.is_none());
    match is_empty && facts.shim.is_none() && facts.uki.is_none() {
        true => Err(Error::NothingBoots { image: facts.name }),
        false => Ok(facts),
    }
}

impl How {
    pub(super) fn load(&self, image: &str) -> Result<ImageFacts, Error> {
        let mut bar = Bar::new();
        let facts = source::load(image, &self.options(), &mut |done, all| bar.set(done, all));
        bar.end();
        facts.and_then(boots)
    }

    pub(super) fn choice(&self) -> Choice {
        self.choice.get()
    }

    fn options(&self) -> source::Options {
        let given = |path: &Option<PathBuf>, option| Some(Given::from(path.clone()?).by(option));
        source::Options {
            choice: self.choice.get(),
            access: source::Access {
                auth_file: given(&self.authfile, "--authfile"),
                ca_file: given(&self.ca, "--ca"),
                mirrors: self.mirror.clone(),
                plain_http: self.plain_http.clone(),
                until: None,
            },
            cosign_key: given(&self.cosign_key, "--cosign-key"),
            cache: source::usual_cache().filter(|_| !self.no_cache),
            most_bytes: None,
        }
    }
}

/// A platform.
#[derive(Debug, Args)]
pub(super) struct OnePlatform {
    /// The platform.
    #[arg(long, value_name = "PLATFORM")]
    platform: String,
}

impl OnePlatform {
    pub(super) fn load(&self) -> Result<PlatformFacts, Error> {
        platform::load(&self.platform, None)
    }
}

/// What happens on the way and is a property of neither.
#[derive(Debug, Args)]
pub(super) struct Path {
    /// How often GRUB measures the kernel, where nobody has counted yet.
    #[arg(long, value_name = "NUMBER")]
    kernel_measurements: Option<u8>,
    /// Boot options that fail before the one that works.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    failed_boot_options: u8,
    /// The machine boots through fallback, which was told not to reset.
    #[arg(long)]
    fallback_continues: bool,
    /// Words that systemd has extended into PCR 11 by the time of the quote, such as enter-initrd.
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    phases: Vec<String>,
}

impl Path {
    pub(super) fn along(&self, image: &ImageFacts) -> Result<BootPath, Error> {
        let route = image.route.ok_or_else(|| Error::NoRoute {
            image: image.name.clone(),
        })?;
        Ok(BootPath {
            kernel_measurements: self.kernel_measurements,
            failed_boot_options: self.failed_boot_options,
            fallback: match self.fallback_continues {
                true => Fallback::Continues,
                false => Fallback::Resets,
            },
            phases: self.phases.clone(),
            ..BootPath::new(route)
        })
    }
}

/// A bank.
#[derive(Debug, Args)]
pub(super) struct Bank {
    /// The bank.
    #[arg(long, value_enum, default_value = "sha256")]
    bank: BankArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BankArg {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Bank {
    pub(super) fn get(&self) -> bank::Bank {
        match self.bank {
            BankArg::Sha256 => bank::Bank::Sha256,
            BankArg::Sha384 => bank::Bank::Sha384,
            BankArg::Sha512 => bank::Bank::Sha512,
        }
    }
}

/// Which PCRs to name.
#[derive(Debug, Args)]
pub(super) struct Pcrs {
    /// PCRs to name; default: all that are predicted.
    #[arg(long = "pcr", value_name = "NUMBERS", value_delimiter = ',')]
    pcrs: Vec<u8>,
}

impl Pcrs {
    pub(super) fn wants(&self, pcr: u8) -> bool {
        self.pcrs.is_empty() || self.pcrs.contains(&pcr)
    }
}

/// For whom.
#[derive(Debug, Args)]
pub(super) struct Format {
    /// table for people, json for programs, yaml for `spec.referenceValues` of an ApprovedImage.
    #[arg(long, value_enum, default_value = "table")]
    format: FormatArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatArg {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For an ApprovedImage.
    Yaml,
}

impl Format {
    pub(super) fn get(&self) -> FormatArg {
        self.format
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Which files of an image boot: shim, boot loader, kernel, unified kernel image, by where distributions put them.
//! Where there are several candidates nobody guesses: they are listed, and a person says which.

use super::content::{Content, Program};
use crate::bank::Digests;
use crate::error::Error;
use crate::facts::{ImageFacts, OsRelease, TextFacts};
use crate::path::Route;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a person decides about an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Choice {
    /// Beginnings of paths: of several candidates, those that begin with one of them count.
    pub select: Vec<String>,
    /// The boot path, where the parts allow several.
    pub route: Option<Route>,
    /// Whose names the programs have.
    pub architecture: Architecture,
}

/// A processor architecture, by its suffix in names of EFI programs (UEFI 2.10, section 3.5.1.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    #[default]
    X64,
    /// AArch64.
    Aa64,
}

impl Architecture {
    fn suffix(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Aa64 => "aa64",
        }
    }
}

type Files = BTreeMap<String, Content>;

/// Finds the parts.
pub(super) fn facts(name: &str, files: &Files, choice: &Choice) -> Result<ImageFacts, Error> {
    let search = Search {
        image: name,
        files,
        choice,
        arch: choice.architecture.suffix(),
    };
    let esp = search.esp()?;
    let mut image = ImageFacts {
        name: name.to_owned(),
        extras: search.extras(&esp),
        os: search.os(),
        grub_configs: search.grub_configs(),
        ..ImageFacts::default()
    };
    let first = search.first_stage(&esp)?;
    if let Some(first) = first.filter(|path| search.is_shim(path)) {
        let shim = search.program(first)?.shim.clone();
        image.shim = shim.map(|mut shim| {
            first.clone_into(&mut shim.file.name);
            shim
        });
        let second = search.beside(&esp, first, &format!("grub{}.efi", search.arch));
        let second = second.or_else(|| search.packaged(GRUB_PACKAGED));
        if let Some(second) = second {
            search.stage(second, &mut image)?;
        }
        let fallback = search.beside(&esp, first, &format!("fb{}.efi", search.arch));
        if let Some(fallback) = fallback.filter(|path| path.contains("/BOOT/")) {
            image.fallback = Some(search.named(fallback)?);
        }
    } else if let Some(first) = first {
        search.stage(first, &mut image)?;
    }
    search.kernels(&mut image)?;
    image.route = choice.route.or_else(|| image.usual_route());
    Ok(image)
}

struct Search<'a> {
    image: &'a str,
    files: &'a Files,
    choice: &'a Choice,
    arch: &'static str,
}

impl<'a> Search<'a> {
    /// Files of the first place that has an `EFI` directory.
    fn esp(&self) -> Result<Vec<&'a str>, Error> {
        for place in ESP {
            let mut found: Vec<&str> = self.paths().filter(|path| place.holds(path)).collect();
            if found.is_empty() {
                continue;
            }
            if place.versioned {
                found = self.one_version_each(found)?;
            }
            return Ok(found);
        }
        Ok(Vec::new())
    }

    /// In `usr/lib/efi/<component>/<version>/EFI`, several versions may lie side by side.
    fn one_version_each(&self, found: Vec<&'a str>) -> Result<Vec<&'a str>, Error> {
        let version = |path: &'a str| -> Option<(&'a str, &'a str)> {
            let (version, _) = path.split_once("/EFI/")?;
            version.rsplit_once('/')
        };
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (component, number) in found.iter().filter_map(|path| version(path)) {
            let known = versions.entry(component).or_default();
            if !known.contains(&number) {
                known.push(number);
            }
        }
        let mut kept = Vec::new();
        for (component, numbers) in versions {
            let candidates = numbers
                .iter()
                .map(|number| format!("{component}/{number}/"));
            if let Some(one) = self.one("versions of a boot component", candidates.collect())? {
                kept.push(one);
            }
        }
        let is_kept = |path: &&str| kept.iter().any(|kept| path.starts_with(kept.as_str()));
        Ok(found.into_iter().filter(is_kept).collect())
    }

    /// What firmware starts.
    fn first_stage(&self, esp: &[&'a str]) -> Result<Option<&'a str>, Error> {
        let shim = format!("shim{}.efi", self.arch);
        let removable = format!("/BOOT/boot{}.efi", self.arch);
        let ends = |path: &str, end: &str| {
            path.to_ascii_lowercase()
                .ends_with(&end.to_ascii_lowercase())
        };
        let mut candidates: Vec<&str> = esp
            .iter()
            .copied()
            .filter(|path| ends(path, &format!("/{shim}")) && !path.contains("/BOOT/"))
            .collect();
        let removable = esp.iter().copied().find(|path| ends(path, &removable));
        match (candidates.as_slice(), removable) {
            ([], None) => {
                return Ok(self
                    .packaged(SHIM_PACKAGED)
                    .or_else(|| self.packaged(SYSTEMD_BOOT)));
            }
            // The same program at both paths, as it should be, measures the same.
            ([one], Some(removable)) if self.same(one, removable) => {}
            (_, Some(removable)) => candidates.push(removable),
            (_, None) => {}
        }
        let paths = candidates.iter().map(|path| (*path).to_owned()).collect();
        let chosen = self.one("programs that firmware may start", paths)?;
        Ok(candidates
            .into_iter()
            .find(|path| Some(*path) == chosen.as_deref()))
    }

    /// A second stage, or a first one that is not shim: boot loader or unified kernel image.
    fn stage(&self, path: &str, image: &mut ImageFacts) -> Result<(), Error> {
        let program = self.program(path)?;
        match &program.uki {
            Some(uki) => {
                let mut uki = uki.clone();
                path.clone_into(&mut uki.file.name);
                image.uki = Some(uki);
            }
            None => image.boot_loader = Some(self.named(path)?),
        }
        Ok(())
    }

    fn kernels(&self, image: &mut ImageFacts) -> Result<(), Error> {
        if image.uki.is_none() && self.choice.route != Some(Route::ShimGrub) {
            let is_uki = |path: &&str| {
                let program = self.program(path);
                UKI.iter().any(|place| in_place(path, place))
                    && !path.ends_with(".addon.efi")
                    && program.is_ok_and(|program| program.uki.is_some())
            };
            let paths = self.paths().filter(is_uki).map(str::to_owned);
            if let Some(path) = self.one("unified kernel images", paths.collect())? {
                image.kernel_release = release(&path);
                self.stage(&path, image)?;
            }
        }
        if image.uki.is_some() {
            return Ok(());
        }
        for place in KERNEL {
            let paths: Vec<String> = self
                .files
                .keys()
                .filter(|path| in_place(path, place))
                .cloned()
                .collect();
            if let Some(path) = self.one("kernels", paths)? {
                image.kernel_release = release(&path);
                image.kernel = Some(self.named(&path)?);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Measured on their way, and not predicted.
    fn extras(&self, esp: &[&'a str]) -> Vec<String> {
        let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
        let beside_shim = esp.iter().copied().filter(|path| {
            let name = name(path);
            let is_efi = name.ends_with(".efi");
            is_efi && (name.starts_with("revocations") || name.starts_with("shim_certificate"))
        });
        let addons = self.files.keys().map(String::as_str).filter(|path| {
            path.ends_with(".addon.efi") && UKI_AND_ADDONS.iter().any(|dir| path.starts_with(dir))
        });
        let options = esp
            .iter()
            .copied()
            .filter(|path| name(path).ends_with(".csv"));
        let with_options = options.filter(|path| match self.files.get(*path) {
            Some(Content::Text(text)) => hands_options(text),
            _ => false,
        });
        let extras = beside_shim.chain(addons).map(str::to_owned);
        extras
            .chain(with_options.map(|path| format!("{path} (load options for shim)")))
            .collect()
    }

    fn os(&self) -> Option<OsRelease> {
        let text = OS_RELEASE
            .iter()
            .find_map(|path| match self.files.get(*path) {
                Some(Content::Text(text)) => Some(String::from_utf8_lossy(text).into_owned()),
                _ => None,
            })?;
        let value = |key: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default()
                .trim_matches(['"', '\''])
                .to_owned()
        };
        Some(OsRelease {
            id: value("ID"),
            version_id: value("VERSION_ID"),
            pretty_name: value("PRETTY_NAME"),
        })
    }

    fn grub_configs(&self) -> Vec<TextFacts> {
        let configs = self
            .files
            .iter()
            .filter(|(path, _)| path.ends_with("grub.cfg"));
        configs
            .filter_map(|(path, content)| match content {
                Content::Text(text) => Some(TextFacts {
                    path: path.clone(),
                    digests: Digests::of(text),
                }),
                _ => None,
            })
            .collect()
    }

    /// A file in the directory of the first stage; in a versioned place, in the same directory of another component.
    fn beside(&self, esp: &[&'a str], first: &str, name: &str) -> Option<&'a str> {
        let directory = |path: &str| -> Option<String> {
            let (_, inside) = path.rsplit_once("EFI/")?;
            Some(inside.rsplit_once('/')?.0.to_owned())
        };
        let wanted = directory(first)?;
        let ends = format!("/{name}");
        esp.iter().copied().find(|path| {
            path.to_ascii_lowercase().ends_with(&ends) && directory(path).as_ref() == Some(&wanted)
        })
    }

    fn packaged(&self, places: [&'static str; 2]) -> Option<&'a str> {
        let found = places.iter().find_map(|place| {
            let path = place.replace("{arch}", self.arch);
            self.files.get_key_value(&path)
        });
        found.map(|(path, _)| path.as_str())
    }

    fn is_shim(&self, path: &str) -> bool {
        // A broken file at shim's place is an error there, not another kind of first stage.
        self.program(path)
            .map_or(true, |program| program.shim.is_some())
    }

    fn same(&self, one: &str, other: &str) -> bool {
        let digests = |path: &str| {
            self.program(path)
                .ok()
                .map(|program| program.file.authenticode.clone())
        };
        digests(one) == digests(other)
    }

    fn program(&self, path: &str) -> Result<&'a Program, Error> {
        match self.files.get(path) {
            Some(Content::Program(program)) => program.as_ref().as_ref().map_err(Clone::clone),
            _ => Err(Error::Unsupported {
                what: format!("{path} of the image {}", self.image),
                why: "it is not an EFI program",
            }),
        }
    }

    /// The facts of a program under its path in the image.
    fn named(&self, path: &str) -> Result<crate::pe::PeFacts, Error> {
        let mut file = self.program(path)?.file.clone();
        path.clone_into(&mut file.name);
        Ok(file)
    }

    fn paths(&self) -> impl Iterator<Item = &'a str> {
        self.files.keys().map(String::as_str)
    }

    /// The only candidate, or the only one that was selected.
    fn one(&self, what: &'static str, candidates: Vec<String>) -> Result<Option<String>, Error> {
        let is_selected = |path: &&String| {
            self.choice
                .select
                .iter()
                .any(|begin| path.starts_with(begin))
        };
        let selected: Vec<&String> = candidates.iter().filter(is_selected).collect();
        match (candidates.as_slice(), selected.as_slice()) {
            ([], _) => Ok(None),
            ([one], _) => Ok(Some(one.clone())),
            (_, [one]) => Ok(Some((*one).clone())),
            _ => Err(Error::Ambiguous {
                image: self.image.to_owned(),
                what,
                candidates,
            }),
        }
    }
}

/// A place where distributions keep what belongs on the ESP.
struct Place {
    prefix: &'static str,
    /// Segments between the prefix and `EFI`.
    versioned: bool,
}

impl Place {
    fn holds(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(self.prefix) else {
            return false;
        };
        match self.versioned {
            true => rest.split('/').nth(2) == Some("EFI"),
            false => true,
        }
    }
}

/// Whether a line of what fallback reads (UTF-16: program, label, options, description) has options.
fn hands_options(text: &[u8]) -> bool {
    let units: Vec<u16> = text
        .as_chunks::<2>()
        .0
        .iter()
        .map(|unit| u16::from_le_bytes(*unit))
        .collect();
    let text = String::from_utf16_lossy(&units);
    text.lines().any(|line| {
        line.split(',')
            .nth(2)
            .is_some_and(|options| !options.trim().is_empty())
    })
}

/// `*` stands for one segment, or for the rest of one.
fn in_place(path: &str, place: &str) -> bool {
    let (mut path, mut place) = (path.split('/'), place.split('/'));
    loop {
        match (path.next(), place.next()) {
            (None, None) => return true,
            (Some(segment), Some(pattern)) => {
                let (begin, end) = pattern.split_once('*').unwrap_or((pattern, ""));
                let is_exact = !pattern.contains('*') && segment == pattern;
                let fits = segment.len() > begin.len().saturating_add(end.len())
                    && segment.starts_with(begin)
                    && segment.ends_with(end);
                if !(is_exact || pattern.contains('*') && fits) {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

/// The directory of modules, or what follows `vmlinuz-`.
fn release(path: &str) -> Option<String> {
    let modules = path
        .strip_prefix("usr/lib/modules/")
        .and_then(|rest| rest.split('/').next());
    modules
        .or_else(|| path.split_once("vmlinuz-").map(|(_, release)| release))
        .map(str::to_owned)
}

const ESP: [Place; 6] = [
    place("usr/lib/efi/", true),
    place("usr/lib/bootupd/updates/EFI/", false),
    place("usr/lib/ostree-boot/efi/EFI/", false),
    place("boot/efi/EFI/", false),
    place("efi/EFI/", false),
    place("EFI/", false),
];
const SHIM_PACKAGED: [&str; 2] = [
    "usr/lib/shim/shim{arch}.efi.signed",
    "usr/lib/shim/shim{arch}.efi",
];
const GRUB_PACKAGED: [&str; 2] = [
    "usr/lib/grub/x86_64-efi-signed/grub{arch}.efi.signed",
    "usr/lib/grub/arm64-efi-signed/grub{arch}.efi.signed",
];
const SYSTEMD_BOOT: [&str; 2] = [
    "usr/lib/systemd/boot/efi/systemd-boot{arch}.efi.signed",
    "usr/lib/systemd/boot/efi/systemd-boot{arch}.efi",
];
const UKI: [&str; 4] = [
    "usr/lib/modules/*/*.efi",
    "boot/EFI/Linux/*.efi",
    "boot/efi/EFI/Linux/*.efi",
    "EFI/Linux/*.efi",
];
const UKI_AND_ADDONS: [&str; 6] = [
    "usr/lib/modules/",
    "boot/",
    "EFI/",
    "loader/addons/",
    "efi/",
    "usr/lib/efi/",
];
const KERNEL: [&str; 4] = [
    "usr/lib/modules/*/vmlinuz",
    "boot/vmlinuz-*",
    "vmlinuz-*",
    "vmlinuz",
];
const OS_RELEASE: [&str; 2] = ["usr/lib/os-release", "etc/os-release"];

const fn place(prefix: &'static str, versioned: bool) -> Place {
    Place { prefix, versioned }
}

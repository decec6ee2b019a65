// SPDX-License-Identifier: Apache-2.0

//! Which files of an image boot: shim, boot loader, kernel, unified kernel image, by where distributions put them.
//! Where there are several candidates nobody guesses: they are listed, and a person says which.

mod places;
mod texts;

use super::content::{Content, Program};
use crate::error::Error;
use crate::facts::ImageFacts;
use crate::path::Route;
use places::{
    ESP, GRUB_MONOLITHIC, GRUB_PACKAGED, KERNEL, SHIM_PACKAGED, SYSTEMD_BOOT, UKI, in_place,
    release,
};
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
        let ends = |path: &str, end: &str| {
            path.to_ascii_lowercase()
                .ends_with(&end.to_ascii_lowercase())
        };
        let called = |name: &str| -> Vec<&str> {
            let name = format!("/{name}{}.efi", self.arch);
            let vendors = esp.iter().copied().filter(|path| !path.contains("/BOOT/"));
            vendors.filter(|path| ends(path, &name)).collect()
        };
        let removable = format!("/BOOT/boot{}.efi", self.arch);
        let removable = esp.iter().copied().find(|path| ends(path, &removable));
        let is_without_shim = self.choice.route == Some(Route::Grub);
        let mut candidates = match is_without_shim {
            true => called("grub"),
            false => called("shim"),
        };
        // What is asked to boot without shim is not shim under the name of removable media.
        let removable = removable.filter(|path| !(is_without_shim && self.is_shim(path)));
        match (candidates.as_slice(), removable) {
            ([], None) if is_without_shim => {
                let signed = self.packaged(GRUB_PACKAGED);
                return Ok(signed.or_else(|| self.packaged(GRUB_MONOLITHIC)));
            }
            ([], None) => {
                if let Some(shim) = self.packaged(SHIM_PACKAGED) {
                    return Ok(Some(shim));
                }
                candidates = called("grub");
                if candidates.is_empty() {
                    return Ok(self.packaged(SYSTEMD_BOOT));
                }
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
        if image.uki.is_none() && !self.choice.route.is_some_and(Route::has_grub) {
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

// SPDX-License-Identifier: Apache-2.0

//! The measurements of each actor of a boot: firmware (PFP 1.06, section 3.3.4), shim (15.6 to 16.1;
//! README.tpm and the order of its MOK import) and GRUB. [`super::run`] says who acts when.

use super::{PredictedEvent, Prediction};
use crate::authority;
use crate::bytes::Blob;
use crate::error::Error;
use crate::eventlog::EventType;
use crate::facts::{ImageFacts, ShimFacts, ShimVersion};
use crate::path::Route;
use crate::pe::PeFacts;
use crate::platform::PlatformFacts;
use crate::sbat;
use crate::uefi::VariableData;
use std::collections::BTreeSet;

/// A boot as far as it has come.
pub(super) struct Sequence<'a> {
    image: &'a ImageFacts,
    platform: &'a PlatformFacts,
    events: Vec<PredictedEvent>,
    unobserved: Vec<String>,
    /// Authorities that firmware has measured: each once.
    by_firmware: Vec<VariableData>,
    /// Authorities that the running shim has measured: each once, whatever firmware did.
    by_shim: Vec<VariableData>,
    sbat_level: Option<Blob>,
}

impl<'a> Sequence<'a> {
    pub(super) fn new(image: &'a ImageFacts, platform: &'a PlatformFacts) -> Self {
        Self {
            image,
            platform,
            events: Vec::new(),
            unobserved: Vec::new(),
            by_firmware: Vec::new(),
            by_shim: Vec::new(),
            sbat_level: platform.variables.get("SbatLevel").cloned(),
        }
    }

    pub(super) fn secure_boot(&self) -> bool {
        self.platform.secure_boot
    }

    pub(super) fn unobserved(&mut self, what: String) {
        self.unobserved.push(what);
    }

    pub(super) fn extend(&mut self, events: Vec<PredictedEvent>) {
        self.events.extend(events);
    }

    pub(super) fn finish(self, route: Route, kernel_measurements: u8) -> Prediction {
        let mut pcrs = BTreeSet::from([4, 7, 14]);
        if route.has_uki() {
            // What was handed over from outside (command line, credentials, extensions) would be in 12 and
            // 13.
            pcrs.extend([11, 12, 13]);
        }
        Prediction {
            events: self.events,
            pcrs,
            kernel_measurements,
            unobserved: self.unobserved,
            sbat_level: self.sbat_level.filter(|_| route.has_shim()),
        }
    }

    /// PCR 7 up to its separator.
    pub(super) fn firmware_configuration(&mut self) {
        let optional = ["dbt", "dbr"];
        let present = optional.map(|name| (name, !self.platform.variable(name).is_empty()));
        let always = ["SecureBoot", "PK", "KEK", "db", "dbx"].map(|name| (name, true));
        for (name, _) in always
            .into_iter()
            .chain(present)
            .filter(|(_, there)| *there)
        {
            let variable = self.platform.measured(name);
            self.push(PredictedEvent::bytes(
                7,
                EventType::VARIABLE_DRIVER_CONFIG,
                format!("the variable {name}"),
                &variable.to_bytes(),
            ));
        }
        for entry in &self.platform.option_rom_authorities {
            let mut authority = self.platform.measured("db");
            authority.data = entry.0.clone();
            self.firmware_authority(authority, "an option ROM");
        }
        self.separator(7);
    }

    /// PCR 4 up to the boot option that works.
    pub(super) fn boot_options(&mut self, failed: u8) {
        self.action(CALLING);
        self.separator(4);
        for _ in 0..failed {
            self.action(RETURNING);
            self.action(CALLING);
        }
    }

    /// Firmware loads a program: authority first, then the program.
    pub(super) fn load_by_firmware(&mut self, file: &PeFacts) -> Result<(), Error> {
        if self.secure_boot() {
            let authority = authority::by_firmware(file, self.platform)?;
            self.firmware_authority(authority, &file.name);
        }
        self.push(PredictedEvent::program(file));
        Ok(())
    }

    /// Firmware loads shim, and shim reads its state. With `fallback`, that twice: shim starts fallback,
    /// which has firmware load shim again.
    pub(super) fn shim(&mut self, fallback: bool) -> Result<(), Error> {
        let shim = super::part(&self.image.shim, self.image, "shim")?;
        self.load_by_firmware(&shim.file)?;
        self.shim_state(shim)?;
        if fallback {
            self.unobserved("a fallback that does not reset".to_owned());
            let fallback = super::part(&self.image.fallback, self.image, "fallback")?;
            self.load_by_shim(fallback)?;
            self.load_by_firmware(&shim.file)?;
            // A new process, which knows nothing of what the first one measured.
            self.by_shim.clear();
            self.shim_state(shim)?;
        }
        Ok(())
    }

    /// What shim measures before it loads anything.
    fn shim_state(&mut self, shim: &ShimFacts) -> Result<(), Error> {
        if shim.version < OLDEST_SHIM {
            return Err(Error::Unsupported {
                what: format!("shim {}", shim.version),
                why: "shim before 15.6 measures other things, and is revoked everywhere",
            });
        }
        if shim.version < OLDEST_OBSERVED_SHIM || shim.version > NEWEST_OBSERVED_SHIM {
            self.unobserved(format!("shim {}", shim.version));
        }
        let platform = self.platform;
        let level = sbat::level_after(
            self.sbat_level.as_ref(),
            shim.sbat_levels.as_ref(),
            self.secure_boot(),
            platform.variable("SbatPolicy") == [SBAT_POLICY_LATEST],
        );
        if self.secure_boot() {
            authority::refuse_by_sbat(&shim.file, &level)?;
        }
        self.mok("MokList", &authority::mok_list(shim, platform));
        self.mok("MokListX", &authority::mok_list_x(shim, platform));
        if let Some(state) = platform.variables.get("MokSBState") {
            self.unobserved("MokSBState".to_owned());
            self.shim_authority(platform.measured("MokSBState"), "MokSBState");
            self.mok("MokSBState", state.as_ref());
        }
        let mut measured = platform.measured("SbatLevel");
        measured.data = level.0.clone();
        self.shim_authority(measured, "SbatLevel");
        self.sbat_level = Some(level);
        if !platform.variables.contains_key("MokListTrusted") {
            if shim.version < TRUSTED_LIST_IN_14_ONLY {
                let mut trusted = platform.measured("MokListTrusted");
                trusted.data = MOK_LIST_TRUSTED.to_vec();
                self.shim_authority(trusted, "MokListTrusted");
            }
            self.mok("MokListTrusted", MOK_LIST_TRUSTED);
        }
        if let Some(policy) = platform.variables.get("MokPolicy") {
            self.unobserved("MokPolicy".to_owned());
            self.mok("MokPolicy", policy.as_ref());
        }
        Ok(())
    }

    /// shim loads a program.
    pub(super) fn load_by_shim(&mut self, file: &PeFacts) -> Result<(), Error> {
        self.verify_by_shim(file)?;
        self.push(PredictedEvent::program(file));
        Ok(())
    }

    /// GRUB has shim verify the kernel, and the kernel is measured `count` times.
    pub(super) fn kernel_by_grub(&mut self, kernel: &PeFacts, count: u8) -> Result<(), Error> {
        self.verify_by_shim(kernel)?;
        for _ in 0..count {
            self.push(PredictedEvent::program(kernel));
        }
        Ok(())
    }

    fn verify_by_shim(&mut self, file: &PeFacts) -> Result<(), Error> {
        let disabled = self.platform.variable("MokSBState") == [1];
        if !self.secure_boot() || disabled {
            return Ok(());
        }
        let shim = super::part(&self.image.shim, self.image, "shim")?;
        let level = self.sbat_level.clone().unwrap_or_default();
        let authorities = authority::by_shim(file, shim, self.platform, &level)?;
        if authorities.len() > 1 {
            self.unobserved(format!("{} with several good signatures", file.name));
        }
        for authority in authorities {
            self.shim_authority(authority, &file.name);
        }
        Ok(())
    }

    fn firmware_authority(&mut self, authority: VariableData, of: &str) {
        if !self.by_firmware.contains(&authority) {
            self.push_authority(&authority, of);
            self.by_firmware.push(authority);
        }
    }

    fn shim_authority(&mut self, authority: VariableData, of: &str) {
        if !self.by_shim.contains(&authority) {
            self.push_authority(&authority, of);
            self.by_shim.push(authority);
        }
    }

    fn push_authority(&mut self, authority: &VariableData, of: &str) {
        let what = match of == authority.name {
            true => format!("the variable {of}"),
            false => format!("the entry of {} that authorised {of}", authority.name),
        };
        let data = authority.to_bytes();
        self.push(PredictedEvent::bytes(
            7,
            EventType::VARIABLE_AUTHORITY,
            what,
            &data,
        ));
    }

    fn mok(&mut self, name: &str, content: &[u8]) {
        let what = format!("the content of {name}");
        self.push(PredictedEvent::bytes(14, EventType::IPL, what, content));
    }

    fn separator(&mut self, pcr: u8) {
        let kind = EventType::SEPARATOR;
        self.push(PredictedEvent::bytes(pcr, kind, "the separator", &[0; 4]));
    }

    fn action(&mut self, text: &str) {
        let what = format!("the action {text:?}");
        self.push(PredictedEvent::bytes(
            4,
            EventType::ACTION,
            what,
            text.as_bytes(),
        ));
    }

    fn push(&mut self, event: PredictedEvent) {
        self.events.push(event);
    }
}

/// PFP 1.06, "EV_EFI_ACTION Event Types".
pub(crate) const CALLING: &str = "Calling EFI Application from Boot Option";
pub(crate) const RETURNING: &str = "Returning from EFI Application from Boot Option";
/// What shim measures for a MokListTrusted that does not exist.
const MOK_LIST_TRUSTED: &[u8] = &[1];
const SBAT_POLICY_LATEST: u8 = 1;
const OLDEST_SHIM: ShimVersion = version(15, 6);
/// From here on MokListTrusted is no authority in PCR 7 any more.
const TRUSTED_LIST_IN_14_ONLY: ShimVersion = version(15, 8);
const OLDEST_OBSERVED_SHIM: ShimVersion = version(15, 8);
const NEWEST_OBSERVED_SHIM: ShimVersion = version(16, 1);

const fn version(major: u16, minor: u16) -> ShimVersion {
    ShimVersion { major, minor }
}

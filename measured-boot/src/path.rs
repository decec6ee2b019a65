// SPDX-License-Identifier: Apache-2.0

//! The way from firmware to the kernel: which parts of an image run, in which order, and what else happens
//! on the way that is measured but is a property of neither image nor platform.

use serde::{Deserialize, Serialize};

/// A boot path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootPath {
    /// Who starts whom.
    pub route: Route,
    /// How often GRUB measures the kernel; absent: looked up ([`crate::grub`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_measurements: Option<u8>,
    /// Boot options that firmware tries, and that return, before the one that boots: an empty disk, a
    /// network without a boot server.
    #[serde(default)]
    pub failed_boot_options: u8,
    /// What `fbx64.efi` does.
    #[serde(default)]
    pub fallback: Fallback,
    /// Phase words that systemd has extended into PCR 11 by the time of the quote
    /// (systemd-pcrphase.service(8)), such as `enter-initrd`.
    #[serde(default)]
    pub phases: Vec<String>,
}

/// Who starts whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// Firmware, shim, GRUB, kernel.
    ShimGrub,
    /// Firmware, GRUB, kernel: with Secure Boot off, or with the owner's own keys in `db`.
    Grub,
    /// Firmware, shim, unified kernel image under the name of the second stage.
    ShimUki,
    /// Firmware, systemd-boot, unified kernel image.
    SdbootUki,
    /// Firmware, unified kernel image.
    Uki,
}

/// What `fbx64.efi` does when it lies beside shim on the removable-media path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// It does not run, or it writes the boot entry and resets: either way the boot that reaches the system
    /// is an ordinary one. It resets whenever there is a TPM.
    #[default]
    Resets,
    /// It was told not to reset, and starts shim a second time.
    Continues,
}

impl BootPath {
    /// An ordinary boot along this route.
    pub fn new(route: Route) -> Self {
        Self {
            route,
            kernel_measurements: None,
            failed_boot_options: 0,
            fallback: Fallback::default(),
            phases: Vec::new(),
        }
    }
}

impl Route {
    /// Whether shim is the first stage.
    pub fn has_shim(self) -> bool {
        matches!(self, Self::ShimGrub | Self::ShimUki)
    }

    /// Whether a unified kernel image is at its end.
    pub fn has_uki(self) -> bool {
        !self.has_grub()
    }

    /// Whether GRUB loads the kernel.
    pub fn has_grub(self) -> bool {
        matches!(self, Self::ShimGrub | Self::Grub)
    }
}

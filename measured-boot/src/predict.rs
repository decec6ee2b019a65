// SPDX-License-Identifier: Apache-2.0

//! From an image, a platform and a boot path to the events that a machine will measure.
//!
//! Events come in the order in which a machine measures them. Within one PCR that order is part of the
//! value; between PCRs it matters only where several share one register ([`crate::rtmr`]).

mod sequence;

use crate::bank::{Bank, Digest, Digests};
use crate::bytes::Blob;
use crate::error::Error;
use crate::eventlog::EventType;
use crate::facts::{ImageFacts, UkiFacts};
use crate::grub;
use crate::path::{BootPath, Fallback, Route};
use crate::pe::PeFacts;
use crate::platform::PlatformFacts;
use crate::replay::Pcrs;
use crate::uki;
use sequence::Sequence;
pub(crate) use sequence::{CALLING, RETURNING};
use serde::Serialize;
use std::collections::BTreeSet;

/// One way a machine may boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// What will be measured, in order.
    pub events: Vec<PredictedEvent>,
    /// The PCRs that it speaks about. All others depend on more than image and platform.
    pub pcrs: BTreeSet<u8>,
    /// How often the kernel is measured in it.
    pub kernel_measurements: u8,
    /// What is in it that nobody has seen on a machine yet. Empty: everything was.
    pub unobserved: Vec<String>,
    /// SbatLevel in NVRAM after this boot, when shim ran.
    pub sbat_level: Option<Blob>,
}

/// One extend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PredictedEvent {
    /// The PCR.
    pub pcr: u8,
    /// The type that its log entry will have.
    pub kind: EventType,
    /// What is measured, in words.
    pub what: String,
    /// Where its digest comes from.
    pub data: Measured,
    /// Whether the operating system measures it, so that it is not in the firmware's log.
    pub runtime: bool,
}

/// Where a digest comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Measured {
    /// The hash of these bytes.
    Bytes(Blob),
    /// A file or section that is not kept: its digests.
    File(Digests),
}

/// Predicts the boot.
///
/// # Errors
/// As [`candidates`], and [`Error::Uncalibrated`] when there is more than one candidate.
pub fn predict(
    image: &ImageFacts,
    platform: &PlatformFacts,
    path: &BootPath,
) -> Result<Prediction, Error> {
    let mut candidates = candidates(image, platform, path)?;
    match candidates.pop() {
        Some(only) if candidates.is_empty() => Ok(only),
        last => Err(Error::Uncalibrated {
            loader: kernel_counts(image, platform, path).loader,
            candidates: candidates
                .iter()
                .chain(&last)
                .map(|candidate| candidate.kernel_measurements)
                .collect(),
        }),
    }
}

/// Every boot that is possible with what is known: several when nobody has counted how often this GRUB
/// measures the kernel.
///
/// # Errors
/// [`Error::MissingPart`] when the image does not have what the path needs; [`Error::NotAuthorised`] and
/// [`Error::Revoked`] when the machine would not boot; [`Error::Unsupported`] for what is measured and not
/// modelled; [`Error::Truncated`] and [`Error::Malformed`] for variables that cannot be read.
pub fn candidates(
    image: &ImageFacts,
    platform: &PlatformFacts,
    path: &BootPath,
) -> Result<Vec<Prediction>, Error> {
    refuse_what_is_not_modelled(image, platform)?;
    let counts = kernel_counts(image, platform, path);
    let boots = counts.candidates.iter().map(|count| {
        let mut sequence = Sequence::new(image, platform);
        if !counts.observed {
            sequence.unobserved(format!(
                "{} measures the kernel {count} times",
                counts.loader
            ));
        }
        run(&mut sequence, image, path, *count)?;
        Ok::<_, Error>(sequence.finish(path.route, *count))
    });
    let (mut possible, mut refused) = (Vec::new(), None);
    for boot in boots {
        match boot {
            Ok(prediction) => possible.push(prediction),
            Err(error) if error.means_no_boot() => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    match refused {
        // A boot that does not start is no candidate beside one that does.
        Some(error) if possible.is_empty() => Err(error),
        _ => Ok(possible),
    }
}

/// The story of a boot.
fn run(
    sequence: &mut Sequence<'_>,
    image: &ImageFacts,
    path: &BootPath,
    kernel_measurements: u8,
) -> Result<(), Error> {
    sequence.firmware_configuration();
    sequence.boot_options(path.failed_boot_options);
    match path.route {
        Route::ShimGrub => {
            sequence.shim(path.fallback == Fallback::Continues)?;
            sequence.load_by_shim(part(&image.boot_loader, image, "boot loader")?)?;
            let kernel = part(&image.kernel, image, "kernel")?;
            sequence.kernel_by_grub(kernel, kernel_measurements)?;
        }
        Route::Grub => {
            sequence.load_by_firmware(part(&image.boot_loader, image, "boot loader")?)?;
            let kernel = part(&image.kernel, image, "kernel")?;
            // Without shim there is nobody to verify it for GRUB: firmware loads the kernel, verifies and measures it,
            // or GRUB reads it as any file.
            for _ in 0..kernel_measurements {
                sequence.load_by_firmware(kernel)?;
            }
        }
        Route::ShimUki => {
            sequence.shim(path.fallback == Fallback::Continues)?;
            let uki = part(&image.uki, image, UKI)?;
            sequence.load_by_shim(&uki.file)?;
            unified_kernel(sequence, uki, path)?;
        }
        Route::SdbootUki => {
            sequence.unobserved("systemd-boot and the image that it starts".to_owned());
            sequence.load_by_firmware(part(&image.boot_loader, image, "boot loader")?)?;
            let uki = part(&image.uki, image, UKI)?;
            sequence.load_by_firmware(&uki.file)?;
            unified_kernel(sequence, uki, path)?;
        }
        Route::Uki => {
            let uki = part(&image.uki, image, UKI)?;
            sequence.load_by_firmware(&uki.file)?;
            unified_kernel(sequence, uki, path)?;
        }
    }
    Ok(())
}

fn unified_kernel(
    sequence: &mut Sequence<'_>,
    uki: &UkiFacts,
    path: &BootPath,
) -> Result<(), Error> {
    if !sequence.secure_boot() {
        sequence.unobserved("a unified kernel image without Secure Boot".to_owned());
    }
    if !path.phases.is_empty() {
        sequence.unobserved("phases of the boot in PCR 11".to_owned());
    }
    sequence.extend(uki::events(uki, &path.phases)?);
    Ok(())
}

/// A machine that does these things measures what we do not predict: better no reference value than one
/// that no machine shows.
fn refuse_what_is_not_modelled(image: &ImageFacts, platform: &PlatformFacts) -> Result<(), Error> {
    if let Some(action) = platform.preboot_actions.first() {
        return Err(Error::Unsupported {
            what: format!(
                "the platform {}, which measures {action:?}",
                platform.platform
            ),
            why: "such firmware is not in a state to trust",
        });
    }
    match image.extras.first() {
        Some(extra) => Err(Error::Unsupported {
            what: format!("{extra} of the image {}", image.name),
            why: "it is measured on its way, and may add trust",
        }),
        None => Ok(()),
    }
}

fn kernel_counts(image: &ImageFacts, platform: &PlatformFacts, path: &BootPath) -> grub::Counts {
    let loader = image.boot_loader.as_ref();
    let sbat = loader.and_then(|loader| loader.sbat.as_deref());
    let counts = grub::kernel_measurements(sbat, platform.secure_boot);
    match (path.route, path.kernel_measurements) {
        // systemd-stub starts the kernel inside without another measurement.
        (Route::ShimUki | Route::SdbootUki | Route::Uki, _) => grub::Counts {
            candidates: vec![0],
            observed: true,
            ..counts
        },
        (Route::ShimGrub | Route::Grub, Some(count)) => grub::Counts {
            candidates: vec![count],
            observed: true,
            ..counts
        },
        // What was counted was counted behind shim.
        (Route::Grub, None) => grub::Counts {
            candidates: vec![0, 1],
            observed: false,
            loader: format!("{} without shim", counts.loader),
        },
        (Route::ShimGrub, None) => counts,
    }
}

fn part<'a, T>(
    part: &'a Option<T>,
    image: &ImageFacts,
    name: &'static str,
) -> Result<&'a T, Error> {
    part.as_ref().ok_or_else(|| Error::MissingPart {
        image: image.name.clone(),
        part: name,
    })
}

impl Prediction {
    /// The PCR values at the end.
    ///
    /// # Errors
    /// [`Error::NoDigest`] when the facts do not hold this bank's digest of a file.
    pub fn pcrs(&self, bank: Bank) -> Result<Pcrs, Error> {
        let mut pcrs = Pcrs::new(bank);
        for event in &self.events {
            pcrs.extend(event.pcr, &event.digest(bank)?);
        }
        Ok(pcrs)
    }

    /// What a firmware's log will say of a PCR, in order: the operating system's own extends are in none.
    pub fn logged(&self, pcr: u8) -> impl Iterator<Item = &PredictedEvent> {
        self.events
            .iter()
            .filter(move |event| event.pcr == pcr && !event.runtime)
    }
}

impl PredictedEvent {
    /// Bytes that are measured as they are.
    pub(crate) fn bytes(pcr: u8, kind: EventType, what: impl Into<String>, data: &[u8]) -> Self {
        Self {
            pcr,
            kind,
            what: what.into(),
            data: Measured::Bytes(Blob::from(data)),
            runtime: false,
        }
    }

    /// An EFI program: EV_EFI_BOOT_SERVICES_APPLICATION in PCR 4 (PFP 1.06, section 3.3.4.5).
    pub(crate) fn program(file: &PeFacts) -> Self {
        Self {
            pcr: 4,
            kind: EventType::BOOT_SERVICES_APPLICATION,
            what: file.name.clone(),
            data: Measured::File(file.authenticode.clone()),
            runtime: false,
        }
    }

    /// What will be extended into this bank.
    ///
    /// # Errors
    /// [`Error::NoDigest`] when the facts do not hold it.
    pub fn digest(&self, bank: Bank) -> Result<Digest, Error> {
        match &self.data {
            Measured::Bytes(bytes) => Ok(bank.hash(bytes.as_ref())),
            Measured::File(digests) => digests.get(bank).cloned().ok_or_else(|| Error::NoDigest {
                what: self.what.clone(),
                bank,
            }),
        }
    }
}

const UKI: &str = "unified kernel image";

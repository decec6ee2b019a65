// SPDX-License-Identifier: Apache-2.0

//! What only the machine knows about its way, read from its log: how many boot options fail there before one works,
//! how often its GRUB measures the kernel. Whoever predicts the next boot of a running machine asks here first, and
//! learns whether its present boot is understood at all.

use crate::bank::Bank;
use crate::error::Error;
use crate::eventlog::EventLog;
use crate::explain::{Difference, differences};
use crate::facts::ImageFacts;
use crate::path::BootPath;
use crate::platform::PlatformFacts;
use crate::predict::{RETURNING, candidates};

/// A boot path as one machine takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calibration {
    /// The path, with what the log says about it.
    pub path: BootPath,
    /// The first difference of each PCR in which the log is not as predicted. Empty: the boot is understood.
    pub differences: Vec<Difference>,
}

/// Holds the log of a machine against what its image, platform and path lead to.
///
/// # Errors
/// As [`candidates`], and [`Error::NoDigest`] when the log or the facts do not have this bank.
pub fn calibrate(
    log: &EventLog,
    image: &ImageFacts,
    platform: &PlatformFacts,
    path: &BootPath,
    bank: Bank,
) -> Result<Calibration, Error> {
    let path = BootPath {
        failed_boot_options: failed_boot_options(log, bank),
        ..path.clone()
    };
    let mut closest: Option<Calibration> = None;
    for prediction in candidates(image, platform, &path)? {
        let differences = differences(log, &prediction, bank)?;
        let is_counted = !differences.iter().any(|difference| difference.pcr == 4);
        let calibration = Calibration {
            path: BootPath {
                kernel_measurements: match is_counted {
                    true => Some(prediction.kernel_measurements),
                    false => path.kernel_measurements,
                },
                ..path.clone()
            },
            differences,
        };
        if closest
            .as_ref()
            .is_none_or(|known| calibration.differences.len() < known.differences.len())
        {
            closest = Some(calibration);
        }
    }
    Ok(closest.unwrap_or(Calibration {
        path,
        differences: Vec::new(),
    }))
}

/// How often firmware says that a boot option returned.
fn failed_boot_options(log: &EventLog, bank: Bank) -> u8 {
    let returned = log.extends().filter(|(_, event)| {
        event.pcr == 4 && event.data == RETURNING.as_bytes() && event.covers_data(bank)
    });
    u8::try_from(returned.count()).unwrap_or(u8::MAX)
}

// SPDX-License-Identifier: Apache-2.0

//! What the kernel says of an active volume, read from sysfs and compared with what was asked for: its name, its
//! UUID with ours in it, and that it lies on our device and on no other.

use super::UnlockError;
use super::header::Header;
use luks_header::Integrity;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Device numbers as sysfs writes them: `8:3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// Of the device that holds the volume.
    pub source: String,
    /// Of the open volume.
    pub active: String,
}

/// The numbers of an active volume and of the device below it.
///
/// # Errors
/// [`UnlockError::Disagrees`] if the volume is not the one that was activated; [`UnlockError::Device`].
pub fn numbers(name: &str, header: &Header) -> Result<Numbers, UnlockError> {
    let failed = |error| UnlockError::Device {
        action: "find in sysfs",
        device: header.device.clone(),
        error,
    };
    let mapped = Path::new("/dev/mapper").join(name);
    let active = number(&mapped).map_err(failed)?;
    let source = number(&header.device).map_err(failed)?;
    let block = Path::new(BLOCK).join(&active);
    let uuid = fs::read_to_string(block.join("dm/uuid")).map_err(failed)?;
    let expected = format!("CRYPT-LUKS2-{}-{name}", header.volume.uuid.replace('-', ""));
    if uuid.trim_end() != expected {
        return Err(UnlockError::Disagrees {
            what: "the name of the active volume",
            found: uuid.trim_end().to_owned(),
            expected,
        });
    }
    let mut below = only_below(&block).map_err(failed)?;
    if header.volume.integrity != Integrity::None {
        // dm-integrity lies between.
        below = only_below(&Path::new(BLOCK).join(&below)).map_err(failed)?;
    }
    if below != source {
        return Err(UnlockError::Disagrees {
            what: "the device below the active volume",
            found: below,
            expected: source,
        });
    }
    Ok(Numbers { source, active })
}

/// The one device that this one lies on.
fn only_below(block: &Path) -> std::io::Result<String> {
    let below: Vec<PathBuf> = fs::read_dir(block.join("slaves"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    match below.as_slice() {
        [one] => fs::read_to_string(one.join("dev")).map(|text| text.trim_end().to_owned()),
        other => Err(std::io::Error::other(format!(
            "it lies on {} devices, expected one",
            other.len()
        ))),
    }
}

fn number(device: &Path) -> std::io::Result<String> {
    let number = fs::metadata(device)?.rdev();
    Ok(format!(
        "{}:{}",
        rustix::fs::major(number),
        rustix::fs::minor(number)
    ))
}

const BLOCK: &str = "/sys/dev/block";

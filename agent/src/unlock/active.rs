// SPDX-License-Identifier: Apache-2.0

//! What the kernel says of an active volume, read from sysfs and compared with what was asked for: its name, its
//! UUID with ours in it, and that it lies on our device and on no other. [`super::table`] has the rest.

use super::header::Header;
use super::{UnlockError, table};
use luks_header::{Integrity, Rules};
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

/// The numbers of an active volume and of the device below it, once everything that the kernel says of it is as the
/// judged header says.
///
/// # Errors
/// [`UnlockError::Disagrees`] if the volume is not the one that was activated; [`UnlockError::Device`].
pub fn numbers(name: &str, header: &Header, rules: &Rules) -> Result<Numbers, UnlockError> {
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
    table::read_back(name, &header.volume, rules, &below)?;
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

/// Every open LUKS2 volume below `sys`, by name, with the device that holds its header.
///
/// # Errors
/// sysfs cannot be read, or a volume lies on something that is not one device.
pub fn active_volumes(sys: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut volumes = Vec::new();
    for entry in fs::read_dir(sys.join("block"))? {
        let block = entry?.path();
        let read = |file: &str| fs::read_to_string(block.join("dm").join(file));
        let Ok(uuid) = read("uuid") else {
            continue; // not a device of the mapper
        };
        if !uuid.starts_with("CRYPT-LUKS2-") {
            continue;
        }
        let name = read("name")?.trim_end().to_owned();
        let mut below = slave(&block)?;
        // dm-integrity lies between.
        let between = sys.join("block").join(&below).join("dm/uuid");
        if fs::read_to_string(between).is_ok_and(|uuid| uuid.starts_with("CRYPT-INTEGRITY-")) {
            below = slave(&sys.join("block").join(&below))?;
        }
        volumes.push((name, Path::new("/dev").join(below)));
    }
    volumes.sort();
    Ok(volumes)
}

/// The name of the one device that this one lies on.
fn slave(block: &Path) -> std::io::Result<String> {
    let names: Vec<_> = fs::read_dir(block.join("slaves"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    match <[String; 1]>::try_from(names) {
        Ok([one]) => Ok(one),
        Err(other) => Err(lies_on(other.len())),
    }
}

fn lies_on(devices: usize) -> std::io::Error {
    std::io::Error::other(format!("it lies on {devices} devices, expected one"))
}

/// The one device that this one lies on.
fn only_below(block: &Path) -> std::io::Result<String> {
    let below: Vec<PathBuf> = fs::read_dir(block.join("slaves"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    match below.as_slice() {
        [one] => fs::read_to_string(one.join("dev")).map(|text| text.trim_end().to_owned()),
        other => Err(lies_on(other.len())),
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

#[cfg(test)]
mod tests {
    use super::active_volumes;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// As sysfs shows a device of the mapper.
    fn mapped(sys: &Path, device: &str, uuid: &str, name: &str, below: &[&str]) {
        let block = sys.join("block").join(device);
        fs::create_dir_all(block.join("dm")).unwrap();
        fs::create_dir_all(block.join("slaves")).unwrap();
        fs::write(block.join("dm/uuid"), format!("{uuid}\n")).unwrap();
        fs::write(block.join("dm/name"), format!("{name}\n")).unwrap();
        for device in below {
            fs::create_dir(block.join("slaves").join(device)).unwrap();
        }
    }

    #[test]
    fn open_volumes_are_found_with_the_device_below() {
        let sys = tempfile::tempdir().unwrap();
        fs::create_dir_all(sys.path().join("block/vda")).unwrap();
        assert_eq!(active_volumes(sys.path()).unwrap(), []);
        mapped(sys.path(), "dm-0", "LVM-1", "lv", &["vda"]);
        mapped(sys.path(), "dm-1", "CRYPT-LUKS2-1-root", "root", &["vda4"]);
        mapped(
            sys.path(),
            "dm-2",
            "CRYPT-INTEGRITY-data_dif",
            "data_dif",
            &["vdb"],
        );
        mapped(sys.path(), "dm-3", "CRYPT-LUKS2-2-data", "data", &["dm-2"]);
        let found = [("data", "/dev/vdb"), ("root", "/dev/vda4")];
        let found = found.map(|(name, device)| (name.to_owned(), PathBuf::from(device)));
        assert_eq!(active_volumes(sys.path()).unwrap(), found);
        mapped(
            sys.path(),
            "dm-4",
            "CRYPT-LUKS2-3-two",
            "two",
            &["vdc", "vdd"],
        );
        let error = active_volumes(sys.path()).unwrap_err().to_string();
        assert_eq!(error, "it lies on 2 devices, expected one");
    }
}

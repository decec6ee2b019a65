// SPDX-License-Identifier: Apache-2.0

//! What the kernel says of an active volume, read from sysfs and compared with what was asked for: its name, its
//! UUID with ours in it, and that it lies on our device and on no other. [`super::table`] has the rest.

use super::UnlockError;
use super::table::{Meant, Target};
use luks_header::Integrity;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel tells of open volumes.
#[derive(Debug, Clone)]
pub struct Active {
    /// `/sys`.
    pub sys: PathBuf,
    /// The device mapper: the targets of the volume of this name.
    pub table: fn(&str) -> io::Result<Vec<Target>>,
}

impl Default for Active {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            table: super::table::of_kernel,
        }
    }
}

impl Active {
    /// The number of the open volume `name`, once everything that the kernel says of it is as it was meant, and it lies on
    /// the device `source` alone; `None` if no volume of this name is open. Numbers are as sysfs writes them: `8:3`.
    ///
    /// # Errors
    /// [`UnlockError::Disagrees`] if the volume is not the one that was meant; [`UnlockError::Active`].
    pub fn read_back(
        &self,
        name: &str,
        meant: &Meant,
        source: &str,
    ) -> Result<Option<String>, UnlockError> {
        let failed = |error| UnlockError::Active {
            name: name.to_owned(),
            error,
        };
        let Some(block) = self.find(name).map_err(failed)? else {
            return Ok(None);
        };
        let uuid = line(&block.join("dm/uuid")).map_err(failed)?;
        let expected = format!("CRYPT-LUKS2-{}-{name}", meant.luks_uuid.replace('-', ""));
        if uuid != expected {
            return Err(UnlockError::Disagrees {
                what: "the name of the active volume",
                found: uuid,
                expected,
            });
        }
        let mut below = self.only_below(&block).map_err(failed)?;
        let number = |block: &Path| line(&block.join("dev")).map_err(failed);
        meant.is(&(self.table)(name).map_err(failed)?, &number(&below)?)?;
        if meant.integrity != Integrity::None {
            // dm-integrity lies between.
            below = self.only_below(&below).map_err(failed)?;
        }
        let found = number(&below)?;
        if found != source {
            return Err(UnlockError::Disagrees {
                what: "the device below the active volume",
                found,
                expected: source.to_owned(),
            });
        }
        number(&block).map(Some)
    }

    /// The device of the mapper that has this name.
    fn find(&self, name: &str) -> io::Result<Option<PathBuf>> {
        for entry in fs::read_dir(self.sys.join("dev/block"))? {
            let block = entry?.path();
            if line(&block.join("dm/name")).is_ok_and(|found| found == name) {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    fn only_below(&self, block: &Path) -> io::Result<PathBuf> {
        Ok(block.join("slaves").join(slave(block)?))
    }
}

/// Every open LUKS2 volume below `sys`, by name, with the device that holds its header.
///
/// # Errors
/// sysfs cannot be read, or a volume lies on something that is not one device.
pub fn active_volumes(sys: &Path) -> io::Result<Vec<(String, PathBuf)>> {
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
fn slave(block: &Path) -> io::Result<String> {
    let names: Vec<_> = fs::read_dir(block.join("slaves"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    match <[String; 1]>::try_from(names) {
        Ok([one]) => Ok(one),
        Err(other) => Err(lies_on(other.len())),
    }
}

fn lies_on(devices: usize) -> io::Error {
    io::Error::other(format!("it lies on {devices} devices, expected one"))
}

fn line(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim_end().to_owned())
}

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
        // On a volume of another kind it lies on that.
        mapped(sys.path(), "dm-5", "CRYPT-LUKS2-4-on", "on", &["dm-0"]);
        let found = [
            ("data", "/dev/vdb"),
            ("on", "/dev/dm-0"),
            ("root", "/dev/vda4"),
        ];
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

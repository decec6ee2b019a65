// SPDX-License-Identifier: Apache-2.0

//! Block devices as sysfs shows them: `/sys/dev/block/MAJOR:MINOR` (Linux ABI, sysfs-block and
//! sysfs-block-dm).

use super::GuardError;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(u32, u32);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

impl FromStr for Number {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once(':').ok_or(())?;
        let number = |text: &str| text.parse().map_err(drop);
        Ok(Self(number(major)?, number(minor)?))
    }
}

/// The block devices of a machine.
pub(super) struct Block {
    sys: PathBuf,
}

impl Block {
    pub(super) fn new(sys: &Path) -> Self {
        Self {
            sys: sys.to_owned(),
        }
    }

    pub(super) fn exists(&self, device: Number) -> bool {
        self.directory(device).is_dir()
    }

    /// Name and UUID of a device-mapper device; `None` for any other.
    pub(super) fn mapper(&self, device: Number) -> Option<(String, String)> {
        let mapper = self.directory(device).join("dm");
        Some((line(&mapper.join("name"))?, line(&mapper.join("uuid"))?))
    }

    /// The devices that this one is made of.
    pub(super) fn slaves(&self, device: Number) -> Result<Vec<Number>, GuardError> {
        list(&self.directory(device).join("slaves"))
    }

    /// Whether this device lies on that one alone; with dm-integrity there is one device in between.
    pub(super) fn rests_on(&self, device: Number, source: &str) -> Result<bool, GuardError> {
        let mut device = device;
        for _ in 0..=LAYERS_OF_ONE_VOLUME {
            let &[below] = self.slaves(device)?.as_slice() else {
                return Ok(false);
            };
            if below.to_string() == source {
                return Ok(true);
            }
            device = below;
        }
        Ok(false)
    }

    /// All devices of the btrfs that `source`, a device node of the kernel's choice, belongs to.
    pub(super) fn btrfs_with(&self, source: &str) -> Result<Vec<Number>, GuardError> {
        let of_mapper = |device: &Number| {
            self.mapper(*device)
                .is_some_and(|(name, _)| source == format!("/dev/mapper/{name}"))
        };
        for system in directories(&self.sys.join("fs/btrfs"))? {
            let devices = list(&system.join("devices"))?;
            if devices.iter().any(of_mapper) {
                return Ok(devices);
            }
        }
        Ok(Vec::new())
    }

    /// For a sentence: the kernel's name and the number.
    pub(super) fn describe(&self, device: Number) -> String {
        let directory = self.directory(device).canonicalize().unwrap_or_default();
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        match self.mapper(device) {
            Some((mapper, _)) => format!("{mapper:?} ({name}, {device})"),
            None => format!("{name} ({device})"),
        }
    }

    fn directory(&self, device: Number) -> PathBuf {
        self.sys.join("dev/block").join(device.to_string())
    }
}

/// The numbers of the devices that a directory links to.
fn list(directory: &Path) -> Result<Vec<Number>, GuardError> {
    directories(directory)?
        .iter()
        .map(|device| {
            let path = device.join("dev");
            line(&path)
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| GuardError::Unreadable {
                    path,
                    source: std::io::ErrorKind::InvalidData.into(),
                })
        })
        .collect()
}

/// What is in a directory; nothing where there is none.
fn directories(path: &Path) -> Result<Vec<PathBuf>, GuardError> {
    let unreadable = |source| GuardError::Unreadable {
        path: path.to_owned(),
        source,
    };
    match std::fs::read_dir(path) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(unreadable))
            .filter(|path| path.as_ref().map_or(true, |path| path.is_dir()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(unreadable(error)),
    }
}

/// A file of sysfs with one line.
fn line(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_LINE).read_to_string(&mut text))
        .ok()?;
    Some(text.trim_end_matches('\n').to_owned())
}

/// A page: sysfs has no longer ones.
const LONGEST_LINE: u64 = 4096;
/// dm-crypt on dm-integrity.
const LAYERS_OF_ONE_VOLUME: usize = 1;

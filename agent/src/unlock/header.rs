// SPDX-License-Identifier: Apache-2.0

//! A volume's header in memory: read once from the device, judged, and written anew. From here on the device's own
//! header is not looked at again.

use super::UnlockError;
use luks_header::{Extent, HEAD_SIZE, Rules, Volume, examine};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// A header that this node may open.
pub struct Header {
    /// The verdict.
    pub volume: Volume,
    /// The device that it was read from.
    pub device: PathBuf,
    /// Major and minor number of that device, as sysfs writes them: its name may mean another one by now.
    pub number: String,
    memory: File,
    /// Length of the memory in bytes.
    size: u64,
    /// Length of one of the two copies in bytes.
    copy: usize,
}

impl Header {
    /// Reads and judges the header of a device.
    ///
    /// # Errors
    /// [`UnlockError::Device`], or [`UnlockError::Header`] for one that is refused.
    pub fn read(device: &Path, rules: &Rules, extent: Extent) -> Result<Self, UnlockError> {
        let failed = |action, error| UnlockError::Device {
            action,
            device: device.to_owned(),
            error,
        };
        let mut file = File::open(device).map_err(|error| failed("open", error))?;
        let number = file
            .metadata()
            .map_err(|error| failed("look at", error))?
            .rdev();
        let mut head = Vec::new();
        let most = u64::try_from(HEAD_SIZE).unwrap_or(u64::MAX);
        std::io::Read::by_ref(&mut file)
            .take(most)
            .read_to_end(&mut head)
            .map_err(|error| failed("read", error))?;
        let refused = |refusal| UnlockError::Header {
            device: device.to_owned(),
            refusal,
        };
        let volume = examine(&head, rules).map_err(refused)?;
        let image = volume.image(extent).map_err(refused)?;
        let end = file
            .seek(SeekFrom::End(0))
            .map_err(|error| failed("measure", error))?;
        if end <= volume.payload {
            let error = std::io::Error::new(
                ErrorKind::UnexpectedEof,
                format!("it ends at byte {end}, before its payload"),
            );
            return Err(failed("use", error));
        }

        let memory = memfd_create(
            "luks-header",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )
        .map(File::from)
        .map_err(|error| UnlockError::Memory(error.into()))?;
        memory.set_len(image.size).map_err(UnlockError::Memory)?;
        memory
            .write_all_at(&image.head, 0)
            .map_err(UnlockError::Memory)?;
        for area in &image.areas {
            // The rules bound its size: a few hundred KiB.
            let mut bytes = vec![0; usize::try_from(area.size).unwrap_or_default()];
            file.read_exact_at(&mut bytes, area.offset)
                .map_err(|error| failed("read", error))?;
            memory
                .write_all_at(&bytes, area.offset)
                .map_err(UnlockError::Memory)?;
        }
        Ok(Self {
            volume,
            device: device.to_owned(),
            number: format!(
                "{}:{}",
                rustix::fs::major(number),
                rustix::fs::minor(number)
            ),
            memory,
            size: image.size,
            copy: image.head.len() / 2,
        })
    }

    /// The memory as it is now.
    ///
    /// # Errors
    /// [`UnlockError::Memory`].
    pub fn bytes(&self) -> Result<Vec<u8>, UnlockError> {
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or_default()];
        let read = self.memory.read_exact_at(&mut bytes, 0);
        read.map(|()| bytes).map_err(UnlockError::Memory)
    }

    /// Length of one of the two copies of the header, in bytes.
    pub fn copy(&self) -> usize {
        self.copy
    }

    /// The header's name, as long as it lives. Only this process can follow it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.memory.as_raw_fd()))
    }
}

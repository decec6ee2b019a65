// SPDX-License-Identifier: Apache-2.0

//! The guard: what is mounted as root is a volume that the agent opened, and nothing else.
//!
//! The initramfs mounts whatever has the root's UUID or label, and the host writes UUIDs. So before control leaves,
//! `trustee-agent guard` asks the kernel which block device is mounted at `/sysroot` and walks down from it: every
//! path must end in a device-mapper volume whose name, UUID and numbers are those that `unlock` recorded, on the
//! very device whose header was checked. What systemd-cryptsetup opened with a passphrase of the agent's is [confirmed]
//! first: the kernel's table must say what the judged header said.
//!
//! [confirmed]: confirm

mod block;
mod mountinfo;

use crate::state::{State, Volume};
use crate::unlock::{Active, UnlockError};
use block::{Block, Number};
use kbs_protocol::{Blame, Owner, Persistence};
use mountinfo::Mount;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel tells of mounts and devices.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `/proc/self/mountinfo`.
    pub mountinfo: PathBuf,
    /// Devices, and the tables of those of the mapper.
    pub active: Active,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            mountinfo: "/proc/self/mountinfo".into(),
            active: Active::default(),
        }
    }
}

/// The volumes that were opened with a passphrase of the agent's, once what the kernel made of them is what was judged.
/// Those that are not open are none of the root's.
///
/// # Errors
/// [`UnlockError::Disagrees`]: the header was changed after it was judged. [`UnlockError::Active`].
pub fn confirm(state: &State, kernel: &Kernel) -> Result<Vec<(String, Volume)>, UnlockError> {
    let mut volumes = Vec::new();
    for (name, answered) in &state.answered {
        let source = &answered.source_number;
        let active = kernel.active.read_back(name, &answered.table, source)?;
        let Some(number) = active else { continue };
        volumes.push((name.clone(), answered.opened_as(&number)));
    }
    Ok(volumes)
}

/// Checks that every block device under `root` is one of the recorded volumes, and names those.
///
/// # Errors
/// [`GuardError`]: the machine must not boot what is there.
pub fn guard(root: &Path, state: &State, kernel: &Kernel) -> Result<Vec<String>, GuardError> {
    if state.volumes.is_empty() {
        return Err(GuardError::NothingOpened);
    }
    let block = Block::new(&kernel.active.sys);
    let ours = |device| ours(device, &block, state);
    everything_below(root, kernel, &block, &ours)
}

/// Checks that every block device under `root` is a LUKS2 volume, whoever opened it, and names those: for a node that is
/// told to let people in.
///
/// # Errors
/// As [`guard`].
pub fn guard_recovery(root: &Path, kernel: &Kernel) -> Result<Vec<String>, GuardError> {
    let block = Block::new(&kernel.active.sys);
    let encrypted = |device| {
        let mapped = block.mapper(device);
        Ok(mapped.and_then(|(name, uuid)| uuid.starts_with(LUKS2).then_some(name)))
    };
    everything_below(root, kernel, &block, &encrypted)
}

/// Whether a device is one that may be booted: its name, or nothing.
type May<'m> = &'m dyn Fn(Number) -> Result<Option<String>, GuardError>;

fn everything_below(
    root: &Path,
    kernel: &Kernel,
    block: &Block,
    may: May<'_>,
) -> Result<Vec<String>, GuardError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| GuardError::Unreadable { path, source }
    };
    let text = mountinfo::read(&kernel.mountinfo).map_err(unreadable(&kernel.mountinfo))?;
    let mount = Mount::at(root, &text).ok_or_else(|| GuardError::NotMounted {
        root: root.to_owned(),
    })?;
    let mut names = Vec::new();
    for device in devices_of(&mount, block)? {
        walk(device, block, may, DEPTH, &mut names)?;
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The block devices that a file system lies on.
fn devices_of(mount: &Mount, block: &Block) -> Result<Vec<Number>, GuardError> {
    if block.exists(mount.number) {
        return Ok(vec![mount.number]);
    }
    // btrfs mounts a number of its own; sysfs lists what is below.
    let devices = match mount.kind.as_str() {
        "btrfs" => block.btrfs_with(&mount.source)?,
        _ => Vec::new(),
    };
    if devices.is_empty() {
        return Err(GuardError::NoBlockDevice {
            kind: mount.kind.clone(),
            from: mount.source.clone(),
        });
    }
    Ok(devices)
}

/// One of ours, or made of nothing but ours (LVM, RAID).
fn walk(
    device: Number,
    block: &Block,
    may: May<'_>,
    depth: usize,
    names: &mut Vec<String>,
) -> Result<(), GuardError> {
    if let Some(name) = may(device)? {
        names.push(name);
        return Ok(());
    }
    let below = block.slaves(device)?;
    let Some(depth) = depth.checked_sub(1).filter(|_| !below.is_empty()) else {
        return Err(GuardError::Foreign {
            device: block.describe(device),
        });
    };
    for device in below {
        walk(device, block, may, depth, names)?;
    }
    Ok(())
}

/// The name under which this device was recorded, if everything about it is as recorded.
fn ours(device: Number, block: &Block, state: &State) -> Result<Option<String>, GuardError> {
    let Some((name, uuid)) = block.mapper(device) else {
        return Ok(None);
    };
    let Some(volume) = state.volumes.get(&name) else {
        return Ok(None);
    };
    let expected = format!("{LUKS2}{}-{name}", volume.luks_uuid.replace('-', ""));
    let same = uuid == expected
        && volume.number == device.to_string()
        && block.rests_on(device, &volume.source_number)?;
    if same {
        return Ok(Some(name));
    }
    Err(GuardError::NotAsOpened { name })
}

/// Why the root is not what was opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The agent has opened no volume in this boot.
    #[error("the agent has opened no volume in this boot, so the root is none of its own")]
    NothingOpened,
    /// Nothing is mounted there.
    #[error("nothing is mounted at {}", .root.display())]
    NotMounted {
        /// The mount point.
        root: PathBuf,
    },
    /// A file system without a block device below.
    #[error("the root is a file system {kind:?} of {from:?}, which lies on no block device")]
    NoBlockDevice {
        /// Its type.
        kind: String,
        /// What it was mounted from, as the kernel says.
        from: String,
    },
    /// A device that is not ours.
    #[error("the root lies on {device}, which the agent did not open")]
    Foreign {
        /// The device.
        device: String,
    },
    /// It has the name of one of ours.
    #[error("the volume {name} is not the one that the agent opened under this name")]
    NotAsOpened {
        /// The device-mapper name.
        name: String,
    },
    /// The kernel does not tell.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Blame for GuardError {
    fn owner(&self) -> Owner {
        match self {
            Self::NothingOpened | Self::Unreadable { .. } | Self::NotMounted { .. } => {
                Owner::Machine
            }
            Self::NoBlockDevice { .. } | Self::Foreign { .. } | Self::NotAsOpened { .. } => {
                Owner::Data
            }
        }
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        match self {
            Self::NothingOpened => {
                "see that the root is an encrypted volume which trustee-unlock@ opens (trustee-key@ in the mode socket): \
                 root= and rd.luks.name= on the kernel command line; a volume that was opened at a prompt is none. If the root \
                 is not mounted at all, what failed before says why: `systemctl --failed`"
            }
            Self::NotMounted { .. } => {
                "see why sysroot.mount failed (`systemctl status sysroot.mount`); by hand, run it after that"
            }
            Self::NoBlockDevice { .. } => {
                "boot from an encrypted volume; run the guard before anything is mounted over the root"
            }
            Self::Foreign { .. } | Self::NotAsOpened { .. } => {
                "somebody has put another disk, or another file system with the root's UUID or label, in its \
                 place: do not boot it; look at root= and at the disks of this machine"
            }
            Self::Unreadable { .. } => "mount /proc and /sys",
        }
        .to_owned()
    }
}

/// How the device mapper calls a LUKS2 volume that is open; its UUID and its name follow.
const LUKS2: &str = "CRYPT-LUKS2-";
/// LVM on RAID on crypt is three; more is a loop.
const DEPTH: usize = 6;

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! The kernel's own interface to reports of confidential machines, configfs-tsm
//! (Documentation/ABI/testing/configfs-tsm-report, Linux 6.7): `snp` and `tdx` ask through it.
//!
//! One request is one directory: make it, write what is to be signed to `inblob`, read `outblob`, remove it.
//! `provider` says which driver answers; `generation` counts writes, so that a second writer is noticed.

use super::tee_error::TeeError;
use kbs_protocol::Tee;
use rand_core::{OsRng, RngCore as _};
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

/// The directory of requests.
pub(super) struct Tsm(PathBuf);

/// What the processor signed, and what the host adds.
pub(super) struct Signed {
    /// `outblob`.
    pub(super) report: Vec<u8>,
    /// `auxblob`; empty where the driver has none.
    pub(super) auxiliary: Vec<u8>,
}

impl Tsm {
    /// The interface below `root`, if the kernel has it. An initramfs may not have mounted configfs yet.
    pub(super) fn find(root: &Path) -> Option<Self> {
        let reports = root.join(REPORTS);
        if !reports.is_dir() && root == Path::new("/") {
            mount_configfs();
        }
        reports.is_dir().then_some(Self(reports))
    }

    /// What of the interface is not there, from below.
    pub(super) fn what_is_missing(root: &Path) -> &'static str {
        let known = fs::read_to_string(root.join("proc/filesystems")).unwrap_or_default();
        if !known.lines().any(|line| line.ends_with("\tconfigfs")) {
            "the kernel module configfs is not loaded"
        } else if !root.join(CONFIGFS_BELOW).join("tsm").is_dir()
            && !is_mounted(root, &format!("/{CONFIGFS_BELOW}"))
        {
            "configfs is not mounted at /sys/kernel/config"
        } else {
            "the kernel module tsm_report (tsm before Linux 6.16) is not loaded"
        }
    }

    /// Makes sure that the driver behind it is the one for this kind of evidence.
    pub(super) fn expect(&self, tee: Tee, expected: &'static str) -> Result<(), TeeError> {
        Request::make(self, tee)?.expect(tee, expected)
    }

    /// Has 64 bytes signed, once.
    pub(super) fn sign(
        &self,
        tee: Tee,
        provider: &'static str,
        data: &[u8],
    ) -> Result<Signed, TeeError> {
        let request = Request::make(self, tee)?;
        request.expect(tee, provider)?;
        if let Some(level) = request.optional("privlevel_floor")?
            && level != "0"
        {
            return Err(TeeError::Privilege { level });
        }
        let inblob = request.0.join("inblob");
        fs::write(&inblob, data).map_err(|error| TeeError::io("write", inblob, error))?;
        let report = request.read("outblob", REPORT_LIMIT)?;
        let auxiliary = match request.read("auxblob", AUXILIARY_LIMIT) {
            Err(TeeError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        // One write was ours.
        match request.text("generation")?.as_str() {
            "1" => Ok(Signed { report, auxiliary }),
            _ => Err(TeeError::Conflict),
        }
    }
}

/// One request; gone when dropped.
struct Request(PathBuf);

impl Request {
    fn make(tsm: &Tsm, tee: Tee) -> Result<Self, TeeError> {
        let path = tsm.0.join(format!("trustee-{:016x}", OsRng.next_u64()));
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self(path)),
            // ENXIO: the interface is there and no driver has registered with it.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                Err(TeeError::Missing {
                    tee,
                    why: "no guest driver has registered with configfs-tsm".to_owned(),
                    cure: DRIVER,
                })
            }
            Err(error) => Err(TeeError::io("create", path, error)),
        }
    }

    fn expect(&self, tee: Tee, expected: &'static str) -> Result<(), TeeError> {
        let found = self.text("provider")?;
        match found == expected {
            true => Ok(()),
            false => Err(TeeError::Provider {
                tee,
                found,
                expected,
            }),
        }
    }

    fn text(&self, name: &str) -> Result<String, TeeError> {
        let bytes = self.read(name, TEXT_LIMIT)?;
        Ok(kbs_protocol::encoding::printable(
            String::from_utf8_lossy(&bytes).trim(),
            TEXT_LIMIT,
        ))
    }

    fn optional(&self, name: &str) -> Result<Option<String>, TeeError> {
        match self.text(name) {
            Err(TeeError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// The host decides how long a blob is; here it is decided how long one may be.
    fn read(&self, name: &str, limit: usize) -> Result<Vec<u8>, TeeError> {
        read_limited(&self.0.join(name), limit)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // A leftover costs the kernel a few bytes until the next boot.
        let _ = fs::remove_dir(&self.0);
    }
}

/// A file of the kernel's, up to a limit.
pub(super) fn read_limited(path: &Path, limit: usize) -> Result<Vec<u8>, TeeError> {
    let failed = |error| TeeError::io("read", path, error);
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(failed)?;
    match bytes.len() > limit {
        true => Err(failed(ErrorKind::FileTooLarge.into())),
        false => Ok(bytes),
    }
}

/// As systemd mounts it. If it fails, the interface stays absent and the error says so.
fn mount_configfs() {
    if !is_mounted(Path::new("/"), CONFIGFS) {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let _ = mount("configfs", CONFIGFS, "configfs", flags, None);
    }
}

fn is_mounted(root: &Path, at: &str) -> bool {
    let mounts = fs::read_to_string(root.join("proc/self/mounts")).unwrap_or_default();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(at))
}

const CONFIGFS: &str = "/sys/kernel/config";
const CONFIGFS_BELOW: &str = "sys/kernel/config";
const REPORTS: &str = "sys/kernel/config/tsm/report";
pub(super) const DRIVER: &str = "put the guest driver (sev-guest or tdx-guest, with tsm) into the initramfs and load it; \
     `trustee-agent doctor` shows when it is there";
const TEXT_LIMIT: usize = 64;
/// The kernel's own limit for `outblob` (TSM_REPORT_OUTBLOB_MAX) was 32 KiB and is 16 MiB; quotes are 5 KiB.
const REPORT_LIMIT: usize = 128 * 1024;
const AUXILIARY_LIMIT: usize = 64 * 1024;

// SPDX-License-Identifier: Apache-2.0

//! The kernel's `/dev/sev-guest` (Documentation/virt/coco/sev-guest.rst, `include/uapi/linux/sev-guest.h`) as a file in
//! user space that takes the request for a report. What a caller sends is read from its memory and held against the
//! interface, byte for byte; whoever calls is the library's real code. A caller needs it at `/dev/sev-guest`: a mount
//! namespace of its own has room for it.
//!
//! What the kernel does between this request and the processor (encryption, sequence numbers) is not here.

use crate::configfs::{NEVER, attributes};
use anyhow::{Context as _, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    IoctlFlags, MountOption, OpenFlags, ReplyAttr, ReplyEntry, ReplyIoctl, ReplyOpen, Request,
};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Makes a report over 64 bytes.
pub type Device = Box<dyn FnMut([u8; 64]) -> Vec<u8> + Send>;

/// What the device answers instead of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// `exitinfo2`: the firmware's error, or the host's in its upper half (`VMM_BUSY` is 2).
    Exit(u64),
    /// `status` in the firmware's own answer (SEV-SNP firmware ABI, table 23).
    Status(u32),
    /// `EBUSY`, and nothing in the structure.
    Busy,
}

/// A file `sev-guest` in a directory. Unmounted when dropped.
pub struct GuestDevice {
    directory: PathBuf,
    asked: Arc<Mutex<Vec<Asked>>>,
    failure: Arc<Mutex<Option<Failure>>>,
    _session: BackgroundSession,
}

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `msg_version`.
    pub version: u8,
    /// `user_data`.
    pub data: [u8; 64],
    /// `vmpl`.
    pub vmpl: u32,
    /// `rsvd`, which must be zero.
    pub reserved: [u8; 28],
}

impl GuestDevice {
    /// Serves the file in this directory.
    ///
    /// # Errors
    /// File systems in user space cannot be mounted here.
    pub fn serve(directory: &Path, device: Device) -> Result<Self> {
        let (asked, failure) = (Arc::default(), Arc::default());
        let files = Files {
            device: Mutex::new(device),
            asked: Arc::clone(&asked),
            failure: Arc::clone(&failure),
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("sev-guest".to_owned())];
        let session = fuser::spawn_mount(files, directory, &config)
            .with_context(|| format!("cannot mount a file system at {}", directory.display()))?;
        Ok(Self {
            directory: directory.to_owned(),
            asked,
            failure,
            _session: session,
        })
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    /// What was asked for since the last time.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// From now on the device fails so; `None`: it works.
    pub fn fail(&self, failure: Option<Failure>) {
        *self.failure.lock().unwrap() = failure;
    }
}

struct Files {
    device: Mutex<Device>,
    asked: Arc<Mutex<Vec<Asked>>>,
    failure: Arc<Mutex<Option<Failure>>>,
}

impl Files {
    /// `SNP_GET_REPORT` of the process `pid`; the structure as it comes back.
    fn report(&self, pid: u32, structure: &[u8]) -> Result<[u8; 32], Errno> {
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(|_| Errno::EFAULT)?;
        let mut structure: [u8; 32] = structure.try_into().map_err(|_| Errno::EINVAL)?;
        let pointer = |at: usize| u64::from_ne_bytes(structure[at..at + 8].try_into().unwrap());
        let (request, response) = (pointer(8), pointer(16));
        let mut asked = [0; 96];
        memory
            .read_exact_at(&mut asked, request)
            .map_err(|_| Errno::EFAULT)?;
        let asked = Asked {
            version: structure[0],
            data: asked[..64].try_into().unwrap(),
            vmpl: u32::from_ne_bytes(asked[64..68].try_into().unwrap()),
            reserved: asked[68..].try_into().unwrap(),
        };
        // Decided before anybody sees that something was asked, and changes its mind.
        let failure = *self.failure.lock().unwrap();
        self.asked.lock().unwrap().push(asked.clone());
        if let Some(Failure::Exit(code)) = failure {
            structure[24..].copy_from_slice(&code.to_ne_bytes());
            return Ok(structure);
        }
        if failure == Some(Failure::Busy) {
            return Err(Errno::EBUSY);
        }
        // The kernel takes no message of version 0.
        if asked.version == 0 {
            return Err(Errno::EINVAL);
        }
        let mut answer = vec![0; 4000];
        match failure {
            Some(Failure::Status(status)) => answer[..4].copy_from_slice(&status.to_le_bytes()),
            _ => {
                let report = (self.device.lock().unwrap())(asked.data);
                answer[4..8].copy_from_slice(&u32::try_from(report.len()).unwrap().to_le_bytes());
                answer[32..32 + report.len()].copy_from_slice(&report);
            }
        }
        memory
            .write_all_at(&answer, response)
            .map_err(|_| Errno::EFAULT)?;
        structure[24..].copy_from_slice(&0_u64.to_ne_bytes());
        Ok(structure)
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&NEVER, &attributes(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NEVER, &attributes(inode.into()));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn ioctl(
        &self,
        request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        structure: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        if command != SNP_GET_REPORT {
            return reply.error(Errno::ENOTTY);
        }
        match self.report(request.pid(), structure) {
            // EIO with what the firmware or the host said, which FUSE cannot bring back beside an error: the caller
            // finds the structure filled and a result that says no.
            Ok(structure) if structure[24..] != [0; 8] => {
                reply.ioctl(-5, &structure);
            }
            Ok(structure) => reply.ioctl(0, &structure),
            Err(errno) => reply.error(errno),
        }
    }
}

const NAME: &str = "sev-guest";
/// A regular file, for [`attributes`].
const FILE: u64 = 2;
/// `_IOWR('S', 0x0, struct snp_guest_request_ioctl)`, a structure of 32 bytes.
const SNP_GET_REPORT: u32 = 0xc020_5300;

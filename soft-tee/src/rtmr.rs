// SPDX-License-Identifier: Apache-2.0

//! RTMR 3 of a TD, as Linux 6.16 shows it (Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest), as a file
//! system in user space: to read is to see the value, to write a digest is to extend by it.

use crate::configfs::{NEVER, attributes, window};
use anyhow::{Context as _, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};
use sha2::{Digest as _, Sha384};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The register, and the file that shows it below a root. Unmounted when dropped.
pub struct Rtmr3 {
    value: Arc<Mutex<[u8; 48]>>,
    _session: BackgroundSession,
}

impl Rtmr3 {
    /// Shows an untouched register below `root`.
    ///
    /// # Errors
    /// File systems in user space cannot be mounted here.
    pub fn serve(root: &Path) -> Result<Self> {
        let at = root.join("sys/devices/virtual/misc/tdx_guest/measurements");
        std::fs::create_dir_all(&at)?;
        let value = Arc::new(Mutex::new([0; 48]));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("sysfs".to_owned())];
        let session = fuser::spawn_mount(File(Arc::clone(&value)), &at, &config)
            .with_context(|| format!("cannot mount a file system at {}", at.display()))?;
        Ok(Self {
            value,
            _session: session,
        })
    }

    /// The register itself, for the processor that signs over it.
    pub fn register(&self) -> Arc<Mutex<[u8; 48]>> {
        Arc::clone(&self.value)
    }

    /// Its value now.
    pub fn value(&self) -> [u8; 48] {
        *self.value.lock().unwrap()
    }
}

struct File(Arc<Mutex<[u8; 48]>>);

impl Filesystem for File {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some(NAME) => reply.entry(&NEVER, &attributes(INODE), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NEVER, &attributes(inode.into()));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let value = *self.0.lock().unwrap();
        reply.data(window(&value, offset, size));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if data.len() != 48 {
            return reply.error(Errno::EINVAL);
        }
        let mut value = self.0.lock().unwrap();
        let extended = Sha384::new().chain_update(*value).chain_update(data);
        *value = extended.finalize().into();
        reply.written(48);
    }
}

const NAME: &str = "rtmr3:sha384";
/// A regular file, for [`attributes`].
const INODE: u64 = 2;

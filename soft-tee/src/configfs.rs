// SPDX-License-Identifier: Apache-2.0

//! The kernel's configfs-tsm (Documentation/ABI/testing/configfs-tsm-report) as a file system in user space:
//! making a directory opens a request, a write to `inblob` counts, reading `outblob` asks the device.

use anyhow::{Context as _, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

/// What answers: a report and the auxiliary blob for what was written to `inblob`.
pub type Device = Box<dyn FnMut(&[u8]) -> (Vec<u8>, Vec<u8>) + Send>;

/// A root directory whose `sys/kernel/config/tsm/report` behaves as the kernel's does. Unmounted when dropped.
pub struct Configfs {
    root: PathBuf,
    asked: Arc<AtomicUsize>,
    requests: Arc<Mutex<BTreeMap<u64, Pending>>>,
    _session: BackgroundSession,
}

impl Configfs {
    /// Serves `device` below `root` under the driver's name, `sev_guest` or `tdx_guest`.
    ///
    /// # Errors
    /// File systems in user space cannot be mounted here.
    pub fn serve(root: &Path, provider: &str, device: Device) -> Result<Self> {
        let at = root.join("sys/kernel/config/tsm/report");
        std::fs::create_dir_all(&at)?;
        let asked = Arc::new(AtomicUsize::new(0));
        let requests = Arc::<Mutex<BTreeMap<u64, Pending>>>::default();
        let files = Files {
            provider: provider.to_owned(),
            device: Mutex::new(device),
            asked: Arc::clone(&asked),
            requests: Arc::clone(&requests),
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("configfs".to_owned())];
        let session = fuser::spawn_mount(files, &at, &config)
            .with_context(|| format!("cannot mount a file system at {}", at.display()))?;
        Ok(Self {
            root: root.to_owned(),
            asked,
            requests,
            _session: session,
        })
    }

    /// For `evidence.root`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How many reports the device has made.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// How many requests nobody has removed.
    pub fn open_requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

struct Files {
    provider: String,
    device: Mutex<Device>,
    asked: Arc<AtomicUsize>,
    requests: Arc<Mutex<BTreeMap<u64, Pending>>>,
}

/// One request: the inode of its directory is the key, those of its files follow.
struct Pending {
    name: String,
    generation: u64,
    inblob: Vec<u8>,
    /// What the device said to this generation.
    answer: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    /// The content of one file. `outblob` and `auxblob` are answered by one call to the device.
    fn content(&self, inode: u64) -> Result<Vec<u8>, Errno> {
        let mut requests = self.requests.lock().unwrap();
        let request = requests
            .get_mut(&(inode / STRIDE * STRIDE))
            .ok_or(Errno::ENOENT)?;
        match NAMES[usize::try_from(inode % STRIDE).unwrap() - 1] {
            "provider" => Ok(format!("{}\n", self.provider).into_bytes()),
            "generation" => Ok(format!("{}\n", request.generation).into_bytes()),
            name => {
                if request.inblob.is_empty() {
                    return Err(Errno::EINVAL);
                }
                if request.answer.is_none() {
                    self.asked.fetch_add(1, Ordering::SeqCst);
                    let mut device = self.device.lock().unwrap();
                    request.answer = Some(device(&request.inblob));
                }
                let (report, auxiliary) = request.answer.clone().unwrap();
                match name {
                    "outblob" => Ok(report),
                    // As the kernel has it: a driver without one shows no such file.
                    "auxblob" if auxiliary.is_empty() => Err(Errno::ENOENT),
                    "auxblob" => Ok(auxiliary),
                    _ => Err(Errno::EACCES),
                }
            }
        }
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (u64::from(parent), name.to_str().unwrap_or_default());
        let requests = self.requests.lock().unwrap();
        let found = match parent {
            ROOT => requests
                .iter()
                .find(|(_, r)| r.name == name)
                .map(|(inode, _)| *inode),
            directory => requests.get(&directory).and_then(|_| {
                let position = NAMES.iter().position(|known| *known == name)?;
                Some(directory + 1 + u64::try_from(position).unwrap())
            }),
        };
        match found {
            Some(inode) => reply.entry(&NEVER, &attributes(inode), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NEVER, &attributes(inode.into()));
    }

    // Truncation by `open` means nothing to an attribute.
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&NEVER, &attributes(inode.into()));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let mut requests = self.requests.lock().unwrap();
        let inode = requests.keys().last().map_or(STRIDE, |last| last + STRIDE);
        let pending = Pending {
            name: name.to_str().unwrap_or_default().to_owned(),
            generation: 0,
            inblob: Vec::new(),
            answer: None,
        };
        requests.insert(inode, pending);
        reply.entry(&NEVER, &attributes(inode), Generation(0));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut requests = self.requests.lock().unwrap();
        requests.retain(|_, request| Some(request.name.as_str()) != name.to_str());
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // The size of an attribute is not known before it is read.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.content(inode.into()) {
            Ok(content) => reply.data(window(&content, offset, size)),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let inode = u64::from(inode);
        let mut requests = self.requests.lock().unwrap();
        match requests.get_mut(&(inode / STRIDE * STRIDE)) {
            // The kernel takes 1 to 64 bytes.
            Some(request) if NAMES[0] == "inblob" && inode % STRIDE == 1 && data.len() <= 64 => {
                request.generation += 1;
                request.inblob = data.to_vec();
                request.answer = None;
                reply.written(u32::try_from(data.len()).unwrap());
            }
            _ => reply.error(Errno::EINVAL),
        }
    }
}

/// What a read of so many bytes at a place gets; nothing behind the end.
pub(crate) fn window(content: &[u8], offset: u64, size: u32) -> &[u8] {
    let from = usize::try_from(offset).unwrap().min(content.len());
    let to = (from + usize::try_from(size).unwrap()).min(content.len());
    &content[from..to]
}

pub(crate) fn attributes(inode: u64) -> FileAttr {
    let is_directory = inode == ROOT || inode.is_multiple_of(STRIDE);
    FileAttr {
        ino: INodeNo(inode),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_directory {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: if is_directory { 0o755 } else { 0o600 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

const ROOT: u64 = 1;
/// Inodes of one request: the directory, then its files.
const STRIDE: u64 = 16;
const NAMES: [&str; 5] = ["inblob", "outblob", "auxblob", "provider", "generation"];
/// Nothing is remembered: every look is a new one.
pub(crate) const NEVER: Duration = Duration::ZERO;

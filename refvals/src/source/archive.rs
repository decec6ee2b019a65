// SPDX-License-Identifier: Apache-2.0

//! An archive of an image, as tools save them: a tar file whose members are read in any order. Compressed, it has to be
//! unpacked once, into a file without a name; the layers in it are not.

use crate::Error;
use measured_boot::image::{decompressed, is_compressed};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Where each member begins, and its size.
pub(super) struct Archive {
    path: PathBuf,
    file: File,
    files: BTreeMap<String, (u64, u64)>,
    /// Links from one member to another: Docker saves a layer that comes twice so.
    links: BTreeMap<String, String>,
}

impl Archive {
    /// Whether a file begins as an archive does, compressed or not.
    pub(super) fn is_archive(start: &[u8]) -> bool {
        start.get(257..262) == Some(b"ustar") || is_compressed(start)
    }

    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let read = |error| Error::io("read", path)(error);
        let mut file = File::open(path).map_err(read)?;
        let mut start = Vec::new();
        (&file).take(START).read_to_end(&mut start).map_err(read)?;
        file.rewind().map_err(read)?;
        if is_compressed(&start) {
            file = unpacked(path, file)?;
        }
        let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
        let mut archive = tar::Archive::new(BufReader::new(&file));
        for entry in archive.entries_with_seek().map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = normal(&entry.path().map_err(read)?.to_string_lossy());
            let target = entry.link_name().map_err(read)?;
            match (entry.header().entry_type(), target) {
                (tar::EntryType::Regular, _) => {
                    files.insert(name, (entry.raw_file_position(), entry.size()));
                }
                (tar::EntryType::Symlink, Some(target)) => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    let target = normal(&format!("{parent}/{}", target.to_string_lossy()));
                    links.insert(name, target);
                }
                (tar::EntryType::Link, Some(target)) => {
                    links.insert(name, normal(&target.to_string_lossy()));
                }
                _ => {}
            }
            if files.len().saturating_add(links.len()) > MAX_MEMBERS {
                let why = format!("more than {MAX_MEMBERS} files: this is no archive of an image");
                return Err(Error::document(path.display().to_string(), why));
            }
        }
        drop(archive);
        Ok(Self {
            path: path.to_owned(),
            file,
            files,
            links,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The size of a member.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.find(name).map(|(_, size)| size)
    }

    /// A member.
    pub(super) fn file(&self, name: &str) -> Result<Member<'_>, Error> {
        let (position, left) = self.find(name).ok_or_else(|| {
            Error::document(
                self.path.display().to_string(),
                format!("there is no {name} in it"),
            )
        })?;
        Ok(Member {
            file: &self.file,
            position,
            left,
        })
    }

    fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = normal(name);
        for _ in 0..MAX_HOPS {
            match self.links.get(&name) {
                Some(target) => target.clone_into(&mut name),
                None => break,
            }
        }
        self.files.get(&name).copied()
    }
}

/// One member on its way.
pub(super) struct Member<'a> {
    file: &'a File,
    position: u64,
    left: u64,
}

impl Read for Member<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        let read = self.file.read_at(buffer, self.position)?;
        if read == 0 && most > 0 {
            return Err(io::Error::other("the archive was cut short"));
        }
        let count = u64::try_from(read).unwrap_or(u64::MAX);
        self.position = self.position.saturating_add(count);
        self.left = self.left.saturating_sub(count);
        Ok(read)
    }
}

/// The uncompressed archive, in a file that nobody else can open and that is gone with us.
fn unpacked(path: &Path, file: File) -> Result<File, Error> {
    let directory = match std::env::var_os("TMPDIR") {
        Some(directory) => PathBuf::from(directory),
        // Larger than what is kept in memory, as /tmp often is (file-hierarchy(7)).
        None => PathBuf::from("/var/tmp"),
    };
    let mut temporary =
        tempfile::tempfile_in(&directory).map_err(Error::io("make a file in", &directory))?;
    let mut archive = decompressed(BufReader::new(file))?.take(MAX_ARCHIVE);
    let copied = io::copy(&mut archive, &mut temporary);
    let copied = copied.map_err(Error::io("unpack", path))?;
    if copied == MAX_ARCHIVE {
        let why = "it unpacks to more than 64 GiB";
        return Err(Error::document(path.display().to_string(), why));
    }
    temporary.rewind().map_err(Error::io("read", &directory))?;
    Ok(temporary)
}

/// Without what says nothing; `..` leads up, and never out.
fn normal(name: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in name.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments.join("/")
}

const START: u64 = 512;
const MAX_MEMBERS: usize = 16 * 1024;
const MAX_HOPS: u8 = 8;
const MAX_ARCHIVE: u64 = 64 * 1024 * 1024 * 1024;

// SPDX-License-Identifier: Apache-2.0

//! From the layers of an image, or the files of a directory, to its [`ImageFacts`]: nothing is unpacked.
//!
//! Layers are applied from the lowest to the highest, as a container engine would, but only programs, symbolic
//! links and a few small texts are remembered of them. What is kept does not grow with the image: a program is
//! hashed while it passes.
//!
//! Whoever opens the image (a registry, a layout on disk) hands each layer to [`Scanner::layer`] and checks
//! digests while it is read; nothing here knows where bytes come from.

mod archive;
mod compression;
mod content;
mod parts;
mod tree;

pub use compression::{decompressed, is_compressed};
pub use parts::{Architecture, Choice};

use crate::bank::Digest;
use crate::error::Error;
use crate::facts::ImageFacts;
use archive::{Entry, Kind};
use content::Content;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};
use tree::{Node, Tree};

/// Looks through an image.
#[derive(Default)]
pub struct Scanner {
    tree: Tree,
    programs: usize,
}

impl Scanner {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the next layer: a tar archive (POSIX.1-1988 ustar, PAX, GNU long names), plain or compressed with
    /// gzip (RFC 1952, several members) or zstd (RFC 8878, several frames). Whiteouts are those of the OCI image
    /// specification. Everything is read, and the digest (SHA-256) of the uncompressed archive is returned: the
    /// layer's DiffID.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the offset in the uncompressed archive; [`Error::Read`] for what the reader or
    /// the decompressor says; [`Error::TooLarge`] and [`Error::TooMany`] for more than any real image has.
    pub fn layer(&mut self, layer: &mut dyn Read) -> Result<Digest, Error> {
        let mut layer = Hashed {
            source: decompressed(layer)?,
            hasher: Sha256::new(),
        };
        self.tree.begin_layer();
        let done = archive::walk(&mut layer, &mut |entry| self.entry(entry));
        self.tree.end_layer();
        done?;
        let rest = io::copy(&mut layer, &mut io::sink());
        rest.map_err(|error| Error::Read {
            structure: "layer",
            offset: 0,
            why: error.to_string(),
        })?;
        Ok(Digest::new(layer.hasher.finalize().to_vec()))
    }

    /// A regular file of a directory that is no archive: an ESP, a mounted image.
    ///
    /// # Errors
    /// [`Error::Read`] when the content is shorter than `size`; [`Error::TooMany`].
    pub fn file(&mut self, path: &str, size: u64, content: &mut dyn Read) -> Result<(), Error> {
        self.entry(Entry {
            path: path.to_owned(),
            kind: Kind::File,
            size,
            offset: 0,
            content,
        })
    }

    /// A symbolic link of such a directory.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), Error> {
        self.tree.put(path, Some(Node::Link(target.to_owned())))
    }

    /// Finds the parts that boot.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] for several candidates, unless `choice` names one; what [`crate::pe::PeFacts::read`]
    /// says about the programs that were found.
    pub fn finish(self, name: &str, choice: &Choice) -> Result<ImageFacts, Error> {
        parts::facts(name, &self.tree.into_files(), choice)
    }

    fn entry(&mut self, entry: Entry<'_>) -> Result<(), Error> {
        let Entry {
            path,
            kind,
            size,
            offset,
            content,
        } = entry;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        match kind {
            Kind::File if name == OPAQUE => {
                self.tree.hide_below(parent);
                Ok(())
            }
            Kind::File if name.starts_with(WHITEOUT) => {
                let hidden = name.strip_prefix(WHITEOUT).unwrap_or_default();
                match hidden.is_empty() {
                    true => archive::malformed(offset, "a whiteout that hides nothing"),
                    false => {
                        self.tree.hide(parent, hidden);
                        Ok(())
                    }
                }
            }
            Kind::File => {
                let content = content::read(&path, size, content)?;
                if matches!(content, Some(Content::Program(_))) {
                    self.programs = self.programs.saturating_add(1);
                    at_most("programs", self.programs, MAX_PROGRAMS)?;
                }
                self.tree.put(&path, content.map(Node::File))
            }
            Kind::Directory => {
                self.tree.directory(&path);
                Ok(())
            }
            Kind::Symlink(target) => self.tree.put(&path, Some(Node::Link(target))),
            Kind::HardLink(target) => {
                let node = self.tree.get(&target);
                self.tree.put(&path, node)
            }
            Kind::Other => self.tree.put(&path, None),
        }
    }
}

struct Hashed<'a> {
    source: Box<dyn Read + 'a>,
    hasher: Sha256,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), Error> {
    match count {
        count if count > limit => Err(Error::TooMany { what, count, limit }),
        _ => Ok(()),
    }
}

/// OCI image specification, layer.md, "Whiteouts".
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// EFI programs, and other files of the PE format such as .NET libraries.
const MAX_PROGRAMS: usize = 8192;

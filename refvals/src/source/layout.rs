// SPDX-License-Identifier: Apache-2.0

//! Images on this disk: an OCI image layout (a directory with `oci-layout`, `index.json` and `blobs/`), or an archive
//! of one, as `podman save --format oci-archive` and `skopeo copy … oci-archive:` write it.

use super::oci::{Descriptor, Manifest, Store};
use crate::Error;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// A layout in a directory.
pub(super) struct Layout {
    directory: PathBuf,
}

/// A layout in an uncompressed archive: where each of its files begins, and its size.
pub(super) struct Archive {
    path: PathBuf,
    files: BTreeMap<String, (u64, u64)>,
}

impl Layout {
    pub(super) fn open(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    fn file(&self, name: &str) -> Result<File, Error> {
        let path = self.directory.join(name);
        File::open(&path).map_err(Error::io("read", path))
    }
}

impl Archive {
    /// Whether a file begins as an archive does.
    pub(super) fn is_archive(start: &[u8]) -> bool {
        start.get(257..262) == Some(b"ustar")
    }

    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let mut archive = tar::Archive::new(BufReader::new(file));
        let mut files = BTreeMap::new();
        for entry in archive
            .entries_with_seek()
            .map_err(Error::io("read", path))?
        {
            let entry = entry.map_err(Error::io("read", path))?;
            let name = entry.path().map_err(Error::io("read", path))?;
            let name = name.to_string_lossy().trim_start_matches("./").to_owned();
            files.insert(name, (entry.raw_file_position(), entry.size()));
        }
        Ok(Self {
            path: path.to_owned(),
            files,
        })
    }

    fn file(&self, name: &str) -> Result<std::io::Take<File>, Error> {
        let missing = || {
            Error::document(
                self.path.display().to_string(),
                format!("there is no {name} in it"),
            )
        };
        let (start, size) = *self.files.get(name).ok_or_else(missing)?;
        let mut file = File::open(&self.path).map_err(Error::io("read", &self.path))?;
        file.seek(SeekFrom::Start(start))
            .map_err(Error::io("read", &self.path))?;
        Ok(file.take(size))
    }
}

/// The manifest that a layout's index leads to: the named digest, or the only one.
pub(super) fn root(
    index: &mut dyn Read,
    place: &Path,
    digest: Option<&str>,
) -> Result<Descriptor, Error> {
    let place = place.display().to_string();
    let mut bytes = Vec::new();
    index
        .take(super::oci::MAX_MANIFEST)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::document(&place, error))?;
    let index: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| Error::document(&place, error))?;
    let wanted = |descriptor: &&Descriptor| digest.is_none_or(|digest| descriptor.digest == digest);
    let found: Vec<&Descriptor> = index.manifests.iter().filter(wanted).collect();
    match (found.as_slice(), digest) {
        ([one], _) => Ok((*one).clone()),
        // A manifest below an index that the layout names.
        (_, Some(digest)) => Ok(Descriptor::named(digest)),
        _ => {
            let digests: Vec<&str> = found
                .iter()
                .map(|descriptor| descriptor.digest.as_str())
                .collect();
            let why = format!(
                "it holds several images: write @ and one of {}",
                digests.join(", ")
            );
            Err(Error::document(place, why))
        }
    }
}

/// Opens `index.json` of either.
pub(super) fn index<'s>(store: &'s LayoutStore) -> Result<Box<dyn Read + 's>, Error> {
    store.file("index.json")
}

/// Either of them.
pub(super) enum LayoutStore {
    Directory(Layout),
    Archive(Archive),
}

impl LayoutStore {
    fn file(&self, name: &str) -> Result<Box<dyn Read + '_>, Error> {
        Ok(match self {
            Self::Directory(layout) => Box::new(layout.file(name)?),
            Self::Archive(archive) => Box::new(archive.file(name)?),
        })
    }

    /// The manifest with this name in the index (`org.opencontainers.image.ref.name`), such as cosign's.
    pub(super) fn tagged(&self, tag: &str) -> Result<Option<Descriptor>, Error> {
        let mut bytes = Vec::new();
        let read = self
            .file("index.json")?
            .take(super::oci::MAX_MANIFEST)
            .read_to_end(&mut bytes);
        read.map_err(|error| Error::document("index.json", error))?;
        let index: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| Error::document("index.json", error))?;
        let is_named = |descriptor: &Descriptor| {
            descriptor
                .annotations
                .get(REF_NAME)
                .is_some_and(|name| name.rsplit(':').next() == Some(tag))
        };
        Ok(index.manifests.into_iter().find(is_named))
    }
}

impl Store for LayoutStore {
    fn open(
        &self,
        descriptor: &Descriptor,
        _is_manifest: bool,
    ) -> Result<Box<dyn Read + '_>, Error> {
        let (algorithm, hex) = descriptor.digest.split_once(':').unwrap_or_default();
        // A digest becomes a path here.
        if algorithm != "sha256" || !hex.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(Error::Reference {
                got: descriptor.digest.clone(),
                expected: "a digest: sha256: and 64 lower-case hexadecimal digits",
            });
        }
        self.file(&format!("blobs/{algorithm}/{hex}"))
    }
}

/// OCI image specification, annotations.md.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

// SPDX-License-Identifier: Apache-2.0

//! Images on this disk: an OCI image layout (a directory with `oci-layout`, `index.json` and `blobs/`), or an archive
//! of one, as `podman save --format oci-archive` and `skopeo copy … oci-archive:` write it.

use super::archive::Archive;
use super::oci::{Descriptor, Manifest, Store};
use super::place::{Wanted, is_same_name};
use crate::Error;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A layout in a directory.
pub(super) struct Layout {
    directory: PathBuf,
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

/// The manifest that a layout's index leads to: the named one, or the only one.
pub(super) fn root(
    store: &LayoutStore,
    place: &Path,
    wanted: Wanted<'_>,
) -> Result<Descriptor, Error> {
    let place = place.display().to_string();
    let index = store.index()?;
    let is_wanted = |descriptor: &&Descriptor| {
        let is_digest = |digest| descriptor.digest == digest;
        let is_name = |name| {
            let known = descriptor.annotations.get(REF_NAME);
            known.is_some_and(|known| known == name || is_same_name(known, name))
        };
        wanted.digest.is_none_or(is_digest) && wanted.name.is_none_or(is_name)
    };
    let found: Vec<&Descriptor> = index.manifests.iter().filter(is_wanted).collect();
    match (found.as_slice(), wanted.digest) {
        ([one], _) => Ok((*one).clone()),
        // A manifest below an index that the layout names.
        (_, Some(digest)) => Ok(Descriptor::named(digest)),
        _ => {
            let digests: Vec<&str> = index
                .manifests
                .iter()
                .map(|descriptor| descriptor.digest.as_str())
                .collect();
            let why = match found.len() {
                0 => "no image in it is called so",
                _ => "it holds several images",
            };
            let why = format!("{why}: write @ and one of {}", digests.join(", "));
            Err(Error::document(place, why))
        }
    }
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

    fn index(&self) -> Result<Manifest, Error> {
        let mut bytes = Vec::new();
        let read = self
            .file("index.json")?
            .take(super::oci::MAX_MANIFEST)
            .read_to_end(&mut bytes);
        read.map_err(|error| Error::document("index.json", error))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::document("index.json", error))
    }

    /// The manifest with this name in the index (`org.opencontainers.image.ref.name`), such as cosign's.
    pub(super) fn tagged(&self, tag: &str) -> Result<Option<Descriptor>, Error> {
        let is_named = |descriptor: &Descriptor| {
            descriptor
                .annotations
                .get(REF_NAME)
                .is_some_and(|name| name.rsplit(':').next() == Some(tag))
        };
        Ok(self.index()?.manifests.into_iter().find(is_named))
    }
}

impl Store for LayoutStore {
    fn open(
        &self,
        descriptor: &Descriptor,
        _is_manifest: bool,
    ) -> Result<Box<dyn Read + '_>, Error> {
        // A digest becomes a path here.
        let hex = descriptor.sha256()?;
        self.file(&format!("blobs/sha256/{hex}"))
    }
}

/// OCI image specification, annotations.md.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

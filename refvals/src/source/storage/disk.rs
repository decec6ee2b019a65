// SPDX-License-Identifier: Apache-2.0

//! What a storage of containers looks like on a disk: lists of images and layers in JSON, documents of an image by key, the
//! files of a layer and the record of its archive. Ids and keys become names of files here, and nowhere else.

use super::tar_split::Assembled;
use super::{MANIFEST, oci};
use crate::Error;
use kbs_protocol::encoding::b64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// One storage, as one driver keeps it.
pub(super) struct Storage {
    pub(super) root: PathBuf,
    pub(super) driver: Driver,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    Overlay,
    Vfs,
}

/// A record of `images.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Image {
    pub(super) id: String,
    #[serde(default)]
    pub(super) digest: Option<String>,
    #[serde(default)]
    pub(super) names: Option<Vec<String>>,
    /// The highest layer.
    #[serde(default)]
    layer: Option<String>,
    #[serde(rename = "big-data-names", default)]
    data: Option<Vec<String>>,
}

/// A record of `layers.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Layer {
    pub(super) id: String,
    #[serde(default)]
    parent: Option<String>,
    /// Bytes of its archive.
    #[serde(rename = "diff-size", default)]
    pub(super) size: Option<u64>,
}

impl Storage {
    /// What the storage lists; `None` where there is none of this driver.
    pub(super) fn images(&self) -> Result<Option<Vec<Image>>, Error> {
        let file = self.directory("images").join("images.json");
        match file.exists() {
            true => records(&file).map(Some),
            false => Ok(None),
        }
    }

    fn directory(&self, of: &str) -> PathBuf {
        self.root.join(format!("{}-{of}", self.driver.name()))
    }

    /// A document of the image.
    pub(super) fn data(&self, image: &Image, key: &str) -> Result<Vec<u8>, Error> {
        let file = self
            .directory("images")
            .join(is_plain(&image.id)?)
            .join(file_name(key));
        bounded(&file, oci::MAX_CONFIG)
    }

    /// The image's layers, the lowest first.
    pub(super) fn chain(&self, image: &Image) -> Result<Vec<Layer>, Error> {
        let directory = self.directory("layers");
        let mut known: BTreeMap<String, Layer> = BTreeMap::new();
        for file in ["layers.json", "volatile-layers.json"] {
            let file = directory.join(file);
            if file.exists() {
                let layers: Vec<Layer> = records(&file)?;
                known.extend(layers.into_iter().map(|layer| (layer.id.clone(), layer)));
            }
        }
        let mut chain = Vec::new();
        let mut next = image.layer.clone().filter(|layer| !layer.is_empty());
        while let Some(id) = next {
            // Taken out, so that a chain that bites its tail ends.
            let layer = known.remove(&id).ok_or_else(|| {
                Error::document(
                    directory.display().to_string(),
                    format!("there is no layer {id}, which an image needs"),
                )
            })?;
            next = layer.parent.clone().filter(|parent| !parent.is_empty());
            chain.push(layer);
        }
        chain.reverse();
        Ok(chain)
    }

    /// The archive of a layer, as it was pulled.
    pub(super) fn open(&self, layer: &Layer) -> Result<Assembled, Error> {
        let id = is_plain(&layer.id)?;
        let files = match self.driver {
            Driver::Overlay => self.root.join("overlay").join(id).join("diff"),
            Driver::Vfs => self.root.join("vfs/dir").join(id),
        };
        let record = self.directory("layers").join(format!("{id}.tar-split.gz"));
        if !record.exists() {
            return Err(Error::document(
                format!("layer {id} in {}", self.root.display()),
                "there is no record of its archive (tar-split), so that it cannot be held against its digest: copy the \
                 image with `skopeo copy containers-storage:… oci:DIRECTORY`",
            ));
        }
        Assembled::open(&record, &files)
    }
}

impl Image {
    pub(super) fn has_digest(&self, digest: &str) -> bool {
        let key = format!("{MANIFEST}-{digest}");
        digest.strip_prefix("sha256:") == Some(&self.id)
            || self.digest.as_deref() == Some(digest)
            || self.data.iter().flatten().any(|known| *known == key)
    }
}

impl Driver {
    fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Vfs => "vfs",
        }
    }
}

/// How the storage calls the file of a document: by its key, where that has lower-case letters, digits and dots only.
fn file_name(key: &str) -> String {
    let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'.';
    match key.bytes().all(is_plain) {
        true => key.to_owned(),
        false => format!("={}", b64::encode(key.as_bytes())),
    }
}

/// An id becomes a path here.
fn is_plain(id: &str) -> Result<&str, Error> {
    match !id.is_empty() && id.bytes().all(|c| c.is_ascii_alphanumeric()) {
        true => Ok(id),
        false => Err(Error::Reference {
            got: id.to_owned(),
            expected: "an id: letters and digits",
        }),
    }
}

fn records<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>, Error> {
    let bytes = bounded(file, MAX_RECORDS)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::document(file.display().to_string(), error))
}

fn bounded(file: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(file)
        .and_then(|opened| opened.take(limit.saturating_add(1)).read_to_end(&mut bytes));
    let read = read.map_err(Error::io("read", file))?;
    match u64::try_from(read).is_ok_and(|read| read <= limit) {
        true => Ok(bytes),
        false => Err(Error::document(
            file.display().to_string(),
            format!("more than {limit} bytes"),
        )),
    }
}

const MAX_RECORDS: u64 = 64 * 1024 * 1024;

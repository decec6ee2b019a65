// SPDX-License-Identifier: Apache-2.0

//! Images that podman, buildah and CRI-O keep: `containers-storage:[[driver@]directory]name`, as
//! containers-transports(5) writes it. Read only, without mounting anything and without the programs.
//!
//! The storage holds the files of each layer and, beside them, what is needed to put the layer's archive together again
//! ([`tar_split`]). So every layer is held against its DiffID as if it came from a registry: what was changed on the disk
//! since the pull is found. Drivers: `overlay` and `vfs`.

mod disk;
mod tar_split;

use super::oci::{self, Config, Layers, Manifest};
use super::place::{is_same_name, split_digest};
use super::verified::Verified;
use super::{Options, cache};
use crate::Error;
use disk::{Driver, Image, Storage};
use measured_boot::facts::ImageFacts;
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;

/// Loads an image; `text` is what stands after `containers-storage:`.
pub(super) fn load(
    text: &str,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let (places, name) = places(text)?;
    let mut looked = Vec::new();
    for storage in &places {
        let Some(images) = storage.images()? else {
            looked.push(storage.root.display().to_string());
            continue;
        };
        match find(&images, name)? {
            Some(image) => return storage.facts(image, name, options, progress),
            None => looked.push(storage.root.display().to_string()),
        }
    }
    looked.dedup();
    Err(Error::document(
        format!("containers-storage:{text}"),
        format!(
            "no image of this name in {}: `podman images` shows those that are there",
            looked.join(", ")
        ),
    ))
}

/// The storages that may be meant, and the image's name.
fn places(text: &str) -> Result<(Vec<Storage>, &str), Error> {
    let wrong = || Error::Reference {
        got: format!("containers-storage:{text}"),
        expected: "containers-storage:[overlay@DIRECTORY]NAME, or vfs instead of overlay; without brackets the storage \
                   of this user",
    };
    let (place, name) = match text.strip_prefix('[') {
        Some(rest) => {
            let (place, name) = rest.split_once(']').ok_or_else(wrong)?;
            (Some(place), name)
        }
        None => (None, text),
    };
    if name.is_empty() {
        return Err(wrong());
    }
    let (driver, directory) = match place.map(|place| place.split_once('@').unwrap_or(("", place)))
    {
        Some((driver, directory)) => {
            // What may follow does not matter to a reader: the run root, options.
            let end = directory.find(['+', ':']).unwrap_or(directory.len());
            let directory = directory.get(..end).unwrap_or_default();
            (driver, Some(PathBuf::from(directory)))
        }
        None => ("", None),
    };
    let drivers: &[Driver] = match driver {
        "" => &[Driver::Overlay, Driver::Vfs],
        "overlay" => &[Driver::Overlay],
        "vfs" => &[Driver::Vfs],
        _ => return Err(wrong()),
    };
    let root = directory.or_else(usual_root).ok_or_else(wrong)?;
    let storages = drivers.iter().map(|driver| Storage {
        root: root.clone(),
        driver: *driver,
    });
    Ok((storages.collect(), name))
}

/// Where the storage of this user is unless storage.conf(5) says otherwise.
fn usual_root() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/containers/storage"));
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share"));
    Some(data.or_else(home)?.join("containers/storage"))
}

/// The image that a name, a digest or an id means.
fn find<'i>(images: &'i [Image], name: &str) -> Result<Option<&'i Image>, Error> {
    let (name, digest) = split_digest(name);
    let id = name.strip_prefix('@').unwrap_or(name);
    let mut found = images.iter().filter(|image| match digest {
        Some(digest) => image.has_digest(digest),
        None => {
            let mut names = image.names.iter().flatten();
            image.id == id || names.any(|known| is_same_name(known, name))
        }
    });
    match (found.next(), found.next()) {
        (one, None) => Ok(one),
        _ => Err(Error::document(
            format!("containers-storage:{name}"),
            "several images are called so: write @ and the id of one",
        )),
    }
}

impl Storage {
    fn facts(
        &self,
        image: &Image,
        name: &str,
        options: &Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<ImageFacts, Error> {
        let manifest = self.manifest(image, split_digest(name).1)?;
        let digest = sha256(&manifest);
        let (name, _) = split_digest(name);
        let name = format!("containers-storage:{}@{digest}", name.trim_end_matches('@'));
        let manifest: Manifest =
            serde_json::from_slice(&manifest).map_err(|error| Error::document(&name, error))?;
        cache::or_compute(options, &digest, &name, || {
            let Some(config) = &manifest.config else {
                return Err(Error::document(&name, "its manifest has no config"));
            };
            let key = config.digest.clone();
            let config = self.data(image, &key)?;
            same("the config", &key, &sha256(&config))?;
            let config: Config =
                serde_json::from_slice(&config).map_err(|error| Error::document(&key, error))?;
            let chain = self.chain(image)?;
            let layers = Layers {
                sizes: chain.iter().map(|layer| layer.size).collect(),
                open: &mut |number| match chain.get(number) {
                    Some(layer) => Ok(Verified::unnamed(Box::new(self.open(layer)?), &layer.id)),
                    None => Err(Error::document(&name, "it has no such layer")),
                },
            };
            let scanned = oci::scan(&config, layers, &name, &options.choice, progress);
            // Nothing was cut on its way here: the disk does not have what it should.
            scanned.map_err(|error| match error {
                Error::Cut { what, why } => Error::document(
                    format!("layer {what} in {}", self.root.display()),
                    format!("it cannot be put together again: {why}"),
                ),
                other => other,
            })
        })
    }

    /// The manifest of the image, held against the digest that names it. A digest may name an index instead: then the
    /// manifest is one of that index.
    fn manifest(&self, image: &Image, named: Option<&str>) -> Result<Vec<u8>, Error> {
        let id = format!("sha256:{}", image.id);
        let manifest = self.data(image, MANIFEST)?;
        let found = sha256(&manifest);
        let Some(named) = named.filter(|named| *named != id && *named != found) else {
            if let Some(expected) = &image.digest
                && named.is_none()
                && *expected != found
            {
                // The record may carry the digest of the index by which the image was pulled.
                self.check_index(image, expected, &found)?;
            }
            return Ok(manifest);
        };
        self.check_index(image, named, &found)?;
        Ok(manifest)
    }

    fn check_index(&self, image: &Image, named: &str, manifest: &str) -> Result<(), Error> {
        let index = self.data(image, &format!("{MANIFEST}-{named}"))?;
        same("the manifest", named, &sha256(&index))?;
        let index: Manifest =
            serde_json::from_slice(&index).map_err(|error| Error::document(named, error))?;
        let mut listed = index.manifests.iter();
        match listed.any(|listed| listed.digest == manifest) {
            true => Ok(()),
            false => same("the manifest", named, manifest),
        }
    }
}

fn same(what: &str, expected: &str, found: &str) -> Result<(), Error> {
    match expected == found {
        true => Ok(()),
        false => Err(Error::Digest {
            what: what.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }),
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// The key of the manifest among the documents of an image.
const MANIFEST: &str = "manifest";

// SPDX-License-Identifier: Apache-2.0

//! What `docker save` and `podman save` write: an archive with `manifest.json`, a config and layers for each image
//! (Docker Image Specification 1.2, "Combined Image JSON + Filesystem Changeset Format"). Nothing in it names the
//! manifest that a registry would have: an image is known by the digest of its config, and each layer by its DiffID in
//! there.

use super::archive::Archive;
use super::oci::{self, Config, Layers};
use super::place::{Wanted, is_same_name};
use super::verified::Verified;
use super::{Options, cache};
use crate::Error;
use measured_boot::facts::ImageFacts;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::io::Read as _;

/// The file that lists what is in the archive.
pub(super) const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Loads an image of an archive.
pub(super) fn load(
    archive: &Archive,
    wanted: Wanted<'_>,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let place = archive.path().display().to_string();
    let manifest = member(archive, MANIFEST, oci::MAX_MANIFEST)?;
    let images: Vec<Image> =
        serde_json::from_slice(&manifest).map_err(|error| Error::document(&place, error))?;
    let mut found = Vec::new();
    for image in &images {
        let id = id(archive, image)?;
        if image.is_wanted(&id, wanted) {
            found.push((image, id));
        }
    }
    let (image, id) = match found.as_slice() {
        [one] => one,
        [] => {
            let why = format!("no image in it is called so, only {}", names(&images));
            return Err(Error::document(place, why));
        }
        _ => {
            let why = format!(
                "it holds several images: write : and one of {}",
                names(&images)
            );
            return Err(Error::document(place, why));
        }
    };
    let name = format!("{place}@{id}");
    cache::or_compute(options, id, &name, || {
        let config = member(archive, &image.config, oci::MAX_CONFIG)?;
        let config: Config =
            serde_json::from_slice(&config).map_err(|error| Error::document(&name, error))?;
        let layers = Layers {
            sizes: image
                .layers
                .iter()
                .map(|layer| archive.size(layer))
                .collect(),
            open: &mut |number| {
                let layer = image.layers.get(number).map(String::as_str);
                let layer = layer.unwrap_or_default();
                Ok(Verified::unnamed(Box::new(archive.file(layer)?), layer))
            },
        };
        oci::scan(&config, layers, &name, &options.choice, progress)
    })
}

/// The digest of the config; where the config is called by a digest, it must be this one.
fn id(archive: &Archive, image: &Image) -> Result<String, Error> {
    let config = member(archive, &image.config, oci::MAX_CONFIG)?;
    let id = format!("{:x}", Sha256::digest(config));
    let called = image.config.rsplit('/').next().unwrap_or_default();
    let called = called.strip_suffix(".json").unwrap_or(called);
    let is_digest = called.len() == id.len() && called.bytes().all(|c| c.is_ascii_hexdigit());
    match is_digest && called != id {
        true => Err(Error::Digest {
            what: format!("{} in {}", image.config, archive.path().display()),
            expected: format!("sha256:{called}"),
            found: format!("sha256:{id}"),
        }),
        false => Ok(format!("sha256:{id}")),
    }
}

impl Image {
    fn is_wanted(&self, id: &str, wanted: Wanted<'_>) -> bool {
        let mut tags = self.repo_tags.iter().flatten();
        wanted.digest.is_none_or(|digest| digest == id)
            && wanted
                .name
                .is_none_or(|name| tags.any(|tag| is_same_name(tag, name)))
    }
}

fn names(images: &[Image]) -> String {
    let tags = images
        .iter()
        .flat_map(|image| image.repo_tags.iter().flatten());
    let tags: Vec<&str> = tags.map(String::as_str).collect();
    match tags.is_empty() {
        true => "images without a name".to_owned(),
        false => tags.join(", "),
    }
}

fn member(archive: &Archive, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
    let place = || archive.path().display().to_string();
    if archive.size(name).is_some_and(|size| size > limit) {
        return Err(Error::document(
            place(),
            format!("{name} has more than {limit} bytes"),
        ));
    }
    let mut bytes = Vec::new();
    let read = archive.file(name)?.read_to_end(&mut bytes);
    read.map_err(Error::io("read", archive.path()))?;
    Ok(bytes)
}

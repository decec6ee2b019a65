// SPDX-License-Identifier: Apache-2.0

//! From a digest to the layers of an image (OCI image specification 1.1; Docker's image manifest version 2, schema 2
//! has the same shape). Every byte is held against the digest that named it while it passes.

use super::Options;
use super::verified::Verified;
use crate::Error;
use kbs_protocol::encoding::hex;
use measured_boot::facts::ImageFacts;
use measured_boot::image::{Architecture, Choice, Scanner};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::Read;

/// Where the blobs of an image are.
pub(super) trait Store {
    /// Opens what a descriptor names. A manifest may lie elsewhere than other blobs.
    fn open(&self, descriptor: &Descriptor, is_manifest: bool)
    -> Result<Box<dyn Read + '_>, Error>;
}

/// A descriptor.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    /// `sha256:` and 64 hexadecimal digits.
    pub(super) digest: String,
    /// In bytes; absent where a person named the digest.
    #[serde(default)]
    pub(super) size: Option<u64>,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An index of manifests, or a manifest.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
    pub(super) config: Option<Descriptor>,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

/// What the layers of an image are, unpacked, and its labels.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    config: Option<Inner>,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct Inner {
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Descriptor {
    /// What a person wrote.
    pub(super) fn named(digest: &str) -> Self {
        Self {
            digest: digest.to_owned(),
            size: None,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The digits of its digest.
    pub(super) fn sha256(&self) -> Result<&str, Error> {
        sha256(&self.digest).ok_or_else(|| Error::Reference {
            got: self.digest.clone(),
            expected: "a digest: sha256: and 64 lower-case hexadecimal digits",
        })
    }
}

/// The digits of a digest; one in another spelling is none, because digests are compared as text.
pub(super) fn sha256(digest: &str) -> Option<&str> {
    let digits = digest.strip_prefix("sha256:");
    digits.filter(|digits| hex::is_sha256(digits))
}

/// Looks through the image that a descriptor leads to.
pub(super) fn facts(
    store: &dyn Store,
    root: &Descriptor,
    name: &str,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let choice = &options.choice;
    let mut manifest: Manifest = document(store, root, true, MAX_MANIFEST)?;
    if manifest.config.is_none() {
        let chosen = of_architecture(&manifest, name, choice.architecture)?;
        manifest = document(store, &chosen, true, MAX_MANIFEST)?;
    }
    let Some(config) = &manifest.config else {
        let why = "it has no config: an index that names an index";
        return Err(Error::document(format!("the manifest of {name}"), why));
    };
    if let Some(most) = options.most_bytes {
        bounded(&manifest, name, most)?;
    }
    let config: Config = document(store, config, false, MAX_CONFIG)?;
    let layers = Layers {
        sizes: manifest.layers.iter().map(|layer| layer.size).collect(),
        open: &mut |number| match manifest.layers.get(number) {
            Some(layer) => Verified::new(store.open(layer, false)?, layer),
            None => Err(Error::document(name, "it has no such layer")),
        },
    };
    scan(&config, layers, name, choice, progress)
}

/// What a manifest says of the sizes of its layers is held against each of them while it passes.
fn bounded(manifest: &Manifest, name: &str, most: u64) -> Result<(), Error> {
    let mut sizes = manifest.layers.iter().map(|layer| layer.size);
    let all = sizes.try_fold(0_u64, |all, size| all.checked_add(size?));
    match all {
        Some(all) if all <= most => Ok(()),
        Some(all) => Err(Error::document(
            name,
            format!("its layers have {all} bytes, of at most {most}"),
        )),
        None => Err(Error::document(
            name,
            "it does not say how large its layers are",
        )),
    }
}

/// The layers of an image, wherever they are, the lowest first.
pub(super) struct Layers<'l, 's> {
    /// Bytes to read of each, where that is known.
    pub(super) sizes: Vec<Option<u64>>,
    /// Opens one by its number.
    pub(super) open: &'l mut dyn FnMut(usize) -> Result<Verified<'s>, Error>,
}

/// Looks through the layers; each must be, unpacked, what the config says.
pub(super) fn scan(
    config: &Config,
    layers: Layers<'_, '_>,
    name: &str,
    choice: &Choice,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != layers.sizes.len() || diff_ids.len() > MAX_LAYERS {
        let why = "its layers are not those of its config";
        return Err(Error::document(format!("the manifest of {name}"), why));
    }
    let sizes = layers.sizes.iter().flatten();
    let all = sizes.fold(0, |all: u64, size| all.saturating_add(*size));
    let mut done = 0_u64;
    let mut scanner = Scanner::new();
    for (number, diff_id) in diff_ids.iter().enumerate() {
        let mut reader = (layers.open)(number)?;
        let layer = reader.name().to_owned();
        let scanned = scanner.layer(&mut Watched {
            reader: &mut reader,
            report: &mut |count| progress(done.saturating_add(count), all),
        });
        let count = reader.finish_or(scanned.as_ref().err().cloned())?;
        done = done.saturating_add(count);
        let found = format!("sha256:{}", scanned?);
        if found != *diff_id {
            return Err(Error::Digest {
                what: format!("the uncompressed layer {layer}"),
                expected: diff_id.clone(),
                found,
            });
        }
    }
    let mut facts = scanner.finish(name, choice)?;
    let labels = config.config.as_ref();
    let labels = labels.and_then(|inner| inner.labels.as_ref());
    facts.claimed_pcrs = labels
        .and_then(|labels| labels.get(LABEL))
        .map(|label| claimed(label))
        .unwrap_or_default();
    Ok(facts)
}

/// A layer on its way, watched by a progress bar.
struct Watched<'w, 's> {
    reader: &'w mut Verified<'s>,
    report: &'w mut dyn FnMut(u64),
}

impl Read for Watched<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        (self.report)(self.reader.count());
        Ok(read)
    }
}

/// A JSON document, whole and verified.
pub(super) fn document<T: DeserializeOwned>(
    store: &dyn Store,
    descriptor: &Descriptor,
    is_manifest: bool,
    limit: u64,
) -> Result<T, Error> {
    let bytes = bytes(store, descriptor, is_manifest, limit)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::document(&descriptor.digest, error))
}

/// A small blob, whole and verified.
pub(super) fn bytes(
    store: &dyn Store,
    descriptor: &Descriptor,
    is_manifest: bool,
    limit: u64,
) -> Result<Vec<u8>, Error> {
    let mut reader = Verified::new(store.open(descriptor, is_manifest)?, descriptor)?;
    let mut bytes = Vec::new();
    let read = (&mut reader)
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes);
    if u64::try_from(bytes.len()).map_or(true, |length| length > limit) {
        return Err(Error::document(
            &descriptor.digest,
            format!("more than {limit} bytes"),
        ));
    }
    reader.finish_or(read.err().map(|error| measured_boot::Error::Read {
        structure: "blob",
        offset: bytes.len(),
        why: error.to_string(),
    }))?;
    Ok(bytes)
}

fn of_architecture(
    index: &Manifest,
    name: &str,
    wanted: Architecture,
) -> Result<Descriptor, Error> {
    let wanted = match wanted {
        Architecture::X64 => "amd64",
        Architecture::Aa64 => "arm64",
    };
    let fits = |descriptor: &&Descriptor| match &descriptor.platform {
        Some(platform) => platform.os == "linux" && platform.architecture == wanted,
        None => index.manifests.len() == 1,
    };
    let mut found = index.manifests.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (None, _) => Err(Error::document(
            name,
            format!("no manifest for linux on {wanted}"),
        )),
        (Some(_), Some(_)) => Err(Error::document(
            name,
            format!("several manifests for linux on {wanted}"),
        )),
    }
}

/// What the builder says that its image measures. Labels are inherited by images that are built upon this one, so it is
/// a hint to compare with and never a reference value.
fn claimed(label: &str) -> BTreeMap<u8, String> {
    #[derive(Deserialize)]
    struct Label {
        pcrs: Vec<Claimed>,
    }
    #[derive(Deserialize)]
    struct Claimed {
        id: u8,
        value: String,
    }
    let parsed: Result<Label, _> = serde_json::from_str(label);
    // A label that cannot be read is as good as none.
    let pcrs = parsed.map(|label| label.pcrs).unwrap_or_default();
    pcrs.into_iter()
        .map(|claimed| (claimed.id, claimed.value.to_lowercase()))
        .collect()
}

/// Label of the config in which some builders state PCR values.
const LABEL: &str = "org.coreos.pcrs";
pub(super) const MAX_MANIFEST: u64 = 4 * 1024 * 1024;
pub(super) const MAX_CONFIG: u64 = 8 * 1024 * 1024;
const MAX_LAYERS: usize = 1024;

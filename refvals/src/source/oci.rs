// SPDX-License-Identifier: Apache-2.0

//! From a digest to the layers of an image (OCI image specification 1.1; Docker's image manifest version 2, schema 2
//! has the same shape). Every byte is held against the digest that named it while it passes.

use super::verified::Verified;
use crate::Error;
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
    config: Option<Descriptor>,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Config {
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
}

/// Looks through the image that a descriptor leads to.
pub(super) fn facts(
    store: &dyn Store,
    root: &Descriptor,
    name: &str,
    choice: &Choice,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let mut manifest: Manifest = document(store, root, true, MAX_MANIFEST)?;
    if manifest.config.is_none() {
        let chosen = of_architecture(&manifest, name, choice.architecture)?;
        manifest = document(store, &chosen, true, MAX_MANIFEST)?;
    }
    let wrong = |why: &str| Error::document(format!("the manifest of {name}"), why);
    let Some(config) = &manifest.config else {
        return Err(wrong("it has no config: an index that names an index"));
    };
    let config: Config = document(store, config, false, MAX_CONFIG)?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() || manifest.layers.len() > MAX_LAYERS {
        return Err(wrong("its layers are not those of its config"));
    }
    let all = manifest
        .layers
        .iter()
        .filter_map(|layer| layer.size)
        .fold(0, u64::saturating_add);
    let mut done = 0;
    let mut scanner = Scanner::new();
    for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
        let mut report = |count: u64| progress(count.saturating_add(done), all);
        let mut reader = Verified::new(store.open(layer, false)?, layer)?;
        reader.report(&mut report);
        let scanned = scanner.layer(&mut reader);
        let count = reader.finish_or(scanned.as_ref().err().cloned())?;
        done = done.saturating_add(count);
        let found = format!("sha256:{}", scanned?);
        if found != *diff_id {
            return Err(Error::Digest {
                what: format!("the uncompressed layer {}", layer.digest),
                expected: diff_id.clone(),
                found,
            });
        }
    }
    let mut facts = scanner.finish(name, choice)?;
    let labels = config
        .config
        .and_then(|inner| inner.labels)
        .unwrap_or_default();
    facts.claimed_pcrs = labels
        .get(LABEL)
        .map(|label| claimed(label))
        .unwrap_or_default();
    Ok(facts)
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
const MAX_CONFIG: u64 = 8 * 1024 * 1024;
const MAX_LAYERS: usize = 1024;

// SPDX-License-Identifier: Apache-2.0

//! Images, wherever they are: a directory (a mounted image, an ESP), an OCI layout or an archive of one, a registry, or
//! facts that were computed before.

mod cache;
mod cosign;
mod directory;
mod layout;
mod oci;
mod registry;
mod verified;

pub use cache::usual_cache;
pub use directory::directory;
pub use registry::Access;

use crate::Error;
use layout::{Archive, Layout, LayoutStore};
use measured_boot::facts::ImageFacts;
use measured_boot::image::Choice;
use oci::{Descriptor, Manifest};
use registry::Reference;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// How to open an image, beside its name.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What a person decides about its parts.
    pub choice: Choice,
    /// How to reach registries.
    pub access: Access,
    /// Insist on a signature by this key (PEM), as cosign keeps it beside the image.
    pub cosign_key: Option<PathBuf>,
    /// Where facts are kept by digest; `None`: nowhere.
    pub cache: Option<PathBuf>,
}

/// Loads the facts of an image:
///
/// * a directory with `oci-layout` in it, or an archive of one, `@sha256:…` after it where it holds several images;
/// * any other directory, as it is;
/// * a JSON document that `refvals image` wrote;
/// * otherwise `host/repository@sha256:…` in a registry.
///
/// `progress` learns how many bytes of the layers were read, of how many.
///
/// # Errors
/// [`Error::Reference`] for a name that is none of these, and whatever the image and its place have to say.
pub fn load(
    source: &str,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let (name, digest) = match source.rsplit_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (source, None),
    };
    let path = Path::new(
        name.strip_prefix("oci:")
            .or(name.strip_prefix("dir:"))
            .unwrap_or(name),
    );
    if path.join("oci-layout").is_file() {
        let store = LayoutStore::Directory(Layout::open(path));
        return from_layout(&store, path, digest, options, progress);
    }
    if path.is_dir() {
        return directory(path, source, &options.choice);
    }
    if !path.is_file() {
        return from_registry(source, options, progress);
    }
    let mut start = Vec::new();
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.take(512)
        .read_to_end(&mut start)
        .map_err(Error::io("read", path))?;
    if Archive::is_archive(&start) {
        let store = LayoutStore::Archive(Archive::open(path)?);
        return from_layout(&store, path, digest, options, progress);
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let mut facts: ImageFacts =
        serde_json::from_slice(&bytes).map_err(|error| Error::document(source, error))?;
    // A document that was made before may be read with another boot path.
    facts.route = options.choice.route.or(facts.route);
    Ok(facts)
}

fn from_layout(
    store: &LayoutStore,
    path: &Path,
    digest: Option<&str>,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let root = layout::root(&mut layout::index(store)?, path, digest)?;
    if let Some(key) = &options.cosign_key {
        let key = cosign::key(key)?;
        let signatures = store
            .tagged(&cosign::tag(&root.digest))?
            .ok_or_else(|| unsigned(&root.digest))?;
        let signatures: Manifest = oci::document(store, &signatures, true, oci::MAX_MANIFEST)?;
        cosign::check(store, &signatures, &key, &root.digest)?;
    }
    let name = format!("{}@{}", path.display(), root.digest);
    cache::or_compute(options, &root.digest, &name, || {
        oci::facts(store, &root, &name, &options.choice, progress)
    })
}

/// Asks each mirror, then the registry itself. A mirror that does not answer, or does not have it, is passed over; one
/// that answers with other bytes is an error.
fn from_registry(
    source: &str,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let reference = Reference::parse(source)?;
    let key = options.cosign_key.as_deref().map(cosign::key).transpose()?;
    let root = Descriptor::named(&reference.digest);
    if key.is_none()
        && let Some(facts) = cache::find(options, &root.digest, source)
    {
        return Ok(facts);
    }
    let mut places = reference.places(&options.access)?.into_iter().peekable();
    while let Some(place) = places.next() {
        let looked = (|| {
            if let Some(key) = &key {
                let signatures = place
                    .tagged(&cosign::tag(&root.digest))?
                    .ok_or_else(|| unsigned(&root.digest))?;
                let signatures = serde_json::from_slice(&signatures);
                let signatures = signatures
                    .map_err(|error| Error::document("the manifest of signatures", error))?;
                cosign::check(&place, &signatures, key, &root.digest)?;
            }
            cache::or_compute(options, &root.digest, source, || {
                oci::facts(&place, &root, source, &options.choice, progress)
            })
        })();
        match looked {
            Err(Error::Unreachable { .. } | Error::Registry { .. } | Error::Cut { .. })
                if places.peek().is_some() => {}
            done => return done,
        }
    }
    Err(unsigned(&root.digest))
}

fn unsigned(digest: &str) -> Error {
    Error::Unsigned {
        digest: digest.to_owned(),
        why: "there are no signatures beside it",
    }
}

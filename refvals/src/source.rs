// SPDX-License-Identifier: Apache-2.0

//! Images, wherever they are: a directory (a mounted image, an ESP), an OCI layout, an archive as podman and docker save
//! them, the storage of podman, a registry, or facts that were computed before.

mod archive;
mod cache;
mod cosign;
mod directory;
mod docker_archive;
mod layout;
mod oci;
mod place;
mod registry;
mod storage;
mod verified;

pub use cache::usual_cache;
pub use directory::directory;
pub use place::beside;
pub use registry::Access;

use crate::{Error, Given};
use archive::Archive;
use layout::{Layout, LayoutStore};
use measured_boot::facts::ImageFacts;
use measured_boot::image::Choice;
use oci::{Descriptor, Manifest};
use place::{KINDS, Place, STORAGE, Wanted};
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
    pub cosign_key: Option<Given>,
    /// Where facts are kept by digest; `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// The most bytes of layers, as they come from a registry or a layout; more is refused before any of them is read.
    pub most_bytes: Option<u64>,
}

/// Loads the facts of an image:
///
/// * `containers-storage:[[driver@]directory]name`: an image that podman keeps;
/// * a directory with `oci-layout` in it, an archive of one, or an archive as docker saves it, compressed or not;
///   `:name` or `@sha256:…` after it where it holds several images; `oci:`, `oci-archive:` and `docker-archive:` may
///   stand before it, and are then insisted on;
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
    let (kind, text) = match source.split_once(':') {
        Some((STORAGE, name)) => {
            refuse_key(source, options)?;
            return storage::load(name, options, progress);
        }
        Some((kind, text)) if KINDS.contains(&kind) => (Some(kind), text),
        _ => (None, source),
    };
    let Place { path, wanted } = Place::parse(text);
    let has_layout = path.join("oci-layout").is_file();
    match kind {
        None | Some("oci") if has_layout => {
            let store = LayoutStore::Directory(Layout::open(path));
            from_layout(&store, path, wanted, options, progress)
        }
        None | Some("dir") if path.is_dir() && wanted == Wanted::default() => {
            refuse_key(source, options)?;
            directory(path, source, &options.choice)
        }
        None if !path.is_file() => from_registry(source, options, progress),
        None if starts_as_archive(path)? => from_archive(path, kind, wanted, options, progress),
        None => {
            refuse_key(source, options)?;
            from_document(source, path, options)
        }
        Some("oci-archive" | "docker-archive") => {
            from_archive(path, kind, wanted, options, progress)
        }
        Some(_) => Err(Error::Reference {
            got: source.to_owned(),
            expected: "a directory of that kind",
        }),
    }
}

/// Only a place that can hold signatures can be asked for one.
fn refuse_key(source: &str, options: &Options) -> Result<(), Error> {
    match options.cosign_key {
        Some(_) => Err(Error::Unsigned {
            digest: source.to_owned(),
            why: "only registries and OCI layouts keep signatures beside an image",
        }),
        None => Ok(()),
    }
}

fn starts_as_archive(path: &Path) -> Result<bool, Error> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.take(512)
        .read_to_end(&mut start)
        .map_err(Error::io("read", path))?;
    Ok(Archive::is_archive(&start))
}

/// Archives of today hold both forms: the layout, whose blobs are named by digests, is read before the other.
fn from_archive(
    path: &Path,
    kind: Option<&str>,
    wanted: Wanted<'_>,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let archive = Archive::open(path)?;
    let is_layout = archive.has("oci-layout") && kind != Some("docker-archive");
    let is_docker = archive.has(docker_archive::MANIFEST) && kind != Some("oci-archive");
    if is_layout {
        return from_layout(
            &LayoutStore::Archive(archive),
            path,
            wanted,
            options,
            progress,
        );
    }
    if is_docker {
        refuse_key(&path.display().to_string(), options)?;
        return docker_archive::load(&archive, wanted, options, progress);
    }
    let why = "the archive holds neither oci-layout nor manifest.json, as archives of images do";
    Err(Error::document(path.display().to_string(), why))
}

/// What `refvals image` wrote.
fn from_document(source: &str, path: &Path, options: &Options) -> Result<ImageFacts, Error> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let mut facts: ImageFacts = serde_json::from_slice(&bytes).map_err(|error| {
        let why = format!("it is no archive of an image, nor what `refvals image` writes: {error}");
        Error::document(source, why)
    })?;
    // A document that was made before may be read with another boot path.
    facts.route = options.choice.route.or(facts.route);
    Ok(facts)
}

fn from_layout(
    store: &LayoutStore,
    path: &Path,
    wanted: Wanted<'_>,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let root = layout::root(store, path, wanted)?;
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
        oci::facts(store, &root, &name, options, progress)
    })
}

/// An image in a registry, by digest; nothing of this machine is looked at. Asks each mirror, then the registry itself. A
/// mirror that does not answer, or does not have it, is passed over; one that answers with other bytes is an error.
///
/// # Errors
/// [`Error::Reference`] without a digest, and whatever the image and its registry have to say.
pub fn from_registry(
    source: &str,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImageFacts, Error> {
    let reference = Reference::parse(source)?;
    let key = options.cosign_key.as_ref().map(cosign::key).transpose()?;
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
                oci::facts(&place, &root, source, options, progress)
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

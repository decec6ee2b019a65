// SPDX-License-Identifier: Apache-2.0

//! Approved images by reference: what their boots show is computed by `refvals` from the image and its platforms, for
//! each image alone and for every step of an update between two of them. Facts are kept by digest, so that the second
//! run pulls nothing.

pub(crate) mod rollout;

use super::objects::{ApprovedImage, Boot, Registries};
use super::{Error, Place};
use crate::model::{BootTuple, Boots};
use kbs_protocol::Blame as _;
use measured_boot::combine::Reachable;
use measured_boot::image::Choice;
use refvals::{Given, platform, source};
use rollout::{Failure, Member, Remark, Why};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The objects by name.
pub(super) type Images = BTreeMap<String, (ApprovedImage, Place)>;

/// Everything that the images approve, and what a person should know about it.
///
/// # Errors
/// [`Error::Object`] for an image that approves nothing or names another that is not computed; [`Error::Image`] for
/// one that cannot be computed. Then nothing is approved: what a KBS has stays as it is.
pub(super) fn approve(
    images: &Images,
    registries: &Registries,
    cluster: &Path,
) -> Result<(Boots, Vec<String>), Error> {
    let (mut boots, mut remarks) = (Boots::default(), Vec::new());
    for (name, (image, place)) in images {
        let is_computed = !image.platforms.is_empty();
        if image.reference_values.is_empty() && !is_computed {
            let why = format!(
                "image {name} has neither platforms nor reference values, so it approves nothing"
            );
            return Err(wrong(place, why));
        }
        if is_computed && image.image.is_none() {
            return Err(wrong(place, format!("{name} has platforms but no image")));
        }
        let is_known = |from: &&String| {
            let other = images.get(*from).map(|(other, _)| other);
            is_computed && other.is_some_and(|other| !other.platforms.is_empty())
        };
        if let Some(from) = image.updates_from.iter().find(|from| !is_known(from)) {
            let why = format!("{name} is updated from {from}: both need an image and platforms");
            return Err(wrong(place, why));
        }
        boots.extend(image.reference_values.clone());
    }
    let computed = images
        .iter()
        .filter(|(_, (image, _))| !image.platforms.is_empty());
    let computed = computed.map(|(name, (image, _))| (name.as_str(), &image.updates_from));
    for group in rollout::groups(computed) {
        let (reachable, said) = reachable(&group, images, registries, cluster)?;
        for tuple in reachable.boots.keys() {
            boots.tuples.insert(read(tuple)?);
        }
        remarks.extend(said.into_iter().map(|remark| remark.text));
    }
    remarks.sort();
    remarks.dedup();
    Ok((boots, remarks))
}

/// The boots of one group, from where its files name images and platforms.
fn reachable(
    group: &BTreeSet<&str>,
    images: &Images,
    registries: &Registries,
    cluster: &Path,
) -> Result<(Reachable, Vec<Remark>), Error> {
    let (mut members, mut rows, mut last) = (Vec::new(), Vec::new(), None);
    let found = group.iter().filter_map(|name| images.get_key_value(*name));
    for (name, (image, place)) in found {
        let base = base(&place.file);
        let reference = source::beside(image.image.as_deref().unwrap_or_default(), base);
        let options = options(image, registries, cluster);
        let facts = source::load(&reference, &options, &mut |_, _| {})
            .map_err(|error| failed(name, place, error))?;
        members.push(Member {
            name: name.clone(),
            facts,
            boot: image.boot.clone(),
            updates_from: image.updates_from.clone(),
        });
        for row in &image.platforms {
            let sources = row
                .split(',')
                .map(|source| match source.starts_with("profile:") {
                    true => source.to_owned(),
                    false => source::beside(source, base),
                });
            let row = sources.collect::<Vec<_>>().join(",");
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        last = Some((name, place));
    }
    let platforms = platform::load_rows(&rows);
    let platforms = platforms.map_err(|error| match last {
        Some((name, place)) => failed(name, place, error),
        None => Error::Directory {
            dir: cluster.to_owned(),
            why: error.to_string(),
        },
    })?;
    rollout::reachable(members, platforms).map_err(|failure| {
        let Failure { image: name, why } = failure;
        match (images.get(&name), why) {
            (Some((_, place)), Why::Error(error)) => failed(&name, place, error),
            (Some((_, place)), Why::NoStart(why)) => {
                wrong(place, format!("image {name} starts on no platform: {why}"))
            }
            (None, _) => Error::Directory {
                dir: cluster.to_owned(),
                why: format!("there is no image {name}"),
            },
        }
    })
}

fn options(image: &ApprovedImage, registries: &Registries, cluster: &Path) -> source::Options {
    let base = base(cluster);
    let file = |path: &Option<PathBuf>, field| {
        let path = base.join(path.as_ref()?);
        Some(Given::from(path).by(field))
    };
    source::Options {
        choice: choice(&image.boot),
        access: source::Access {
            auth_file: file(&registries.auth_file, "spec.registries.authFile"),
            ca_file: file(&registries.ca_file, "spec.registries.caFile"),
            mirrors: registries.mirrors.clone(),
            plain_http: registries.plain_http.clone(),
            until: None,
        },
        cosign_key: file(&registries.cosign_key_file, "spec.registries.cosignKeyFile"),
        cache: source::usual_cache(),
        most_bytes: None,
    }
}

/// What to do about it, in the words of somebody who writes objects and has no command line of `refvals`.
pub(crate) fn advice(error: &refvals::Error) -> String {
    match error {
        refvals::Error::Reference { .. } => "correct the object",
        refvals::Error::NoRoute { .. } => {
            "say spec.boot.path, if it boots at all: `refvals image` shows what is in it"
        }
        refvals::Error::Boot(measured_boot::Error::Ambiguous { .. }) => {
            "remove all but one from the image, or say in spec.boot.select how the path of the one begins that boots"
        }
        other => return other.advice(),
    }
    .to_owned()
}

/// What a person has decided about the parts of an image.
pub(crate) fn choice(boot: &Boot) -> Choice {
    Choice {
        select: boot.select.clone(),
        route: boot.path,
        architecture: boot.architecture,
    }
}

fn base(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}

/// The operator's own form of the same tuple.
pub(crate) fn read(tuple: &measured_boot::combine::Tuple) -> Result<BootTuple, Error> {
    serde_json::from_value(json!(tuple)).map_err(|error| {
        crate::model::Error::malformed("a computed boot tuple", &error.to_string(), "PCR values")
            .into()
    })
}

fn failed(name: &str, place: &Place, error: refvals::Error) -> Error {
    Error::Image {
        name: name.to_owned(),
        place: place.clone(),
        error: Box::new(error),
    }
}

fn wrong(place: &Place, why: impl Into<String>) -> Error {
    Error::Object {
        place: place.clone(),
        why: why.into(),
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Approved images by reference: what their boots show is computed by `refvals` from the image and its platforms, for
//! each image alone and for every step of an update between two of them. Facts are kept by digest, so that the second
//! run pulls nothing.

use super::objects::{ApprovedImage, Registries};
use super::{Error, Place};
use crate::model::{BootTuple, Boots};
use measured_boot::bank::Bank;
use measured_boot::combine::{Approved, Reachable, Rollout, combine};
use measured_boot::image::Choice;
use measured_boot::path::BootPath;
use refvals::{label, platform, source};
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
    for group in groups(images) {
        let reachable = reachable(&group, images, registries, cluster, &mut remarks)?;
        for (tuple, boot) in &reachable.boots {
            boots.tuples.insert(read(tuple)?);
            remarks.extend(boot.unobserved.iter().map(|what| {
                format!(
                    "{}: nobody has seen yet: {what}",
                    boot.combination.deployment
                )
            }));
        }
        for (combination, why) in &reachable.dead_ends {
            remarks.push(format!(
                "{} behind the boot loader of {} on {} does not start: {why}",
                combination.deployment, combination.boot_loader, combination.platform
            ));
        }
    }
    remarks.sort();
    remarks.dedup();
    Ok((boots, remarks))
}

/// Images that updates connect belong together, all others stand alone.
fn groups(images: &Images) -> Vec<BTreeSet<&str>> {
    let mut groups: Vec<BTreeSet<&str>> = Vec::new();
    for (name, (image, _)) in images
        .iter()
        .filter(|(_, (image, _))| !image.platforms.is_empty())
    {
        let mut group: BTreeSet<&str> = image.updates_from.iter().map(String::as_str).collect();
        group.insert(name);
        let (connected, others) = groups
            .into_iter()
            .partition::<Vec<_>, _>(|known| !known.is_disjoint(&group));
        group.extend(connected.into_iter().flatten());
        groups = others;
        groups.push(group);
    }
    groups
}

/// The boots of one group; what the labels of its images say otherwise is remarked.
fn reachable(
    group: &BTreeSet<&str>,
    images: &Images,
    registries: &Registries,
    cluster: &Path,
    remarks: &mut Vec<String>,
) -> Result<Reachable, Error> {
    let (mut approved, mut names, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    let (mut partial_esp, mut last) = (false, None);
    let members = group.iter().filter_map(|name| images.get_key_value(*name));
    for (name, (image, place)) in members {
        let computed = |error: refvals::Error| failed(name, place, error);
        let base = base(&place.file);
        let reference = source::beside(image.image.as_deref().unwrap_or_default(), base);
        let options = options(image, registries, cluster);
        let mut facts = source::load(&reference, &options, &mut |_, _| {}).map_err(computed)?;
        name.clone_into(&mut facts.name);
        let route = facts.route.ok_or_else(|| refvals::Error::NoRoute {
            image: name.clone(),
        });
        let path = BootPath {
            kernel_measurements: image.boot.kernel_measurements,
            failed_boot_options: image.boot.failed_boot_options,
            phases: image.boot.phases.clone(),
            ..BootPath::new(route.map_err(computed)?)
        };
        approved.push(Approved { facts, path });
        names.push(name.as_str());
        partial_esp |= image.boot.partial_esp;
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
    let Some((name, place)) = last else {
        return Ok(Reachable {
            bank: Bank::Sha256,
            boots: BTreeMap::new(),
            dead_ends: Vec::new(),
        });
    };
    let place_of = |wanted: &str| names.iter().position(|name| *name == wanted);
    let mut updates = Vec::new();
    for (to, name) in names.iter().enumerate() {
        let from = images.get(*name).map(|(image, _)| &image.updates_from);
        let from = from.into_iter().flatten().filter_map(|from| place_of(from));
        updates.extend(from.map(|from| (from, to)));
    }
    let (platforms, platform_updates) =
        platform::load_rows(&rows).map_err(|error| failed(name, place, error))?;
    for Approved { facts, path } in &approved {
        let says = label::check(facts, path, &platforms, Bank::Sha256);
        let says = says.map_err(|error| failed(name, place, error))?;
        remarks.extend(says.iter().map(|says| format!("{}: {says}", facts.name)));
    }
    let reachable = combine(&Rollout {
        images: approved,
        updates,
        platforms,
        platform_updates,
        bank: Bank::Sha256,
        phases: Vec::new(),
        partial_esp,
    });
    let reachable = reachable.map_err(|error| failed(name, place, error.into()))?;
    match reachable.dead_ends.first() {
        Some((_, why)) if reachable.boots.is_empty() => Err(wrong(
            place,
            format!("image {name} starts on no platform: {why}"),
        )),
        _ => Ok(reachable),
    }
}

fn options(image: &ApprovedImage, registries: &Registries, cluster: &Path) -> source::Options {
    let base = base(cluster);
    let file = |path: &Option<PathBuf>| path.as_ref().map(|path| base.join(path));
    source::Options {
        choice: Choice {
            select: image.boot.select.clone(),
            route: image.boot.path,
            architecture: image.boot.architecture,
        },
        access: source::Access {
            auth_file: file(&registries.auth_file),
            ca_file: file(&registries.ca_file),
            mirrors: registries.mirrors.clone(),
            plain_http: registries.plain_http.clone(),
        },
        cosign_key: file(&registries.cosign_key_file),
        cache: source::usual_cache(),
    }
}

fn base(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}

/// The operator's own form of the same tuple.
fn read(tuple: &measured_boot::combine::Tuple) -> Result<BootTuple, Error> {
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

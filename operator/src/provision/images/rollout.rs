// SPDX-License-Identifier: Apache-2.0

//! From the facts of images and platforms to what machines may show: for each image alone and for every step of an
//! update between two of them. Pure; files and the objects of a cluster come here by different ways.

use super::super::objects::Boot;
use measured_boot::bank::Bank;
use measured_boot::combine::{Approved, Reachable, Rollout, combine};
use measured_boot::facts::ImageFacts;
use measured_boot::path::BootPath;
use measured_boot::platform::PlatformFacts;
use refvals::label;
use std::collections::BTreeSet;

/// An image that has been looked through.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// The name of its object.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) facts: ImageFacts,
    /// What it does not say.
    pub(crate) boot: Boot,
    /// Members that it is updated from.
    pub(crate) updates_from: BTreeSet<String>,
}

/// Platforms, and which becomes which.
pub(crate) type Platforms = (Vec<PlatformFacts>, Vec<(usize, usize)>);

/// Something that a person should know of an image that is approved all the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Remark {
    /// The name of its object.
    pub(crate) image: String,
    /// Whether its builder's label says something else.
    pub(crate) is_about_the_label: bool,
    /// In words, with its name.
    pub(crate) text: String,
}

/// Why a group approves nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The image that it is about.
    pub(crate) image: String,
    pub(crate) why: Why,
}

#[derive(Debug)]
pub(crate) enum Why {
    /// It cannot be computed.
    Error(refvals::Error),
    /// A sentence: it starts nowhere.
    NoStart(String),
}

/// Names that updates connect belong together, all others stand alone.
pub(crate) fn groups<'a>(
    images: impl Iterator<Item = (&'a str, &'a BTreeSet<String>)>,
) -> Vec<BTreeSet<&'a str>> {
    let mut groups: Vec<BTreeSet<&str>> = Vec::new();
    for (name, updates_from) in images {
        let mut group: BTreeSet<&str> = updates_from.iter().map(String::as_str).collect();
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

/// The boots of one group, and what a person should know of them.
///
/// # Errors
/// When one cannot be computed, or starts nowhere.
pub(crate) fn reachable(
    members: Vec<Member>,
    (platforms, platform_updates): Platforms,
) -> Result<(Reachable, Vec<Remark>), Failure> {
    let mut remarks = Vec::new();
    let (mut approved, mut updates, mut partial_esp) = (Vec::new(), Vec::new(), false);
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    for (to, member) in members.into_iter().enumerate() {
        let name = member.name;
        let failed = |error| Failure {
            image: name.clone(),
            why: Why::Error(error),
        };
        let from = member.updates_from.iter();
        let from = from.filter_map(|from| names.iter().position(|known| known == from));
        updates.extend(from.map(|from| (from, to)));
        partial_esp |= member.boot.partial_esp;
        let mut facts = member.facts;
        name.clone_into(&mut facts.name);
        let route = facts.route.ok_or_else(|| {
            failed(refvals::Error::NoRoute {
                image: name.clone(),
            })
        })?;
        let path = BootPath {
            kernel_measurements: member.boot.kernel_measurements,
            failed_boot_options: member.boot.failed_boot_options,
            phases: member.boot.phases,
            ..BootPath::new(route)
        };
        let says = label::check(&facts, &path, &platforms, Bank::Sha256).map_err(failed)?;
        remarks.extend(says.into_iter().map(|says| Remark {
            image: name.clone(),
            is_about_the_label: true,
            text: format!("{name}: {says}"),
        }));
        approved.push(Approved { facts, path });
    }
    let last = names.last().cloned().unwrap_or_default();
    let failed = |why| Failure { image: last, why };
    let reachable = combine(&Rollout {
        images: approved,
        updates,
        platforms,
        platform_updates,
        bank: Bank::Sha256,
        phases: Vec::new(),
        partial_esp,
    });
    let reachable = match reachable {
        Ok(reachable) => reachable,
        Err(error) => return Err(failed(Why::Error(error.into()))),
    };
    if let Some((_, why)) = reachable.dead_ends.first()
        && reachable.boots.is_empty()
    {
        return Err(failed(Why::NoStart(why.clone())));
    }
    for boot in reachable.boots.values() {
        let image = &boot.combination.deployment;
        remarks.extend(boot.unobserved.iter().map(|what| Remark {
            image: image.clone(),
            is_about_the_label: false,
            text: format!("{image}: nobody has seen yet: {what}"),
        }));
    }
    for (combination, why) in &reachable.dead_ends {
        remarks.push(Remark {
            image: combination.deployment.clone(),
            is_about_the_label: false,
            text: format!(
                "{} behind the boot loader of {} on {} does not start: {why}",
                combination.deployment, combination.boot_loader, combination.platform
            ),
        });
    }
    remarks.sort();
    remarks.dedup();
    Ok((reachable, remarks))
}

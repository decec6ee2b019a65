// SPDX-License-Identifier: Apache-2.0

//! What is known of a machine's last boot, added to how it stands. It comes from the registrar ([`Sighting`]), because a
//! KBS reports no attestations.

use super::Worker;
use crate::controllers::api::Phase;
use crate::controllers::inventory::{Cluster, Dirty, Entry, Inventory};
use crate::controllers::status::Verdict;
use crate::register::sighting::{ANNOTATION, Sighting};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use std::collections::{BTreeMap, BTreeSet};

/// What its key says of a machine.
pub(super) struct Seen {
    /// When its key was proved to live in a TPM, if a registrar asked for that.
    enrolled: Option<Time>,
    /// When it opened its volumes, and in which boot.
    unlocked: Option<Sighting>,
}

impl Seen {
    pub(super) fn has_unlocked(&self) -> bool {
        self.unlocked.is_some()
    }
}

impl Worker {
    pub(super) fn seen(&self, entry: &Entry) -> Option<Seen> {
        let name = entry.parsed.as_ref().ok()?.key.as_ref()?;
        let key = self.inventory.keys().get(name)?;
        let proved = key.spec.basis.is_some();
        Some(Seen {
            enrolled: key.metadata.creation_timestamp.clone().filter(|_| proved),
            unlocked: key
                .annotations()
                .get(ANNOTATION)
                .and_then(|text| Sighting::parse(text)),
        })
    }

    /// An image has changed: machines that had booted it, and those whose boot was none that is approved.
    pub(super) fn picture_changed(&self, image: &str, dirty: &mut Dirty) {
        for name in self.pictures.concerned(image) {
            self.inventory.touch(name, dirty);
        }
    }
}

/// Completes a verdict.
pub(super) fn add(
    verdict: &mut Verdict,
    seen: Option<&Seen>,
    inventory: &Inventory,
    cluster: &Cluster<'_>,
) {
    let Some(seen) = seen else { return };
    verdict.last_attestation.clone_from(&seen.enrolled);
    let Some(unlocked) = &seen.unlocked else {
        return;
    };
    let at = i64::try_from(unlocked.at).ok().map(Timestamp::from_second);
    let Some(Ok(at)) = at else { return };
    verdict.last_attestation = Some(Time(at));
    let pcrs = unlocked.pcrs();
    let images = inventory.images().iter();
    let mut booted = images.filter(|(_, image)| {
        let boots = image.boots.as_ref();
        boots.is_ok_and(|boots| boots.before_the_seal(&pcrs))
    });
    verdict.image = booted.next().map(|(name, _)| name.clone());
    if verdict.phase != Phase::Served {
        return;
    }
    let age = Timestamp::now().as_second().saturating_sub(at.as_second());
    let most = cluster.object.spec.stale_after_days;
    let stale = match (&verdict.image, most) {
        (None, _) => {
            "the boot that it last showed is not approved, so the next one like it is refused: approve that boot, or \
             have the machine boot one that is approved"
                .to_owned()
        }
        (_, Some(days)) if age > days.saturating_mul(DAY) => {
            format!("its TPM has shown nothing for more than {days} days")
        }
        _ => {
            // What else is wrong with it still is.
            verdict.phase = Phase::Unlocked;
            return;
        }
    };
    verdict.phase = Phase::Stale;
    verdict.reason = Some(match verdict.reason.take() {
        Some(remark) => format!("{stale}; {remark}"),
        None => stale,
    });
}

/// Which machines a change of an image can concern, so that it does not concern all.
#[derive(Debug, Default)]
pub(super) struct Pictures {
    of: BTreeMap<String, Option<String>>,
    by: BTreeMap<Option<String>, BTreeSet<String>>,
}

impl Pictures {
    /// A machine has shown a boot: that of an image, or of none that is approved. Or it has shown nothing.
    pub(super) fn set(&mut self, name: &str, image: Option<Option<String>>) {
        if let Some(old) = self.of.remove(name)
            && let Some(names) = self.by.get_mut(&old)
        {
            names.remove(name);
            if names.is_empty() {
                self.by.remove(&old);
            }
        }
        if let Some(image) = image {
            self.of.insert(name.to_owned(), image.clone());
            self.by.entry(image).or_default().insert(name.to_owned());
        }
    }

    fn concerned(&self, image: &str) -> impl Iterator<Item = &String> {
        let its = self.by.get(&Some(image.to_owned()));
        its.into_iter().chain(self.by.get(&None)).flatten()
    }
}

const DAY: i64 = 24 * 60 * 60;

#[cfg(test)]
mod tests;

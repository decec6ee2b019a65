// SPDX-License-Identifier: Apache-2.0

//! What is wished of the [`Scanner`](super::Scanner), and which part of that is due. Pure.

use crate::controllers::inventory::Inventory;
use crate::controllers::{api, parse};
use crate::provision::images::rollout;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What images are to be computed from, and what of that may have changed without being seen in it.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) wish: Wish,
    pub(super) again: Again,
}

/// What is to be looked at although nothing in the objects has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Again {
    /// Nothing.
    Nothing,
    /// Whether what is settled still is.
    Settled,
    /// Everything, at once: somebody has corrected a Secret or a ConfigMap.
    Everything,
}

/// The images that are to be computed.
#[derive(Debug, Default)]
pub(super) struct Wish {
    pub(super) images: BTreeMap<String, Wanted>,
    pub(super) registries: api::Registries,
}

/// An image that is to be computed.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) object: api::ApprovedImage,
    pub(super) reference: String,
    pub(super) platforms: Vec<String>,
    pub(super) updates_from: BTreeSet<String>,
}

impl Wish {
    pub(super) fn of(inventory: &Inventory) -> Self {
        let Ok(Some(cluster)) = inventory.cluster() else {
            return Self::default();
        };
        let spec = &cluster.object.spec;
        let wanted = inventory.images().iter().filter_map(|(name, image)| {
            let own = &image.object.spec;
            let platforms = parse::platforms(own, spec.platforms.as_ref())?;
            let wanted = Wanted {
                reference: parse::reference(own).ok()??.to_owned(),
                platforms: platforms.clone(),
                updates_from: own.updates_from.iter().flatten().cloned().collect(),
                object: image.object.clone(),
            };
            Some((name.clone(), wanted))
        });
        Self {
            images: wanted.collect(),
            registries: spec.registries.clone().unwrap_or_default(),
        }
    }

    /// What updates connect is computed together.
    fn groups(&self) -> impl Iterator<Item = BTreeSet<String>> {
        let images = self.images.iter();
        let images = images.map(|(name, wanted)| (name.as_str(), &wanted.updates_from));
        let groups = rollout::groups(images).into_iter();
        groups.map(|names| names.into_iter().map(str::to_owned).collect())
    }

    /// Whether all that decides what these images boot is the same in both, but for what Secrets and ConfigMaps hold.
    fn is_same(&self, other: &Self, names: &BTreeSet<String>) -> bool {
        let mut same = names.iter().map(|name| {
            let both = [&self.images, &other.images].map(|images| images.get(name));
            match both {
                [Some(one), Some(other)] => {
                    one.object.metadata.uid == other.object.metadata.uid
                        && one.object.spec == other.object.spec
                        && one.platforms == other.platforms
                }
                [one, other] => one.is_none() && other.is_none(),
            }
        });
        self.registries == other.registries && same.all(|same| same)
    }
}

/// The Secrets and ConfigMaps that an image is computed from, besides those of its cluster.
pub fn sources(spec: &api::ApprovedImageSpec) -> impl Iterator<Item = &str> {
    let secret = spec.pull_secret.as_deref();
    secret.into_iter().chain(of_platforms(&spec.platforms))
}

/// Those that the images of a cluster are computed from.
pub fn usual_sources(spec: &api::TrustedExecutionClusterSpec) -> impl Iterator<Item = &str> {
    let registries = spec.registries.iter().flat_map(|registries| {
        let entries = [&registries.ca, &registries.cosign_key];
        let entries = entries.into_iter().flatten();
        let secret = registries.pull_secret.as_deref().into_iter();
        secret.chain(entries.map(|entry| entry.config_map.as_str()))
    });
    registries.chain(of_platforms(&spec.platforms))
}

fn of_platforms(platforms: &Option<Vec<String>>) -> impl Iterator<Item = &str> {
    let rows = platforms.iter().flatten();
    rows.flat_map(|row| super::material::config_maps(row))
}

/// How a group stands.
enum State {
    /// What its images have is what they should have.
    Settled,
    /// It has failed so often, and is tried again then.
    Failing(u32, Instant),
}

/// The wish, and how its groups stand.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) wish: Wish,
    /// Names of images; those without a state were not looked at yet.
    groups: BTreeMap<BTreeSet<String>, Option<State>>,
}

impl Desk {
    pub(super) fn take(&mut self, order: Order) {
        let before = std::mem::replace(&mut self.wish, order.wish);
        let mut known = std::mem::take(&mut self.groups);
        let stays = |state: &State| match order.again {
            Again::Nothing => true,
            Again::Settled => matches!(state, State::Failing(..)),
            Again::Everything => false,
        };
        for names in self.wish.groups() {
            let state = known.remove(&names).flatten();
            let state = state.filter(|state| stays(state) && self.wish.is_same(&before, &names));
            self.groups.insert(names, state);
        }
    }

    pub(super) fn due(&self, now: Instant) -> Option<BTreeSet<String>> {
        let mut due = self.groups.iter().filter(|(_, state)| match state {
            Some(State::Settled) => false,
            Some(State::Failing(_, next)) => *next <= now,
            None => true,
        });
        due.next().map(|(names, _)| names.clone())
    }

    /// When something is due that is not yet.
    pub(super) fn next(&self) -> Option<Instant> {
        let next = self.groups.values().filter_map(|state| match state {
            Some(State::Failing(_, next)) => Some(*next),
            Some(State::Settled) | None => None,
        });
        next.min()
    }

    pub(super) fn ended(
        &mut self,
        names: &BTreeSet<String>,
        ended: Result<(), bool>,
        now: Instant,
    ) {
        let Some(state) = self.groups.get_mut(names) else {
            return;
        };
        let failures = match state {
            Some(State::Failing(failures, _)) => *failures,
            _ => 0,
        };
        *state = Some(match ended {
            Ok(()) => State::Settled,
            Err(may_pass) => {
                let pause = match may_pass {
                    true => SHORTEST.saturating_mul(1 << failures.min(LONGEST_SHIFT)),
                    false => LONGEST,
                };
                let next = now.checked_add(pause.min(LONGEST)).unwrap_or(now);
                State::Failing(failures.saturating_add(1), next)
            }
        });
    }
}

/// The first pause after a failure that may pass; each further one is twice as long.
pub(super) const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST_SHIFT: u32 = 6;
/// Also after a failure that will not pass by itself.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

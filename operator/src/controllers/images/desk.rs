// SPDX-License-Identifier: Apache-2.0

//! What is wished of the [`Scanner`](super::Scanner), and which part of that is due. Pure.

use crate::controllers::inventory::Inventory;
use crate::controllers::{api, parse};
use crate::provision::images::rollout;
use serde_json::json;
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

    /// What updates connect is computed together. With each group a text that changes with it.
    fn groups(&self) -> Vec<(String, BTreeSet<String>)> {
        let images = self.images.iter();
        let images = images.map(|(name, wanted)| (name.as_str(), &wanted.updates_from));
        let groups = rollout::groups(images).into_iter().map(|names| {
            let members = names.iter().map(|name| {
                let wanted = self.images.get(*name)?;
                let uid = &wanted.object.metadata.uid;
                Some((name, uid, &wanted.object.spec, &wanted.platforms))
            });
            let key = json!([members.collect::<Vec<_>>(), self.registries]);
            let names = names.iter().map(|name| (*name).to_owned());
            (key.to_string(), names.collect())
        });
        groups.collect()
    }
}

/// Whether images are computed from a Secret or ConfigMap of this name.
pub fn mention(inventory: &Inventory, name: &str) -> bool {
    let Ok(Some(cluster)) = inventory.cluster() else {
        return false;
    };
    let spec = &cluster.object.spec;
    let registries = spec.registries.as_ref();
    let named = registries.is_some_and(|registries| {
        let entries = [&registries.ca, &registries.cosign_key];
        let mut entries = entries.into_iter().flatten();
        registries.pull_secret.as_deref() == Some(name)
            || entries.any(|entry| entry.config_map == name)
    });
    let from = |platforms: &Option<Vec<String>>| {
        let mut rows = platforms.iter().flatten();
        rows.any(|row| super::material::config_maps(row).any(|known| known == name))
    };
    let mut images = inventory.images().values();
    named
        || from(&spec.platforms)
        || images.any(|image| {
            let own = &image.object.spec;
            own.pull_secret.as_deref() == Some(name) || from(&own.platforms)
        })
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
    states: BTreeMap<String, State>,
}

impl Desk {
    pub(super) fn take(&mut self, order: Order) {
        self.wish = order.wish;
        let known: BTreeSet<String> = self.wish.groups().into_iter().map(|(key, _)| key).collect();
        self.states.retain(|key, state| {
            let stays = match order.again {
                Again::Nothing => true,
                Again::Settled => matches!(state, State::Failing(..)),
                Again::Everything => false,
            };
            stays && known.contains(key)
        });
    }

    pub(super) fn due(&self, now: Instant) -> Option<(String, BTreeSet<String>)> {
        let groups = self.wish.groups().into_iter();
        let mut due = groups.filter(|(key, _)| match self.states.get(key) {
            Some(State::Settled) => false,
            Some(State::Failing(_, next)) => *next <= now,
            None => true,
        });
        due.next()
    }

    /// When something is due that is not yet.
    pub(super) fn next(&self) -> Option<Instant> {
        let next = self.states.values().filter_map(|state| match state {
            State::Settled => None,
            State::Failing(_, next) => Some(*next),
        });
        next.min()
    }

    pub(super) fn ended(&mut self, key: String, ended: Result<(), bool>, now: Instant) {
        let failures = match self.states.get(&key) {
            Some(State::Failing(failures, _)) => *failures,
            _ => 0,
        };
        let state = match ended {
            Ok(()) => State::Settled,
            Err(may_pass) => {
                let pause = match may_pass {
                    true => SHORTEST.saturating_mul(1 << failures.min(LONGEST_SHIFT)),
                    false => LONGEST,
                };
                let next = now.checked_add(pause.min(LONGEST)).unwrap_or(now);
                State::Failing(failures.saturating_add(1), next)
            }
        };
        self.states.insert(key, state);
    }
}

/// The first pause after a failure that may pass; each further one is twice as long.
pub(super) const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST_SHIFT: u32 = 6;
/// Also after a failure that will not pass by itself.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

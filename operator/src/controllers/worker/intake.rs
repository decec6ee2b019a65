// SPDX-License-Identifier: Apache-2.0

//! What the watches saw, into the inventory; nothing is decided here.

use super::Worker;
use crate::controllers::images::Again;
use crate::controllers::log;
use crate::controllers::watch::{Change, Seen};
use std::collections::BTreeSet;

impl Worker {
    pub(super) fn take_in(&mut self, event: Seen) {
        let (inventory, dirty) = (&mut self.inventory, &mut self.dirty);
        match event {
            Seen::Leading => {
                log(format_args!("leading as {}", self.settings.identity));
                self.leading = true;
                self.again = Some(Again::Everything);
                self.metrics.note(|figures| figures.leading = true);
            }
            Seen::Cluster(change) => {
                let known = inventory
                    .clusters()
                    .map(kube::ResourceExt::name_any)
                    .collect();
                changed(
                    "cluster",
                    change,
                    known,
                    &mut self.listed,
                    |name, object| {
                        inventory.set_cluster(name, object, dirty);
                    },
                );
                self.look_through(Again::Nothing);
            }
            Seen::Image(change) => {
                let known = inventory.images().keys().cloned().collect();
                let mut names = BTreeSet::new();
                changed("image", change, known, &mut self.listed, |name, object| {
                    names.extend(inventory.set_image(name, object, dirty));
                });
                let mut dirty = std::mem::take(&mut self.dirty);
                for name in &names {
                    self.picture_changed(name, &mut dirty);
                }
                self.dirty = dirty;
                self.look_through(Again::Nothing);
            }
            Seen::Machine(change) => {
                let known = match &change {
                    Change::All(_) => inventory.machines().keys().cloned().collect(),
                    _ => Vec::new(),
                };
                changed(
                    "machine",
                    change,
                    known,
                    &mut self.listed,
                    |name, object| {
                        inventory.set_machine(name, object, dirty);
                    },
                );
            }
            Seen::Key(change) => {
                let known = match &change {
                    Change::All(_) => inventory.keys().keys().cloned().collect(),
                    _ => Vec::new(),
                };
                changed("key", change, known, &mut self.listed, |name, object| {
                    inventory.set_key(name, object, dirty);
                });
            }
            Seen::Deployed => dirty.deployed = true,
            Seen::Content(name) => {
                if inventory.content_changed(&name, dirty) {
                    self.look_through(Again::Everything);
                }
            }
            Seen::LeaseLost(_) | Seen::Stop => {}
        }
    }
}

impl Worker {
    /// Images are to be thought about, with the next look at what is due.
    pub(super) fn look_through(&mut self, again: Again) {
        self.again = self.again.max(Some(again));
    }
}

fn changed<K: kube::Resource>(
    kind: &'static str,
    change: Change<K>,
    known: Vec<String>,
    listed: &mut BTreeSet<&'static str>,
    mut set: impl FnMut(&str, Option<K>),
) {
    match change {
        Change::Is(object) => {
            let name = object.meta().name.clone().unwrap_or_default();
            set(&name, Some(*object));
        }
        Change::Gone(name) => set(&name, None),
        Change::All(names) => {
            listed.insert(kind);
            for name in known.iter().filter(|name| !names.contains(*name)) {
                set(name, None);
            }
        }
    }
}

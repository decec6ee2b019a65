// SPDX-License-Identifier: Apache-2.0

//! What the watches say, taken in: an object appeared, changed or went. Each notes what this can have changed
//! in the plan, and what is to be reported; both together, because a report says what was planned.

use super::index::shards_of;
use super::{Dirty, Entry, Image, Inventory, Parsed};
use crate::controllers::status::FINALIZER;
use crate::controllers::{api, images, parse};
use kube::ResourceExt as _;
use std::collections::BTreeSet;

impl Inventory {
    /// A cluster appeared, changed or went.
    pub fn set_cluster(
        &mut self,
        name: &str,
        object: Option<api::TrustedExecutionCluster>,
        dirty: &mut Dirty,
    ) {
        let unchanged = match (self.clusters.get(name), &object) {
            (Some(old), Some(new)) => {
                old.spec == new.spec
                    && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
                    && old.metadata.uid == new.metadata.uid
                    && old.metadata.annotations == new.metadata.annotations
            }
            (None, None) => true,
            _ => false,
        };
        match object {
            Some(object) => drop(self.clusters.insert(name.to_owned(), object)),
            None => drop(self.clusters.remove(name)),
        }
        if unchanged {
            return;
        }
        dirty.all = true;
        self.read_images(|_, _| true);
        let names: Vec<String> = self.machines.keys().cloned().collect();
        for name in names {
            self.read_again(&name, dirty);
        }
    }

    /// An image appeared, changed or went. Returns those that approve something else now: steps of an update count as
    /// long as both of its images are there.
    pub fn set_image(
        &mut self,
        name: &str,
        object: Option<api::ApprovedImage>,
        dirty: &mut Dirty,
    ) -> BTreeSet<String> {
        let approved = self.approves();
        let before = self.images.remove(name);
        for source in before
            .iter()
            .flat_map(|old| images::sources(&old.object.spec))
        {
            self.images_with.remove(&source.to_owned(), name);
        }
        for source in object.iter().flat_map(|new| images::sources(&new.spec)) {
            self.images_with.insert(&source.to_owned(), name);
        }
        if let Some(object) = object {
            let boots = match &before {
                Some(before) => before.boots.clone(),
                None => Err(String::new()),
            };
            self.images.insert(name.to_owned(), Image { object, boots });
        }
        let mut changed =
            self.read_images(|other, image| other == name || image.has_steps_of_updates());
        if before.is_some() != self.images.contains_key(name) {
            changed.insert(name.to_owned());
        }
        dirty.images.insert(name.to_owned());
        dirty.images.extend(changed.iter().cloned());
        // The first image and the last one are news for every machine.
        dirty.all |= approved != self.approves();
        changed
    }

    /// Parses these images again. Returns those that approve something else now.
    fn read_images(&mut self, which: impl Fn(&str, &Image) -> bool) -> BTreeSet<String> {
        let present = self.digests();
        let cluster = self.cluster().ok().flatten();
        let usual = cluster.and_then(|cluster| cluster.object.spec.platforms.clone());
        let mut changed = BTreeSet::new();
        for (name, image) in &mut self.images {
            if which(name, image) {
                let boots = parse::image(name, &image.object, usual.as_ref(), &present);
                if image.boots != boots {
                    changed.insert(name.clone());
                }
                image.boots = boots;
            }
        }
        changed
    }

    /// Of the images that are there.
    fn digests(&self) -> BTreeSet<String> {
        let references = self.images.values().filter_map(|image| {
            let reference = parse::reference(&image.object.spec).ok()??;
            parse::digest(reference).map(str::to_owned)
        });
        references.collect()
    }

    /// A machine appeared, changed or went.
    pub fn set_machine(&mut self, name: &str, object: Option<api::Machine>, dirty: &mut Dirty) {
        if let (Some(entry), Some(new)) = (self.machines.get_mut(name), &object)
            && entry.object.spec == new.spec
            && entry.object.metadata.deletion_timestamp == new.metadata.deletion_timestamp
            && entry.object.metadata.uid == new.metadata.uid
            && entry.object.metadata.annotations == new.metadata.annotations
        {
            // Our own status or finalizer comes back, or somebody has touched them.
            let ours = new.finalizers().iter().any(|own| own == FINALIZER);
            let is_as_told = ours && entry.object.status == new.status;
            entry.object = new.clone();
            if !is_as_told {
                self.mark(name, dirty);
            }
            return;
        }
        let before = self.forget(name, dirty);
        let Some(object) = object else {
            return;
        };
        let same_object = |old: &Entry| old.object.metadata.uid == object.metadata.uid;
        let node = before.filter(same_object).and_then(|old| old.node);
        if let Some(id) = &object.spec.id {
            self.machines_of.insert(id, name);
        }
        for secret in secrets_of(&object) {
            self.machines_with.insert(secret, name);
        }
        let entry = Entry {
            object,
            node,
            parsed: Err(String::new()),
        };
        self.machines.insert(name.to_owned(), entry);
        self.read_again(name, dirty);
    }

    /// A machine is to be looked at again, though nothing was seen of it.
    pub fn touch(&self, name: &str, dirty: &mut Dirty) {
        self.mark(name, dirty);
    }

    /// A machine has this status now: it was written.
    pub fn told(&mut self, name: &str, status: api::MachineStatus) {
        if let Some(entry) = self.machines.get_mut(name) {
            entry.object.status = Some(status);
        }
    }

    /// Something that objects may name appeared, changed or went: a Secret or a ConfigMap. Whoever gets of it is planned
    /// again. Returns whether images are computed from it.
    pub fn content_changed(&self, name: &str, dirty: &mut Dirty) -> bool {
        let key = name.to_owned();
        let mut is_of_images = self.images_with.of(&key).next().is_some();
        for cluster in self.clusters.values() {
            let spec = &cluster.spec;
            is_of_images |= images::usual_sources(spec).any(|source| source == name);
            let ignition = spec.ignition.iter().map(|ignition| &ignition.secret);
            let runtime = spec.runtime.iter().map(|runtime| &runtime.secret);
            dirty.all |= ignition.chain(runtime).any(|secret| secret == name);
            let storage = spec.trustee.as_ref().and_then(|run| run.storage.as_ref());
            let database = storage.and_then(|storage| storage.url_secret.as_ref());
            let of_trustee = [spec.trustee_secret.as_ref(), database];
            dirty.deployed |= of_trustee
                .into_iter()
                .flatten()
                .any(|secret| secret == name);
        }
        for machine in self.machines_with.of(&key) {
            self.mark(machine, dirty);
        }
        is_of_images
    }

    /// A key appeared, changed or went.
    pub fn set_key(&mut self, name: &str, object: Option<api::AttestationKey>, dirty: &mut Dirty) {
        dirty.keys.insert(name.to_owned());
        let uuid = |key: &api::AttestationKey| key.spec.uuid.clone();
        let before = self.keys.remove(name).as_ref().and_then(uuid);
        let after = object.as_ref().and_then(uuid);
        before.iter().for_each(|id| self.keys_of.remove(id, name));
        after.iter().for_each(|id| self.keys_of.insert(id, name));
        if let Some(object) = object {
            self.keys.insert(name.to_owned(), object);
        }
        for id in before.into_iter().chain(after) {
            let machines: Vec<String> = self.machines_of.of(&id).cloned().collect();
            for machine in machines {
                self.read_again(&machine, dirty);
            }
        }
    }

    /// Returns what it was.
    fn forget(&mut self, name: &str, dirty: &mut Dirty) -> Option<Entry> {
        dirty.machines.insert(name.to_owned());
        let node = self.machines.get(name).and_then(|entry| entry.node.clone());
        self.unlink(name, dirty);
        let entry = self.machines.remove(name)?;
        if let Some(id) = &entry.object.spec.id {
            self.machines_of.remove(id, name);
        }
        for secret in secrets_of(&entry.object) {
            self.machines_with.remove(secret, name);
        }
        Some(Entry { node, ..entry })
    }

    /// Parses a machine again; what it was and what it is has to be planned.
    fn read_again(&mut self, name: &str, dirty: &mut Dirty) {
        let before = self.machines.get(name).and_then(|entry| entry.node.clone());
        self.unlink(name, dirty);
        let Some(entry) = self.machines.get(name) else {
            return;
        };
        let parsed = self.parse(name, &entry.object);
        let recorded = || {
            let status = entry.object.status.as_ref()?;
            status.node.as_ref()?.parse().ok()
        };
        let node = match &parsed {
            Ok(parsed) => Some(parsed.node.clone()),
            Err(_) => before.or_else(recorded),
        };
        if let Some(node) = &node {
            self.index.insert(name, node, parsed.as_ref().ok());
        }
        if let Some(entry) = self.machines.get_mut(name) {
            entry.parsed = parsed;
            entry.node = node;
        }
        self.mark(name, dirty);
        self.mark_related(name, dirty);
    }

    fn parse(&self, name: &str, object: &api::Machine) -> Result<Parsed, String> {
        let cluster = self
            .cluster()?
            .ok_or("there is no TrustedExecutionCluster in this namespace")?;
        let uuid = object.spec.id.iter();
        let mut names = uuid.flat_map(|id| self.keys_of.of(id));
        let key = match (names.next(), names.next()) {
            (Some(first), Some(second)) => {
                return Err(format!(
                    "AttestationKeys {first} and {second} both belong to it: delete one"
                ));
            }
            (first, _) => first.and_then(|name| self.keys.get_key_value(name)),
        };
        parse::machine(name, object, key, &cluster)
    }

    /// Takes a machine out of the index. What it was, and whoever had something in common with it, has to be
    /// planned again.
    fn unlink(&mut self, name: &str, dirty: &mut Dirty) {
        self.mark(name, dirty);
        self.mark_related(name, dirty);
        let Some(entry) = self.machines.get_mut(name) else {
            return;
        };
        let parsed = std::mem::replace(&mut entry.parsed, Err(String::new()));
        if let Some(node) = entry.node.take() {
            self.index.remove(name, &node, parsed.as_ref().ok());
        }
    }

    /// All that a plan needs to know about this machine.
    fn mark(&self, name: &str, dirty: &mut Dirty) {
        let Some(entry) = self.machines.get(name) else {
            return;
        };
        dirty.machines.insert(name.to_owned());
        dirty.part.nodes.extend(entry.node.clone());
        if let Ok(parsed) = &entry.parsed {
            dirty.part.values.extend(shards_of(&parsed.machine));
            dirty.keys.extend(parsed.key.clone());
        }
    }

    /// The same for machines that are the same node, or have its key or its init-data.
    fn mark_related(&self, name: &str, dirty: &mut Dirty) {
        let Some(entry) = self.machines.get(name) else {
            return;
        };
        let twins = entry
            .node
            .iter()
            .flat_map(|node| self.index.claimants(node));
        for other in twins.chain(self.alike(entry)) {
            self.mark(other, dirty);
        }
    }
}

/// Secrets that a machine gets something of.
fn secrets_of(object: &api::Machine) -> impl Iterator<Item = &String> {
    let ignition = object.spec.ignition.iter();
    let runtime = object.spec.runtime.iter();
    let ignition = ignition.map(|ignition| &ignition.secret);
    ignition.chain(runtime.map(|runtime| &runtime.secret))
}

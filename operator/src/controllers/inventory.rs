// SPDX-License-Identifier: Apache-2.0

//! The objects as last seen, parsed and indexed, so that one event costs what it touches. Pure: the worker
//! tells it what a watch said, and asks it for the [`Part`] of the plan that this can have changed.
//!
//! Everything wrong with one object is said about that object, and keeps no other from what it is due.

use super::api::{self, Copies};
use super::parse;
use crate::model::{Boots, Desired, InitDataDigest, Machine, NodeName, Options, State, Tag};
use crate::plan::Part;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of the objects of one namespace.
#[derive(Debug, Default)]
pub struct Inventory {
    clusters: BTreeMap<String, api::TrustedExecutionCluster>,
    images: BTreeMap<String, Image>,
    machines: BTreeMap<String, Entry>,
    keys: BTreeMap<String, api::AttestationKey>,
    /// Names of AttestationKeys by their uuid.
    keys_of: BTreeMap<String, BTreeSet<String>>,
    /// Names of Machines by their spec.id.
    machines_of: BTreeMap<String, BTreeSet<String>>,
    /// Names of Machines that are the same node: one, or all of them are refused.
    claims: BTreeMap<NodeName, BTreeSet<String>>,
    /// Nodes by the maps that contain them.
    shards: BTreeMap<String, BTreeSet<NodeName>>,
}

/// An image as it was read.
#[derive(Debug)]
pub struct Image {
    /// The object.
    pub object: api::ApprovedImage,
    /// What it approves, or why that is nothing.
    pub boots: Result<Boots, String>,
}

/// A machine as it was read.
#[derive(Debug)]
pub struct Entry {
    /// The object.
    pub object: api::Machine,
    /// Its node: also that of an object that has become wrong, because its secrets are not to be lost.
    pub node: Option<NodeName>,
    /// What it means, or what is wrong with it.
    pub parsed: Result<Parsed, String>,
}

/// What a Machine means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Its name in the KBS.
    pub node: NodeName,
    /// What is wanted for it, but for its secrets.
    pub machine: Machine,
    /// Each has a secret.
    pub volumes: BTreeSet<Tag>,
    /// The AttestationKey that stands for its key.
    pub key: Option<String>,
}

/// What events can have changed.
#[derive(Debug, Default)]
pub struct Dirty {
    /// In the plan.
    pub part: Part,
    /// Everything, because the cluster itself changed.
    pub all: bool,
    /// Machines whose status is to be looked at, by name.
    pub machines: BTreeSet<String>,
    /// Images whose status is to be looked at.
    pub images: BTreeSet<String>,
    /// Keys whose status is to be looked at.
    pub keys: BTreeSet<String>,
}

impl Dirty {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        !self.all
            && self.part == Part::default()
            && self.machines.is_empty()
            && self.images.is_empty()
            && self.keys.is_empty()
    }

    /// Takes in what a round that failed left undone.
    pub fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.part.nodes.extend(other.part.nodes);
        self.part.values.extend(other.part.values);
        self.machines.extend(other.machines);
        self.images.extend(other.images);
        self.keys.extend(other.keys);
    }
}

/// The cluster of a namespace.
#[derive(Debug)]
pub struct Cluster<'a> {
    /// The object.
    pub object: &'a api::TrustedExecutionCluster,
    /// What it asks of machines.
    pub options: Options,
    /// Whether machines have a recovery passphrase in the KBS.
    pub escrowed: bool,
    /// Whether there are copies of secrets.
    pub copies: Copies,
}

impl Inventory {
    /// The cluster of this namespace: the oldest object that is not being deleted.
    ///
    /// # Errors
    /// A sentence, when it contradicts itself.
    pub fn cluster(&self) -> Result<Option<Cluster<'_>>, String> {
        let alive = self
            .clusters
            .values()
            .filter(|object| object.metadata.deletion_timestamp.is_none());
        let first = alive.min_by_key(|object| {
            let meta = &object.metadata;
            let born = meta.creation_timestamp.as_ref().map(|time| time.0);
            (born, meta.name.clone())
        });
        first.map(parse::cluster).transpose()
    }

    /// All objects that describe a cluster.
    pub fn clusters(&self) -> impl Iterator<Item = &api::TrustedExecutionCluster> {
        self.clusters.values()
    }

    /// The images, by name.
    pub fn images(&self) -> &BTreeMap<String, Image> {
        &self.images
    }

    /// The machines, by name.
    pub fn machines(&self) -> &BTreeMap<String, Entry> {
        &self.machines
    }

    /// The keys, by name.
    pub fn keys(&self) -> &BTreeMap<String, api::AttestationKey> {
        &self.keys
    }

    /// A cluster appeared, changed or went.
    pub fn set_cluster(
        &mut self,
        name: &str,
        object: Option<api::TrustedExecutionCluster>,
        dirty: &mut Dirty,
    ) {
        let before = self.clusters.get(name);
        let same = |old: &api::TrustedExecutionCluster, new: &api::TrustedExecutionCluster| {
            old.spec == new.spec
                && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
                && old.metadata.uid == new.metadata.uid
        };
        let unchanged = match (before, &object) {
            (Some(old), Some(new)) => same(old, new),
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
        let names: Vec<String> = self.machines.keys().cloned().collect();
        for name in names {
            self.read_again(&name, dirty);
        }
    }

    /// An image appeared, changed or went.
    pub fn set_image(&mut self, name: &str, object: Option<api::ApprovedImage>, dirty: &mut Dirty) {
        dirty.images.insert(name.to_owned());
        match object {
            Some(object) => {
                let boots = parse::image(name, &object);
                self.images.insert(name.to_owned(), Image { object, boots });
            }
            None => drop(self.images.remove(name)),
        }
    }

    /// A machine appeared, changed or went.
    pub fn set_machine(&mut self, name: &str, object: Option<api::Machine>, dirty: &mut Dirty) {
        dirty.machines.insert(name.to_owned());
        let same = |old: &api::Machine, new: &api::Machine| {
            old.spec == new.spec
                && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
                && old.metadata.uid == new.metadata.uid
        };
        if let (Some(entry), Some(new)) = (self.machines.get_mut(name), &object)
            && same(&entry.object, new)
        {
            // Our own status or finalizer came back.
            entry.object = new.clone();
            return;
        }
        self.forget(name, dirty);
        let Some(object) = object else {
            return;
        };
        if let Some(id) = &object.spec.id {
            let names = self.machines_of.entry(id.clone()).or_default();
            names.insert(name.to_owned());
        }
        let entry = Entry {
            object,
            node: None,
            parsed: Err(String::new()),
        };
        self.machines.insert(name.to_owned(), entry);
        self.read_again(name, dirty);
    }

    /// A key appeared, changed or went.
    pub fn set_key(&mut self, name: &str, object: Option<api::AttestationKey>, dirty: &mut Dirty) {
        dirty.keys.insert(name.to_owned());
        let uuid = |key: &api::AttestationKey| key.spec.uuid.clone();
        let before = self.keys.remove(name).as_ref().and_then(uuid);
        if let Some(uuid) = &before
            && let Some(names) = self.keys_of.get_mut(uuid)
        {
            names.remove(name);
        }
        let after = object.as_ref().and_then(uuid);
        if let Some(uuid) = &after {
            let names = self.keys_of.entry(uuid.clone()).or_default();
            names.insert(name.to_owned());
        }
        if let Some(object) = object {
            self.keys.insert(name.to_owned(), object);
        }
        for id in before.into_iter().chain(after) {
            for name in self.machines_of.get(&id).cloned().unwrap_or_default() {
                self.read_again(&name, dirty);
            }
        }
    }

    /// What is wanted, but for secrets, of the machines that this part of the plan needs; of all of them when
    /// everything changed. With it their volumes, and the machines that were left out, each with a reason.
    pub fn desired(&self, cluster: &Cluster<'_>, dirty: &Dirty) -> (Desired, Refusals) {
        let mut desired = Desired {
            options: cluster.options.clone(),
            ..Desired::default()
        };
        for image in self.images.values() {
            if let Ok(boots) = &image.boots {
                desired.boots.extend(boots.clone());
            }
        }
        let mut nodes: BTreeSet<&NodeName> = dirty.part.nodes.iter().collect();
        match dirty.all {
            true => nodes.extend(self.claims.keys()),
            false => nodes.extend(
                dirty
                    .part
                    .values
                    .iter()
                    .filter_map(|shard| self.shards.get(shard))
                    .flatten(),
            ),
        }
        let mut refusals = Refusals::new();
        for node in nodes {
            match self.owner(node) {
                Ok(Some(parsed)) => {
                    desired
                        .machines
                        .insert(node.clone(), parsed.machine.clone());
                }
                Ok(None) => {}
                Err(why) => {
                    // It gets nothing, and loses nothing: somebody is about to correct it.
                    desired.machines.insert(node.clone(), held());
                    refusals.insert(node.clone(), why);
                }
            }
        }
        (desired, refusals)
    }

    /// The machine that is this node. A machine that is being deleted is none.
    ///
    /// # Errors
    /// A sentence, when it is wrong, or when several machines say that they are this node: none of them is.
    pub fn owner(&self, node: &NodeName) -> Result<Option<&Parsed>, String> {
        let mut alive = self.claimants(node).filter(|(_, entry)| {
            let deleted = &entry.object.metadata.deletion_timestamp;
            deleted.is_none()
        });
        match (alive.next(), alive.next()) {
            (None, _) => Ok(None),
            (Some((_, entry)), None) => match &entry.parsed {
                Ok(parsed) => Ok(Some(parsed)),
                Err(why) => Err(why.clone()),
            },
            (Some((first, _)), Some((second, _))) => Err(format!(
                "Machines {first} and {second} are both node {node}"
            )),
        }
    }

    /// The Machines that say that they are this node.
    pub fn claimants(&self, node: &NodeName) -> impl Iterator<Item = (&String, &Entry)> {
        let names = self.claims.get(node).into_iter().flatten();
        names.filter_map(|name| self.machines.get_key_value(name))
    }

    /// The Machine that a key belongs to.
    pub fn machine_of(&self, key: &api::AttestationKey) -> Option<&String> {
        let names = self.machines_of.get(key.spec.uuid.as_ref()?)?;
        names.iter().find(|name| {
            let entry = self
                .machines
                .get(*name)
                .and_then(|entry| entry.parsed.as_ref().ok());
            entry.is_some_and(|parsed| parsed.key == key.metadata.name)
        })
    }

    /// The nodes in a map.
    pub fn in_shard(&self, shard: &str) -> impl Iterator<Item = &NodeName> {
        self.shards.get(shard).into_iter().flatten()
    }

    /// All nodes that some machine says it is.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.claims.keys()
    }

    fn forget(&mut self, name: &str, dirty: &mut Dirty) {
        self.unlink(name, dirty);
        if let Some(entry) = self.machines.remove(name)
            && let Some(id) = &entry.object.spec.id
            && let Some(names) = self.machines_of.get_mut(id)
        {
            names.remove(name);
            if names.is_empty() {
                self.machines_of.remove(id);
            }
        }
    }

    /// Parses a machine again, and notes what it was and what it is.
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
            let names = self.claims.entry(node.clone()).or_default();
            names.insert(name.to_owned());
            dirty.part.nodes.insert(node.clone());
            self.touch_others(node, dirty);
        }
        if let Ok(parsed) = &parsed {
            for shard in shards_of(&parsed.machine) {
                let nodes = self.shards.entry(shard.clone()).or_default();
                nodes.insert(parsed.node.clone());
                dirty.part.values.insert(shard);
            }
            dirty.keys.extend(parsed.key.clone());
        }
        dirty.machines.insert(name.to_owned());
        if let Some(entry) = self.machines.get_mut(name) {
            entry.parsed = parsed;
            entry.node = node;
        }
    }

    fn parse(&self, name: &str, object: &api::Machine) -> Result<Parsed, String> {
        let cluster = self
            .cluster()?
            .ok_or("there is no TrustedExecutionCluster in this namespace")?;
        let uuid = object.spec.id.as_ref();
        let mut names = uuid
            .and_then(|id| self.keys_of.get(id))
            .into_iter()
            .flatten();
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

    /// Takes a machine out of the indexes; whatever it was has to be planned again.
    fn unlink(&mut self, name: &str, dirty: &mut Dirty) {
        let Some(entry) = self.machines.get_mut(name) else {
            return;
        };
        let parsed = std::mem::replace(&mut entry.parsed, Err(String::new()));
        let Some(node) = entry.node.take() else {
            return;
        };
        if let Some(names) = self.claims.get_mut(&node) {
            names.remove(name);
            if names.is_empty() {
                self.claims.remove(&node);
            }
        }
        if let Ok(parsed) = parsed {
            let alone = !self.claims.contains_key(&node);
            for shard in shards_of(&parsed.machine) {
                if alone && let Some(nodes) = self.shards.get_mut(&shard) {
                    nodes.remove(&node);
                    if nodes.is_empty() {
                        self.shards.remove(&shard);
                    }
                }
                dirty.part.values.insert(shard);
            }
            dirty.keys.extend(parsed.key);
        }
        self.touch_others(&node, dirty);
        dirty.part.nodes.insert(node);
    }

    /// Machines that are the same node get or lose what they share.
    fn touch_others(&self, node: &NodeName, dirty: &mut Dirty) {
        let names = self.claims.get(node).into_iter().flatten();
        dirty.machines.extend(names.cloned());
    }
}

/// A machine that gets nothing and loses nothing.
pub fn held() -> Machine {
    Machine {
        ak: None,
        init_data: None,
        state: State::Held,
        secrets: BTreeMap::new(),
    }
}

/// Nodes that get nothing, and why.
pub type Refusals = BTreeMap<NodeName, String>;

/// The maps that contain this machine.
pub fn shards_of(machine: &Machine) -> BTreeSet<String> {
    let keys = machine.ak.iter().map(crate::model::AkPublic::shard);
    let registers = machine.init_data.iter().flat_map(InitDataDigest::registers);
    let registers = registers.map(|register| InitDataDigest::shard(&register));
    keys.chain(registers).collect()
}

// SPDX-License-Identifier: Apache-2.0

//! The objects as last seen, parsed and indexed, so that one event costs what it touches. Pure: the worker
//! tells it what a watch said, and asks it for the [`Part`] of the plan that this can have changed.
//!
//! Everything wrong with one object is said about that object, and keeps no other from what it is due.

mod changes;
mod dirty;
mod index;
#[cfg(test)]
mod tests;

pub use dirty::Dirty;

use super::api::{self, Copies};
use super::parse;
use crate::model::{Boots, Desired, Machine, NodeName, Options, State, Tag};
use index::{Index, Names};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of the objects of one namespace.
#[derive(Debug, Default)]
pub struct Inventory {
    clusters: BTreeMap<String, api::TrustedExecutionCluster>,
    images: BTreeMap<String, Image>,
    machines: BTreeMap<String, Entry>,
    keys: BTreeMap<String, api::AttestationKey>,
    /// AttestationKeys by their uuid.
    keys_of: Names<String>,
    /// Machines by their spec.id.
    machines_of: Names<String>,
    /// Machines by the Secrets that they name.
    machines_with: Names<String>,
    /// Images by the Secrets and ConfigMaps that they name.
    images_with: Names<String>,
    /// Machines by what they have in common.
    index: Index,
}

/// An image as it was read.
#[derive(Debug)]
pub struct Image {
    /// The object.
    pub object: api::ApprovedImage,
    /// What it approves, or why that is nothing.
    pub boots: Result<Boots, String>,
}

impl Image {
    /// Whether some of what was computed for it needs another image.
    fn has_steps_of_updates(&self) -> bool {
        let status = self.object.status.as_ref();
        let computed = status.and_then(|status| status.computed.as_ref());
        computed.is_some_and(|computed| computed.boots.iter().any(|boot| !boot.with.is_empty()))
    }
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

    /// What is wanted, but for secrets, of the machines that this part of the plan needs; of all of them when
    /// everything changed. With it the machines that were left out, each with a reason.
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
        let mut refusals = Refusals::new();
        for node in self.needed(dirty) {
            match self.owner(node) {
                Ok(Some((parsed, _))) => {
                    let machine = parsed.machine.clone();
                    desired.machines.insert(node.clone(), machine);
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

    /// The nodes without which a part cannot be planned: its own, those in the same maps, and whoever has a
    /// key or init-data in common with one of them, which keeps both from their secrets.
    fn needed<'a>(&'a self, dirty: &'a Dirty) -> BTreeSet<&'a NodeName> {
        if dirty.all {
            return self.index.nodes().collect();
        }
        let part = &dirty.part;
        let neighbours = part.values.iter().flat_map(|map| self.index.in_shard(map));
        let own = part.nodes.iter();
        let own = own.flat_map(|node| self.index.claimants(node));
        let mut names: BTreeSet<&String> = own.chain(neighbours).collect();
        let entries = names.iter().filter_map(|name| self.machines.get(*name));
        let alike: Vec<&String> = entries.flat_map(|entry| self.alike(entry)).collect();
        names.extend(alike);
        let entries = names.into_iter().filter_map(|name| self.machines.get(name));
        let nodes = entries.filter_map(|entry| entry.node.as_ref());
        nodes.chain(&part.nodes).collect()
    }

    /// The machine that is this node, and its object. A machine that is being deleted is none.
    ///
    /// # Errors
    /// A sentence, when it is wrong, or when several machines say that they are this node: none of them is.
    pub fn owner(&self, node: &NodeName) -> Result<Option<(&Parsed, &api::Machine)>, String> {
        let mut alive = self.claimants(node).filter(|(_, entry)| {
            let deleted = &entry.object.metadata.deletion_timestamp;
            deleted.is_none()
        });
        match (alive.next(), alive.next()) {
            (None, _) => Ok(None),
            (Some((_, entry)), None) => match &entry.parsed {
                Ok(parsed) => Ok(Some((parsed, &entry.object))),
                Err(why) => Err(why.clone()),
            },
            (Some((first, _)), Some((second, _))) => Err(format!(
                "Machines {first} and {second} are both node {node}: delete one"
            )),
        }
    }

    /// The Machines that say that they are this node.
    pub fn claimants(&self, node: &NodeName) -> impl Iterator<Item = (&String, &Entry)> {
        let names = self.index.claimants(node);
        names.filter_map(|name| self.machines.get_key_value(name))
    }

    /// The Machine that a key belongs to.
    pub fn machine_of(&self, key: &api::AttestationKey) -> Option<&String> {
        self.machines_of.of(key.spec.uuid.as_ref()?).find(|name| {
            let entry = self.machines.get(*name);
            let parsed = entry.and_then(|entry| entry.parsed.as_ref().ok());
            parsed.is_some_and(|parsed| parsed.key == key.metadata.name)
        })
    }

    /// Whether any image approves anything.
    pub fn approves(&self) -> bool {
        self.images.values().any(|image| image.boots.is_ok())
    }

    fn alike<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a String> {
        let parsed = entry.parsed.as_ref().into_iter();
        parsed.flat_map(|parsed| self.index.alike(&parsed.machine))
    }
}

/// A machine that gets nothing and loses nothing.
pub fn held() -> Machine {
    Machine {
        ak: None,
        init_data: None,
        state: State::Held,
        secrets: BTreeMap::new(),
        runtime: BTreeMap::new(),
    }
}

/// Nodes that get nothing, and why.
pub type Refusals = BTreeMap<NodeName, String>;

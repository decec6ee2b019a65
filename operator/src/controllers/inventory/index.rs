// SPDX-License-Identifier: Apache-2.0

//! Which machines have something in common, so that one event finds those that it concerns without a look at
//! all the others.

use super::Parsed;
use crate::model::{InitDataDigest, Machine, NodeName};
use std::collections::{BTreeMap, BTreeSet};

/// Names of machines by what they have.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By the node that they say they are: one, or all of them are refused.
    nodes: Names<NodeName>,
    /// By the maps of the KBS that contain them.
    shards: Names<String>,
    /// By key and by init-data: machines that share one get nothing.
    marks: Names<String>,
}

/// Names of objects by something that several may have.
#[derive(Debug)]
pub(super) struct Names<K>(BTreeMap<K, BTreeSet<String>>);

impl<K> Default for Names<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Names<K> {
    pub(super) fn insert(&mut self, key: &K, name: &str) {
        let names = self.0.entry(key.clone()).or_default();
        names.insert(name.to_owned());
    }

    pub(super) fn remove(&mut self, key: &K, name: &str) {
        if let Some(names) = self.0.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(super) fn of(&self, key: &K) -> impl Iterator<Item = &String> + use<'_, K> {
        self.0.get(key).into_iter().flatten()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }
}

impl Index {
    pub(super) fn insert(&mut self, name: &str, node: &NodeName, parsed: Option<&Parsed>) {
        self.nodes.insert(node, name);
        if let Some(parsed) = parsed {
            let machine = &parsed.machine;
            shards_of(machine).for_each(|shard| self.shards.insert(&shard, name));
            marks_of(machine).for_each(|mark| self.marks.insert(&mark, name));
        }
    }

    pub(super) fn remove(&mut self, name: &str, node: &NodeName, parsed: Option<&Parsed>) {
        self.nodes.remove(node, name);
        if let Some(parsed) = parsed {
            let machine = &parsed.machine;
            shards_of(machine).for_each(|shard| self.shards.remove(&shard, name));
            marks_of(machine).for_each(|mark| self.marks.remove(&mark, name));
        }
    }

    /// All nodes that some machine says it is.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.keys()
    }

    /// The machines that say that they are this node.
    pub(super) fn claimants(&self, node: &NodeName) -> impl Iterator<Item = &String> {
        self.nodes.of(node)
    }

    /// The machines in a map of the KBS.
    pub(super) fn in_shard(&self, shard: &String) -> impl Iterator<Item = &String> {
        self.shards.of(shard)
    }

    /// The machines with the key or the init-data of this one, itself among them.
    pub(super) fn alike<'a>(&'a self, machine: &Machine) -> impl Iterator<Item = &'a String> {
        marks_of(machine)
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|mark| self.marks.of(&mark))
    }
}

/// The maps of the KBS that contain this machine.
pub(super) fn shards_of(machine: &Machine) -> impl Iterator<Item = String> {
    let keys = machine.ak.iter().map(crate::model::AkPublic::shard);
    let registers = machine.init_data.iter().flat_map(InitDataDigest::registers);
    let registers = registers.map(|register| InitDataDigest::shard(&register));
    keys.chain(registers)
}

fn marks_of(machine: &Machine) -> impl Iterator<Item = String> {
    let key = machine.ak.iter().map(ToString::to_string);
    let digest = machine.init_data.iter().flat_map(InitDataDigest::registers);
    key.chain(digest.take(1))
}

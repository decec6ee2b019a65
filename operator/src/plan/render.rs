// SPDX-License-Identifier: Apache-2.0

//! Reference values of what is wanted. A machine that contradicts itself or another gets nothing and is
//! reported; it does not keep the others from what they are due, nor a revocation from being carried out.

use super::{Entries, Shape};
use crate::model::{
    AK_SHARD, Desired, Evidence, INIT_SHARD, Identity, InitDataDigest, Machine, NodeName, State,
    Tag,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something wanted that cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A machine is known by nothing that this cluster's identity can be taken from.
    Nameless {
        /// The machine.
        node: NodeName,
        /// What it would need.
        needs: &'static str,
    },
    /// Two machines claim one key or one init-data: neither gets anything.
    Shared {
        /// What they share.
        what: &'static str,
        /// The machines.
        nodes: Vec<NodeName>,
    },
    /// A kind of evidence never names a machine under this cluster's identity.
    Anonymous {
        /// The kind.
        evidence: Evidence,
    },
    /// No kind of evidence is accepted.
    NoEvidence,
    /// A boot tuple does not name a register that it must.
    TupleTooShort {
        /// The register.
        missing: String,
    },
    /// What a machine says of a volume's key does not count.
    VolumeKey {
        /// The machine.
        node: NodeName,
        /// The volume.
        tag: Tag,
        /// Why, and what to do.
        why: String,
    },
    /// A secret has no place in the KBS.
    Path {
        /// The machine.
        node: NodeName,
        /// The volume.
        tag: Tag,
    },
}

impl Problem {
    /// The machines that get nothing because of it; none when it concerns the cluster.
    pub fn nodes(&self) -> &[NodeName] {
        match self {
            Self::Nameless { node, .. } | Self::Path { node, .. } => std::slice::from_ref(node),
            Self::Shared { nodes, .. } => nodes,
            Self::Anonymous { .. }
            | Self::NoEvidence
            | Self::TupleTooShort { .. }
            | Self::VolumeKey { .. } => &[],
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nameless { node, needs } => {
                write!(
                    f,
                    "machine {node} gets nothing: it has no {needs}, which this cluster asks for"
                )
            }
            Self::Shared { what, nodes } => {
                let names: Vec<_> = nodes.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "machines {} get nothing: they have the same {what}",
                    names.join(", ")
                )
            }
            Self::Anonymous { evidence } => write!(
                f,
                "evidence {evidence} is never enough: it does not tell which machine it comes from; add a \
                 TPM to it, or take names from init-data"
            ),
            Self::NoEvidence => {
                f.write_str("nothing is ever released: no kind of evidence is accepted")
            }
            Self::TupleTooShort { missing } => {
                write!(f, "a boot tuple never matches: it does not name {missing}")
            }
            Self::VolumeKey { node, tag, why } => {
                write!(f, "volume {tag} of machine {node}: {why}")
            }
            Self::Path { node, tag } => write!(f, "machine {node} has no room for a volume {tag}"),
        }
    }
}

/// All reference values that are not empty, by name.
pub fn reference_values(desired: &Desired) -> (BTreeMap<String, Entries>, Vec<Problem>) {
    let mut problems = Vec::new();
    check_cluster(desired, &mut problems);
    let mut values = BTreeMap::new();
    for (name, entries) in desired.boots.lists() {
        values.insert(name.to_owned(), Entries::list(entries));
    }
    values.insert(
        OPTIONS.to_owned(),
        Entries::atom(desired.options.to_value()),
    );

    let machines = approved(desired, &mut problems);
    let mut add = |shard: String, key: String, node: &NodeName| {
        values
            .entry(shard)
            .or_insert_with(|| Entries::empty(Shape::Map))
            .add_node(key, node);
    };
    for (node, machine) in machines {
        if let Some(ak) = &machine.ak {
            add(ak.shard(), ak.to_string(), node);
        }
        if desired.options.identity == Identity::InitData {
            for register in machine.init_data.iter().flat_map(InitDataDigest::registers) {
                add(InitDataDigest::shard(&register), register, node);
            }
        }
    }
    values.retain(|_, entries| !entries.is_empty());
    (values, problems)
}

/// How the entries of a reference value make up its JSON.
pub(super) fn shape_of(name: &str) -> Shape {
    match name {
        OPTIONS => Shape::Atom,
        _ if name.starts_with(AK_SHARD) || name.starts_with(INIT_SHARD) => Shape::Map,
        _ => Shape::List,
    }
}

fn check_cluster(desired: &Desired, problems: &mut Vec<Problem>) {
    let options = &desired.options;
    if options.evidence.is_empty() {
        problems.push(Problem::NoEvidence);
    }
    for evidence in options.evidence.iter().filter(|kind| !kind.has_ak()) {
        if options.identity == Identity::Ak {
            problems.push(Problem::Anonymous {
                evidence: *evidence,
            });
        }
    }
    for tuple in &desired.boots.tuples {
        for pcr in options.pcrs.iter().filter(|pcr| !tuple.names(**pcr)) {
            problems.push(Problem::TupleTooShort {
                missing: pcr.to_string(),
            });
        }
    }
}

/// The machines that get their secrets: approved, known by what the cluster asks for, and alone with it.
fn approved<'a>(
    desired: &'a Desired,
    problems: &mut Vec<Problem>,
) -> Vec<(&'a NodeName, &'a Machine)> {
    let options = &desired.options;
    let machines = || {
        desired
            .machines
            .iter()
            .filter(|(_, machine)| machine.state == State::Approved)
    };
    let mut left_out = BTreeSet::new();
    left_out.extend(sharers(
        "attestation key",
        machines().map(|(n, m)| (n, m.ak.as_ref())),
        problems,
    ));
    left_out.extend(sharers(
        "init-data",
        machines().map(|(n, m)| (n, m.init_data.as_ref())),
        problems,
    ));
    // With several kinds of evidence, which one a machine has is not known here; it needs what any asks.
    let any_without_ak = options.evidence.iter().any(|kind| !kind.has_ak());
    machines()
        .filter(|(node, machine)| {
            let needs = match options.identity {
                Identity::InitData if machine.init_data.is_none() => Some("init-data"),
                _ if machine.ak.is_none() && !any_without_ak => Some("attestation key"),
                Identity::Ak if machine.ak.is_none() => Some("attestation key"),
                _ => None,
            };
            problems.extend(needs.map(|needs| Problem::Nameless {
                node: (*node).clone(),
                needs,
            }));
            needs.is_none() && !left_out.contains(*node)
        })
        .collect()
}

fn sharers<'a, K: Ord>(
    what: &'static str,
    machines: impl Iterator<Item = (&'a NodeName, Option<K>)>,
    problems: &mut Vec<Problem>,
) -> Vec<&'a NodeName> {
    let mut owners: BTreeMap<K, Vec<&NodeName>> = BTreeMap::new();
    for (node, key) in machines {
        if let Some(key) = key {
            owners.entry(key).or_default().push(node);
        }
    }
    let shared = owners.into_values().filter(|nodes| nodes.len() > 1);
    shared
        .inspect(|nodes| {
            let nodes = nodes.iter().map(|node| (*node).clone()).collect();
            problems.push(Problem::Shared { what, nodes });
        })
        .flatten()
        .collect()
}

const OPTIONS: &str = "sheepfold_options";

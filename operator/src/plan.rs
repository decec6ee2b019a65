// SPDX-License-Identifier: Apache-2.0

//! From what is wanted and what was written so far to the next writes. Pure: the same two values give the
//! same plan, and nothing else is looked at.
//!
//! A KBS cannot be read back: it lists no reference values and shows no policy. So the truth is our own
//! record, [`Observed`], which holds digests only. Whoever carries out a plan calls [`Observed::begin`],
//! makes the record durable, writes, and calls [`Observed::finish`]. Killed in between, the record says that
//! one thing is unknown, and the next plan writes that thing again.
//!
//! # The order, and why
//!
//! A KBS has no transactions. Each write takes effect at once, and a reader may come between any two. What
//! must hold at each moment: *no secret is readable that would not also be readable before the first write
//! or after the last.* (A crash makes any moment last.) Two facts give the order.
//!
//! The policies are monotone in every reference value: more entries in a map or list never turn a yes into
//! a no. So when several values change, first each shrinks to what it has in common with its old self, and
//! everything released now would have been released before; then each grows, and everything released would
//! also be released afterwards. A value whose old and new content do not mix (`sheepfold_options`) has
//! nothing in common with another version of itself: in between it is empty, and nobody is served. A
//! policy's text is not monotone in anything, so a new text goes in behind a closed door.
//!
//! 1. **Close**: if either policy is not the one we want, upload the resource policy that denies everything.
//!    A fresh KBS has one that gives every secret to anybody with a key made in software.
//! 2. **Revoke**: delete the secrets of machines that are gone. First, because a token issued a moment ago
//!    stays valid for minutes and a policy cannot take it back; a deleted secret is gone now.
//! 3. **Shrink** reference values, those that name machines first.
//! 4. **Attestation policy**, behind the closed door.
//! 5. **Secrets**: new ones, then replaced ones, then leftovers are deleted. New ones in the reverse order of
//!    their paths, so that a secret lies in its second place (`root.<id>`) before it lies in its first
//!    (`root`), where a node reads it: whatever a node may have read is kept. All of it while values are at their smallest: a boot
//!    approved in this plan cannot read a secret that this plan replaces.
//! 6. **Grow** reference values.
//! 7. **Open**: the resource policy, last.
//!
//! One thing lies outside: a token is good for the minutes that the KBS gives it. A machine whose *boot* is
//! no longer approved can use an old token on its own, still stored secret until it expires.

mod entries;
mod observed;
mod render;
mod write;

pub use entries::{Entries, Shape};
pub use observed::{Difference, Note, Observed};
pub use render::{Problem, reference_values};
pub use write::Write;

use crate::model::{Desired, NodeName, State};
use crate::policy;
use kbs_protocol::resource::ResourcePath;
use std::collections::{BTreeMap, BTreeSet};

/// What to write, in this order, and what could not be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The writes. Stop at the first that fails; a new plan continues.
    pub writes: Vec<Write>,
    /// Machines and settings that are left out because they contradict themselves or each other.
    pub problems: Vec<Problem>,
}

/// A part of a cluster: what one event can have changed. What concerns the cluster as a whole (policies,
/// boots, options) belongs to every part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// Machines whose secrets are looked at.
    pub nodes: BTreeSet<NodeName>,
    /// Maps of machines that are looked at, by name.
    pub values: BTreeSet<String>,
}

/// Compares and orders; see the module's text.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    planned(desired, observed, None)
}

/// As [`plan`], for a part: its work does not grow with the number of other machines. The part must have the maps of
/// whatever changed, and of all that had or have a key or init-data in common with it: they keep each other from
/// their secrets. `desired` must have all machines that any map of the part contains, and whoever has something in
/// common with one of them; it may lack the others.
///
/// Parts that are planned one after the other come to the same end as one whole plan, and no moment between
/// is weaker than both ends: each plan goes from a state to one in which some machines are further.
pub fn plan_part(desired: &Desired, observed: &Observed, part: &Part) -> Plan {
    planned(desired, observed, Some(part))
}

fn planned(desired: &Desired, observed: &Observed, part: Option<&Part>) -> Plan {
    let (mut values, mut problems) = reference_values(desired);
    values.retain(|name, _| concerns(part, name));
    let secrets = Secrets::of(desired, observed, part, &mut problems);
    let (shrink, grow) = steps(&values, observed, part);

    let attestation = Write::AttestationPolicy {
        id: policy::ATTESTATION_ID,
        text: policy::ATTESTATION,
    };
    let open = Write::ResourcePolicy {
        text: policy::RESOURCE,
    };
    let closed = Write::ResourcePolicy {
        text: policy::DENY_ALL,
    };
    let attestation_is_new = !observed.holds(&attestation);
    let door_moves = attestation_is_new || !observed.holds(&open);

    let mut writes = Vec::new();
    writes.extend((door_moves && !observed.holds(&closed)).then_some(closed));
    writes.extend(secrets.revoked);
    writes.extend(shrink);
    writes.extend(attestation_is_new.then_some(attestation));
    writes.extend(secrets.new.into_iter().rev());
    writes.extend(secrets.replaced);
    writes.extend(secrets.left_over);
    writes.extend(grow);
    writes.extend(door_moves.then_some(open));
    Plan { writes, problems }
}

/// Writes of secrets by the step that they belong to.
#[derive(Default)]
struct Secrets {
    revoked: Vec<Write>,
    new: Vec<Write>,
    replaced: Vec<Write>,
    left_over: Vec<Write>,
}

impl Secrets {
    fn of(
        desired: &Desired,
        observed: &Observed,
        part: Option<&Part>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut steps = Self::default();
        let mut wanted = BTreeMap::new();
        for (node, machine) in &desired.machines {
            let left_out = part.is_some_and(|part| !part.nodes.contains(node));
            if left_out || machine.state != State::Approved {
                continue;
            }
            let secrets = machine.secrets.iter();
            let secrets = secrets.map(|(tag, secret)| (tag, secret, tag.path(node)));
            let runtime = machine.runtime.iter();
            let runtime = runtime.map(|(tag, secret)| (tag, secret, tag.runtime_path(node)));
            for (tag, secret, path) in secrets.chain(runtime) {
                match path {
                    Ok(path) => {
                        wanted.insert(path.to_string(), (path, secret));
                    }
                    Err(_) => problems.push(Problem::Path {
                        node: node.clone(),
                        tag: tag.clone(),
                    }),
                }
            }
        }
        for (key, (path, secret)) in &wanted {
            let write = Write::Resource {
                path: path.clone(),
                secret: (*secret).clone(),
            };
            match observed.secret(key) {
                Some(Some(known)) if known == *secret => {}
                None => steps.new.push(write),
                Some(_) => steps.replaced.push(write),
            }
        }
        let known: Vec<ResourcePath> = match part {
            None => observed.paths().collect(),
            Some(part) => part
                .nodes
                .iter()
                .flat_map(|node| observed.paths_of(node))
                .collect(),
        };
        for path in known
            .into_iter()
            .filter(|path| !wanted.contains_key(path.as_str()))
        {
            let delete = Write::DeleteResource { path: path.clone() };
            match state_of_owner(desired, &path) {
                State::Approved => steps.left_over.push(delete),
                State::Held => {}
                State::Revoked => steps.revoked.push(delete),
            }
        }
        steps
    }
}

/// A machine that is no longer mentioned is as good as revoked.
fn state_of_owner(desired: &Desired, path: &ResourcePath) -> State {
    let owner = path.segments().nth(1).and_then(|name| name.parse().ok());
    let machine = owner.and_then(|name| desired.machines.get(&name));
    machine.map_or(State::Revoked, |machine| machine.state)
}

/// Whether a reference value belongs to a part.
fn concerns(part: Option<&Part>, name: &str) -> bool {
    part.is_none_or(|part| part.values.contains(name)) || render::shape_of(name) != Shape::Map
}

/// The shrinking and the growing writes that bring every reference value to what is wanted.
fn steps(
    wanted: &BTreeMap<String, Entries>,
    observed: &Observed,
    part: Option<&Part>,
) -> (Vec<Write>, Vec<Write>) {
    let (mut shrink, mut grow) = (Vec::new(), Vec::new());
    let write = |name: &str, value| Write::ReferenceValue {
        name: name.to_owned(),
        value,
    };
    let known: Vec<_> = match part {
        None => observed.values().collect(),
        Some(part) => part
            .values
            .iter()
            .filter_map(|name| observed.value(name).map(|known| (name, known)))
            .chain(observed.cluster_values())
            .collect(),
    };
    for (name, known) in known {
        let goal = wanted
            .get(name)
            .cloned()
            .unwrap_or_else(|| Entries::empty(render::shape_of(name)));
        let common = goal.common(&known.members);
        if known.settled && common.len() == known.members.len() {
            continue;
        }
        shrink.push(write(name, common));
    }
    // Maps of machines come first: a machine that must go is the most urgent reason to shrink.
    shrink.sort_by_key(|write| match write {
        Write::ReferenceValue { name, .. } => (render::shape_of(name) != Shape::Map, name.clone()),
        _ => (true, String::new()),
    });
    for (name, goal) in wanted {
        let known = observed.value(name);
        let common = known.map_or(0, |known| goal.common(&known.members).len());
        if common < goal.len() {
            grow.push(write(name, goal.clone()));
        }
    }
    (shrink, grow)
}

#[cfg(test)]
mod parts;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! Planning in parts comes to the same end as planning whole, and is as safe at every moment.

use super::properties::{Askers, Kbs, cases, clusters, finish, leak};
use super::{Observed, Part, plan, plan_part};
use crate::model::{Desired, InitDataDigest, Machine, NodeName};
use proptest::test_runner::TestCaseError;
use std::collections::BTreeSet;

fn shards(machine: Option<&Machine>) -> BTreeSet<String> {
    let keys = machine.iter().filter_map(|machine| machine.ak.as_ref());
    let keys = keys.map(crate::model::AkPublic::shard);
    let registers = machine
        .iter()
        .filter_map(|machine| machine.init_data)
        .flat_map(|digest| digest.registers())
        .map(|register| InitDataDigest::shard(&register));
    keys.chain(registers).collect()
}

/// Whether each keeps the other from its secrets.
fn alike(one: &Machine, other: &Machine) -> bool {
    (one.ak.is_some() && one.ak == other.ak)
        || (one.init_data.is_some() && one.init_data == other.init_data)
}

/// One machine changes; the others are as they are. What is planned from, and the part: the maps of that machine
/// and of all that had or have something in common with it.
fn change(present: &mut Desired, wanted: &Desired, node: &NodeName) -> (Desired, Part) {
    let before = present.machines.get(node).cloned();
    match wanted.machines.get(node) {
        Some(machine) => drop(present.machines.insert(node.clone(), machine.clone())),
        None => drop(present.machines.remove(node)),
    }
    let after = present.machines.get(node);
    let mut values = shards(before.as_ref());
    for machine in present.machines.values() {
        let mut versions = before.iter().chain(after);
        if versions.any(|version| alike(version, machine)) {
            values.extend(shards(Some(machine)));
        }
    }
    let mut needed = present.clone();
    needed
        .machines
        .retain(|other, machine| other == node || !shards(Some(machine)).is_disjoint(&values));
    let inside = needed.machines.clone();
    for (other, machine) in &present.machines {
        if inside.values().any(|one| alike(one, machine)) {
            needed.machines.insert(other.clone(), machine.clone());
        }
    }
    let part = Part {
        nodes: BTreeSet::from([node.clone()]),
        values,
    };
    (needed, part)
}

#[test]
fn parts_come_to_the_same_end_and_no_moment_is_weaker() {
    let askers = Askers::new();
    cases(48)
        .run(&(clusters(), clusters()), |(first, mut wanted)| {
            // What concerns all machines belongs to every part: here it stays.
            wanted.options = first.options.clone();
            wanted.boots = first.boots.clone();
            let (mut kbs, mut observed) = (Kbs::fresh(), Observed::default());
            finish(&first, &mut kbs, &mut observed);
            let mut present = first.clone();
            let nodes: BTreeSet<_> = first
                .machines
                .keys()
                .chain(wanted.machines.keys())
                .collect();
            for node in nodes {
                let (needed, part) = change(&mut present, &wanted, node);
                let writes = plan_part(&needed, &observed, &part).writes;
                leak(&askers, kbs.clone(), &writes).map_err(TestCaseError::fail)?;
                for write in &writes {
                    observed.begin(write);
                    kbs.receive(write);
                    observed.finish(write);
                }
                let rest = plan(&present, &observed).writes;
                assert!(rest.is_empty(), "{node}: {rest:#?}");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_part_among_ten_thousand_machines_looks_at_few() {
    let all = crate::testing::cluster(10_000);
    let mut observed = Observed::default();
    let writes = plan(&all, &observed).writes;
    writes.iter().for_each(|write| observed.finish(write));
    let mut present = all.clone();
    let mut wanted = all;
    let node = crate::testing::node(7);
    wanted.machines.remove(&node);
    let (needed, part) = change(&mut present, &wanted, &node);
    assert!(needed.machines.len() < 20, "{}", needed.machines.len());
    let in_part = plan_part(&needed, &observed, &part);
    assert_eq!(in_part, plan(&wanted, &observed));
    assert_eq!(in_part.writes.len(), 2, "its secret and its key");
}

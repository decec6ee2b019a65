// SPDX-License-Identifier: Apache-2.0

//! What an event makes dirty: all that it can have changed, and not what only looks as if.

use super::{Dirty, Inventory};
use crate::controllers::api::{
    ApprovedImage, AttestationKey, Machine, MachineStatus, Phase, TrustedExecutionCluster,
};
use crate::controllers::status::FINALIZER;
use crate::plan::{Problem, plan_part};
use crate::testing;
use serde_json::json;
use std::collections::BTreeMap;

fn cluster() -> TrustedExecutionCluster {
    TrustedExecutionCluster::new("cluster", Default::default())
}

fn machine(name: &str, key: u32, init_data: Option<&str>) -> Machine {
    let spec = json!({"attestationKey": testing::ak(key), "initData": init_data});
    let mut machine = Machine::new(name, serde_json::from_value(spec).unwrap());
    machine.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    machine
}

fn filled(machines: &[Machine]) -> Inventory {
    let (mut inventory, mut dirty) = (Inventory::default(), Dirty::default());
    inventory.set_cluster("cluster", Some(cluster()), &mut dirty);
    for machine in machines {
        let name = machine.metadata.name.clone().unwrap();
        inventory.set_machine(&name, Some(machine.clone()), &mut dirty);
    }
    inventory
}

/// Two keys whose machines are in one map of the KBS.
fn neighbours() -> (u32, u32) {
    let mut seen = BTreeMap::new();
    (0..)
        .find_map(|n| Some((seen.insert(testing::ak(n).shard(), n)?, n)))
        .unwrap()
}

#[test]
fn a_status_that_comes_back_is_no_news_and_one_that_somebody_else_wrote_is() {
    let own = machine("a", 1, None);
    let mut inventory = filled(std::slice::from_ref(&own));
    let status = |phase| MachineStatus {
        phase: Some(phase),
        ..MachineStatus::default()
    };
    inventory.told("a", status(Phase::Refused));
    let seen = |inventory: &mut Inventory, change: fn(&mut Machine)| {
        let mut object = own.clone();
        object.status = Some(status(Phase::Refused));
        change(&mut object);
        let mut dirty = Dirty::default();
        inventory.set_machine("a", Some(object), &mut dirty);
        dirty
    };
    assert!(seen(&mut inventory, |_| {}).is_empty());
    let changes: [fn(&mut Machine); 3] = [
        |object| object.status = None,
        |object| object.metadata.finalizers = None,
        |object| object.spec.rotation = Some(1),
    ];
    for change in changes {
        let dirty = seen(&mut inventory, change);
        // What is reported is planned in the same round.
        assert!(dirty.machines.contains("a"));
        assert!(dirty.part.nodes.contains(&testing::node(1)));
        assert!(dirty.part.values.contains(&testing::ak(1).shard()));
    }
}

#[test]
fn a_part_has_whoever_keeps_one_of_its_machines_from_its_secrets() {
    let (one, two) = neighbours();
    let other = two.saturating_add(1);
    let mut inventory = filled(&[
        machine("one", one, None),
        machine("two", two, Some("the same")),
        machine("twin", other, Some("the same")),
    ]);
    let mut dirty = Dirty::default();
    let mut changed = machine("one", one, None);
    changed.spec.rotation = Some(1);
    inventory.set_machine("one", Some(changed), &mut dirty);
    let object = cluster();
    let cluster = crate::controllers::parse::cluster(&object).unwrap();
    let (desired, _) = inventory.desired(&cluster, &dirty);
    let plan = plan_part(&desired, &Default::default(), &dirty.part);
    let shared =
        |problem: &Problem| matches!(problem, Problem::Shared { nodes, .. } if nodes.len() == 2);
    assert!(plan.problems.iter().any(shared), "{:?}", plan.problems);

    // And when that one goes, the other is looked at.
    let mut dirty = Dirty::default();
    inventory.set_machine("twin", None, &mut dirty);
    assert!(dirty.machines.contains("two"));
    assert!(dirty.part.nodes.contains(&testing::node(two)));
    assert!(
        !dirty.machines.contains("one"),
        "it is none of its business"
    );
}

#[test]
fn a_machine_that_became_wrong_is_still_its_node() {
    let mut inventory = filled(&[machine("a", 1, None)]);
    let mut wrong = machine("a", 1, None);
    wrong.spec.attestation_key = Some("nonsense".to_owned());
    let mut dirty = Dirty::default();
    inventory.set_machine("a", Some(wrong), &mut dirty);
    let object = cluster();
    let cluster = crate::controllers::parse::cluster(&object).unwrap();
    let (desired, refusals) = inventory.desired(&cluster, &dirty);
    assert!(refusals.contains_key(&testing::node(1)));
    assert_eq!(
        desired.machines.get(&testing::node(1)),
        Some(&super::held())
    );
}

#[test]
fn what_concerns_every_machine_makes_everything_dirty() {
    let mut inventory = filled(&[machine("a", 1, None)]);
    let image = |tuples| {
        let spec = json!({"referenceValues": {"bootTuples": tuples}});
        ApprovedImage::new("image", serde_json::from_value(spec).unwrap())
    };
    let all = |set: &mut dyn FnMut(&mut Dirty)| {
        let mut dirty = Dirty::default();
        set(&mut dirty);
        dirty.all
    };
    let first = image(json!([testing::boot_tuple(0)]));
    let more = image(json!([testing::boot_tuple(0), testing::boot_tuple(1)]));
    let image = std::collections::BTreeSet::from(["image".to_owned()]);
    assert!(all(&mut |dirty| assert_eq!(
        inventory.set_image("image", Some(first.clone()), dirty),
        image
    )));
    assert!(!all(&mut |dirty| assert_eq!(
        inventory.set_image("image", Some(more.clone()), dirty),
        image
    )));
    assert!(all(&mut |dirty| assert_eq!(
        inventory.set_image("image", None, dirty),
        image
    )));

    assert!(!all(&mut |dirty| inventory.set_cluster(
        "cluster",
        Some(cluster()),
        dirty
    )));
    let mut annotated = cluster();
    annotated.metadata.annotations = Some([("remove-many".to_owned(), "9".to_owned())].into());
    assert!(all(&mut |dirty| inventory.set_cluster(
        "cluster",
        Some(annotated.clone()),
        dirty
    )));
}

#[test]
fn a_secret_concerns_those_that_name_it() {
    let mut one = machine("one", 1, None);
    one.spec.runtime = Some(crate::controllers::api::Runtime {
        secret: "own".to_owned(),
    });
    let mut two = machine("two", 2, None);
    two.spec.ignition = Some(crate::controllers::api::Ignition {
        secret: "config".to_owned(),
        ..Default::default()
    });
    let mut inventory = filled(&[one.clone(), two]);
    let mut everybodys = cluster();
    everybodys.spec.runtime = Some(crate::controllers::api::Runtime {
        secret: "everybodys".to_owned(),
    });
    everybodys.spec.trustee_secret = Some("tls".to_owned());
    inventory.set_cluster("cluster", Some(everybodys), &mut Dirty::default());
    let concerned = |inventory: &Inventory, name| {
        let mut dirty = Dirty::default();
        assert!(!inventory.content_changed(name, &mut dirty));
        let machines: Vec<String> = dirty.machines.iter().cloned().collect();
        (machines, dirty.all, dirty.deployed)
    };
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(concerned(&inventory, "own"), (of(&["one"]), false, false));
    assert_eq!(
        concerned(&inventory, "config"),
        (of(&["two"]), false, false)
    );
    assert_eq!(concerned(&inventory, "everybodys"), (of(&[]), true, false));
    assert_eq!(concerned(&inventory, "tls"), (of(&[]), false, true));
    assert_eq!(concerned(&inventory, "other"), (of(&[]), false, false));
    one.spec.runtime = None;
    inventory.set_machine("one", Some(one), &mut Dirty::default());
    assert_eq!(concerned(&inventory, "own"), (of(&[]), false, false));
}

#[test]
fn another_object_of_a_name_is_another_machine() {
    for (uid, stays) in [("1", true), ("2", false)] {
        let with = |uid: &str, key: &str| {
            let mut object = machine("a", 1, None);
            object.metadata.uid = Some(uid.to_owned());
            object.spec.attestation_key = Some(key.to_owned());
            object
        };
        let mut inventory = filled(&[with("1", &testing::ak(1).to_string())]);
        let wrong = with(uid, "nonsense");
        inventory.set_machine("a", Some(wrong), &mut Dirty::default());
        let node = inventory.machines()["a"].node.as_ref();
        assert_eq!(node, stays.then(|| testing::node(1)).as_ref(), "uid {uid}");
    }
}

#[test]
fn two_keys_of_one_machine_are_none() {
    let mut own = machine("a", 1, None);
    own.spec.id = Some(testing::node(1).to_string());
    own.spec.attestation_key = None;
    let mut inventory = filled(&[own]);
    let mut set = |name: &str, number: u32| {
        let spec = json!({"publicKey": testing::ak(number), "uuid": testing::node(1)});
        let key = AttestationKey::new(name, serde_json::from_value(spec).unwrap());
        inventory.set_key(name, Some(key), &mut Dirty::default());
        inventory.machines()["a"].parsed.clone()
    };
    set("first", 1).unwrap();
    let why = set("second", 2).unwrap_err();
    assert!(
        why.contains("AttestationKeys first and second both belong to it"),
        "{why}"
    );
}

// SPDX-License-Identifier: Apache-2.0

//! Plans of single changes, to the write. What holds for all changes is in `properties`.

use super::{Observed, Plan, Problem, Write, plan};
use crate::model::{Desired, Evidence, Identity, InitDataDigest, SecretId, State};
use crate::policy;
use crate::testing::{ak, boot_tuple, cluster, machine, node};
use serde_json::{Value, json};

/// Carries a plan out.
fn apply(plan: &Plan, observed: &mut Observed) {
    for write in &plan.writes {
        observed.begin(write);
        observed.finish(write);
    }
}

fn provisioned(desired: &Desired) -> Observed {
    let mut observed = Observed::default();
    apply(&plan(desired, &observed), &mut observed);
    assert_eq!(plan(desired, &observed).writes, []);
    observed
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.writes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_fresh_kbs_is_closed_before_and_opened_after_everything_else() {
    let plan = plan(&cluster(1), &Observed::default());
    assert_eq!(
        lines(&plan),
        [
            "close: upload a resource policy that denies everything".to_owned(),
            "upload attestation policy default_cpu".to_owned(),
            format!("store secret \"0-1\" at default/{}/root", node(0)),
            "set reference value boot_tuples to 2 entries".to_owned(),
            format!("set reference value {} to 1 entries", ak(0).shard()),
            "set reference value seals to 1 entries".to_owned(),
            "set reference value sheepfold_options to 1 entries".to_owned(),
            "open: upload the resource policy".to_owned(),
        ]
    );
    assert_eq!(plan.problems, []);
}

#[test]
fn one_machine_more_among_ten_thousand_costs_one_shard_and_its_secret() {
    let mut desired = cluster(10_000);
    let observed = provisioned(&desired);
    desired.machines.insert(node(10_000), machine(10_000));
    let plan = plan(&desired, &observed);
    let [
        Write::Resource { path, .. },
        Write::ReferenceValue { name, value },
    ] = plan.writes.as_slice()
    else {
        panic!("{:?}", lines(&plan));
    };
    assert_eq!(path.to_string(), format!("default/{}/root", node(10_000)));
    assert_eq!(*name, ak(10_000).shard());
    let bytes = value.to_value().to_string().len();
    println!(
        "{} writes, {} entries, {bytes} bytes of reference value",
        plan.writes.len(),
        value.len()
    );
    assert!(bytes < 64 * 1024, "{bytes}");
}

#[test]
fn the_shards_of_ten_thousand_machines_are_small() {
    let values = crate::testing::sample_reference_values(10_000);
    let sizes = || values.values().map(|value| value.to_string().len());
    let (count, most) = (sizes().count(), sizes().max().unwrap());
    println!(
        "{count} reference values, the largest has {most} bytes, {} in all",
        sizes().sum::<usize>()
    );
    assert!(most < 64 * 1024, "{most}");
}

#[test]
fn a_machine_that_goes_loses_its_secret_and_its_key_before_anything_else() {
    for change in [
        |desired: &mut Desired| drop(desired.machines.remove(&node(1))),
        |desired: &mut Desired| desired.machines.get_mut(&node(1)).unwrap().state = State::Revoked,
    ] {
        let mut desired = cluster(3);
        let observed = provisioned(&desired);
        change(&mut desired);
        // Other changes of the same plan wait.
        desired.machines.insert(node(7), machine(7));
        desired.boots.tuples.clear();
        let plan = plan(&desired, &observed);
        assert_eq!(
            lines(&plan)[..3],
            [
                format!("delete default/{}/root", node(1)),
                format!("empty reference value {}", ak(1).shard()),
                "empty reference value boot_tuples".to_owned(),
            ]
        );
    }
}

#[test]
fn a_revoked_machine_leaves_its_neighbours_in_the_shard() {
    let mut desired = cluster(3);
    let neighbour = (8..).find(|n| ak(*n).shard() == ak(1).shard()).unwrap();
    desired.machines.insert(node(neighbour), machine(neighbour));
    let observed = provisioned(&desired);
    desired.machines.remove(&node(1));
    let plan = plan(&desired, &observed);
    let [
        Write::DeleteResource { .. },
        Write::ReferenceValue { name, value },
    ] = plan.writes.as_slice()
    else {
        panic!("{:?}", lines(&plan));
    };
    assert_eq!(*name, ak(1).shard());
    assert_eq!(
        value.to_value(),
        json!({ak(neighbour).to_string(): node(neighbour)})
    );
}

#[test]
fn a_held_machine_is_out_of_reach_and_loses_nothing() {
    let mut desired = cluster(2);
    let observed = provisioned(&desired);
    desired.machines.get_mut(&node(1)).unwrap().state = State::Held;
    assert_eq!(
        lines(&plan(&desired, &observed)),
        [format!("empty reference value {}", ak(1).shard())]
    );
    // One that was never approved gets nothing stored.
    let mut newcomer = machine(5);
    newcomer.state = State::Held;
    let mut desired = cluster(2);
    desired.machines.insert(node(5), newcomer);
    assert_eq!(plan(&desired, &observed).writes, []);
}

#[test]
fn values_shrink_to_what_is_common_before_secrets_move_and_grow_after() {
    let mut desired = cluster(1);
    let observed = provisioned(&desired);
    desired.boots.tuples = [1, 2]
        .into_iter()
        .map(|n| serde_json::from_value(boot_tuple(n)).unwrap())
        .collect();
    desired
        .machines
        .get_mut(&node(0))
        .unwrap()
        .rotate(&"root".parse().unwrap(), SecretId("new".into()))
        .unwrap();
    let plan = plan(&desired, &observed);
    assert_eq!(
        lines(&plan),
        [
            "set reference value boot_tuples to 1 entries".to_owned(),
            format!("store secret \"new\" at default/{}/root.new", node(0)),
            format!("store secret \"new\" at default/{}/root", node(0)),
            "set reference value boot_tuples to 2 entries".to_owned(),
        ]
    );
    let Write::ReferenceValue { value, .. } = &plan.writes[0] else {
        panic!("{}", plan.writes[0])
    };
    assert_eq!(value.to_value(), json!([boot_tuple(1)]));
}

#[test]
fn the_end_of_a_rotation_deletes_the_old_secret_and_nothing_else() {
    let mut desired = cluster(1);
    let root = "root".parse().unwrap();
    let machine = desired.machines.get_mut(&node(0)).unwrap();
    machine.put(&root, SecretId("old".into())).unwrap();
    machine.rotate(&root, SecretId("new".into())).unwrap();
    let observed = provisioned(&desired);
    desired.machines.get_mut(&node(0)).unwrap().rebound(&root);
    assert_eq!(
        lines(&plan(&desired, &observed)),
        [format!("delete default/{}/root.old", node(0))]
    );
}

#[test]
fn a_new_secret_lies_in_its_second_place_before_a_node_can_read_it() {
    let mut desired = cluster(1);
    let machine = desired.machines.get_mut(&node(0)).unwrap();
    machine
        .put(&"root".parse().unwrap(), SecretId("id".into()))
        .unwrap();
    let writes = lines(&plan(&desired, &Observed::default()));
    let secrets: Vec<_> = writes.iter().filter(|l| l.starts_with("store")).collect();
    assert_eq!(
        secrets,
        [
            &format!("store secret \"id\" at default/{}/root.id", node(0)),
            &format!("store secret \"id\" at default/{}/root", node(0)),
        ]
    );
}

#[test]
fn options_change_through_nothing() {
    let mut desired = cluster(1);
    let observed = provisioned(&desired);
    desired.options.evidence.insert(Evidence::SnpTpm);
    let plan = plan(&desired, &observed);
    let values: Vec<Value> = plan
        .writes
        .iter()
        .map(|write| match write {
            Write::ReferenceValue { name, value } if name == "sheepfold_options" => {
                value.to_value()
            }
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(
        values,
        [
            json!({}),
            json!({"evidence": ["tpm", "snp+tpm"], "identity": "ak"})
        ]
    );
}

#[test]
fn another_policy_text_goes_in_behind_a_closed_door() {
    let mut observed = provisioned(&cluster(1));
    observed.finish(&Write::AttestationPolicy {
        id: policy::ATTESTATION_ID,
        text: "package policy",
    });
    let mut plans = vec![plan(&cluster(1), &observed)];
    let mut observed = provisioned(&cluster(1));
    observed.finish(&Write::ResourcePolicy {
        text: "package policy",
    });
    plans.push(plan(&cluster(1), &observed));
    for plan in plans {
        let first = Write::ResourcePolicy {
            text: policy::DENY_ALL,
        };
        let last = Write::ResourcePolicy {
            text: policy::RESOURCE,
        };
        assert_eq!(
            (plan.writes.first(), plan.writes.last()),
            (Some(&first), Some(&last))
        );
        assert!(plan.writes.len() <= 3);
    }
    // A door that is closed already is not closed again.
    let mut observed = provisioned(&cluster(1));
    observed.finish(&Write::ResourcePolicy {
        text: policy::DENY_ALL,
    });
    assert_eq!(
        lines(&plan(&cluster(1), &observed)),
        ["open: upload the resource policy"]
    );
}

#[test]
fn an_interrupted_write_is_written_again() {
    let mut desired = cluster(2);
    let before = provisioned(&desired);
    desired.machines.remove(&node(0));
    desired.machines.insert(node(9), machine(9));
    for interrupted in plan(&desired, &before).writes {
        let mut observed = before.clone();
        observed.begin(&interrupted);
        let next = plan(&desired, &observed);
        assert!(
            next.writes.contains(&interrupted),
            "{interrupted} is not in {:?}",
            lines(&next)
        );
    }
    // The interrupted write may have reached the KBS even if it is no longer wanted.
    let mut observed = before.clone();
    let abandoned = plan(&desired, &before).writes;
    abandoned.iter().for_each(|write| observed.begin(write));
    let back = plan(&cluster(2), &observed);
    let undone = lines(&back);
    assert!(
        undone.contains(&format!("empty reference value {}", ak(9).shard())),
        "{undone:?}"
    );
    assert!(
        undone.contains(&format!("delete default/{}/root", node(9))),
        "{undone:?}"
    );
    apply(&back, &mut observed);
    assert_eq!(observed, before);
}

/// The KBS may hold the old content or the new one. An entry that only one of them has must not come back
/// while other values are still as large as they were.
#[test]
fn what_an_interrupted_write_may_have_taken_away_comes_back_with_the_growing_writes() {
    let desired = cluster(1);
    let mut observed = provisioned(&desired);
    let mut fewer = desired.clone();
    fewer.boots.tuples.pop_first();
    let interrupted = plan(&fewer, &observed).writes;
    assert_eq!(interrupted.len(), 1);
    observed.begin(&interrupted[0]);

    let mut narrower = desired.clone();
    narrower.options.evidence = [Evidence::SnpTpm].into();
    let options = "sheepfold_options";
    assert_eq!(
        lines(&plan(&narrower, &observed)),
        [
            "set reference value boot_tuples to 1 entries".to_owned(),
            format!("empty reference value {options}"),
            "set reference value boot_tuples to 2 entries".to_owned(),
            format!("set reference value {options} to 1 entries"),
        ]
    );
}

#[test]
fn the_record_survives_its_file() {
    let observed = provisioned(&cluster(3));
    let text = serde_json::to_string(&observed).unwrap();
    assert_eq!(serde_json::from_str::<Observed>(&text).unwrap(), observed);
    assert!(serde_json::from_str::<Observed>(r#"{"later": 1}"#).is_err());
    for secret in ["MIIBIjAN", &boot_tuple(0)["pcr04"].to_string()] {
        assert!(!text.contains(secret), "digests only");
    }
}

#[test]
fn contradictions_are_reported_and_get_nothing() {
    // Two machines with one key.
    let mut desired = cluster(2);
    desired.machines.get_mut(&node(1)).unwrap().ak = Some(ak(0));
    let made = plan(&desired, &Observed::default());
    assert!(
        matches!(made.problems.as_slice(), [Problem::Shared { nodes, .. }] if nodes.len() == 2)
    );
    assert!(
        !lines(&made).iter().any(|line| line.contains("node_ak_")),
        "{:?}",
        lines(&made)
    );
    // A revoked one does not count.
    desired.machines.get_mut(&node(0)).unwrap().state = State::Revoked;
    assert_eq!(plan(&desired, &Observed::default()).problems, []);

    // A machine without what the cluster goes by.
    let mut desired = cluster(2);
    desired.machines.get_mut(&node(1)).unwrap().ak = None;
    let made = plan(&desired, &Observed::default());
    assert_eq!(
        made.problems,
        [Problem::Nameless {
            node: node(1),
            needs: "attestation key"
        }]
    );
    desired.options.identity = Identity::InitData;
    assert_eq!(plan(&desired, &Observed::default()).problems.len(), 2);

    // Evidence that names nobody; tuples that match nothing; no evidence at all.
    let mut desired = cluster(1);
    desired.options.evidence = [Evidence::Snp, Evidence::SnpTpm].into();
    desired.options.pcrs = (4..6).filter_map(crate::model::Pcr::new).collect();
    let made = plan(&desired, &Observed::default());
    assert_eq!(made.problems.len(), 3, "{:?}", made.problems);
    assert_eq!(
        made.problems[0],
        Problem::Anonymous {
            evidence: Evidence::Snp
        }
    );
    assert_eq!(
        made.problems[1],
        Problem::TupleTooShort {
            missing: "pcr05".to_owned()
        }
    );
    desired.options.evidence.clear();
    assert!(
        plan(&desired, &Observed::default())
            .problems
            .contains(&Problem::NoEvidence)
    );
}

#[test]
fn machines_of_init_data_are_known_by_their_registers() {
    let mut desired = cluster(1);
    let digest = InitDataDigest::of("text");
    desired.options.identity = Identity::InitData;
    let first = desired.machines.get_mut(&node(0)).unwrap();
    first.init_data = Some(digest);
    let (values, problems) = super::reference_values(&desired);
    assert_eq!(problems, []);
    for register in digest.registers() {
        let shard = values[&InitDataDigest::shard(&register)].to_value();
        assert_eq!(shard[&register], json!(node(0)));
    }
    assert_eq!(
        values[&ak(0).shard()].to_value(),
        json!({ak(0).to_string(): node(0)})
    );
    // Two machines with one text.
    let mut twin = machine(1);
    twin.init_data = Some(digest);
    desired.machines.insert(node(1), twin);
    let (values, problems) = super::reference_values(&desired);
    assert!(matches!(
        problems.as_slice(),
        [Problem::Shared {
            what: "init-data",
            ..
        }]
    ));
    assert!(!values.keys().any(|name| name.starts_with("node_")));
}

// SPDX-License-Identifier: Apache-2.0

//! A fleet under update, against what `combine` accepts for it: whatever one of its machines can show must be accepted,
//! and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod common;

use common::fleet::{
    ALL_MOVES, IMAGES, LEVELS, Machine, Move, PLATFORMS, Random, mixtures, reachable_states,
    rollout, values,
};
use measured_boot::combine::{Rollout, combine};
use measured_boot::path::Route;
use measured_boot::replay::Pcrs;
use std::collections::{BTreeMap, BTreeSet};

const SEQUENCES: u32 = 10_000;

#[test]
fn ten_thousand_lives_of_machines() {
    for partial_esp in [false, true] {
        let accepted = combine(&rollout(partial_esp)).unwrap();
        let mut random = Random(0x5eed);
        // Boots by what was installed: machines meet the same states again and again.
        let mut boots: BTreeMap<Machine, Option<(Pcrs, Machine)>> = BTreeMap::new();
        let mut boot = |installed: &Machine| {
            let result = boots.entry(installed.clone()).or_insert_with(|| {
                let mut running = installed.clone();
                running.boot().map(|pcrs| (pcrs, running))
            });
            result.clone()
        };
        let mut shown = BTreeMap::new();
        for _ in 0..SEQUENCES {
            let fresh = Machine::fresh(random.below(IMAGES), random.below(PLATFORMS));
            let Some((pcrs, mut running)) = boot(&fresh) else {
                continue;
            };
            shown.insert(values(&pcrs), pcrs);
            let mut machine = running.clone();
            for _ in 0..random.below(40) {
                let step = ALL_MOVES[random.below(ALL_MOVES.len())];
                let in_the_middle = step == Move::CopyBootLoaderAndPowerCut;
                if in_the_middle && !partial_esp {
                    continue;
                }
                step.apply(&mut machine, &running);
                if in_the_middle || step == Move::PowerCut {
                    let Some((pcrs, booted)) = boot(&machine) else {
                        break;
                    };
                    shown.insert(values(&pcrs), pcrs);
                    (machine, running) = (booted.clone(), booted);
                }
            }
        }
        let is_accepted = |pcrs: &Pcrs| accepted.tuples().any(|tuple| tuple.matches(pcrs));
        assert!(shown.values().all(is_accepted), "a machine is locked out");
        // The walk comes by nearly everything; `all_states_of_all_machines` does not leave it to chance.
        assert!(shown.len() * 10 >= accepted.boots.len() * 9);

        let possible: BTreeMap<_, _> = reachable_states(partial_esp)
            .into_iter()
            .filter_map(|mut state| state.boot())
            .map(|pcrs| (values(&pcrs), pcrs))
            .collect();
        let mut others = mixtures(possible.values());
        others.retain(|pcrs| !possible.contains_key(&values(pcrs)));
        assert!(others.len() > 10 * possible.len());
        assert!(!others.iter().any(is_accepted), "a mixture is accepted");
        eprintln!(
            "partial ESP {partial_esp}: {} tuples accepted, {} of them met, {} mixtures refused",
            accepted.boots.len(),
            shown.len(),
            others.len()
        );
    }
}

#[test]
fn all_states_of_all_machines() {
    // Not a walk but every state there is, reachable or not.
    for partial_esp in [false, true] {
        let reachable = reachable_states(partial_esp);
        let shown: BTreeSet<_> = reachable
            .iter()
            .filter_map(|state| state.clone().boot())
            .map(|pcrs| values(&pcrs))
            .collect();
        let accepted = combine(&rollout(partial_esp)).unwrap();
        assert_eq!(accepted.boots.len(), shown.len());
        let mut refused = 0;
        for state in every_state() {
            let Some(pcrs) = state.clone().boot() else {
                continue;
            };
            let is_accepted = accepted.tuples().any(|tuple| tuple.matches(&pcrs));
            assert_eq!(is_accepted, shown.contains(&values(&pcrs)));
            refused += u32::from(!is_accepted);
        }
        assert!(refused > 100, "{refused}");
        // The shim of image 0 under the new dbx, its GRUB under the new level.
        assert!(
            accepted
                .dead_ends
                .iter()
                .any(|(_, why)| why == "shim0 is revoked by dbx")
        );
        assert!(
            accepted
                .dead_ends
                .iter()
                .any(|(_, why)| why == "grub0 is revoked by SbatLevel")
        );
    }
}

#[test]
fn one_image_has_one_tuple() {
    let mut rollout = rollout(false);
    rollout.images.truncate(1);
    rollout.updates.clear();
    rollout.platforms.truncate(1);
    rollout.platform_updates.clear();
    let accepted = combine(&rollout).unwrap();
    // The first boot finds no SbatLevel, the second one the same text as the first one wrote.
    assert_eq!(accepted.boots.len(), 1);
    let tuple = serde_json::to_value(accepted.tuples().next()).unwrap();
    let names: Vec<&String> = tuple.as_object().unwrap().keys().collect();
    assert_eq!(names, ["pcr04", "pcr07", "pcr14"]);
    assert_eq!(tuple["pcr04"].as_str().unwrap().len(), 64);
}

#[test]
fn what_is_not_combined() {
    let refusal = |change: fn(&mut Rollout)| {
        let mut rollout = rollout(false);
        change(&mut rollout);
        combine(&rollout).unwrap_err().to_string()
    };
    assert!(refusal(|r| r.images[1].path.route = Route::ShimUki).contains("different routes"));
    assert!(refusal(|r| r.updates.push((0, 9))).contains("not in the list"));
    assert!(refusal(|r| r.platform_updates.push((2, 0))).contains("not in the list"));
    assert!(
        refusal(|r| r.images = vec![r.images[0].clone(); 17]).contains("17 images, at most 16")
    );
    // An error that is not "does not boot" is one of the whole rollout.
    assert!(refusal(|r| r.images[2].facts.kernel = None).contains("has no kernel"));
}

#[test]
fn an_unknown_grub_adds_each_candidate() {
    let mut rollout = rollout(false);
    let known = combine(&rollout).unwrap();
    assert!(known.boots.values().all(|boot| boot.unobserved.is_empty()));
    for image in &mut rollout.images {
        image.path.kernel_measurements = None;
    }
    let unknown = combine(&rollout).unwrap();
    assert!(unknown.boots.len() > known.boots.len());
    assert!(
        unknown
            .boots
            .values()
            .all(|boot| !boot.unobserved.is_empty())
    );
}

fn every_state() -> impl Iterator<Item = Machine> {
    let choices = IMAGES * IMAGES * IMAGES * PLATFORMS * LEVELS.len();
    (0..choices).map(|mut n| {
        let mut digit = |base: usize| {
            let digit = n % base;
            n /= base;
            digit
        };
        Machine {
            shim: digit(IMAGES),
            grub: digit(IMAGES),
            kernel: digit(IMAGES),
            platform: digit(PLATFORMS),
            level: Some(LEVELS[digit(LEVELS.len())].0),
        }
    })
}

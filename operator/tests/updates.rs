// SPDX-License-Identifier: Apache-2.0

//! A fleet under update, from its predicted tuples to the verdict: machines of the model live on a real TPM, which is
//! extended for each boot, restarted and cut off; the policy must accept every boot that they show, and nothing that
//! is put together from two of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

#[path = "../../measured-boot/tests/common/mod.rs"]
mod measured;

use measured::fleet::{
    ALL_MOVES, IMAGES, Machine, Move, PLATFORMS, Random, mixtures, reachable_states, rollout,
};
use measured::made_up;
use measured_boot::bank::Bank;
use measured_boot::combine::{Approved, Reachable, Rollout, combine};
use measured_boot::path::{BootPath, Route};
use measured_boot::replay::Pcrs;
use serde_json::{Value, json};
use sheepfold_operator::model::Desired;
use sheepfold_operator::plan::reference_values;
use sheepfold_operator::policy;
use sheepfold_operator::policy::engine::{AttestationPolicy, ReferenceValues};
use sheepfold_operator::testing::{cluster, tpm_evidence};
use sheepfold_tests::swtpm::SoftTpm;
use std::collections::BTreeMap;

const SEQUENCES: usize = 24;

/// The policy of a cluster that approves what is reachable.
struct Verifier {
    policy: AttestationPolicy,
    values: ReferenceValues,
}

impl Verifier {
    fn of(text: &str, reachable: &Reachable) -> Self {
        let mut desired: Desired = cluster(1);
        desired.boots.tuples = reachable
            .tuples()
            .map(|tuple| serde_json::from_value(json!(tuple)).unwrap())
            .collect();
        let (values, _) = reference_values(&desired);
        let values: BTreeMap<String, Value> = values
            .into_iter()
            .map(|(name, entries)| (name, entries.to_value()))
            .collect();
        Self {
            policy: AttestationPolicy::compile(text).unwrap(),
            values: values.iter().collect(),
        }
    }

    /// Whether a node of the cluster with these PCRs gets its secret.
    fn accepts(&self, pcrs: &Pcrs) -> bool {
        let mut evidence = tpm_evidence(0, 0);
        for pcr in 0..24 {
            evidence["tpm"][format!("pcr{pcr:02}")] = json!(pcrs.get(pcr));
        }
        let verdict = self.policy.appraise(&evidence, &self.values).unwrap();
        verdict.status() <= kbs_protocol::ear::Tier::Affirming
    }
}

/// As somebody would write it who keeps a list for each PCR.
fn with_independent_lists() -> String {
    let (before, rest) = policy::ATTESTATION
        .split_once("booted(tuple) if {")
        .unwrap();
    let (_, after) = rest.split_once("\n}\n").unwrap();
    format!(
        "{before}booted(tuple) if {{\n\tis_object(tuple)\n\tevery name, _ in object.remove(tuple, [\"pcr11\"]) {{\n\
         \t\tsome other in list(\"boot_tuples\")\n\t\tpcrs[name] == other[name]\n\t}}\n}}\n{after}"
    )
}

#[test]
fn lives_on_a_real_tpm_are_accepted_boot_by_boot() {
    if let Some(missing) = SoftTpm::missing() {
        eprintln!("SKIPPED: {missing} is not installed");
        return;
    }
    let mut tpm = SoftTpm::start().unwrap();
    let mut random = Random(0x00c0_ffee);
    let (mut lives, mut boots) = (0, 0);
    let mut met = BTreeMap::new();
    for partial_esp in [false, true] {
        let reachable = combine(&rollout(partial_esp)).unwrap();
        let verifier = Verifier::of(policy::ATTESTATION, &reachable);
        let mut boot = |tpm: &SoftTpm, installed: &Machine| {
            let mut running = installed.clone();
            let extends = running.extends()?;
            for (pcr, digest) in &extends {
                tpm.extend(*pcr, digest.as_bytes().try_into().unwrap())
                    .unwrap();
            }
            let mut shown = Pcrs::new(Bank::Sha256);
            for (pcr, value) in (0..24).zip(tpm.read_pcrs().unwrap()) {
                shown.set(pcr, measured_boot::bank::Digest::new(value));
            }
            assert!(
                reachable.tuples().any(|tuple| tuple.matches(&shown)),
                "predicted nowhere: {shown:?}"
            );
            assert!(verifier.accepts(&shown));
            boots += 1;
            Some(running)
        };
        for _ in 0..SEQUENCES / 2 {
            tpm.restart().unwrap();
            // Not one that is revoked from the start.
            let fresh = Machine::fresh(1 + random.below(IMAGES - 1), random.below(PLATFORMS));
            let mut running = boot(&tpm, &fresh).unwrap();
            let mut machine = running.clone();
            for _ in 0..12 {
                let step = ALL_MOVES[random.below(ALL_MOVES.len())];
                let in_the_middle = step == Move::CopyBootLoaderAndPowerCut;
                if in_the_middle && !partial_esp {
                    continue;
                }
                *met.entry(format!("{step:?}")).or_insert(0) += 1;
                step.apply(&mut machine, &running);
                if in_the_middle || step == Move::PowerCut {
                    match step {
                        Move::PowerCut if random.below(2) == 0 => tpm.restart().unwrap(),
                        _ => tpm.power_cut().unwrap(),
                    }
                    let Some(booted) = boot(&tpm, &machine) else {
                        break;
                    };
                    (machine, running) = (booted.clone(), booted);
                }
            }
            lives += 1;
        }
    }
    eprintln!("{lives} lives, {boots} boots on a TPM, moves: {met:?}");
    assert!(lives >= 20 && boots > lives, "{lives} {boots}");
    assert_eq!(met.len(), ALL_MOVES.len(), "{met:?}");
}

#[test]
fn what_is_put_together_from_two_boots_is_refused() {
    let reachable = combine(&rollout(false)).unwrap();
    let shown: Vec<Pcrs> = reachable_states(false)
        .into_iter()
        .filter_map(|mut state| state.boot())
        .collect();
    refuses_mixtures(&reachable, &shown, 10);
}

#[test]
fn what_is_put_together_from_two_unified_images_is_refused() {
    let image = |name: &str| {
        let mut facts = made_up::image();
        name.clone_into(&mut facts.name);
        let uki = facts.uki.as_mut().unwrap();
        uki.file = made_up::program(name);
        uki.sections[0].digests = measured_boot::bank::Digests::of(name.as_bytes());
        Approved {
            facts,
            path: BootPath::new(Route::Uki),
        }
    };
    let platform = |dbx: &str| {
        let mut facts = made_up::platform();
        made_up::set(&mut facts, "db", &made_up::hashes(&["A", "B", "C"]));
        made_up::set(&mut facts, "dbx", &made_up::hashes(&[dbx]));
        facts
    };
    let reachable = combine(&Rollout {
        images: ["A", "B", "C"].map(image).to_vec(),
        updates: vec![(0, 1), (1, 2)],
        platforms: vec![platform("x"), platform("y")],
        platform_updates: vec![(0, 1)],
        bank: Bank::Sha256,
        phases: vec![],
        partial_esp: false,
    })
    .unwrap();
    let shown: Vec<Pcrs> = reachable
        .tuples()
        .map(|tuple| {
            let mut pcrs = Pcrs::new(Bank::Sha256);
            for pcr in 0..24 {
                if let Some(value) = tuple.get(pcr) {
                    pcrs.set(pcr, value.clone());
                }
            }
            pcrs
        })
        .collect();
    // Three images on two states of the platform.
    assert_eq!(shown.len(), 6);
    let verifier = Verifier::of(policy::ATTESTATION, &reachable);
    assert!(shown.iter().all(|pcrs| verifier.accepts(pcrs)));
    let careless = Verifier::of(&with_independent_lists(), &reachable);
    let mut mixed = 0;
    for (one, other) in shown
        .iter()
        .flat_map(|one| shown.iter().map(move |other| (one, other)))
    {
        // The kernel of one, the sections of the other.
        if one.get(4) != other.get(4) {
            let mut pcrs = one.clone();
            pcrs.set(11, other.get(11));
            assert!(!verifier.accepts(&pcrs), "PCR 11 of another image");
            assert!(careless.accepts(&pcrs));
            mixed += 1;
        }
    }
    assert_eq!(mixed, 24);
}

/// In a mixture each value on its own is approved.
fn refuses_mixtures(reachable: &Reachable, shown: &[Pcrs], at_least: usize) {
    let verifier = Verifier::of(policy::ATTESTATION, reachable);
    assert!(shown.iter().all(|pcrs| verifier.accepts(pcrs)));
    let mut others = mixtures(shown.iter());
    others.retain(|pcrs| !reachable.tuples().any(|tuple| tuple.matches(pcrs)));
    eprintln!(
        "{} tuples, {} mixtures",
        reachable.boots.len(),
        others.len()
    );
    assert!(others.len() > at_least * reachable.boots.len());
    for pcrs in &others {
        assert!(!verifier.accepts(pcrs), "a mixture is accepted: {pcrs:?}");
    }
    // These are the mixtures that a list for each PCR lets through.
    let careless = Verifier::of(&with_independent_lists(), reachable);
    assert!(others.iter().all(|pcrs| careless.accepts(pcrs)));
}

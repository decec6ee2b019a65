// SPDX-License-Identifier: Apache-2.0

//! What holds for every plan, tried on random clusters against a simulated KBS that runs the real policies.

use super::{Observed, Write, plan};
use crate::model::{Desired, Evidence, Identity, Machine, NodeName, Options, Pcr, SecretId, State};
use crate::policy;
use crate::policy::engine::{AttestationPolicy, ReferenceValues, ResourcePolicy};
use crate::testing::{ak, boot_tuple, tpm_evidence};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// A KBS as far as writes reach it. A fresh one gives everything to everybody, as Trustee does.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Kbs {
    attestation: String,
    resource: String,
    values: BTreeMap<String, Value>,
    secrets: BTreeMap<String, SecretId>,
}

impl Kbs {
    pub(super) fn fresh() -> Self {
        Self {
            attestation: "package policy\ntrust_claims := {\"hardware\": 2}".to_owned(),
            resource: "package policy\nallow := true".to_owned(),
            values: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }

    pub(super) fn receive(&mut self, write: &Write) {
        match write {
            Write::Resource { path, secret } => {
                self.secrets.insert(path.to_string(), secret.clone());
            }
            Write::DeleteResource { path } => drop(self.secrets.remove(path.as_str())),
            Write::ReferenceValue { name, value } => {
                self.values.insert(name.clone(), value.to_value());
            }
            Write::AttestationPolicy { text, .. } => self.attestation = (*text).to_owned(),
            Write::ResourcePolicy { text } => self.resource = (*text).to_owned(),
        }
    }

    /// Two states that answer every question alike: an empty value is as good as none.
    fn without_empty_values(mut self) -> Self {
        self.values
            .retain(|_, value| *value != json!({}) && *value != json!([]));
        self
    }
}

/// Who can ask: keys 0 to 2 after boots 0 to 2, with or without a report beside the quote, before and after the seal.
pub(super) struct Askers {
    evidence: Vec<Vec<Value>>,
    compiled: RefCell<BTreeMap<String, ResourcePolicy>>,
    answers: RefCell<BTreeMap<String, bool>>,
    appraised: RefCell<BTreeMap<String, Vec<Value>>>,
}

impl Askers {
    pub(super) fn new() -> Self {
        let report = json!({"snp": {
            "measurement": "ab".repeat(48), "policy_debug_allowed": false, "policy_migrate_ma": false,
            "reported_tcb_bootloader": 1, "reported_tcb_microcode": 1, "reported_tcb_snp": 1,
            "reported_tcb_tee": 1,
        }, "init_data": "0", "init_data_claims": null});
        let mut evidence = Vec::new();
        for (key, boot) in (0..3).flat_map(|key| (0..3).map(move |boot| (key, boot))) {
            let mut quote = tpm_evidence(key, boot);
            quote["tpm"].as_object_mut().unwrap().retain(|name, _| {
                ["ak_public", "pcr04", "pcr07", "pcr11", "pcr14"].contains(&name.as_str())
            });
            evidence.push(vec![quote.clone()]);
            evidence.push(vec![report.clone(), quote.clone()]);
            let mut sealed = quote.clone();
            sealed["tpm"]["pcr11"] = json!(SEALED);
            evidence.push(vec![sealed.clone()]);
            evidence.push(vec![report.clone(), sealed]);
            // With init-data that was issued to the machine.
            let digest = init_data(key);
            let [pcr, ..] = digest.registers();
            quote["init_data"] = json!(pcr);
            quote["init_data_claims"] = json!({"uuid": name(key)});
            evidence.push(vec![quote]);
        }
        Self {
            evidence,
            compiled: RefCell::default(),
            answers: RefCell::default(),
            appraised: RefCell::default(),
        }
    }

    /// Every secret that somebody can read, and by whom.
    fn readable(&self, kbs: &Kbs) -> BTreeSet<(usize, SecretId)> {
        let mut readable = BTreeSet::new();
        for (asker, token) in self.tokens(kbs).iter().enumerate() {
            for (path, secret) in &kbs.secrets {
                if self.allows(&kbs.resource, token, path) {
                    readable.insert((asker, secret.clone()));
                }
            }
        }
        readable
    }

    fn tokens(&self, kbs: &Kbs) -> Vec<Value> {
        let key = format!("{}{:?}", kbs.attestation, kbs.values);
        let mut known = self.appraised.borrow_mut();
        let tokens = known.entry(key).or_insert_with(|| {
            let policy = AttestationPolicy::compile(&kbs.attestation).unwrap();
            let values: ReferenceValues = kbs.values.iter().collect();
            let token = |pieces: &Vec<Value>| {
                let submods = pieces.iter().enumerate().map(|(index, piece)| {
                    let appraisal = policy.appraise(piece, &values).unwrap();
                    (format!("cpu{index}"), appraisal.submodule(piece))
                });
                json!({"submods": submods.collect::<serde_json::Map<_, _>>()})
            };
            self.evidence.iter().map(token).collect()
        });
        tokens.clone()
    }

    fn allows(&self, text: &str, token: &Value, path: &str) -> bool {
        let mut answers = self.answers.borrow_mut();
        *answers
            .entry(format!("{text}{token}{path}"))
            .or_insert_with(|| {
                let mut compiled = self.compiled.borrow_mut();
                let policy = compiled
                    .entry(text.to_owned())
                    .or_insert_with(|| ResourcePolicy::compile(text).unwrap());
                policy
                    .allows(token, "resource", &path.split('/').collect::<Vec<_>>())
                    .unwrap()
            })
    }
}

/// PCR 11 after the seal, where it was untouched before.
const SEALED: &str = "e7e7e69e789eca2dd33f829c335bb6e92d6ee30af616db4b3cefab6fc4d80942";

// ---- Random clusters. Machines have assigned names, so that keys can move from one to another.

fn name(n: u32) -> NodeName {
    format!("n{n}").parse().unwrap()
}

fn init_data(n: u32) -> crate::model::InitDataDigest {
    crate::model::InitDataDigest::of(&format!("uuid = n{n}"))
}

fn machines() -> impl Strategy<Value = Machine> {
    let state = prop_oneof![
        8 => Just(State::Approved),
        1 => Just(State::Held),
        1 => Just(State::Revoked),
    ];
    let tags =
        prop_oneof![Just("root"), Just("root.previous")].prop_map(|tag| tag.parse().unwrap());
    let secrets = (0..4u8).prop_map(|n| SecretId(format!("s{n}")));
    let key = prop_oneof![6 => Just(None), 1 => (0..3u32).prop_map(Some)];
    let runtime = btree_map(
        Just("token".parse().unwrap()),
        (0..2u8).prop_map(|n| SecretId(format!("r{n}"))),
        0..2,
    );
    (key, state, btree_map(tags, secrets, 1..3), runtime).prop_map(
        |(key, state, secrets, runtime)| Machine {
            // None: its own, see below.
            ak: key.map(ak),
            init_data: None,
            state,
            secrets,
            runtime,
        },
    )
}

pub(super) fn clusters() -> impl Strategy<Value = Desired> {
    let evidence = prop_oneof![4 => Just(Evidence::Tpm), 1 => Just(Evidence::SnpTpm)];
    let identity = prop_oneof![6 => Just(Identity::Ak), 1 => Just(Identity::InitData)];
    let pcrs = prop_oneof![4 => Just(vec![4, 7, 14]), 1 => Just(vec![4, 7])];
    let options =
        (btree_set(evidence, 1..3), identity, pcrs).prop_map(|(evidence, identity, pcrs)| {
            Options {
                evidence,
                identity,
                pcrs: pcrs.into_iter().filter_map(Pcr::new).collect(),
            }
        });
    (
        options,
        btree_set(0..3u32, 1..4),
        btree_map(0..3u32, machines(), 1..4),
    )
        .prop_map(|(options, boots, machines)| {
            let mut desired = Desired {
                options,
                ..Desired::default()
            };
            let tuples = boots
                .into_iter()
                .map(|n| serde_json::from_value(boot_tuple(n)).unwrap());
            desired.boots.tuples = tuples.collect();
            // Reports are good throughout: what varies is the TPM beside them.
            desired.boots.snp_measurements =
                serde_json::from_value(json!(["ab".repeat(48)])).unwrap();
            let floor = json!([{"bootloader": 1, "microcode": 1, "snp": 1, "tee": 1}]);
            desired.boots.snp_tcb_floors = serde_json::from_value(floor).unwrap();
            desired.machines = machines
                .into_iter()
                .map(|(n, mut machine)| {
                    machine.ak.get_or_insert_with(|| ak(n));
                    machine.init_data = Some(init_data(n));
                    // A secret belongs to one machine.
                    let secrets = machine.secrets.values_mut();
                    secrets
                        .chain(machine.runtime.values_mut())
                        .for_each(|id| id.0 += &format!("-of-{n}"));
                    (name(n), machine)
                })
                .collect();
            desired
        })
}

/// One thing that happens: somebody changes what is wanted, and the plan is carried out as far as the
/// second number says (in 1/8), the last write perhaps without an answer.
#[derive(Debug, Clone)]
struct Event {
    desired: Desired,
    eighths: usize,
    answered: bool,
    arrived: bool,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (
        clusters(),
        prop_oneof![2 => Just(8), 1 => 0..9usize],
        any::<bool>(),
        any::<bool>(),
    );
    let event = event.prop_map(|(desired, eighths, answered, arrived)| Event {
        desired,
        eighths,
        answered,
        arrived,
    });
    vec(event, 0..4)
}

/// Lives through the events; each leaves KBS and record as a killed process would.
fn live(events: &[Event]) -> (Kbs, Observed) {
    let (mut kbs, mut observed) = (Kbs::fresh(), Observed::default());
    for event in events {
        let writes = plan(&event.desired, &observed).writes;
        let done = writes.len().saturating_mul(event.eighths).div_euclid(8);
        for (index, write) in writes.iter().take(done).enumerate() {
            observed.begin(write);
            let last = index == done.saturating_sub(1);
            if !last || event.answered || event.arrived {
                kbs.receive(write);
            }
            if !last || event.answered {
                observed.finish(write);
            }
        }
    }
    (kbs, observed)
}

pub(super) fn finish(desired: &Desired, kbs: &mut Kbs, observed: &mut Observed) {
    for write in plan(desired, observed).writes {
        observed.begin(&write);
        kbs.receive(&write);
        observed.finish(&write);
    }
}

pub(super) fn cases(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn a_plan_that_was_carried_out_is_followed_by_nothing() {
    cases(256)
        .run(&(events(), clusters()), |(events, desired)| {
            let (mut kbs, mut observed) = live(&events);
            finish(&desired, &mut kbs, &mut observed);
            let rest = plan(&desired, &observed).writes;
            assert!(rest.is_empty(), "{rest:?}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn whatever_happened_before_the_end_is_the_same() {
    cases(256)
        .run(&(events(), clusters()), |(events, mut desired)| {
            // A held machine keeps what was stored for it, so its secrets depend on the past, as they should.
            desired
                .machines
                .retain(|_, machine| machine.state != State::Held);
            let (mut kbs, mut observed) = live(&events);
            finish(&desired, &mut kbs, &mut observed);
            let (mut direct, mut record) = (Kbs::fresh(), Observed::default());
            finish(&desired, &mut direct, &mut record);
            assert_eq!(kbs.without_empty_values(), direct.without_empty_values());
            assert_eq!(observed, record);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_machine_that_goes_is_out_after_the_first_pass_and_its_secrets_first() {
    cases(256)
        .run(&(events(), clusters(), clusters()), |(events, before, mut after)| {
            let (mut kbs, mut observed) = live(&events);
            finish(&before, &mut kbs, &mut observed);
            after.machines.remove(&name(0));
            let deletes = |write: &Write| {
                matches!(write, Write::DeleteResource { path } if path.as_str().starts_with("default/n0/"))
            };
            let writes = plan(&after, &observed).writes;
            let others = writes.iter().skip_while(|write| matches!(write, Write::ResourcePolicy { .. }));
            let others = others.skip_while(|write| matches!(write, Write::DeleteResource { .. }));
            assert!(!others.into_iter().any(deletes), "{writes:?}");
            finish(&after, &mut kbs, &mut observed);
            assert!(!kbs.secrets.keys().any(|path| path.starts_with("default/n0/")));
            let names = kbs.values.iter().filter(|(value, _)| value.starts_with("node_"));
            assert!(!names.into_iter().any(|(_, map)| map.to_string().contains("\"n0\"")));
            Ok(())
        })
        .unwrap();
}

/// The first moment at which a secret is readable that is not readable at either end.
pub(super) fn leak(askers: &Askers, mut kbs: Kbs, writes: &[Write]) -> Result<usize, String> {
    let mut end = kbs.clone();
    writes.iter().for_each(|write| end.receive(write));
    let mut allowed = askers.readable(&kbs);
    allowed.extend(askers.readable(&end));
    for (index, write) in writes.iter().enumerate() {
        kbs.receive(write);
        if let Some(leaked) = askers.readable(&kbs).difference(&allowed).next() {
            return Err(format!("{leaked:?} after write {index} of {writes:#?}"));
        }
    }
    Ok(allowed.len())
}

#[test]
fn no_moment_of_a_plan_is_weaker_than_both_of_its_ends() {
    let askers = Askers::new();
    let released = Cell::new(0);
    cases(64)
        .run(&(events(), clusters()), |(events, desired)| {
            let (kbs, observed) = live(&events);
            let allowed = leak(&askers, kbs, &plan(&desired, &observed).writes);
            released.set(released.get() + allowed.map_err(TestCaseError::fail)?);
            Ok(())
        })
        .unwrap();
    println!(
        "{} secrets were readable at the ends of plans",
        released.get()
    );
    assert!(
        released.get() > 100,
        "a test in which hardly anything is released shows nothing"
    );
}

/// Spoils a plan.
type Reorder<'a> = dyn Fn(Vec<Write>) -> Vec<Write> + 'a;

/// The property above is worth something only if it sees a plan in another order.
#[test]
fn plans_in_another_order_leak() {
    let name_of = |write: &Write| match write {
        Write::ReferenceValue { name, .. } => Some(name.clone()),
        _ => None,
    };
    let is_secret = |write: &Write| matches!(write, Write::Resource { .. });
    let opens = Write::ResourcePolicy {
        text: policy::RESOURCE,
    };
    let closes = Write::ResourcePolicy {
        text: policy::DENY_ALL,
    };
    let other: [(&str, &Reorder<'_>); 5] = [
        ("without closing", &|mut writes| {
            writes.retain(|write| *write != closes);
            writes
        }),
        ("opening first", &|mut writes| {
            writes.sort_by_key(|write| (*write != closes, *write != opens));
            writes
        }),
        ("without shrinking", &|writes| {
            let again = |at: usize| {
                let later = writes.iter().skip(at + 1).filter_map(name_of);
                later
                    .into_iter()
                    .any(|name| Some(name) == name_of(&writes[at]))
            };
            (0..writes.len())
                .filter(|at| !again(*at))
                .map(|at| writes[at].clone())
                .collect()
        }),
        ("growing first", &|mut writes| {
            writes.sort_by_key(|write| *write != closes && name_of(write).is_none());
            writes
        }),
        ("secrets last", &|mut writes| {
            writes.sort_by_key(|write| (*write == opens, is_secret(write)));
            writes
        }),
    ];
    for (what, reorder) in other {
        let askers = Askers::new();
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let config = Config {
            cases: 400,
            failure_persistence: None,
            ..Config::default()
        };
        let seen = TestRunner::new_with_rng(config, rng).run(
            &(events(), clusters()),
            |(events, desired)| {
                let (kbs, observed) = live(&events);
                let writes = reorder(plan(&desired, &observed).writes);
                leak(&askers, kbs, &writes)
                    .map(drop)
                    .map_err(TestCaseError::fail)
            },
        );
        assert!(seen.is_err(), "{what}: nobody noticed");
    }
}

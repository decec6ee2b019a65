// SPDX-License-Identifier: Apache-2.0

//! Rounds of one machine, as the worker makes them, without a KBS: what is wanted, and what the record knows afterwards.

use super::{Vault, is_unsettled, put, state, waits};
use crate::controllers::api::MachineSpec;
use crate::controllers::inventory::Parsed;
use crate::controllers::record::{Counters, Record};
use crate::controllers::testing::Server;
use crate::model::{Desired, Machine, SecretId, Tag};
use crate::plan::{Observed, Write, plan};
use crate::provision::apply::Memory as _;
use crate::testing::{cluster, machine, node};
use std::collections::{BTreeMap, BTreeSet};

/// A machine with one volume, and what the operator knows of it.
struct Place {
    _server: Server,
    record: Record,
    vault: Vault,
    parsed: Parsed,
}

/// Which secret lies at each place of the machine.
type Secrets = BTreeMap<String, String>;

impl Place {
    fn new() -> Self {
        let server = Server::start();
        let bare = Machine {
            secrets: BTreeMap::new(),
            ..machine(1)
        };
        Self {
            record: server.record(),
            _server: server,
            vault: Vault::default(),
            parsed: Parsed {
                node: node(1),
                machine: bare,
                volumes: BTreeSet::from([root()]),
                key: None,
            },
        }
    }

    /// What is wanted, and the writes that lead to it.
    fn plan(&mut self, spec: &MachineSpec) -> (Machine, Vec<Write>) {
        let mut machine = self.parsed.machine.clone();
        self.record.forget_pending();
        let (record, vault) = (&mut self.record, &mut self.vault);
        put(&mut machine, &self.parsed, spec, record, vault).unwrap();
        let desired = Desired {
            machines: [(node(1), machine.clone())].into(),
            ..cluster(0)
        };
        let writes = plan(&desired, self.record.observed()).writes;
        (machine, writes)
    }

    /// A whole round: its secrets afterwards.
    fn round(&mut self, spec: &MachineSpec) -> Secrets {
        let (machine, writes) = self.plan(spec);
        self.record.begin(&writes, writes.len()).unwrap();
        self.record.finish(&writes).unwrap();
        by_place(&machine)
    }

    /// A round that ends before the KBS has answered.
    fn interrupted(&mut self, spec: &MachineSpec) -> Secrets {
        let (machine, writes) = self.plan(spec);
        self.record.begin(&writes, writes.len()).unwrap();
        by_place(&machine)
    }

    fn counters(&self) -> Counters {
        self.record.counters(&node(1), &path()).unwrap()
    }

    fn unsettled(&self, spec: &MachineSpec) -> bool {
        is_unsettled(&self.parsed, spec, &self.record)
    }
}

fn root() -> Tag {
    "root".parse().unwrap()
}

fn path() -> String {
    root().path(&node(1)).unwrap().to_string()
}

fn by_place(machine: &Machine) -> Secrets {
    let secrets = machine.secrets.iter();
    secrets
        .map(|(tag, id)| (tag.to_string(), id.0.clone()))
        .collect()
}

/// With these wishes.
fn spec(rotation: i64, rebound: i64) -> MachineSpec {
    MachineSpec {
        rotation: Some(rotation),
        rebound: Some(rebound),
        ..MachineSpec::default()
    }
}

/// The machine's root and these older secrets, each in its second place.
fn places(present: &str, older: &[&str]) -> Secrets {
    let kept = older.iter().chain([&present]);
    let kept = kept.map(|id| (format!("root.{id}"), (*id).to_owned()));
    kept.chain([("root".to_owned(), present.to_owned())])
        .collect()
}

#[test]
fn a_secret_stays_until_somebody_wishes_another_one() {
    let mut place = Place::new();
    let first = place.round(&spec(0, 0));
    let one = first["root"].clone();
    assert_eq!(first, places(&one, &[]));
    assert_eq!(place.round(&spec(0, 0)), first);
    assert_eq!(place.counters(), Counters::default());

    let second = place.round(&spec(1, 0));
    let two = second["root"].clone();
    assert_ne!(one, two);
    assert_eq!(second, places(&two, &[&one]));
    let rotating = Counters {
        rotation: 1,
        rotating: true,
        ..Counters::default()
    };
    assert_eq!(place.counters(), rotating);
    let volumes = || std::iter::once(root());
    assert_eq!(state(&node(1), volumes(), &place.record), (true, false));
    assert_eq!(waits(&place.parsed, &spec(1, 0), &place.record), None);

    // Not yet bound anew: a third one would cost the first.
    assert_eq!(place.round(&spec(2, 0)), second);
    let why = waits(&place.parsed, &spec(2, 0), &place.record).unwrap();
    assert!(why.contains("raise spec.rebound"), "{why}");
    assert_eq!(place.counters(), rotating, "the wish stays one");

    // Bound: the older one goes, and the wish that had to wait is carried out in the same round.
    let third = place.round(&spec(2, 1));
    assert_eq!(third, places(&third["root"], &[&two]));
    let both = Counters {
        rotation: 2,
        rebound: 1,
        ..rotating
    };
    assert_eq!(place.counters(), both);
    // A wish that needs no write of this path is on record as well.
    assert_eq!(place.round(&spec(2, 2)), places(&third["root"], &[]));
    let settled = Counters {
        rebound: 2,
        rotating: false,
        ..both
    };
    assert_eq!(place.counters(), settled);
    assert_eq!(state(&node(1), volumes(), &place.record), (false, false));
}

#[test]
fn what_a_node_may_be_bound_to_is_kept_while_a_write_is_uncertain() {
    let mut place = Place::new();
    let one = place.round(&spec(0, 0))["root"].clone();
    let lost = place.interrupted(&spec(1, 0))["root"].clone();
    // Nobody knows whether the second one was stored. It cannot be stored again: its bytes are gone. And whoever says that
    // the node is bound to the present one speaks of one that the node cannot have.
    place.vault = Vault::default();
    let again = place.round(&spec(1, 1));
    let two = again["root"].clone();
    assert!(![&one, &lost].contains(&&two));
    assert!(
        again.contains_key(&format!("root.{one}")),
        "{one} is not in {again:?}"
    );
    assert!(place.counters().rotating);
    // With the next round it counts.
    assert_eq!(place.round(&spec(1, 1)), places(&two, &[]));
}

#[test]
fn a_secret_that_was_lost_is_replaced_when_somebody_says_so_and_not_before() {
    let mut place = Place::new();
    place.round(&spec(0, 0));
    let before = place.round(&spec(1, 0));
    place.record.lose(false).unwrap();
    assert_eq!(place.round(&spec(1, 0))["root"], before["root"]);
    assert!(place.counters().lost);
    // Nothing that a volume is bound to is there to be lost: the rotation under way holds nobody up.
    assert_eq!(waits(&place.parsed, &spec(2, 0), &place.record), None);
    let anew = place.round(&spec(2, 0));
    assert_ne!(anew["root"], before["root"]);
    assert!(!place.counters().lost);
    assert_eq!(place.counters().rotation, 2);
}

#[test]
fn copies_are_asked_for_when_something_is_uncertain_or_wished() {
    let mut place = Place::new();
    assert!(place.unsettled(&spec(0, 0)), "there is nothing yet");
    place.round(&spec(0, 0));
    for (what, spec, unsettled) in [
        ("nothing", spec(0, 0), false),
        ("a rotation", spec(1, 0), true),
        ("that it is bound", spec(0, 1), true),
    ] {
        assert_eq!(place.unsettled(&spec), unsettled, "{what} is wished");
    }
    place.interrupted(&spec(1, 0));
    let carried_out = spec(1, 0);
    assert_eq!(place.counters().rotation, 1);
    assert!(place.unsettled(&carried_out), "a write is not confirmed");
}

#[test]
fn a_config_that_was_handed_over_stays() {
    let mut place = Place::new();
    let config = SecretId("config-1".to_owned());
    let at = Tag::ignition().path(&node(1)).unwrap();
    let mut observed = Observed::default();
    observed.finish(&Write::Resource {
        path: at,
        secret: config.clone(),
    });
    place.record.adopt("number", true, &observed).unwrap();
    let (machine, _) = place.plan(&spec(0, 0));
    assert_eq!(machine.secrets.get(&Tag::ignition()), Some(&config));
}

// SPDX-License-Identifier: Apache-2.0

//! What is due when, which images are computed for which platforms, and which of what was computed counts.

mod scans;

use super::desk::{Again, Desk, LONGEST, Order, SHORTEST, Wish};
use super::problem::Problem;
use crate::controllers::inventory::{Dirty, Inventory};
use crate::testing;
use refvals::Error;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

fn object(kind: &str, name: &str, spec: Value, status: Value) -> Value {
    json!({
        "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": kind,
        "metadata": {"name": name, "uid": name}, "spec": spec, "status": status,
    })
}

fn set(inventory: &mut Inventory, name: &str, spec: Value, status: Value) -> BTreeSet<String> {
    let image = object("ApprovedImage", name, spec, status);
    let image = serde_json::from_value(image).unwrap();
    inventory.set_image(name, Some(image), &mut Dirty::default())
}

fn cluster(spec: Value) -> Inventory {
    let mut inventory = Inventory::default();
    set_cluster(&mut inventory, spec);
    inventory
}

fn set_cluster(inventory: &mut Inventory, spec: Value) {
    let cluster = object("TrustedExecutionCluster", "cluster", spec, json!({}));
    let cluster = serde_json::from_value(cluster).unwrap();
    inventory.set_cluster("cluster", Some(cluster), &mut Dirty::default());
}

fn image(digit: char) -> String {
    format!("registry.example/os@{}", digest(digit))
}

fn computed(digit: char, boots: Value) -> Value {
    json!({"computed": {
        "image": digest(digit), "inputs": "", "boots": boots, "at": "2026-01-01T00:00:00Z", "version": "0",
    }})
}

#[test]
fn an_image_is_computed_where_somebody_says_on_which_platforms() {
    let usual = json!(["profile:usual"]);
    let by_hand = json!({"bootTuples": [testing::boot_tuple(0)]});
    let mut inventory = cluster(json!({"platforms": usual}));
    for (name, spec) in [
        ("usual", json!({"reference": image('a')})),
        (
            "own",
            json!({"image": image('a'), "platforms": ["profile:own"]}),
        ),
        (
            "both",
            json!({"image": image('a'), "platforms": ["profile:own"], "referenceValues": by_hand}),
        ),
        (
            "by-hand",
            json!({"image": image('a'), "referenceValues": by_hand}),
        ),
        ("none", json!({"image": image('a'), "platforms": []})),
        ("tag", json!({"image": "registry.example/os:1"})),
    ] {
        set(&mut inventory, name, spec, json!({}));
    }
    let wish = Wish::of(&inventory);
    let wanted = wish.images.iter();
    let wanted: Vec<_> = wanted
        .map(|(name, wanted)| (name.as_str(), wanted.platforms.clone()))
        .collect();
    let own = vec!["profile:own".to_owned()];
    assert_eq!(
        wanted,
        [
            ("both", own.clone()),
            ("own", own),
            ("usual", vec!["profile:usual".to_owned()])
        ]
    );
    set_cluster(&mut inventory, json!({}));
    assert_eq!(Wish::of(&inventory).images.len(), 2);
    assert!(Wish::of(&Inventory::default()).images.is_empty());
}

#[test]
fn what_was_computed_counts_for_its_image_and_beside_the_others_of_its_update() {
    let mut inventory = cluster(json!({"platforms": ["profile:usual"]}));
    let [own, step] = [0, 1].map(|number| json!(testing::boot_tuple(number)));
    let boots = json!([
        {"bootTuple": own, "platform": "p"},
        {"bootTuple": step, "platform": "p", "with": [digest('a')]},
    ]);
    let approved = |inventory: &Inventory| {
        let found = inventory.images()["b"].boots.clone();
        found.map(|boots| boots.len())
    };
    let spec = json!({"image": image('b')});
    let changed = set(
        &mut inventory,
        "b",
        spec.clone(),
        computed('b', boots.clone()),
    );
    assert_eq!(changed, BTreeSet::from(["b".to_owned()]));
    assert_eq!(approved(&inventory), Ok(1));
    // The other image appears and goes.
    let changed = set(&mut inventory, "a", json!({"image": image('a')}), json!({}));
    assert!(changed.contains("b"));
    assert_eq!(approved(&inventory), Ok(2));
    let changed = inventory.set_image("a", None, &mut Dirty::default());
    assert_eq!(changed, ["a", "b"].map(str::to_owned).into());
    assert_eq!(approved(&inventory), Ok(1));
    // For another image, for none, and for nobody's platforms.
    set(
        &mut inventory,
        "b",
        spec.clone(),
        computed('c', boots.clone()),
    );
    assert!(approved(&inventory).is_err());
    set(&mut inventory, "b", spec, computed('b', boots));
    assert_eq!(approved(&inventory), Ok(1));
    set_cluster(&mut inventory, json!({}));
    let why = approved(&inventory).unwrap_err();
    assert!(why.contains("name the platforms"), "{why}");
}

#[test]
fn a_scan_is_due_once_and_after_a_failure_later_and_later() {
    let mut inventory = cluster(json!({"platforms": ["profile:usual"]}));
    set(&mut inventory, "a", json!({"image": image('a')}), json!({}));
    set(
        &mut inventory,
        "b",
        json!({"image": image('b'), "updatesFrom": ["a"]}),
        json!({}),
    );
    set(&mut inventory, "c", json!({"image": image('c')}), json!({}));
    let (mut desk, now) = (Desk::default(), Instant::now());
    let order = |inventory: &Inventory, again| Order {
        wish: Wish::of(inventory),
        again,
    };
    let names = |due: Option<BTreeSet<String>>| due.map(Vec::from_iter);
    desk.take(order(&inventory, Again::Nothing));
    for _ in 0..2 {
        let due = desk.due(now).unwrap();
        desk.ended(&due, Ok(()), now);
    }
    assert_eq!(names(desk.due(now)), None);
    desk.take(order(&inventory, Again::Nothing));
    assert_eq!(names(desk.due(now)), None, "settled");
    assert_eq!(desk.next(), None);

    // A change of one is a change of its update, and of nothing else.
    let own = json!({"image": image('a'), "platforms": ["profile:own"]});
    set(&mut inventory, "a", own.clone(), json!({}));
    desk.take(order(&inventory, Again::Nothing));
    assert_eq!(
        names(desk.due(now)),
        Some(vec!["a".to_owned(), "b".to_owned()])
    );
    let mut waited = Vec::new();
    let mut at = now;
    for _ in 0..9 {
        let due = desk.due(at).unwrap();
        desk.ended(&due, Err(true), at);
        assert_eq!(names(desk.due(at)), None);
        let next = desk.next().unwrap();
        waited.push(next - at);
        at = next;
    }
    assert_eq!(waited[..3], [SHORTEST, SHORTEST * 2, SHORTEST * 4]);
    assert!(waited.iter().all(|wait| *wait <= LONGEST) && waited[8] == LONGEST);
    // What will not pass by itself is not tried in vain, unless somebody has corrected something.
    let due = desk.due(at).unwrap();
    desk.ended(&due, Err(false), at);
    assert_eq!(desk.next().unwrap() - at, LONGEST);
    desk.take(order(&inventory, Again::Settled));
    assert_eq!(names(desk.due(at)), Some(vec!["c".to_owned()]));
    desk.take(order(&inventory, Again::Everything));
    assert_eq!(
        names(desk.due(at)),
        Some(vec!["a".to_owned(), "b".to_owned()])
    );
    // Its status is not what it is computed from.
    let due = desk.due(at).unwrap();
    desk.ended(&due, Ok(()), at);
    set(&mut inventory, "a", own, computed('a', json!([])));
    desk.take(order(&inventory, Again::Nothing));
    at += Duration::from_secs(1);
    let due = desk.due(at).unwrap();
    assert_eq!(Vec::from_iter(&due), ["c"]);
    // It waits as long when it had never failed before.
    desk.ended(&due, Err(false), at);
    assert_eq!(desk.next().unwrap() - at, LONGEST);
}

/// What it was computed for is no longer there, whatever its name says.
#[test]
fn what_is_settled_is_due_again_when_it_is_something_else() {
    let registries =
        |mirror: &str| json!({"platforms": ["profile:usual"], "registries": {"mirrors": [mirror]}});
    let mut inventory = cluster(registries("a=b"));
    let [a, b] = ['a', 'b'].map(|digit| json!({"image": image(digit)}));
    set(&mut inventory, "a", a.clone(), json!({}));
    set(&mut inventory, "b", b.clone(), json!({}));
    let (mut desk, now) = (Desk::default(), Instant::now());
    let mut due = |inventory: &Inventory| {
        let wish = Wish::of(inventory);
        let again = Again::Nothing;
        desk.take(Order { wish, again });
        let mut all = Vec::new();
        while let Some(names) = desk.due(now) {
            desk.ended(&names, Ok(()), now);
            all.push(Vec::from_iter(names).join("+"));
        }
        all
    };
    assert_eq!(due(&inventory), ["a", "b"]);
    assert_eq!(due(&inventory), [""; 0]);
    set(&mut inventory, "a", json!({"image": image('c')}), json!({}));
    assert_eq!(due(&inventory), ["a"]);
    set(&mut inventory, "a", a.clone(), json!({}));
    assert_eq!(due(&inventory), ["a"]);
    // Deleted and made anew with the same text.
    let mut again = object("ApprovedImage", "a", a.clone(), json!({}));
    again["metadata"]["uid"] = "other".into();
    let again = serde_json::from_value(again).unwrap();
    inventory.set_image("a", Some(again), &mut Dirty::default());
    assert_eq!(due(&inventory), ["a"]);
    // Registries are everybody's, and so are the usual platforms.
    set_cluster(&mut inventory, registries("a=c"));
    assert_eq!(due(&inventory), ["a", "b"]);
    let mut spec = registries("a=c");
    spec["platforms"] = json!(["profile:other"]);
    set_cluster(&mut inventory, spec);
    assert_eq!(due(&inventory), ["a", "b"]);
    // Connected and parted.
    let mut updated = b.clone();
    updated["updatesFrom"] = json!(["a"]);
    set(&mut inventory, "b", updated.clone(), json!({}));
    assert_eq!(due(&inventory), ["a+b"]);
    set(&mut inventory, "b", b, json!({}));
    assert_eq!(due(&inventory), ["a", "b"]);
    // What it is updated from goes, and comes back.
    set(&mut inventory, "b", updated, json!({}));
    assert_eq!(due(&inventory), ["a+b"]);
    inventory.set_image("a", None, &mut Dirty::default());
    assert_eq!(due(&inventory), ["a+b"]);
    assert_eq!(due(&inventory), [""; 0]);
    set(&mut inventory, "a", a, json!({}));
    assert_eq!(due(&inventory), ["a+b"]);
    inventory.set_image("b", None, &mut Dirty::default());
    assert_eq!(due(&inventory), ["a"]);
}

#[test]
fn what_is_not_wished_any_more_is_not_waited_for() {
    let mut inventory = cluster(json!({"platforms": ["profile:usual"]}));
    set(&mut inventory, "a", json!({"image": image('a')}), json!({}));
    let (mut desk, now) = (Desk::default(), Instant::now());
    let order = |inventory: &Inventory| Order {
        wish: Wish::of(inventory),
        again: Again::Nothing,
    };
    desk.take(order(&inventory));
    let due = desk.due(now).unwrap();
    desk.ended(&due, Err(true), now);
    desk.take(order(&inventory));
    assert!(desk.next().is_some());
    inventory.set_image("a", None, &mut Dirty::default());
    desk.take(order(&inventory));
    assert_eq!(desk.next(), None);
}

#[test]
fn what_images_are_computed_from_is_known_by_name() {
    let mut inventory = cluster(json!({
        "registries": {"pullSecret": "pull", "ca": {"configMap": "ca"}, "cosignKey": {"configMap": "cosign"}},
        "platforms": ["profile:x,configmap:later/entry"],
    }));
    let spec =
        json!({"image": image('a'), "pullSecret": "own", "platforms": ["configmap:firmware"]});
    set(&mut inventory, "a", spec, json!({}));
    let concerns = |inventory: &Inventory, name| {
        let mut dirty = Dirty::default();
        let concerns = inventory.content_changed(name, &mut dirty);
        assert!(dirty.is_empty(), "no plan has to do with it");
        concerns
    };
    for name in ["pull", "ca", "cosign", "later", "own", "firmware"] {
        assert!(concerns(&inventory, name), "{name}");
    }
    for name in ["profile", "entry", "x", "a"] {
        assert!(!concerns(&inventory, name), "{name}");
    }
    let spec = json!({"image": image('a'), "platforms": ["configmap:firmware"]});
    set(&mut inventory, "a", spec, json!({}));
    assert!(concerns(&inventory, "firmware") && !concerns(&inventory, "own"));
    inventory.set_image("a", None, &mut Dirty::default());
    assert!(!concerns(&inventory, "firmware") && concerns(&inventory, "pull"));
}

#[test]
fn a_problem_says_whose_turn_it_is_and_what_to_do() {
    let refused = |status| Error::Registry {
        host: "h".to_owned(),
        what: "w".to_owned(),
        status,
    };
    let cut = Error::Cut {
        what: "w".to_owned(),
        why: "x".to_owned(),
    };
    let unreachable = Error::Unreachable {
        host: "h".to_owned(),
        why: "x".to_owned(),
    };
    let digest = Error::Digest {
        what: "w".to_owned(),
        expected: "a".to_owned(),
        found: "b".to_owned(),
    };
    let reference = Error::Reference {
        got: "x".to_owned(),
        expected: "y",
    };
    let route = Error::NoRoute {
        image: "os".to_owned(),
    };
    for (error, secret, reason, says, may_pass) in [
        (reference, None, "InvalidSpec", "correct the object", false),
        (route, None, "NotPredictable", "say spec.boot.path", false),
        (
            refused(401),
            Some("s"),
            "Unauthorized",
            "turn of these objects: look whether Secret \"s\"",
            false,
        ),
        (
            refused(403),
            None,
            "Unauthorized",
            "spec.registries.pullSecret",
            false,
        ),
        (
            refused(404),
            None,
            "NotFound",
            "the registry does not have it",
            false,
        ),
        (
            refused(503),
            None,
            "RegistryFailed",
            "turn of the registry",
            true,
        ),
        (
            unreachable,
            None,
            "RegistryUnreachable",
            "turn of the network",
            true,
        ),
        (cut, None, "Interrupted", "turn of the network", true),
        (
            digest,
            None,
            "DigestMismatch",
            "turn of whoever made the image",
            false,
        ),
    ] {
        let problem = Problem::of("os", &error, secret);
        assert_eq!(
            (problem.reason, problem.may_pass),
            (reason, may_pass),
            "{error}"
        );
        assert!(problem.says.contains(says), "{}", problem.says);
        assert!(
            !problem.says.contains("--"),
            "no command line here: {}",
            problem.says
        );
    }
}

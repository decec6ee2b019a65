// SPDX-License-Identifier: Apache-2.0

//! What lies beside the secrets of machines that are objects: ids of volume keys and Ignition configs, on a real API
//! server, before the laboratory KBS. Run with `make operator-test`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod common;
mod control_plane;

use common::Tpm;
use control_plane::{Place, eventually, object};
use serde_json::{Value, json};
use sheepfold_operator::controllers::api::{AttestationKey, Machine, Phase};

const RECORDS: &str = "trusted-execution-clusters.io/volume-records";

/// As a registrar does, or a person without one.
fn say<K>(place: &Place, name: &str, records: &Value)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let annotations = json!({RECORDS: records.to_string()});
    place.change::<K>(name, &json!({"metadata": {"annotations": annotations}}));
}

#[track_caller]
fn await_reason(place: &Place, name: &str, says: &str) {
    eventually(&format!("{name} says {says}"), || {
        let status = place.status(name);
        status.phase == Some(Phase::Served)
            && status.reason.is_some_and(|reason| reason.contains(says))
    });
}

#[test]
fn the_first_volume_key_that_a_machine_records_stays_until_a_renewal() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let [a, b] = [0, 1].map(Tpm::number);
    let _operator = place.operator("one");
    place.cluster(json!({"copies": "Namespace"}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({"id": a.node()}));
    place.machine("b", &b, json!({}));
    place.await_phase("a", Phase::Served);
    let (root, node) = (a.root(), a.node());
    let beside = format!("{root}.vk");
    let [first, second, third] = ["aa", "bb", "cc"].map(|digits| digits.repeat(32));
    let of =
        |tpm: &Tpm, vk_id: &str, clock: u64| tpm.says_of_volumes(&node, &[(&root, vk_id)], clock);
    let kept = |vk_id: Value| Some(json!({ "vk_id": vk_id }).to_string().into_bytes());

    say::<Machine>(&place, "a", &json!([of(&b, &first, 1)]));
    await_reason(&place, "a", "another attestation key has signed it");
    say::<Machine>(&place, "a", &json!("damaged"));
    await_reason(&place, "a", "no list of signed records");
    assert_eq!(place.lab.resources().get(&beside), None);
    // With the registrar's key, and with the Machine.
    let key = json!({"publicKey": a.ak_public(), "uuid": node});
    place.apply(&object("AttestationKey", "a", key));
    say::<Machine>(&place, "a", &json!([]));
    say::<AttestationKey>(&place, "a", &json!([of(&a, &first, 1)]));
    eventually("the first is stored", || {
        place.lab.resources().get(&beside).cloned() == kept(json!(first))
    });
    assert!(place.lab.fetch(&a, &beside).is_some());
    assert_eq!(place.lab.fetch(&b, &beside), None, "its own node's alone");

    say::<AttestationKey>(&place, "a", &json!([of(&a, &first, 1), of(&a, &second, 2)]));
    await_reason(
        &place,
        "a",
        "it has recorded another volume key than the one that is stored",
    );
    assert_eq!(
        place.lab.resources().get(&beside).cloned(),
        kept(json!(first))
    );
    // Also by a KBS that has lost everything, and has to be told anew.
    let shape = place.lab.shape();
    place.lab.lose_storage();
    eventually("everything is there again", || place.lab.shape() == shape);
    assert_eq!(
        place.lab.resources().get(&beside).cloned(),
        kept(json!(first))
    );

    // What was signed before the wish counts no more.
    place.machine("a", &a, json!({"id": node, "renewal": 1}));
    eventually("it is forgotten", || {
        place.lab.resources().get(&beside).cloned() == kept(Value::Null)
    });
    say::<AttestationKey>(
        &place,
        "a",
        &json!([of(&a, &first, 1), of(&a, &second, 2), of(&a, &third, 3)]),
    );
    eventually("the new one is stored", || {
        place.lab.resources().get(&beside).cloned() == kept(json!(third))
    });
    eventually("nothing is wrong", || place.status("a").reason.is_none());
    place.delete::<Machine>("a");
    assert_eq!(place.lab.resources().get(&beside), None);
}

#[test]
fn an_ignition_config_is_its_own_machines_alone_and_a_bad_one_is_not_stored() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let [a, b] = [0, 1].map(Tpm::number);
    let _operator = place.operator("one");
    let config = |name: &str, text: &str| {
        place.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "stringData": {"config.ign": text},
        }));
    };
    let with = |content: &str| {
        json!({
            "ignition": {"version": "3.4.0"},
            "storage": {"files": [{"path": "/etc/x", "contents": {"source": format!("data:,{content}")}}]},
        })
        .to_string()
    };
    config("everybodys", &with("hush-hush"));
    config("own", &with("mine"));
    let luks = json!([{"name": "root", "device": "/dev/disk/by-partlabel/root", "filesystem": {"format": "xfs"}}]);
    place.cluster(json!({"ignition": {"secret": "everybodys", "luks": luks}}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({"ignition": {"secret": "own"}}));
    place.await_phase("a", Phase::Served);
    place.await_phase("b", Phase::Served);
    let at = |tpm: &Tpm| format!("default/{}/ignition", tpm.node());
    let read = |place: &Place, tpm: &Tpm| {
        let text = place.lab.fetch(tpm, &at(tpm))?;
        Some(String::from_utf8(text).unwrap())
    };
    let everybodys = read(&place, &a).unwrap();
    assert!(
        everybodys.contains("hush-hush") && everybodys.contains("merge"),
        "{everybodys}"
    );
    assert_eq!(read(&place, &b).unwrap(), with("mine"));
    assert_eq!(place.lab.fetch(&b, &at(&a)), None);
    let readable = place.everything_readable();
    assert!(!readable.contains("hush-hush"));

    // A config that a node would refuse, and one that is not there: said, and what is stored stays.
    config("own", "{\"ignition\": {\"version\": \"9.9.9\"}}");
    place.machine(
        "b",
        &b,
        json!({"ignition": {"secret": "own"}, "volumes": ["root", "data"]}),
    );
    await_reason(&place, "b", "the Ignition config in Secret \"own\"");
    assert_eq!(read(&place, &b).unwrap(), with("mine"));
    place.machine(
        "b",
        &b,
        json!({"ignition": {"secret": "nowhere"}, "volumes": ["root", "data"]}),
    );
    await_reason(&place, "b", "there is no Secret \"nowhere\"");
    assert_eq!(read(&place, &b).unwrap(), with("mine"));
    config("nowhere", &with("found"));
    place.machine("b", &b, json!({"ignition": {"secret": "nowhere"}}));
    eventually("it is stored", || {
        read(&place, &b).is_some_and(|text| text == with("found"))
    });

    // A Secret that changes is seen, by whom it concerns.
    config("nowhere", &with("changed"));
    eventually("its change is stored", || {
        read(&place, &b).is_some_and(|text| text == with("changed"))
    });
    config("everybodys", &with("hush-again"));
    eventually("and that of everybody's", || {
        read(&place, &a).is_some_and(|text| text.contains("hush-again"))
    });
    let everybodys = read(&place, &a).unwrap();

    // A KBS that lost its storage gets configs again, whether or not there are copies of secrets.
    place.lab.lose_storage();
    eventually("configs are there again", || {
        let resources = place.lab.resources();
        resources
            .get(&at(&a))
            .is_some_and(|text| *text == everybodys.as_bytes())
            && resources.contains_key(&at(&b))
    });
    place.await_phase("a", Phase::Lost);
}

#[test]
fn what_a_running_system_may_read_is_what_its_secret_has() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let [a, b] = [0, 1].map(Tpm::number);
    let _operator = place.operator("one");
    // Applied with all of its entries: one that is not there any more is gone.
    let secret = |place: &Place, name: &str, entries: Value| {
        let entries = entries.as_object().unwrap().iter();
        let data: serde_json::Map<String, Value> = entries
            .map(|(name, text)| {
                let text = kbs_protocol::encoding::b64::encode(text.as_str().unwrap());
                (name.clone(), json!(text))
            })
            .collect();
        place.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data,
        }));
    };
    secret(
        &place,
        "everybodys",
        json!({"log-key": "for all", "join-token": "a common one"}),
    );
    secret(&place, "own", json!({"join-token": "hush-hush"}));
    place.cluster(json!({"runtime": {"secret": "everybodys"}}));
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    place.machine("b", &b, json!({"runtime": {"secret": "own"}}));
    place.await_phase("a", Phase::Served);
    place.await_phase("b", Phase::Served);
    let at = |tpm: &Tpm, name: &str| format!("runtime/{}/{name}", tpm.node());
    let stored = |place: &Place, tpm: &Tpm, name: &str| {
        let content = place.lab.resources().remove(&at(tpm, name))?;
        Some(String::from_utf8(content).unwrap())
    };
    let is = |place: &Place, tpm: &Tpm, name: &str, content: Option<&str>| {
        eventually(&format!("{name} is {content:?}"), || {
            stored(place, tpm, name).as_deref() == content
        });
    };
    is(&place, &a, "join-token", Some("a common one"));
    is(&place, &b, "join-token", Some("hush-hush"));
    is(&place, &b, "log-key", Some("for all"));
    assert_eq!(
        place.lab.fetch(&b, &at(&b, "join-token")).unwrap(),
        b"hush-hush"
    );
    assert_eq!(
        place.lab.fetch(&a, &at(&b, "join-token")),
        None,
        "its own node's alone"
    );
    assert!(!place.everything_readable().contains("hush-hush"));

    // Another content, one entry fewer, one that cannot be stored: each is seen.
    secret(&place, "own", json!({"join-token": "another", "empty": ""}));
    is(&place, &b, "join-token", Some("another"));
    await_reason(
        &place,
        "b",
        "the runtime resource empty in Secret \"own\" is empty",
    );
    secret(&place, "own", json!({"second": "another"}));
    is(&place, &b, "second", Some("another"));
    is(&place, &b, "join-token", Some("a common one"));
    secret(&place, "everybodys", json!({"log-key": "changed"}));
    is(&place, &a, "log-key", Some("changed"));
    is(&place, &b, "log-key", Some("changed"));
    is(&place, &a, "join-token", None);
    eventually("nothing is wrong", || place.status("b").reason.is_none());

    // A Secret that is not there takes nothing away; a field that is not there does.
    place.delete::<k8s_openapi::api::core::v1::Secret>("own");
    await_reason(&place, "b", "there is no Secret \"own\"");
    assert_eq!(stored(&place, &b, "second").as_deref(), Some("another"));
    place.lab.lose_storage();
    place.await_phase("a", Phase::Lost);
    is(&place, &a, "log-key", Some("changed"));
    secret(&place, "own", json!({"second": "another"}));
    is(&place, &b, "second", Some("another"));
    place.machine("b", &b, json!({}));
    is(&place, &b, "second", None);
    is(&place, &b, "log-key", Some("changed"));
    place.delete::<Machine>("b");
    let left = place.lab.resources();
    assert!(
        !left.keys().any(|path| path.contains(&b.node())),
        "{:?}",
        left.keys()
    );
}

#[test]
fn a_change_beside_the_secrets_leaves_their_copies_whole() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let a = Tpm::number(0);
    let _operator = place.operator("one");
    let secret = |content: &str| {
        place.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "own"}, "stringData": {"token": content},
        }));
    };
    secret("first");
    place.cluster(json!({"copies": "Namespace"}));
    place.image("good", json!([a.boot_tuple()]));
    let machine = |place: &Place, volumes: Value| {
        place.machine(
            "a",
            &a,
            json!({"runtime": {"secret": "own"}, "volumes": volumes}),
        );
    };
    machine(&place, json!(["root", "data"]));
    place.await_phase("a", Phase::Served);
    let bound = place.lab.fetch(&a, &a.root()).unwrap();
    secret("second");
    let token = format!("runtime/{}/token", a.node());
    eventually("the token is another", || {
        place
            .lab
            .resources()
            .get(&token)
            .is_some_and(|content| content == b"second")
    });
    machine(&place, json!(["root"]));
    let data = format!("default/{}/data", a.node());
    eventually("a volume has gone", || {
        !place.lab.resources().contains_key(&data)
    });
    place.lab.lose_storage();
    eventually("its disk opens as before", || {
        place.lab.fetch(&a, &a.root()).as_ref() == Some(&bound)
    });
}

// SPDX-License-Identifier: Apache-2.0

//! What a machine gets beside its secrets, from what its objects and the Secrets that they name say.

use super::{Contents, RECORDS, ignition, runtime, volume_keys};
use crate::controllers::api;
use crate::controllers::inventory::Parsed;
use crate::controllers::record::{Record, VolumeKey};
use crate::controllers::secrets::Vault;
use crate::controllers::testing::{NAMESPACE, Server};
use crate::model::{Boots, Machine, NodeName, SecretId, State, Tag};
use crate::plan::{Observed, Write};
use kbs_protocol::volume_record::VolumeRecord;
use serde_json::{Value, json};
use soft_tee::tpm::SoftTpm;
use std::collections::{BTreeMap, BTreeSet};

/// A machine with one volume, and what the operator knows of it.
struct Place {
    server: Server,
    record: Record,
    vault: Vault,
    tpm: SoftTpm,
    parsed: Parsed,
}

impl Place {
    fn new() -> Self {
        let server = Server::start();
        let mut tpm = SoftTpm::number(0);
        tpm.pcrs[11] = [0; 32];
        let node = NodeName::from(tpm.node_id());
        let machine = Machine {
            ak: Some(tpm.ak_public().try_into().unwrap()),
            init_data: None,
            state: State::Approved,
            secrets: BTreeMap::new(),
            runtime: BTreeMap::new(),
        };
        Self {
            record: server.record(),
            server,
            vault: Vault::default(),
            tpm,
            parsed: Parsed {
                node,
                machine,
                volumes: BTreeSet::from([root()]),
                key: None,
            },
        }
    }

    /// Of its root.
    fn path(&self) -> String {
        root().path(&self.parsed.node).unwrap().to_string()
    }

    /// What the KBS has, according to a record that begins elsewhere.
    fn stored(&mut self, at: kbs_protocol::resource::ResourcePath, id: &str) {
        let mut observed = Observed::default();
        observed.finish(&Write::Resource {
            path: at,
            secret: SecretId(id.to_owned()),
        });
        self.record.adopt("number", true, &observed).unwrap();
    }

    /// What its TPM has signed: that the root has the key with this id.
    fn says(&mut self, vk_id: &str, clock: u64) -> Value {
        let volume = json!({
            "name": "root", "path": self.path(), "luks_uuid": "0".repeat(36), "vk_id": vk_id,
        });
        let node = self.parsed.node.to_string();
        let record = json!({"version": 1, "node": node, "volumes": [volume]}).to_string();
        self.tpm.clock = clock;
        let evidence = self.tpm.evidence(&VolumeRecord::extra_data(&record));
        json!({"evidence": evidence, "record": record})
    }

    /// One round, with this annotation: what is to be stored beside the root, and what is wrong.
    fn round(&mut self, renewal: i64, records: &Value) -> (Option<Value>, Vec<String>) {
        let object = json!({
            "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "Machine",
            "metadata": {"name": "a", "annotations": {RECORDS: records.to_string()}},
            "spec": {"renewal": renewal},
        });
        let object: api::Machine = serde_json::from_value(object).unwrap();
        let boots = json!({"bootTuples": [self.tpm.boot_tuple()]});
        let boots: Boots = serde_json::from_value(boots).unwrap();
        let mut machine = self.parsed.machine.clone();
        let (record, vault) = (&mut self.record, &mut self.vault);
        let objects = (&object, None);
        let remarks =
            volume_keys(&mut machine, &self.parsed, objects, &boots, record, vault).unwrap();
        let id = machine.secrets.get(&root().volume_key().unwrap());
        let content = id.map(|id| self.vault.bytes.get(id).unwrap().expose());
        let content = content.map(|bytes| serde_json::from_slice(bytes).unwrap());
        (content, remarks)
    }

    fn contents(&self) -> Contents {
        let (client, runtime) = (&self.server.client, self.server.runtime.handle());
        Contents::new(client, NAMESPACE, runtime)
    }
}

fn root() -> Tag {
    "root".parse().unwrap()
}

fn key(vk_id: &str) -> Option<Value> {
    Some(json!({ "vk_id": vk_id }))
}

fn ids() -> [String; 3] {
    ["aa", "bb", "cc"].map(|digits| digits.repeat(32))
}

#[test]
fn the_first_volume_key_stays_until_a_renewal_and_then_the_next_one_counts() {
    let mut place = Place::new();
    let [first, second, third] = ids();
    assert_eq!(place.round(0, &json!([])), (None, Vec::new()));
    let said = json!([place.says(&first, 1)]);
    for _ in 0..2 {
        assert_eq!(place.round(0, &said), (key(&first), Vec::new()));
    }
    let said = json!([place.says(&first, 1), place.says(&second, 2)]);
    // What was decided outlives the KBS's storage.
    place.record.lose(false).unwrap();
    let (stored, remarks) = place.round(0, &said);
    assert_eq!(stored, key(&first));
    assert!(
        remarks[0].contains("another volume key than the one that is stored"),
        "{remarks:?}"
    );
    // A wish is carried out once.
    let mark = Some(json!({"vk_id": null}));
    assert_eq!(place.round(1, &said).0, mark);
    assert_eq!(
        place.round(1, &said),
        (mark, Vec::new()),
        "all that was signed before"
    );
    let said = json!([place.says(&second, 2), place.says(&third, 3)]);
    assert_eq!(place.round(1, &said), (key(&third), Vec::new()));
    let (known, at) = (&place.record, place.path());
    assert_eq!(known.volume_key(&place.parsed.node, &at).renewal, 1);
}

#[test]
fn a_volume_key_that_is_stored_and_was_not_remembered_stays() {
    let mut place = Place::new();
    let [first, second, _] = ids();
    let at = root().volume_key().unwrap();
    let at = at.path(&place.parsed.node).unwrap();
    place.stored(at, &format!("vk:{first}:2:1"));
    let path = place.path();
    assert_eq!(
        place.record.volume_key(&place.parsed.node, &path),
        VolumeKey::default()
    );
    let said = json!([place.says(&second, 2)]);
    assert_eq!(place.round(0, &said).0, key(&first));
}

#[test]
fn what_does_not_count_of_what_a_machine_said_is_told() {
    let mut place = Place::new();
    let [first, ..] = ids();
    let mut stranger = place.says(&first, 1);
    stranger["evidence"] = SoftTpm::number(1).evidence(&VolumeRecord::extra_data(
        stranger["record"].as_str().unwrap(),
    ));
    for (said, why) in [
        (
            json!([stranger]),
            "volume root: its record of volume keys does not count: another attestation key",
        ),
        (
            json!("damaged"),
            "of a is no list of signed records: correct it or remove it",
        ),
    ] {
        let (stored, remarks) = place.round(0, &said);
        assert_eq!(stored, None, "{why}");
        assert!(
            remarks.len() == 1 && remarks[0].contains(why),
            "{remarks:?}"
        );
    }
}

#[test]
fn a_config_is_read_once_in_a_round_and_a_bad_one_is_not_stored() {
    let place = Place::new();
    let config = |text: &str| {
        let entries: [(&str, &[u8]); 1] = [("config.ign", text.as_bytes())];
        place.server.put_secret("own", &entries);
    };
    let wanted = |secret: &str, key: Option<&str>| api::Ignition {
        secret: secret.to_owned(),
        key: key.map(str::to_owned),
        ..api::Ignition::default()
    };
    let get = |contents: &mut Contents, wanted: Option<&api::Ignition>| {
        let (mut machine, mut vault) = (place.parsed.machine.clone(), Vault::default());
        let why = ignition(&mut machine, wanted, contents, &mut vault).unwrap();
        let id = machine.secrets.get(&Tag::ignition());
        let text = id.map(|id| vault.bytes.get(id).unwrap().expose().to_vec());
        (text.map(|text| String::from_utf8(text).unwrap()), why)
    };
    assert_eq!(get(&mut place.contents(), None), (None, None));

    config("{\"ignition\": {\"version\": \"9.9.9\"}}");
    for (wanted, says) in [
        (wanted("nowhere", None), "there is no Secret \"nowhere\""),
        (wanted("own", Some("other.ign")), "an entry \"other.ign\""),
        (wanted("own", None), "the Ignition config in Secret \"own\""),
    ] {
        let (text, why) = get(&mut place.contents(), Some(&wanted));
        assert_eq!(text, None, "{says}");
        assert!(why.as_ref().unwrap().contains(says), "{why:?}");
    }

    let good = json!({"ignition": {"version": "3.4.0"}}).to_string();
    config(&good);
    let mut contents = place.contents();
    let is_stored = (Some(good), None);
    assert_eq!(get(&mut contents, Some(&wanted("own", None))), is_stored);
    // Another text for another machine of this round would be half a change.
    config("{}");
    assert_eq!(get(&mut contents, Some(&wanted("own", None))), is_stored);
}

#[test]
fn what_a_running_system_may_read_goes_when_it_is_gone_and_not_when_nobody_knows() {
    let mut place = Place::new();
    let node = place.parsed.node.clone();
    let old: Tag = "old".parse().unwrap();
    place.stored(old.runtime_path(&node).unwrap(), "runtime-old");
    let large = vec![0; ignition_config::LIMIT.checked_add(1).unwrap()];
    place
        .server
        .put_secret("everybodys", &[("a", b"theirs"), ("b", b"theirs")]);
    place.server.put_secret("own", &[("a", b"mine")]);
    place
        .server
        .put_secret("bad", &[("c", &large), (".d", b"x"), ("e", b"good")]);
    let named = |secret: &str| api::Runtime {
        secret: secret.to_owned(),
    };
    let mut contents = place.contents();
    let mut get = |wanted: [Option<&str>; 2]| {
        let (mut machine, mut vault) = (place.parsed.machine.clone(), Vault::default());
        let wanted = wanted.map(|wanted| wanted.map(named));
        let wanted = [wanted[0].as_ref(), wanted[1].as_ref()];
        let (record, contents) = (&place.record, &mut contents);
        let remarks = runtime(&mut machine, &node, wanted, record, contents, &mut vault).unwrap();
        let stored = machine.runtime.iter();
        let stored = stored.map(|(name, id)| {
            let content = vault.bytes.get(id).map(|bytes| bytes.expose().to_vec());
            let content = content.map(|bytes| String::from_utf8(bytes).unwrap());
            (name.to_string(), content.unwrap_or_else(|| id.0.clone()))
        });
        (BTreeMap::from_iter(stored), remarks)
    };
    let of = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pair = |(name, content): &(&str, &str)| ((*name).to_owned(), (*content).to_owned());
        pairs.iter().map(pair).collect()
    };
    // Its own comes first; what no Secret has any more goes.
    let both = of(&[("a", "mine"), ("b", "theirs")]);
    assert_eq!(get([Some("everybodys"), Some("own")]), (both, Vec::new()));
    assert_eq!(get([None, None]), (of(&[]), Vec::new()));
    // Another content for another machine of this round would be half a change.
    place.server.put_secret("own", &[("a", b"later")]);
    // While one of them cannot be read, what is stored stays, and what can be read is there.
    let (stored, remarks) = get([Some("nowhere"), Some("own")]);
    assert_eq!(stored, of(&[("a", "mine"), ("old", "runtime-old")]));
    assert!(
        remarks[0].contains("there is no Secret \"nowhere\""),
        "{remarks:?}"
    );
    let (stored, remarks) = get([Some("bad"), None]);
    assert_eq!(stored, of(&[("e", "good"), ("old", "runtime-old")]));
    for says in [
        "\".d\" in Secret \"bad\" cannot be",
        "resource c in Secret \"bad\" has",
    ] {
        assert!(remarks.iter().any(|why| why.contains(says)), "{remarks:?}");
    }
}

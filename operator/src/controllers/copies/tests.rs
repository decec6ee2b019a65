// SPDX-License-Identifier: Apache-2.0

//! What lies in a copy, and for whom it is read back.

use super::{FEW, Store};
use crate::controllers::api;
use crate::controllers::secrets::Vault;
use crate::controllers::testing::{NAMESPACE, Server};
use crate::model::{Machine, NodeName, SecretId, Tag};
use crate::provision::secrets::Source as _;
use crate::testing::{machine, node};
use kbs_protocol::Secret;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

fn owner(number: u32) -> api::Machine {
    let object = json!({
        "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "Machine",
        "metadata": {"name": format!("m{number}"), "uid": format!("uid-{number}")}, "spec": {"id": "n"},
    });
    serde_json::from_value(object).unwrap()
}

/// Machine `number`, which has a secret of ours and a config of somebody else's.
fn filled(number: u32, vault: &mut Vault) -> Machine {
    let root: Tag = "root".parse().unwrap();
    let path = root.path(&node(number)).unwrap();
    let mut filled = Machine {
        secrets: BTreeMap::new(),
        ..machine(number)
    };
    let made = vault.make(None, &path).unwrap();
    filled.put(&root, made).unwrap();
    let config = SecretId("config-1".to_owned());
    let config = vault.keep(config, &|| Secret::new(b"hush".to_vec()));
    filled.secrets.insert(Tag::ignition(), config);
    filled
}

#[test]
fn a_copy_has_what_was_made_here_and_goes_with_its_machine() {
    let server = Server::start();
    let runtime = server.runtime.handle();
    let store = Store::new(server.client.clone(), NAMESPACE, "cluster", runtime.clone());
    let mut vault = Vault::default();
    let filled = filled(1, &mut vault);
    let stranger = SecretId("of another round".to_owned());
    let mut wanted = filled.clone();
    wanted.secrets.insert("data".parse().unwrap(), stranger);
    store.keep(&owner(1), &node(1), &wanted, &vault).unwrap();
    let writes = server.writes();
    let body = &writes[0].body;
    let entries: Vec<_> = body["data"].as_object().unwrap().keys().cloned().collect();
    let id = &filled.secrets[&"root".parse::<Tag>().unwrap()].0;
    assert_eq!(entries, ["root".to_owned(), format!("root.{id}")]);
    assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "uid-1");
    assert_eq!(body["type"], super::TYPE);
}

#[test]
fn copies_are_read_back_for_those_who_need_them() {
    // One by one, and all together.
    for count in [1, FEW, FEW.saturating_add(1)] {
        let count = u32::try_from(count).unwrap();
        let server = Server::start();
        let runtime = server.runtime.handle();
        let store = Store::new(server.client.clone(), NAMESPACE, "cluster", runtime.clone());
        let mut vault = Vault::default();
        let path = |number: u32| format!("default/{}/root", node(number));
        let mut made = BTreeMap::new();
        for number in 0..=count {
            let filled = filled(number, &mut vault);
            store
                .keep(&owner(number), &node(number), &filled, &vault)
                .unwrap();
            let root: Tag = "root".parse().unwrap();
            made.insert(path(number), filled.secrets[&root].clone());
        }
        // Not the last one, and one who has none.
        let mut nodes: BTreeSet<NodeName> = (0..count).map(node).collect();
        nodes.insert(node(9999));
        let mut vault = Vault::default();
        store.recall(&nodes, &mut vault).unwrap();
        for number in 0..count {
            let found = vault.recall(&path(number));
            assert_eq!(found.as_ref(), made.get(&path(number)));
            assert!(vault.bytes.get(&found.unwrap()).is_some());
        }
        assert_eq!(vault.recall(&path(count)), None, "nobody asked for it");
        assert_eq!(vault.recall(&path(9999)), None);
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Which namespace takes a cluster over. The rest is a story, in `operator/tests/handover`.

use super::Destination;
use crate::controllers::testing::{NAMESPACE, Server};
use crate::plan::Observed;
use crate::provision::record::State;
use serde_json::json;

fn state(id: &str) -> State {
    let state = json!({
        "version": 1, "id": id, "stamped": true, "observed": Observed::default(), "revoked": [], "changed": {},
        "journal": 0,
    });
    serde_json::from_value(state).unwrap()
}

#[test]
fn a_namespace_keeps_its_record_and_says_what_it_lacks() {
    let server = Server::start();
    let to = Destination {
        client: server.client.clone(),
        namespace: NAMESPACE.to_owned(),
        runtime: &server.runtime,
    };
    assert_eq!(to.cluster().unwrap(), None);
    // The second time continues where the first one was interrupted.
    for _ in 0..2 {
        to.adopt("first", &state("1")).unwrap();
    }
    server.writes();
    let refused = to.adopt("first", &state("2")).unwrap_err().to_string();
    assert!(
        refused.contains("has the record of another KBS"),
        "{refused}"
    );
    assert_eq!(server.writes().len(), 0);
    server.undefine();
    let refused = to.cluster().unwrap_err().to_string();
    assert!(
        refused.contains("the definitions are not installed"),
        "{refused}"
    );
}

#[test]
fn pieces_without_a_number_are_somebodys() {
    let server = Server::start();
    let piece = json!({"version": 1, "observed": Observed::default()}).to_string();
    server.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sheepfold-record-first-node-00"},
        "data": {"record.json": piece},
    }));
    let to = Destination {
        client: server.client.clone(),
        namespace: NAMESPACE.to_owned(),
        runtime: &server.runtime,
    };
    let refused = to.adopt("first", &state("1")).unwrap_err().to_string();
    assert!(
        refused.contains("has the record of another KBS"),
        "{refused}"
    );
    assert_eq!(server.writes().len(), 0);
}

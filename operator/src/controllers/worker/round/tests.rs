// SPDX-License-Identifier: Apache-2.0

//! Who gets our finalizer, and who loses it where there is no cluster.

use super::super::tests::worker;
use crate::controllers::inventory::Dirty;
use crate::controllers::status::FINALIZER;
use crate::controllers::testing::Server;
use crate::testing::ak;
use serde_json::{Value, json};

#[test]
fn a_machine_is_ours_before_anything_is_stored_and_free_without_a_cluster() {
    let server = Server::start();
    let mut worker = worker(&server);
    let deleted = json!("2026-01-01T00:00:00Z");
    for (number, name, deleted, finalizers) in [
        (1, "new", Value::Null, json!([])),
        (2, "ours", Value::Null, json!([FINALIZER])),
        (3, "going", deleted.clone(), json!([FINALIZER, "theirs"])),
        (4, "theirs", deleted, json!(["theirs"])),
    ] {
        let object = json!({
            "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "Machine",
            "metadata": {"name": name, "uid": name, "deletionTimestamp": deleted, "finalizers": finalizers},
            "spec": {"attestationKey": ak(number)},
        });
        server.put(object.clone());
        let object = serde_json::from_value(object).unwrap();
        worker
            .inventory
            .set_machine(name, Some(object), &mut Dirty::default());
    }
    let written = || -> Vec<(String, Value)> {
        let writes = server.writes().into_iter();
        writes
            .map(|write| {
                let metadata = &write.body["metadata"];
                let uid = metadata["uid"].as_str().unwrap().to_owned();
                (uid, metadata["finalizers"].clone())
            })
            .collect()
    };
    worker.bind(&Dirty::everything()).unwrap();
    assert_eq!(written(), [("new".to_owned(), json!([FINALIZER]))]);
    // Nobody has the secrets of these any more.
    worker.release_all(&mut Dirty::everything()).unwrap();
    assert_eq!(written(), [("going".to_owned(), json!([]))]);
}

// SPDX-License-Identifier: Apache-2.0

//! What becomes of secrets whose machines are not there.

use super::{Findings, MANY, REMOVE_MANY, keep_orphans};
use crate::controllers::inventory::{Dirty, Inventory};
use crate::controllers::parse;
use crate::controllers::testing::Server;
use crate::model::Desired;
use crate::plan::{Observed, Write, plan};
use crate::testing::{ak, cluster, machine, node};
use serde_json::json;

#[test]
fn of_many_machines_that_are_gone_nobody_believes_it_without_their_number() {
    let few = u32::try_from(MANY).unwrap();
    let many = few.saturating_add(1);
    let said = |number: u32| Some(number.to_string());
    for (gone, said, kept) in [
        (few, None, false),
        (many, None, true),
        (many, said(many), false),
        (many, said(few), true),
        (many, Some("true".to_owned()), true),
    ] {
        // The KBS has secrets of these and of one that is there.
        let mut observed = Observed::default();
        let everybody = cluster(gone.saturating_add(1));
        for write in plan(&everybody, &observed).writes {
            observed.finish(&write);
        }
        let server = Server::start();
        let mut record = server.record();
        record.adopt("number", true, &observed).unwrap();
        let mut inventory = Inventory::default();
        let annotations = said.map(|number| json!({REMOVE_MANY: number}));
        let object = json!({
            "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "TrustedExecutionCluster",
            "metadata": {"name": "c", "annotations": annotations}, "spec": {},
        });
        let object = serde_json::from_value(object).unwrap();
        let mut dirty = Dirty::everything();
        inventory.set_cluster("c", Some(object), &mut dirty);
        let own = json!({
            "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "Machine",
            "metadata": {"name": "a"}, "spec": {"attestationKey": ak(gone)},
        });
        inventory.set_machine("a", Some(serde_json::from_value(own).unwrap()), &mut dirty);
        let object = inventory.clusters().next().unwrap();
        let wanted = parse::cluster(object).unwrap();
        let mut desired = Desired {
            machines: [(node(gone), machine(gone))].into(),
            ..cluster(0)
        };
        let mut findings = Findings::default();
        keep_orphans(
            &mut desired,
            &wanted,
            &dirty,
            &inventory,
            &record,
            &mut findings,
        );
        let writes = plan(&desired, &observed).writes;
        let deleted = writes
            .iter()
            .filter(|write| matches!(write, Write::DeleteResource { .. }));
        let deleted = deleted.count();
        assert_eq!(deleted > 0, !kept, "{gone}: {deleted} are deleted");
        let problem = format!("annotate this cluster with {REMOVE_MANY}={gone}");
        let is_said = findings.problems.iter().any(|said| said.contains(&problem));
        assert_eq!(is_said, kept, "{:?}", findings.problems);
    }
}

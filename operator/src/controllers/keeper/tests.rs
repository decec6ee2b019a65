// SPDX-License-Identifier: Apache-2.0

//! The laboratory KBS in each state in which it can be met: new, ours, emptied, somebody else's, with a store that fails,
//! with values that somebody else changed.

use super::{Found, Keeper};
use crate::controllers::record::Record;
use crate::controllers::testing::{NAMESPACE, Server};
use crate::controllers::{Error, api, parse};
use crate::kbs_admin::{self, AdminClient};
use crate::model::Desired;
use crate::plan::{Observed, plan, reference_values};
use crate::provision::apply::{Memory as _, apply, stamp};
use crate::provision::secrets::Fresh;
use crate::testing::cluster;
use lab_kbs::{Acl, Options};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Place {
    server: Server,
    dir: TempDir,
    lab: lab_kbs::Server,
    keeper: Keeper,
    record: Record,
    object: api::TrustedExecutionCluster,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        lab_kbs::keys::init(dir.path(), &lab_kbs::keys::InitOptions::default()).unwrap();
        let mut options = Options::new(dir.path());
        options.acls = vec![Acl {
            role: kbs_admin::NAME.to_owned(),
            allowed_endpoints: "^/kbs/v0/.+$".to_owned(),
        }];
        let lab = lab_kbs::Server::start(options).unwrap();
        let file = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let server = Server::start();
        server.put_secret("kbs-admin", &[("admin.key", &file("admin.key"))]);
        let kbs = json!({
            "url": lab.url(), "ca": String::from_utf8(file("ca.pem")).unwrap(),
            "adminKey": {"secret": "kbs-admin"},
        });
        let spec = serde_json::from_value(json!({"kbs": kbs, "copies": "Namespace"})).unwrap();
        Self {
            keeper: Keeper::new(&server.client, NAMESPACE, server.runtime.handle(), None),
            record: server.record(),
            object: api::TrustedExecutionCluster::new("cluster", spec),
            server,
            dir,
            lab,
        }
    }

    /// Connected to a KBS that has everything of this.
    fn with(desired: &Desired) -> Self {
        let mut place = Self::new();
        assert_eq!(place.begin().unwrap(), Found::New);
        let writes = plan(desired, place.record.observed()).writes;
        let client = place.keeper.client().unwrap();
        let none = Fresh::default();
        apply(&writes, &mut place.record, client, &none, &mut |_| {}).unwrap();
        place
    }

    fn connect(&mut self) -> Result<(), Error> {
        let cluster = parse::cluster(&self.object).unwrap();
        self.keeper.connect(&cluster)
    }

    fn recognise(&mut self) -> Result<Found, Error> {
        let cluster = parse::cluster(&self.object).unwrap();
        self.keeper.recognise(&cluster, &mut self.record)
    }

    fn begin(&mut self) -> Result<Found, Error> {
        self.connect()?;
        self.recognise()
    }

    fn client(&self) -> &AdminClient {
        self.keeper.client().unwrap()
    }

    /// The number of the record that the KBS has.
    fn mark(&self) -> Value {
        let state = std::fs::read(self.dir.path().join("state.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        state["reference_values"]["sheepfold_record"].clone()
    }

    /// What the API server has of the record's beginning.
    fn kept(&self) -> Value {
        let writes = self.server.writes().into_iter().rev();
        let mut main = writes.filter(|write| write.body["metadata"]["name"] == MAIN);
        let text = main
            .next()
            .map(|write| write.body["data"]["record.json"].clone());
        let text = text.unwrap_or_default();
        serde_json::from_str(text.as_str().unwrap_or("null")).unwrap()
    }

    /// From now on every read of a reference value is answered as by a store that fails; so often.
    fn store_fails(&self, times: &str) {
        let fault = format!("error=admin:rvps{times}");
        self.lab.faults().set_text(&fault).unwrap();
    }
}

const MAIN: &str = "sheepfold-record-cluster-main";

/// Without secrets, of which only ids exist here.
fn machines(count: u32) -> Desired {
    let mut desired = cluster(count);
    let machines = desired.machines.values_mut();
    machines.for_each(|machine| machine.secrets.clear());
    desired
}

#[test]
fn a_kbs_is_new_then_ours_and_another_ones_is_left_alone() {
    let mut place = Place::new();
    assert_eq!(place.begin().unwrap(), Found::New);
    let id = place.record.id().to_owned();
    assert_eq!(place.mark(), json!([id]));
    let kept = place.kept();
    assert_eq!((&kept["id"], &kept["stamped"]), (&json!(id), &json!(true)));
    for _ in 0..2 {
        assert_eq!(place.recognise().unwrap(), Found::Ours);
    }
    // Whoever was here before was interrupted between the mark and its record of that.
    let nothing = Observed::default();
    place.record.adopt(&id, false, &nothing).unwrap();
    assert_eq!(place.recognise().unwrap(), Found::Ours);
    assert!(place.record.is_stamped());
    stamp(place.client(), "somebody else").unwrap();
    for again in [false, true] {
        // The second time it looks at first as if nobody's mark was there.
        if again {
            place.store_fails("*1");
        }
        let refused = place.recognise().unwrap_err();
        assert!(matches!(refused, Error::Managed(_)), "{refused}");
        assert_eq!(place.mark(), json!(["somebody else"]));
    }
}

#[test]
fn what_is_wanted_of_a_kbs_is_found_out_before_it_is_used() {
    for (change, says) in [
        (
            json!({"release": "0.20"}),
            "spec.kbs.release asks for Trustee 0.20, the KBS sounds like Trustee 0.21",
        ),
        (
            json!({"adminKey": {"secret": "nowhere"}}),
            "there is no Secret \"nowhere\" with an entry \"admin.key\"",
        ),
        (
            json!({"adminKey": {"secret": "kbs-admin", "key": "other"}}),
            "with an entry \"other\"",
        ),
        (json!({"ca": null}), "spec.kbs.ca is needed"),
    ] {
        let mut place = Place::new();
        let mut kbs = json!(place.object.spec.kbs);
        for (field, value) in change.as_object().unwrap() {
            kbs[field] = value.clone();
        }
        place.object.spec.kbs = serde_json::from_value(kbs).unwrap();
        let refused = place.begin().unwrap_err();
        assert!(matches!(refused, Error::Cluster(_)), "{refused}");
        assert!(refused.to_string().contains(says), "{refused}");
        assert!(place.keeper.client().is_none());
    }
    let mut place = Place::new();
    place.object.spec.kbs = None;
    let refused = place.begin().unwrap_err().to_string();
    assert!(refused.contains("name a KBS"), "{refused}");
}

#[test]
fn a_store_that_fails_is_not_taken_for_one_that_was_emptied() {
    let mut place = Place::with(&machines(2));
    let before = place.record.observed().clone();
    // Once: it was there all the time.
    place.store_fails("*1");
    assert_eq!(place.recognise().unwrap(), Found::Ours);
    assert_eq!(place.record.observed(), &before);
    // And for good: that fails the inspection.
    place.store_fails("");
    let failed = place.recognise().unwrap_err();
    assert!(matches!(failed, Error::Kbs(_)), "{failed}");
    assert_eq!(place.record.observed(), &before, "nothing is forgotten");
}

#[test]
fn an_emptied_kbs_is_marked_when_that_is_on_record_and_not_before() {
    for fails in [false, true] {
        // The record is that of a KBS that had everything; this one has nothing.
        let mut place = Place::new();
        let writes = plan(&machines(2), place.record.observed()).writes;
        place.record.begin(&writes, writes.len()).unwrap();
        place.record.finish(&writes).unwrap();
        place.record.set_stamped().unwrap();
        assert!(place.record.observed().is_open());
        place.connect().unwrap();
        if fails {
            place.server.fail(500);
            place.recognise().unwrap_err();
            assert_eq!(place.mark(), Value::Null);
            continue;
        }
        assert_eq!(place.recognise().unwrap(), Found::Emptied);
        assert_eq!(place.mark(), json!([place.record.id()]));
        assert!(!place.record.observed().is_open(), "all is to be written");
        let again = plan(&machines(2), place.record.observed()).writes;
        assert_eq!(again.len(), writes.len());
    }
}

#[test]
fn a_number_is_on_record_before_the_kbs_has_it() {
    let mut place = Place::new();
    place.connect().unwrap();
    place.server.fail(500);
    let failed = place.recognise().unwrap_err();
    assert!(matches!(failed, Error::Provision(_)), "{failed}");
    assert_eq!(place.mark(), Value::Null);
}

#[test]
fn policies_are_written_again_once_they_are_wanted() {
    let desired = machines(1);
    let policies = |place: &mut Place| {
        let before = place.lab.requests().len();
        let differing = place.keeper.refresh(&desired, &mut place.record).unwrap();
        assert_eq!(differing, Vec::<String>::new());
        let seen = place.lab.requests().split_off(before);
        let written = seen.iter().filter(|one| one.method == "POST");
        written.filter(|one| one.path.ends_with("-policy")).count()
    };
    let mut place = Place::new();
    place.begin().unwrap();
    assert_eq!(policies(&mut place), 0, "the plan comes first");
    assert_eq!(policies(&mut Place::with(&desired)), 2);
    place.keeper.disconnect();
    assert_eq!(policies(&mut place), 0, "nobody to ask");
}

#[test]
fn each_value_is_compared_in_its_turn() {
    // More values than are compared in one go, and not more than in two.
    let desired = machines(90);
    let mut place = Place::with(&desired);
    let (values, _) = reference_values(&desired);
    let goes = values.len().div_ceil(super::SHARE);
    assert_eq!(goes, 2, "{} values", values.len());
    let refresh = |place: &mut Place| {
        let found = (0..2).map(|_| place.keeper.refresh(&desired, &mut place.record).unwrap());
        found.collect::<Vec<_>>().concat()
    };
    assert_eq!(refresh(&mut place), Vec::<String>::new());
    for (name, value) in [values.first_key_value(), values.last_key_value()]
        .into_iter()
        .flatten()
    {
        assert!(place.record.observed().holds_value(name, value));
        let foreign = [(name.as_str(), json!(["foreign"]))];
        place.client().set_reference_values(foreign).unwrap();
        assert_eq!(refresh(&mut place), std::slice::from_ref(name));
        assert!(!place.record.observed().holds_value(name, value), "{name}");
    }
}

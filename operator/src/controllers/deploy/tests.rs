// SPDX-License-Identifier: Apache-2.0

//! When objects are applied again, and which keys are taken, made or refused. What comes of it at a real API server is a
//! story, in `operator/tests/deploy.rs`.

use super::keys::Keys;
use super::{Deployer, Objects};
use crate::controllers::api::TrustedExecutionCluster;
use crate::controllers::testing::{NAMESPACE, Server};
use crate::trustee::tls::Tls;
use crate::trustee::{Wanted, keys, render};
use serde_json::{Value, json};
use std::time::SystemTime;

const IMAGE: &str = "registry.example/kbs:v0.21.0";

fn cluster(spec: Value) -> TrustedExecutionCluster {
    let object = json!({
        "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": "TrustedExecutionCluster",
        "metadata": {"name": "cluster", "uid": "1"}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn wanted(more: Value) -> Wanted {
    let mut spec = json!({"trusteeImage": IMAGE});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    Wanted::of(&cluster(spec).spec).unwrap().unwrap()
}

fn keys_of(server: &Server) -> Keys {
    Keys::new(&server.client, NAMESPACE, server.runtime.handle())
}

#[test]
fn objects_are_applied_when_something_changed_or_somebody_says_so() {
    let server = Server::start();
    let (client, runtime) = (&server.client, server.runtime.handle());
    let objects = Objects::new(client, NAMESPACE, runtime);
    let mut deployer = Deployer::new(client, NAMESPACE, runtime, objects);
    let image = cluster(json!({"trusteeImage": IMAGE}));
    let other = cluster(json!({"trusteeImage": "registry.example/kbs:v0.20.0"}));
    let kbs = json!({"url": "https://kbs", "ca": "pem", "adminKey": {"secret": "s"}});
    let outside = cluster(json!({"trusteeImage": IMAGE, "kbs": kbs}));
    for (what, cluster, again, runs, applied) in [
        ("new", &image, false, true, true),
        ("as before", &image, false, true, false),
        ("somebody says so", &image, true, true, true),
        ("another release", &other, false, true, true),
        ("another KBS", &outside, false, false, false),
        // Its objects may be gone by now.
        ("back again", &other, false, true, true),
    ] {
        server.writes();
        let (kbs, _) = deployer.ensure(cluster, again).unwrap();
        assert_eq!(kbs.is_some(), runs, "{what}");
        let deployments = server.writes().into_iter();
        let mut deployments =
            deployments.filter(|write| write.path.ends_with("/deployments/trustee-deployment"));
        assert_eq!(deployments.next().is_some(), applied, "{what}");
    }
}

#[test]
fn what_is_removed_is_what_this_cluster_owns_and_no_volume() {
    let server = Server::start();
    let objects = Objects::new(&server.client, NAMESPACE, server.runtime.handle());
    let put = |version: &str, kind: &str, name: &str, owner: &str, more: Value| {
        let mut object = json!({
            "apiVersion": version, "kind": kind,
            "metadata": {"name": name, "ownerReferences": [
                {"apiVersion": "v1", "kind": "TrustedExecutionCluster", "name": "cluster", "uid": owner},
            ]},
        });
        for (field, value) in more.as_object().unwrap() {
            object["metadata"][field] = value.clone();
        }
        server.put(object);
    };
    let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    put("apps/v1", "Deployment", render::DEPLOYMENT, "1", json!({}));
    put("v1", "Service", render::SERVICE, "another", json!({}));
    put("v1", "ConfigMap", "theirs", "1", json!({}));
    put("v1", "ConfigMap", render::CONFIG_MAP, "1", going);
    put(
        "v1",
        "PersistentVolumeClaim",
        render::VOLUME,
        "1",
        json!({}),
    );
    assert_eq!(objects.remove("1").unwrap(), [render::VOLUME]);
    let writes = server.writes();
    let [write] = writes.as_slice() else {
        panic!("{writes:?}")
    };
    assert!(write.method == "DELETE" && write.path.ends_with("/deployments/trustee-deployment"));
    // And not one that has its name by now.
    assert_eq!(
        write.body["preconditions"]["uid"],
        "uid-of-trustee-deployment"
    );
}

#[test]
fn keys_are_made_once_and_whoever_was_first_is_right() {
    let server = Server::start();
    let keys = keys_of(&server);
    let key = keys.admin_key().unwrap();
    assert_eq!(server.writes().len(), 1);
    assert_eq!(keys.admin_key().unwrap().expose(), key.expose());
    assert_eq!(server.writes().len(), 0);
    server.put_secret(render::ADMIN_SECRET, &[(render::ADMIN_KEY, b"theirs")]);
    server.be_late();
    assert_eq!(keys.admin_key().unwrap().expose(), b"theirs");
    let tried = server.writes();
    assert!(
        tried.len() == 1 && tried[0].method == "POST",
        "{}",
        tried.len()
    );
}

#[test]
fn a_certificate_that_somebody_gives_names_the_service() {
    let server = Server::start();
    let keys_here = keys_of(&server);
    let wanted = wanted(json!({"trusteeSecret": "given"}));
    let missing = keys_here.tls(&wanted).unwrap_err().to_string();
    assert!(
        missing.contains("there is no Secret \"given\""),
        "{missing}"
    );
    let authority = keys::authority().unwrap();
    let [short, long] = crate::trustee::service_names(NAMESPACE);
    for (hosts, name) in [
        (vec!["kbs.example", &*short], Some(&short)),
        (vec![&*long], Some(&long)),
        (vec!["kbs.example"], None),
    ] {
        let hosts: Vec<_> = hosts.into_iter().map(str::to_owned).collect();
        let pair = keys::server(&authority.key, &hosts, SystemTime::now()).unwrap();
        server.put_secret(
            "given",
            &[
                ("tls.crt", pair.certificate.as_bytes()),
                ("tls.key", pair.key.expose()),
                ("ca.crt", authority.certificate.as_bytes()),
            ],
        );
        match (keys_here.tls(&wanted), name) {
            (Ok((secret, _, found)), Some(name)) => assert_eq!((&*secret, &found), ("given", name)),
            (Err(error), None) => {
                assert!(error.to_string().contains("add kbs-service."), "{error}")
            }
            (other, _) => panic!("{hosts:?}: {:?}", other.map(|(_, tls, _)| tls)),
        }
    }
    assert_eq!(server.writes().len(), 0, "it is not ours to make");
}

#[test]
fn a_certificate_of_ours_is_made_anew_for_another_name_and_before_its_end() {
    let server = Server::start();
    let keys_here = keys_of(&server);
    let public = wanted(json!({"publicTrusteeAddr": "kbs.example:443"}));
    let (_, first, name) = keys_here.tls(&wanted(json!({}))).unwrap();
    assert_eq!(name, crate::trustee::service_names(NAMESPACE)[0]);
    let (_, named, _) = keys_here.tls(&public).unwrap();
    assert!(named.names("kbs.example") && !first.names("kbs.example"));
    assert_eq!(named.ca, first.ca, "nodes that pin it go on");
    server.writes();
    assert_eq!(keys_here.tls(&public).unwrap().1, named);
    assert_eq!(server.writes().len(), 0);
    // The same names, by the same authority, at the end of its life.
    let authority = keys::authority().unwrap();
    let mut hosts = crate::trustee::service_names(NAMESPACE).to_vec();
    hosts.push("kbs.example".to_owned());
    for (left, renewed) in [(keys::RENEWED_BEFORE, true), (keys::LIFE, false)] {
        let made_at = SystemTime::now() + left - keys::LIFE;
        let pair = keys::server(&authority.key, &hosts, made_at).unwrap();
        let entries = [
            ("tls.crt", pair.certificate.as_bytes()),
            ("tls.key", pair.key.expose()),
            ("ca.crt", authority.certificate.as_bytes()),
        ];
        server.put_secret(render::TLS_SECRET, &entries);
        let entries = entries.map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
        let stored = Tls::read(&entries.into()).unwrap();
        assert_eq!(
            keys_here.tls(&public).unwrap().1 != stored,
            renewed,
            "{left:?}"
        );
    }
}

#[test]
fn another_address_of_the_database_is_another_version() {
    let server = Server::start();
    let keys = keys_of(&server);
    let storage = json!({"type": "Postgres", "urlSecret": "database"});
    let with = wanted(json!({"trustee": {"storage": storage}}));
    assert_eq!(keys.database_version(&wanted(json!({}))).unwrap(), "");
    for missing in [None, Some("password")] {
        missing
            .into_iter()
            .for_each(|entry| server.put_secret("database", &[(entry, b"x")]));
        let why = keys.database_version(&with).unwrap_err().to_string();
        assert!(
            why.contains("there is no Secret \"database\" with an entry \"url\""),
            "{why}"
        );
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "database", "resourceVersion": "7"},
        "data": {"url": "eA=="},
    });
    server.put(object);
    assert_eq!(keys.database_version(&with).unwrap(), "7");
}

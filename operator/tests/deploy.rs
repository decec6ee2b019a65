// SPDX-License-Identifier: Apache-2.0

//! A Trustee that the operator runs, on a real API server. There is no kubelet, so no pod of it ever runs: where one
//! has to answer, the laboratory KBS is started with exactly what the pod would mount, and the Deployment is said
//! to be available. Run with `make operator-test`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod common;
mod control_plane;

use common::{Lab, Tpm};
use control_plane::{Place, eventually, object};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams, Patch, PatchParams};
use lab_kbs::Acl;
use serde_json::{Value, json};
use sheepfold_operator::controllers::api::{Phase, TrustedExecutionCluster};
use sheepfold_operator::trustee::render;
use sheepfold_operator::trustee::{keys, tls::Tls};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::SystemTime;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An operator of this process. What it looks for is not there: nobody resolves the Service's name here.
fn operator(place: &Place) -> control_plane::Operator {
    place.operator_with("one", |settings| settings.kbs_address = Some(LOOPBACK))
}

/// A cluster that asks for a Trustee.
fn cluster(place: &Place, more: Value) {
    let mut spec = json!({"trusteeImage": "registry.example/kbs:v0.21.0"});
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    place.apply(&object("TrustedExecutionCluster", "cluster", spec));
}

fn condition(place: &Place, kind: &str) -> Option<(bool, String, String)> {
    let cluster: TrustedExecutionCluster = place.get("cluster");
    let conditions = cluster.status.unwrap_or_default().conditions;
    let one = conditions.into_iter().find(|one| one.type_ == kind)?;
    Some((one.status == "True", one.reason, one.message))
}

#[track_caller]
fn await_condition(place: &Place, kind: &str, holds: bool, says: &str) {
    eventually(&format!("{kind} is {holds}: {says}"), || {
        condition(place, kind).is_some_and(|(is, reason, message)| {
            is == holds && (reason.contains(says) || message.contains(says))
        })
    });
}

fn find<K>(place: &Place, name: &str) -> Option<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    place.block_on(place.api::<K>().get_opt(name)).unwrap()
}

fn entries(place: &Place, secret: &str) -> BTreeMap<String, Vec<u8>> {
    let secret: Secret = place.get(secret);
    secret
        .data
        .unwrap()
        .into_iter()
        .map(|(name, bytes)| (name, bytes.0))
        .collect()
}

fn configuration(place: &Place) -> Option<String> {
    let deployment: Deployment = find(place, render::DEPLOYMENT)?;
    let annotations = deployment.spec?.template.metadata?.annotations?;
    annotations.get(render::CONFIGURATION).cloned()
}

/// What the kubelet would say of a pod that runs; without controllers, what they would say of the Deployment.
fn say_available(place: &Place) {
    let (params, when) = (PatchParams::default(), "2026-01-01T00:00:00Z");
    if std::env::var_os("SHEEPFOLD_CONTROLLER_MANAGER").is_none() {
        let status = json!({"status": {"conditions": [{"type": "Available", "status": "True"}]}});
        let api: Api<Deployment> = place.api();
        let patch = Patch::Strategic(&status);
        drop(
            place
                .block_on(api.patch_status(render::DEPLOYMENT, &params, &patch))
                .unwrap(),
        );
        return;
    }
    let pods: Api<Pod> = place.api();
    let running = || {
        let all = ListParams::default().labels(render::SELECTOR);
        place.block_on(pods.list(&all)).unwrap().items
    };
    eventually("there is a pod", || !running().is_empty());
    for pod in running() {
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": when});
        let status = json!({"status": {"phase": "Running", "conditions": [ready]}});
        let patch = Patch::Strategic(&status);
        let name = pod.metadata.name.unwrap();
        drop(
            place
                .block_on(pods.patch_status(&name, &params, &patch))
                .unwrap(),
        );
    }
}

/// A KBS of what the pod would mount: its TLS, its token signer, our public key, and the access list of its
/// configuration.
fn start_what_the_pod_would(place: &Place, port: u16) -> Lab {
    let map: ConfigMap = place.get(render::CONFIG_MAP);
    let data = map.data.unwrap();
    let config: toml::Table = data["kbs-config.toml"].parse().unwrap();
    let acl = &config["admin"]["authorization"]["regex_acl"]["acls"][0];
    let text = |name: &str| acl[name].as_str().unwrap().to_owned();
    let acl = Acl {
        role: text("role"),
        allowed_endpoints: text("allowed_endpoints"),
    };
    let deployment: Deployment = place.get(render::DEPLOYMENT);
    let pod = deployment.spec.unwrap().template.spec.unwrap();
    let mounted = |volume: &str| {
        let volumes = pod.volumes.as_ref().unwrap();
        let volume = volumes.iter().find(|one| one.name == volume).unwrap();
        let secret = volume.secret.as_ref().unwrap();
        let all = entries(place, secret.secret_name.as_ref().unwrap());
        let items = secret.items.as_ref().unwrap().iter();
        items
            .map(|item| (item.key.clone(), all[&item.key].clone()))
            .collect::<BTreeMap<_, _>>()
    };
    let (tls, token) = (mounted("tls"), mounted("token"));
    let files = [
        ("tls.crt", tls["tls.crt"].clone()),
        ("tls.key", tls["tls.key"].clone()),
        ("token.crt", token["token.crt"].clone()),
        ("token.key", token["token.key"].clone()),
        ("ca.pem", data["ca.crt"].clone().into_bytes()),
        ("admin.pub", data["admin-public.pem"].clone().into_bytes()),
        // Only a client has the private half; a file by this name keeps the laboratory from making another pair.
        ("admin.key", b"not here".to_vec()),
    ];
    Lab::of(&files, |options| {
        options.listen = (LOOPBACK, port).into();
        options.acls = vec![acl];
    })
}

fn free_port() -> u16 {
    TcpListener::bind((LOOPBACK, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[test]
fn a_cluster_that_names_an_image_gets_its_trustee_and_nodes_get_their_secrets() {
    let Some(place) = Place::new() else { return };
    let [a, b] = [0, 1].map(Tpm::number);
    let port = free_port();
    // The operator as it is installed, with the rights that come with it. It looks again after an hour: what it notices
    // before, it was told.
    let arguments = ["--kbs-address", "127.0.0.1", "--refresh", "3600"];
    let operator = place.installed_operator_with(&arguments);
    let public = json!({"trusteeKbsPort": port, "publicTrusteeAddr": format!("127.0.0.1:{port}")});
    cluster(&place, public);
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    await_condition(&place, "Deployed", true, "Applied");
    await_condition(&place, "Available", false, "");
    await_condition(&place, "Ready", false, "TrusteeNotAvailable");

    let lab = start_what_the_pod_would(&place, port);
    place.await_phase("a", Phase::Served);
    // A node that pins what the ConfigMap says, at the address that the cluster says.
    let secret = lab.fetch(&a, &a.root()).unwrap();
    assert_eq!(lab.fetch(&b, &a.root()), None);
    say_available(&place);
    await_condition(&place, "Available", true, "");
    await_condition(&place, "Ready", true, "Provisioned");
    delete_service(&place);

    // None of the keys is where anybody with a view of the namespace can read.
    let mut readable = place.everything_readable();
    readable += &json!(place.get::<Deployment>(render::DEPLOYMENT)).to_string();
    readable += &operator.end();
    assert!(readable.contains("leading as"), "the log is in it");
    assert!(!readable.to_lowercase().contains("forbidden"), "{readable}");
    let lines = |pem: &[u8]| {
        let text = String::from_utf8(pem.to_vec()).unwrap();
        text.lines()
            .filter(|line| !line.starts_with("--"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let keys = [
        (render::ADMIN_SECRET, "admin.key"),
        (render::TOKEN_SECRET, "token.key"),
        (render::TLS_SECRET, "tls.key"),
        (render::AUTHORITY_SECRET, "tls.key"),
    ];
    for (secret, entry) in keys {
        for line in lines(&entries(&place, secret)[entry]) {
            assert!(!readable.contains(&line), "{secret}");
        }
    }
    let secret: Value = serde_json::from_slice(&secret).unwrap();
    assert!(!readable.contains(secret["key"].as_str().unwrap()));
}

#[test]
fn what_somebody_changes_or_deletes_is_as_it_was() {
    let Some(place) = Place::new() else { return };
    let _operator = operator(&place);
    cluster(&place, json!({}));
    await_condition(&place, "Deployed", true, "Applied");
    let config = || find::<ConfigMap>(&place, render::CONFIG_MAP).and_then(|map| map.data);
    let wanted = config();
    assert!(wanted.is_some());

    place.change::<ConfigMap>(
        render::CONFIG_MAP,
        &json!({"data": {"kbs-config.toml": "[admin]\ntype = \"InsecureAllowAll\""}}),
    );
    eventually("the configuration is ours", || config() == wanted);
    place.change::<Deployment>(render::DEPLOYMENT, &json!({"spec": {"replicas": 0}}));
    eventually("it has its replica", || {
        let deployment: Deployment = place.get(render::DEPLOYMENT);
        deployment.spec.unwrap().replicas == Some(1)
    });
    let everything = json!({"spec": {"ingress": [{}], "egress": [{}]}});
    place.change::<NetworkPolicy>(render::NAME, &everything);
    eventually("only its port is open", || {
        let policy: NetworkPolicy = place.get(render::NAME);
        let spec = json!(policy.spec.unwrap());
        spec["ingress"] == json!([{"ports": [{"protocol": "TCP", "port": 8080}]}])
            && spec["egress"].is_null()
    });
    delete_service(&place);
}

/// Somebody deletes the Service: it comes back.
fn delete_service(place: &Place) {
    let gone = place.get::<Service>(render::SERVICE).metadata.uid;
    let services: Api<Service> = place.api();
    drop(
        place
            .block_on(services.delete(render::SERVICE, &Default::default()))
            .unwrap(),
    );
    eventually("there is a Service again", || {
        find::<Service>(place, render::SERVICE).is_some_and(|service| service.metadata.uid != gone)
    });
}

#[test]
fn another_configuration_or_certificate_is_another_pod() {
    let Some(place) = Place::new() else { return };
    let host = format!("kbs-service.{}.svc.cluster.local", place.namespace);
    let authority = keys::authority().unwrap();
    let certificate = |host: &str, ca: bool| {
        let pair = keys::server(&authority.key, &[host.to_owned()], SystemTime::now()).unwrap();
        let mut data = json!({
            "tls.crt": pair.certificate, "tls.key": String::from_utf8(pair.key.expose().to_vec()).unwrap(),
        });
        if ca {
            data["ca.crt"] = json!(authority.certificate);
        }
        place.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "given"},
            "type": "kubernetes.io/tls", "stringData": data,
        }));
    };
    let _operator = operator(&place);
    cluster(&place, json!({"trusteeSecret": "given"}));
    await_condition(&place, "Ready", false, "there is no Secret \"given\"");
    await_condition(&place, "Deployed", false, "there is no Secret \"given\"");
    certificate(&host, false);
    await_condition(&place, "Ready", false, "it has no ca.crt");
    certificate("kbs.example", true);
    await_condition(&place, "Ready", false, "add kbs-service.");
    assert_eq!(
        configuration(&place),
        None,
        "nothing is deployed without TLS"
    );
    // As cert-manager makes it, with the name that guides of the reference project use.
    certificate(&host, true);
    await_condition(&place, "Deployed", true, "Applied");
    let first = configuration(&place).unwrap();
    assert!(
        find::<Secret>(&place, render::TLS_SECRET).is_none(),
        "not ours to make"
    );

    // Renewed.
    certificate(&host, true);
    eventually("the new certificate is another pod", || {
        configuration(&place).as_ref() != Some(&first)
    });
    let second = configuration(&place);
    cluster(
        &place,
        json!({"trusteeSecret": "given", "trusteeImage": "registry.example/kbs:v0.20.0"}),
    );
    eventually("another release is another configuration", || {
        configuration(&place) != second
    });
    let map: ConfigMap = place.get(render::CONFIG_MAP);
    assert!(map.data.unwrap()["kbs-config.toml"].contains("type = \"Simple\""));
}

#[test]
fn a_certificate_of_ours_follows_its_names_and_its_end() {
    let Some(place) = Place::new() else { return };
    let _operator = operator(&place);
    cluster(&place, json!({}));
    await_condition(&place, "Deployed", true, "Applied");
    let tls = || Tls::read(&entries(&place, render::TLS_SECRET)).unwrap();
    let first = tls();
    assert!(first.names(&format!("kbs-service.{}.svc", place.namespace)));
    cluster(&place, json!({"publicTrusteeAddr": "kbs.example:443"}));
    eventually("it names the public host", || tls().names("kbs.example"));
    assert_eq!(tls().ca, first.ca, "nodes that pin it go on");

    // One that is about to end.
    let authority = entries(&place, render::AUTHORITY_SECRET);
    let key = kbs_protocol::Secret::new(authority["tls.key"].clone());
    let hosts = [
        format!("kbs-service.{}.svc", place.namespace),
        format!("kbs-service.{}.svc.cluster.local", place.namespace),
        "kbs.example".to_owned(),
    ];
    let long_ago = SystemTime::now() + keys::RENEWED_BEFORE - keys::LIFE;
    let old = keys::server(&key, &hosts, long_ago).unwrap();
    let old_text = old.certificate.clone();
    place.change::<Secret>(render::TLS_SECRET, &json!({"stringData": {
        "tls.crt": old.certificate, "tls.key": String::from_utf8(old.key.expose().to_vec()).unwrap(),
    }}));
    eventually("it is renewed", || {
        let now = tls();
        now.chain != old_text
            && !now.has_ended(SystemTime::now() + keys::RENEWED_BEFORE)
            && now.names("kbs.example")
    });
}

#[test]
fn several_replicas_share_a_database() {
    let Some(place) = Place::new() else { return };
    let _operator = operator(&place);
    let storage = json!({"type": "Postgres", "urlSecret": "database"});
    let trustee = json!({"replicas": 3, "storage": storage});
    cluster(&place, json!({"trustee": {"replicas": 3}}));
    await_condition(&place, "Ready", false, "a storage that they share");
    cluster(&place, json!({"trustee": trustee}));
    await_condition(&place, "Ready", false, "there is no Secret \"database\"");
    let database = |password: &str| {
        place.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "database"},
            "stringData": {"url": format!("postgres://kbs:{password}@db.example/kbs")},
        }));
    };
    database("one");
    await_condition(&place, "Deployed", true, "Applied");
    let deployment: Deployment = place.get(render::DEPLOYMENT);
    assert_eq!(deployment.spec.unwrap().replicas, Some(3));
    assert!(find::<PersistentVolumeClaim>(&place, render::VOLUME).is_none());
    let first = configuration(&place);
    database("two");
    eventually("another password is another pod", || {
        configuration(&place) != first
    });
}

#[test]
fn the_objects_go_with_the_cluster_and_what_cannot_be_made_again_stays() {
    let Some(place) = Place::new() else { return };
    let operator = operator(&place);
    cluster(&place, json!({}));
    await_condition(&place, "Deployed", true, "Applied");
    let secrets = [
        render::ADMIN_SECRET,
        render::TOKEN_SECRET,
        render::AUTHORITY_SECRET,
        render::TLS_SECRET,
    ];
    let kept = || secrets.map(|name| entries(&place, name));
    let before = kept();
    let volume = place
        .get::<PersistentVolumeClaim>(render::VOLUME)
        .metadata
        .uid;

    place.delete::<TrustedExecutionCluster>("cluster");
    if std::env::var_os("SHEEPFOLD_CONTROLLER_MANAGER").is_some() {
        eventually("its objects are gone", || {
            find::<Deployment>(&place, render::DEPLOYMENT).is_none()
                && find::<Service>(&place, render::SERVICE).is_none()
                && find::<ConfigMap>(&place, render::CONFIG_MAP).is_none()
                && find::<NetworkPolicy>(&place, render::NAME).is_none()
        });
        let budgets = kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
            "policy",
            "v1beta1",
            "PodDisruptionBudget",
        ));
        let budgets: Api<kube::api::DynamicObject> =
            Api::namespaced_with(place.client.clone(), &place.namespace, &budgets);
        eventually("its budget is gone", || {
            let left = place.block_on(budgets.list(&ListParams::default()));
            left.is_ok_and(|left| left.items.is_empty())
        });
    }
    assert_eq!(kept(), before);
    cluster(&place, json!({}));
    await_condition(&place, "Deployed", true, "Applied");
    drop(operator);
    assert_eq!(kept(), before, "keys are made once");
    let claim: PersistentVolumeClaim = place.get(render::VOLUME);
    assert_eq!(claim.metadata.uid, volume);
    assert_eq!(claim.metadata.owner_references, None);
}

#[test]
fn a_trustee_goes_when_another_kbs_has_taken_its_place_and_its_volume_stays() {
    let Some(place) = Place::new() else { return };
    let a = Tpm::number(0);
    let arguments = ["--refresh", "3600", "--probe", "1"];
    let operator = place.installed_operator_with(&arguments);
    cluster(&place, json!({}));
    await_condition(&place, "Deployed", true, "Applied");
    place.image("good", json!([a.boot_tuple()]));
    place.machine("a", &a, json!({}));
    let is_there = || {
        [
            find::<Deployment>(&place, render::DEPLOYMENT).is_some(),
            find::<Service>(&place, render::SERVICE).is_some(),
            find::<ConfigMap>(&place, render::CONFIG_MAP).is_some(),
            find::<NetworkPolicy>(&place, render::NAME).is_some(),
        ]
    };
    // One of the same name and label that belongs to nobody here is nobody's to delete.
    place.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "labels": {
            "app.kubernetes.io/name": "trustee", "app.kubernetes.io/managed-by": "sheepfold-operator",
        }},
    }));
    let claim = place.get::<PersistentVolumeClaim>(render::VOLUME);
    // The other one does not answer yet: nodes may still need what runs here.
    let change = |url: &str| {
        let ca = std::fs::read_to_string(place.lab.dir.path().join("lab/ca.pem")).unwrap();
        let kbs =
            json!({"url": url, "ca": ca, "role": "admin", "adminKey": {"secret": "kbs-admin"}});
        place.change::<TrustedExecutionCluster>("cluster", &json!({"spec": {"kbs": kbs}}));
    };
    change(&format!("https://127.0.0.1:{}", free_port()));
    await_condition(&place, "Ready", false, "KbsFailed");
    assert_eq!(is_there(), [true; 4]);
    change(place.lab.server.url());
    eventually("its objects are gone", || is_there() == [false; 4]);
    place.await_phase("a", Phase::Served);
    await_condition(
        &place,
        "Deployed",
        false,
        "PersistentVolumeClaim trustee-storage",
    );
    await_condition(&place, "Ready", true, "Provisioned");
    let kept: PersistentVolumeClaim = place.get(render::VOLUME);
    assert_eq!(kept.metadata.uid, claim.metadata.uid);
    assert_eq!(kept.metadata.deletion_timestamp, None);
    for secret in [
        render::ADMIN_SECRET,
        render::TOKEN_SECRET,
        render::AUTHORITY_SECRET,
    ] {
        assert!(find::<Secret>(&place, secret).is_some(), "{secret}");
    }
    assert!(find::<ConfigMap>(&place, "theirs").is_some());
    // Somebody decides about the volume.
    let claims: Api<PersistentVolumeClaim> = place.api();
    drop(
        place
            .block_on(claims.delete(render::VOLUME, &Default::default()))
            .unwrap(),
    );
    eventually("nothing is left to say", || {
        condition(&place, "Deployed").is_none()
    });
    let log = operator.end();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
}

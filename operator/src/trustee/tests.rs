// SPDX-License-Identifier: Apache-2.0

//! What is asked for, and the objects that come of it.

use super::render::{self, Facts, objects};
use super::tls::{self, Tls};
use super::{Database, Storage, Wanted, keys, service_names};
use crate::controllers::api::{ServiceType, TrustedExecutionClusterSpec};
use crate::kbs_admin::config::Version;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

fn spec(spec: Value) -> TrustedExecutionClusterSpec {
    serde_json::from_value(spec).unwrap()
}

fn wanted(more: Value) -> Wanted {
    let mut all = json!({"trusteeImage": "kbs:v0.21.0"});
    let more = more.as_object().cloned().unwrap_or_default();
    all.as_object_mut().unwrap().extend(more);
    Wanted::of(&spec(all)).unwrap().unwrap()
}

/// The entries of a Secret with TLS for these hosts.
fn made(hosts: &[&str], now: SystemTime) -> BTreeMap<String, Vec<u8>> {
    let authority = keys::authority().unwrap();
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let pair = keys::server(&authority.key, &hosts, now).unwrap();
    [
        (tls::KEY, pair.key.expose().to_vec()),
        (tls::CERTIFICATE, pair.certificate.into_bytes()),
        (tls::CA, authority.certificate.into_bytes()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

fn facts() -> Facts {
    let tls = made(&["kbs-service.ns.svc"], SystemTime::now());
    Facts {
        owner: json!({"apiVersion": "v1", "kind": "Owner", "name": "cluster", "uid": "1", "controller": true}),
        admin_public: "the public key".to_owned(),
        tls_secret: "its-tls".to_owned(),
        tls: Tls::read(&tls).unwrap(),
        token_certificate: "the signer's certificate".to_owned(),
        database_version: "7".to_owned(),
        assigned_user: false,
    }
}

fn of<'a>(all: &'a [Value], kind: &str) -> &'a Value {
    all.iter().find(|object| object["kind"] == kind).unwrap()
}

fn pod(all: &[Value]) -> &Value {
    &of(all, "Deployment")["spec"]["template"]["spec"]
}

/// What is applied and what Kubernetes understands of it.
fn understood<K: serde::Serialize + serde::de::DeserializeOwned>(object: &Value) {
    let typed: K = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(&json!(typed), object, "a field that no API server knows");
}

#[test]
fn a_manifest_of_the_reference_project_is_enough() {
    let spec = spec(json!({
        "trusteeImage": "quay.io/x/kbs:20260106", "publicTrusteeAddr": "kbs.example:8080",
        "trusteeKbsPort": 8081, "trusteeSecret": "trustee-secret",
    }));
    let wanted = Wanted {
        image: "quay.io/x/kbs:20260106".to_owned(),
        version: Version::V0_21,
        replicas: 1,
        port: 8081,
        service_type: ServiceType::ClusterIP,
        storage: Storage::LocalFs {
            size: "1Gi".to_owned(),
            class: None,
        },
        tls_secret: Some("trustee-secret".to_owned()),
        public_host: Some("kbs.example".to_owned()),
        collateral: false,
    };
    assert_eq!(Wanted::of(&spec), Ok(Some(wanted)));
}

#[test]
fn a_kbs_of_somebody_else_is_not_run_here() {
    let kbs = json!({"url": "https://kbs:8080", "adminKey": {"secret": "s"}});
    let both = spec(json!({"kbs": kbs, "trusteeImage": "kbs:v0.21.0"}));
    assert_eq!(Wanted::of(&both), Ok(None));
    assert_eq!(Wanted::of(&spec(json!({}))), Ok(None));
}

#[test]
fn a_tag_names_the_release_and_a_field_overrules_it() {
    for (image, version) in [
        ("kbs:v0.20.0", Version::V0_20),
        ("registry.example:5000/kbs:0.20", Version::V0_20),
        ("registry.example:5000/kbs", Version::V0_21),
        ("kbs:v0.21.0-rc1", Version::V0_21),
        ("kbs:v0.22.0", Version::Main),
        ("kbs:latest", Version::V0_21),
        ("kbs:built-in-as-v0.20.0", Version::V0_21),
        ("kbs@sha256:00", Version::V0_21),
        ("kbs:v0.20.1@sha256:00", Version::V0_20),
        ("kbs:v0.20@sha256:00", Version::V0_20),
    ] {
        assert_eq!(
            wanted(json!({"trusteeImage": image})).version,
            version,
            "{image}"
        );
        let said = wanted(json!({"trusteeImage": image, "trustee": {"release": "0.20"}}));
        assert_eq!(said.version, Version::V0_20);
    }
    let old = Wanted::of(&spec(json!({"trusteeImage": "kbs:v0.19.0"}))).unwrap_err();
    assert!(old.contains("0.20 is the oldest"), "{old}");
}

#[test]
fn wrong_addresses_and_ports_are_refused_by_name() {
    for (bad, why) in [
        (
            json!({"trusteeKbsPort": 0}),
            "trusteeKbsPort must be a port",
        ),
        (
            json!({"trusteeKbsPort": 65536}),
            "trusteeKbsPort must be a port",
        ),
        (
            json!({"publicTrusteeAddr": "https://kbs:1"}),
            "publicTrusteeAddr must be host:port",
        ),
        (
            json!({"publicTrusteeAddr": ""}),
            "publicTrusteeAddr must be host:port",
        ),
        (json!({"trustee": {"replicas": 0}}), "1 or more"),
    ] {
        let mut all = json!({"trusteeImage": "kbs"});
        all.as_object_mut()
            .unwrap()
            .extend(bad.as_object().unwrap().clone());
        let said = Wanted::of(&spec(all)).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    for (address, host) in [
        ("kbs.example:8080", "kbs.example"),
        ("kbs.example", "kbs.example"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("[2001:db8::1]:8080", "2001:db8::1"),
    ] {
        let wanted = wanted(json!({"publicTrusteeAddr": address}));
        assert_eq!(wanted.public_host.as_deref(), Some(host));
    }
}

#[test]
fn an_api_server_knows_every_field() {
    let mut facts = facts();
    facts.owner = json!({"apiVersion": "v1", "kind": "Owner", "name": "c", "uid": "1"});
    let database = |kind: &str, release: &str| json!({"trustee": {"release": release, "replicas": 2, "storage": {"type": kind, "urlSecret": "s"}}});
    let class = json!({"trustee": {"storage": {"type": "LocalFs", "storageClassName": "fast", "size": "2Gi"}}});
    for more in [
        json!({}),
        class,
        database("Postgres", "0.20"),
        database("Redis", "main"),
    ] {
        for object in objects(&wanted(more), &facts) {
            match object["kind"].as_str().unwrap() {
                "ConfigMap" => understood::<ConfigMap>(&object),
                "PersistentVolumeClaim" => understood::<PersistentVolumeClaim>(&object),
                "NetworkPolicy" => understood::<NetworkPolicy>(&object),
                "PodDisruptionBudget" => understood::<PodDisruptionBudget>(&object),
                "Service" => understood::<Service>(&object),
                "Deployment" => understood::<Deployment>(&object),
                kind => panic!("{kind}"),
            }
        }
    }
}

#[test]
fn everything_belongs_to_the_cluster_but_what_holds_the_secrets() {
    let (facts, all) = (facts(), objects(&wanted(json!({})), &facts()));
    assert_eq!(all.len(), 6);
    for object in &all {
        let owners = &object["metadata"]["ownerReferences"];
        match object["kind"].as_str() {
            Some("PersistentVolumeClaim") => assert!(owners.is_null()),
            _ => assert_eq!(owners, &json!([facts.owner])),
        }
        for label in render::SELECTOR.split(',') {
            let (name, value) = label.split_once('=').unwrap();
            assert_eq!(object["metadata"]["labels"][name], value);
        }
    }
}

/// Pod Security Standards, profile Restricted, as of Kubernetes 1.33.
#[test]
fn pods_are_restricted() {
    let all = objects(&wanted(json!({})), &facts());
    let pod = pod(&all);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    for id in ["runAsUser", "runAsGroup", "fsGroup"] {
        assert_eq!(pod["securityContext"][id], 65532);
    }
    let mut assigned = facts();
    assigned.assigned_user = true;
    let assigned = objects(&wanted(json!({})), &assigned);
    assert_eq!(
        self::pod(&assigned)["securityContext"],
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}),
        "OpenShift chooses"
    );
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    assert_eq!(
        pod["automountServiceAccountToken"], false,
        "it asks the API server nothing"
    );
    assert_eq!(
        pod["enableServiceLinks"], false,
        "variables about Services would read as settings"
    );
    for container in pod["containers"].as_array().unwrap() {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    }
    for forbidden in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
        assert!(pod[forbidden].is_null(), "{forbidden}");
    }
    let kinds = ["configMap", "emptyDir", "persistentVolumeClaim", "secret"];
    for volume in pod["volumes"].as_array().unwrap() {
        let kind = volume
            .as_object()
            .unwrap()
            .keys()
            .find(|key| *key != "name")
            .unwrap();
        assert!(kinds.contains(&kind.as_str()), "{kind}");
        if kind == "secret" {
            assert_eq!(volume["secret"]["defaultMode"], 0o440, "nobody else's");
        }
    }
    let container = &pod["containers"][0];
    for mount in container["volumeMounts"].as_array().unwrap() {
        let is_written = ["storage", "tmp"].contains(&mount["name"].as_str().unwrap());
        assert_eq!(mount["readOnly"] == true, !is_written, "{mount}");
    }
    // At debug level it logs evidence and tokens.
    let log = json!({"name": "RUST_LOG", "value": "info"});
    assert!(container["env"].as_array().unwrap().contains(&log));
}

#[test]
fn what_the_configuration_names_is_where_a_pod_finds_it() {
    for release in ["0.20", "0.21", "main"] {
        let wanted = wanted(json!({"trustee": {"release": release}, "trusteeKbsPort": 443}));
        let facts = facts();
        let all = objects(&wanted, &facts);
        let data = &of(&all, "ConfigMap")["data"];
        let config: toml::Table = data["kbs-config.toml"].as_str().unwrap().parse().unwrap();
        let pod = pod(&all);
        let container = &pod["containers"][0];
        // From a path in the pod to the entry that lies there.
        let entry = |path: &str| {
            let mounts = container["volumeMounts"].as_array().unwrap().iter();
            let (dir, name) = path.rsplit_once('/').unwrap();
            let mount = mounts
                .clone()
                .find(|mount| mount["mountPath"] == dir)
                .unwrap();
            let volumes = pod["volumes"].as_array().unwrap();
            let volume = volumes
                .iter()
                .find(|volume| volume["name"] == mount["name"])
                .unwrap();
            match volume["secret"].as_object() {
                Some(secret) => {
                    let items = secret["items"].as_array().unwrap();
                    assert!(
                        items.contains(&json!({"key": name, "path": name})),
                        "{path}"
                    );
                    secret["secretName"].as_str().unwrap().to_owned()
                }
                None => {
                    assert!(data[name].is_string(), "{path}");
                    volume["configMap"]["name"].as_str().unwrap().to_owned()
                }
            }
        };
        let command = container["command"].as_array().unwrap();
        assert_eq!(entry(command[2].as_str().unwrap()), render::CONFIG_MAP);
        let text = |table: &str, key: &str| config[table][key].as_str().unwrap().to_owned();
        assert_eq!(entry(&text("http_server", "private_key")), "its-tls");
        assert_eq!(entry(&text("http_server", "certificate")), "its-tls");
        let signer = &config["attestation_service"]["attestation_token_broker"]["signer"];
        for key in ["key_path", "cert_path"] {
            assert_eq!(entry(signer[key].as_str().unwrap()), render::TOKEN_SECRET);
        }
        let anchor = config["attestation_token"]["trusted_certs_paths"][0]
            .as_str()
            .unwrap();
        assert_eq!(anchor, signer["cert_path"].as_str().unwrap());
        let admin = match release {
            "0.20" => &config["admin"]["personas"][0]["public_key_path"],
            _ => {
                &config["admin"]["authentication"]["bearer_jwt"]["identity_providers"][0]["public_key_uri"]
            }
        };
        assert_eq!(entry(admin.as_str().unwrap()), render::CONFIG_MAP);
        assert_eq!(data["admin-public.pem"], facts.admin_public);
        assert_eq!(data["ca.crt"], facts.tls.ca);

        // One port all the way, but for the Service's own.
        let socket = config["http_server"]["sockets"][0].as_str().unwrap();
        let port: u64 = socket.rsplit_once(':').unwrap().1.parse().unwrap();
        let service = &of(&all, "Service")["spec"];
        assert_eq!(service["ports"][0]["targetPort"], port);
        assert_eq!(service["ports"][0]["port"], 443);
        assert_eq!(container["ports"][0]["containerPort"], port);
        let ingress = &of(&all, "NetworkPolicy")["spec"]["ingress"];
        assert_eq!(
            ingress,
            &json!([{"ports": [{"protocol": "TCP", "port": port}]}])
        );
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let probe = &container[probe];
            match release {
                // It has no /healthz (KBS protocol, compatibility traps).
                "0.20" => assert_eq!(probe["tcpSocket"]["port"], port),
                _ => assert_eq!(probe["httpGet"]["port"], port),
            }
        }
        let labels = &of(&all, "Deployment")["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&service["selector"], labels);
        for kind in ["Deployment", "PodDisruptionBudget"] {
            assert_eq!(&of(&all, kind)["spec"]["selector"]["matchLabels"], labels);
        }
        assert_eq!(
            &of(&all, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
            labels
        );
    }
}

#[test]
fn a_volume_has_one_user_and_a_database_many() {
    let all = objects(&wanted(json!({})), &facts());
    assert_eq!(
        of(&all, "Deployment")["spec"]["strategy"],
        json!({"type": "Recreate"})
    );
    let policy = &of(&all, "NetworkPolicy")["spec"];
    assert_eq!(policy["egress"], json!([]), "nothing to ask anybody");
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));

    for (kind, variable, port) in [
        ("Postgres", "POSTGRES_URL", 5432),
        ("Redis", "REDIS_URL", 6379),
    ] {
        let storage = json!({"type": kind, "urlSecret": "database"});
        let more = json!({"trustee": {"release": "main", "replicas": 3, "storage": storage}});
        let wanted = wanted(more);
        let all = objects(&wanted, &facts());
        assert!(
            all.iter()
                .all(|object| object["kind"] != "PersistentVolumeClaim")
        );
        let pod = pod(&all);
        assert!(
            pod["volumes"]
                .as_array()
                .unwrap()
                .iter()
                .all(|volume| volume["name"] != "storage")
        );
        let from = json!({"secretKeyRef": {"name": "database", "key": "url"}});
        let environment = pod["containers"][0]["env"].as_array().unwrap();
        assert!(environment.contains(&json!({"name": variable, "valueFrom": from})));
        let deployment = &of(&all, "Deployment")["spec"];
        assert_eq!(deployment["replicas"], 3);
        assert_eq!(deployment["strategy"]["type"], "RollingUpdate");
        let config = of(&all, "ConfigMap")["data"]["kbs-config.toml"]
            .as_str()
            .unwrap();
        assert!(
            config.contains(&format!("storage_type = \"{kind}\"")),
            "{config}"
        );
        let egress = of(&all, "NetworkPolicy")["spec"]["egress"].to_string();
        assert!(egress.contains(&format!("\"port\":{port}")) && egress.contains("\"port\":53"));
        let Storage::Database { kind, .. } = wanted.storage else {
            panic!()
        };
        assert_eq!(kind.variable(), variable);
        assert_eq!(kind == Database::Redis, variable == "REDIS_URL");
    }
    let processors = objects(&wanted(json!({"evidence": ["tpm", "snp+tpm"]})), &facts());
    let egress = of(&processors, "NetworkPolicy")["spec"]["egress"].to_string();
    assert!(egress.contains("\"port\":443"), "{egress}");
}

#[test]
fn a_pod_is_replaced_when_what_it_read_at_its_start_changes_and_only_then() {
    let digest = |wanted: &Wanted, facts: &Facts| {
        let all = objects(wanted, facts);
        let meta = &of(&all, "Deployment")["spec"]["template"]["metadata"];
        meta["annotations"][render::CONFIGURATION]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (usual, base) = (wanted(json!({})), facts());
    let first = digest(&usual, &base);
    assert_eq!(first, digest(&usual, &base.clone()));
    let changes: [fn(&mut Facts); 5] = [
        |facts| facts.admin_public.push('x'),
        |facts| facts.tls_secret.push('x'),
        |facts| facts.tls.chain.push('x'),
        |facts| facts.token_certificate.push('x'),
        |facts| facts.database_version.push('x'),
    ];
    for change in changes {
        let mut other = base.clone();
        change(&mut other);
        assert_ne!(first, digest(&usual, &other));
    }
    // Nothing that moves from one part to its neighbour goes unseen.
    let mut moved = base.clone();
    moved.admin_public.push_str(&moved.tls_secret);
    moved.tls_secret.clear();
    assert_ne!(first, digest(&usual, &moved));
    assert_ne!(
        first,
        digest(&wanted(json!({"trustee": {"release": "0.20"}})), &base)
    );
    assert_eq!(
        first,
        digest(&wanted(json!({"trusteeKbsPort": 9})), &base),
        "the Service's affair"
    );
    let mut other = base.clone();
    other.owner = json!({});
    assert_eq!(first, digest(&usual, &other));
}

#[test]
fn a_certificate_that_is_made_here_is_good_for_its_names_and_nothing_else() {
    let [short, long] = service_names("ns");
    assert_eq!(short, "kbs-service.ns.svc");
    assert_eq!(long, "kbs-service.ns.svc.cluster.local");
    let now = SystemTime::now();
    let entries = made(&[&short, &long, "192.0.2.1", "2001:db8::1"], now);
    let tls = Tls::read(&entries).unwrap();
    for host in [
        &*short,
        &long,
        "192.0.2.1",
        "2001:db8::1",
        "KBS-SERVICE.ns.svc",
    ] {
        assert!(tls.names(host), "{host}");
    }
    assert!(!tls.names("kbs-service.other.svc") && !tls.names("192.0.2.2"));
    assert!(!tls.has_ended(now));
    let end = now.checked_add(keys::LIFE).unwrap();
    assert!(!tls.has_ended(end.checked_sub(keys::RENEWED_BEFORE).unwrap()));
    assert!(tls.has_ended(end.checked_add(Duration::from_secs(1)).unwrap()));

    // As the operator's and a node's TLS see it: by the authority, for the name.
    let ca = CertificateDer::from_pem_slice(tls.ca.as_bytes()).unwrap();
    let leaf = CertificateDer::from_pem_slice(tls.chain.as_bytes()).unwrap();
    let anchor = webpki::anchor_from_trusted_cert(&ca).unwrap();
    let end = webpki::EndEntityCert::try_from(&leaf).unwrap();
    let verified = |anchor| {
        end.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            UnixTime::now(),
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .map(drop)
    };
    verified(anchor).unwrap();
    end.verify_is_valid_for_subject_name(&ServerName::try_from(short.as_str()).unwrap())
        .unwrap();
    // Whoever has the server's key has no authority, and the authority has none below it.
    let read = |der: &'static [u8]| X509Certificate::from_der(der).unwrap().1;
    let (own, above) = (read(leaf.to_vec().leak()), read(ca.to_vec().leak()));
    let is_ca = |certificate: &X509Certificate<'_>| {
        let constraints = certificate.basic_constraints().unwrap()?.value.clone();
        constraints.ca.then_some(constraints.path_len_constraint)
    };
    assert_eq!((is_ca(&own), is_ca(&above)), (None, Some(Some(0))));
    let purposes = own.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && !purposes.client_auth && !purposes.any);

    let stranger = keys::authority().unwrap();
    let stranger = CertificateDer::from_pem_slice(stranger.certificate.as_bytes()).unwrap();
    verified(webpki::anchor_from_trusted_cert(&stranger).unwrap()).unwrap_err();
}

#[test]
fn what_is_no_tls_is_said_by_its_entry() {
    let good = made(&["kbs", "*.ns.svc"], SystemTime::now());
    let tls = Tls::read(&good).unwrap();
    assert!(tls.names("kbs-service.ns.svc") && !tls.names("a.b.ns.svc") && !tls.names("ns.svc"));
    for entry in [tls::CA, tls::CERTIFICATE, tls::KEY] {
        let mut without = good.clone();
        without.remove(entry);
        let why = Tls::read(&without).unwrap_err();
        assert!(why.contains(&format!("no {entry}")), "{why}");
        let mut empty = good.clone();
        empty.insert(entry.to_owned(), Vec::new());
        let why = Tls::read(&empty).unwrap_err();
        assert!(why.contains(&format!("no {entry}")), "{why}");
        if entry != tls::KEY {
            let mut bad = good.clone();
            bad.insert(entry.to_owned(), b"no PEM".to_vec());
            let why = Tls::read(&bad).unwrap_err();
            assert!(why.contains(entry), "{why}");
        }
    }
}

#[test]
fn the_administrators_public_half_is_its_own() {
    let (one, other) = (keys::admin().unwrap(), keys::admin().unwrap());
    let public = keys::public(&one).unwrap();
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"));
    assert_eq!(public, keys::public(&one).unwrap());
    assert_ne!(public, keys::public(&other).unwrap());
    let why = keys::public(&kbs_protocol::Secret::new(b"hush".to_vec())).unwrap_err();
    assert!(why.contains("Ed25519") && !why.contains("hush"), "{why}");
}

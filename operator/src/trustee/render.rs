// SPDX-License-Identifier: Apache-2.0

//! The objects that make a Trustee, as they are applied. The Service has the name that manifests of the
//! reference project point at (`kbs-service`).
//!
//! All but the volume belong to the cluster and go with it. The volume holds every machine's secret and stays:
//! whoever wants to lose them deletes it by hand.

use super::{Storage, Wanted};
use crate::kbs_admin::NAME as OPERATOR;
use crate::kbs_admin::config::{KbsConfig, Version, kbs_config};
use kbs_protocol::encoding::hex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What the objects need to know beside what is wanted.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The reference to the cluster that they belong to.
    pub owner: Value,
    /// The administrator's public key, PEM.
    pub admin_public: String,
    /// The Secret with its TLS.
    pub tls_secret: String,
    /// Certificates of that Secret, PEM.
    pub tls: super::tls::Tls,
    /// The token signer's certificate, PEM.
    pub token_certificate: String,
    /// Which version of a Secret with a database's address is there. Its contents are nobody's business here: the
    /// digest of a password would be a riddle that can be solved.
    pub database_version: String,
    /// The platform gives pods a user and a group (OpenShift), and refuses others.
    pub assigned_user: bool,
}

/// All objects, in the order in which they are applied: what a pod mounts before the pod.
pub fn objects(wanted: &Wanted, facts: &Facts) -> Vec<Value> {
    let config = config(wanted);
    let mut objects = vec![configuration(&config, facts)];
    if let Storage::LocalFs { size, class } = &wanted.storage {
        objects.push(volume(size, class.as_deref()));
    }
    objects.push(network_policy(wanted));
    objects.push(disruption_budget());
    objects.push(service(wanted));
    objects.push(deployment(
        wanted,
        facts,
        &configuration_digest(&config, facts),
    ));
    for object in &mut objects {
        own(object, facts);
    }
    objects
}

/// The text of `kbs-config.toml`.
pub fn config(wanted: &Wanted) -> String {
    let config = KbsConfig {
        listen: format!("0.0.0.0:{CONTAINER_PORT}"),
        tls_key: format!("{TLS_DIR}/{}", super::tls::KEY),
        tls_certificate: format!("{TLS_DIR}/{}", super::tls::CERTIFICATE),
        admin_public_key: format!("{CONFIG_DIR}/{ADMIN_PUBLIC}"),
        token_key: format!("{TOKEN_DIR}/{TOKEN_KEY}"),
        token_chain: format!("{TOKEN_DIR}/{TOKEN_CERTIFICATE}"),
        token_authority: format!("{TOKEN_DIR}/{TOKEN_CERTIFICATE}"),
        storage: wanted.config_storage(),
    };
    kbs_config(wanted.version, &config)
}

/// Everything that a KBS reads once, when it starts: another digest is another pod (KBS protocol, "Restart
/// needed for").
fn configuration_digest(config: &str, facts: &Facts) -> String {
    let mut digest = Sha256::new();
    for part in [
        config,
        &facts.admin_public,
        &facts.tls_secret,
        &facts.tls.chain,
        &facts.token_certificate,
        &facts.database_version,
    ] {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    hex::encode(digest.finalize())
}

fn configuration(config: &str, facts: &Facts) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG_MAP},
        "data": {
            CONFIG_FILE: config,
            ADMIN_PUBLIC: facts.admin_public,
            super::tls::CA: facts.tls.ca,
        },
    })
}

fn volume(size: &str, class: Option<&str>) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": VOLUME},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
        },
    });
    let spec = object.get_mut("spec").and_then(Value::as_object_mut);
    if let (Some(class), Some(spec)) = (class, spec) {
        spec.insert("storageClassName".to_owned(), json!(class));
    }
    object
}

/// In: to its port, from everywhere, because nodes are everywhere. Out: names, its database, and the makers of
/// processors if their reports are to be judged.
fn network_policy(wanted: &Wanted) -> Value {
    let port = |protocol: &str, port: u16| json!({"protocol": protocol, "port": port});
    let mut egress = Vec::new();
    let mut out = Vec::new();
    if let Storage::Database { port: database, .. } = &wanted.storage {
        out.push(port("TCP", *database));
    }
    if wanted.collateral {
        out.push(port("TCP", HTTPS));
    }
    if !out.is_empty() {
        // Some name servers of Kubernetes listen on 5353 behind their Service, and a policy sees that port.
        let dns = [53, 5353];
        let dns = dns
            .into_iter()
            .flat_map(|number| [port("UDP", number), port("TCP", number)]);
        egress.push(json!({"ports": dns.collect::<Vec<_>>()}));
        egress.push(json!({"ports": out}));
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": NAME},
        "spec": {
            "podSelector": {"matchLabels": labels()},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [port("TCP", CONTAINER_PORT)]}],
            "egress": egress,
        },
    })
}

/// One at a time. Of a single replica this lets a node be drained all the same: nodes that boot meanwhile wait.
fn disruption_budget() -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": NAME},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels()}},
    })
}

fn service(wanted: &Wanted) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE},
        "spec": {
            "type": wanted.service_type,
            "selector": labels(),
            "ports": [{
                "name": PORT_NAME, "protocol": "TCP", "port": wanted.port, "targetPort": CONTAINER_PORT,
            }],
        },
    })
}

fn deployment(wanted: &Wanted, facts: &Facts, digest: &str) -> Value {
    // A volume that one node mounts is free for the next pod when the last one is gone.
    let strategy = match wanted.storage {
        Storage::LocalFs { .. } => json!({"type": "Recreate"}),
        Storage::Database { .. } => {
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}})
        }
    };
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT},
        "spec": {
            "replicas": wanted.replicas,
            "strategy": strategy,
            "selector": {"matchLabels": labels()},
            "template": {
                "metadata": {"labels": labels(), "annotations": {CONFIGURATION: digest}},
                "spec": pod(wanted, facts),
            },
        },
    })
}

fn pod(wanted: &Wanted, facts: &Facts) -> Value {
    let secret = |name: &str, secret: &str, entries: &[&str]| {
        let items: Vec<Value> = entries
            .iter()
            .map(|entry| json!({"key": entry, "path": entry}))
            .collect();
        // Read by the group of the pod and by nobody else.
        json!({"name": name, "secret": {"secretName": secret, "items": items, "defaultMode": 0o440}})
    };
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let mut volumes = vec![
        json!({"name": "config", "configMap": {"name": CONFIG_MAP}}),
        secret(
            "tls",
            &facts.tls_secret,
            &[super::tls::CERTIFICATE, super::tls::KEY],
        ),
        secret("token", TOKEN_SECRET, &[TOKEN_CERTIFICATE, TOKEN_KEY]),
        json!({"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
    ];
    let mut mounts = vec![
        mount("config", CONFIG_DIR),
        mount("tls", TLS_DIR),
        mount("token", TOKEN_DIR),
        json!({"name": "tmp", "mountPath": "/tmp"}),
    ];
    // What it logs at debug level is evidence and tokens. Collateral is kept below HOME by some verifiers.
    let mut environment = vec![
        json!({"name": "RUST_LOG", "value": "info"}),
        json!({"name": "HOME", "value": "/tmp"}),
    ];
    match &wanted.storage {
        Storage::LocalFs { .. } => {
            volumes
                .push(json!({"name": "storage", "persistentVolumeClaim": {"claimName": VOLUME}}));
            mounts.push(json!({"name": "storage", "mountPath": STORAGE_DIR}));
        }
        // The only way that a Trustee has to be told without a password in its configuration.
        Storage::Database {
            kind, url_secret, ..
        } => environment.push(json!({
            "name": kind.variable(),
            "valueFrom": {"secretKeyRef": {"name": url_secret, "key": "url"}},
        })),
    }
    let mut security = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    if let (false, Some(members)) = (facts.assigned_user, security.as_object_mut()) {
        // The image of a Trustee may say nothing, and would then be root.
        for member in ["runAsUser", "runAsGroup", "fsGroup"] {
            members.insert(member.to_owned(), json!(USER));
        }
    }
    json!({
        "automountServiceAccountToken": false,
        // Variables about every Service of the namespace: some would read as settings of the KBS.
        "enableServiceLinks": false,
        "securityContext": security,
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels()},
        }],
        "containers": [{
            "name": "kbs",
            "image": wanted.image,
            "command": ["/usr/local/bin/kbs", "--config-file", format!("{CONFIG_DIR}/{CONFIG_FILE}")],
            "env": environment,
            "ports": [{"name": PORT_NAME, "protocol": "TCP", "containerPort": CONTAINER_PORT}],
            "startupProbe": probe(wanted.version, 2, 60),
            "readinessProbe": probe(wanted.version, 5, 3),
            "livenessProbe": probe(wanted.version, 20, 6),
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    })
}

/// 0.20 has no `/healthz` (KBS protocol, compatibility traps).
fn probe(version: Version, period: u32, failures: u32) -> Value {
    let mut probe =
        json!({"periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5});
    let (kind, action) = match version {
        Version::V0_20 => ("tcpSocket", json!({"port": CONTAINER_PORT})),
        _ => (
            "httpGet",
            json!({"path": "/healthz", "port": CONTAINER_PORT, "scheme": "HTTPS"}),
        ),
    };
    if let Some(members) = probe.as_object_mut() {
        members.insert(kind.to_owned(), action);
    }
    probe
}

/// By these a pod is found; they cannot change.
fn labels() -> Value {
    json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/managed-by": OPERATOR})
}

/// Labels, and whom it belongs to.
fn own(object: &mut Value, facts: &Facts) {
    let is_kept = object["kind"] == "PersistentVolumeClaim";
    let Some(meta) = object["metadata"].as_object_mut() else {
        return;
    };
    meta.insert("labels".to_owned(), labels());
    if !is_kept {
        meta.insert("ownerReferences".to_owned(), json!([facts.owner]));
    }
}

/// Finds all of them.
pub const SELECTOR: &str =
    "app.kubernetes.io/name=trustee,app.kubernetes.io/managed-by=sheepfold-operator";
/// The Service; also what a certificate must name.
pub const SERVICE: &str = "kbs-service";
/// The Deployment.
pub const DEPLOYMENT: &str = "trustee-deployment";
/// The ConfigMap. Its entry `ca.crt` is what nodes pin.
pub const CONFIG_MAP: &str = "trustee-data";
/// The claim of the volume.
pub const VOLUME: &str = "trustee-storage";
/// The administrator's key: `admin.key`. No pod mounts it.
pub const ADMIN_SECRET: &str = "trustee-admin";
/// The token signer: `token.crt`, `token.key`.
pub const TOKEN_SECRET: &str = "trustee-token";
/// TLS that the operator made, as cert-manager would.
pub const TLS_SECRET: &str = "trustee-tls";
/// The authority behind it: `tls.crt`, `tls.key`. No pod mounts it.
pub const AUTHORITY_SECRET: &str = "trustee-ca";
/// An entry of the administrator's Secret.
pub const ADMIN_KEY: &str = "admin.key";
/// An entry of the token signer's Secret.
pub const TOKEN_KEY: &str = "token.key";
/// An entry of the token signer's Secret.
pub const TOKEN_CERTIFICATE: &str = "token.crt";
/// Where the volume is mounted.
pub const STORAGE_DIR: &str = "/var/lib/kbs";
/// The NetworkPolicy, the PodDisruptionBudget, and the label.
pub const NAME: &str = "trustee";
/// An annotation of pods: what they were started with.
pub const CONFIGURATION: &str = "trusted-execution-clusters.io/configuration";

const CONFIG_FILE: &str = "kbs-config.toml";
const ADMIN_PUBLIC: &str = "admin-public.pem";
const CONFIG_DIR: &str = "/etc/kbs/config";
const TLS_DIR: &str = "/etc/kbs/tls";
const TOKEN_DIR: &str = "/etc/kbs/token";
const PORT_NAME: &str = "kbs-port";
const CONTAINER_PORT: u16 = 8080;
const HTTPS: u16 = 443;
/// Nobody in particular; the same as the operator's own.
const USER: i64 = 65532;

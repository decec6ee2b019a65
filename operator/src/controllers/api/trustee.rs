// SPDX-License-Identifier: Apache-2.0

//! `spec.trustee`: what can be said about a Trustee that this operator runs, beside the reference project's
//! `trusteeImage`, `trusteeKbsPort`, `trusteeSecret` and `publicTrusteeAddr`.

#![allow(
    unreachable_pub,
    reason = "what KubeSchema derives repeats each struct inside a function"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Trustee that this operator runs. It needs `trusteeImage`; with `kbs` there is one outside, and this has no
/// meaning.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || self.replicas == 1 || \
        (has(self.storage) && self.storage.type != 'LocalFs')")
        .message("several replicas need a storage that they share: Postgres or Redis"),
    validation = Rule::new("!has(self.storage) || self.storage.type != 'Redis' || \
        (has(self.release) && self.release == 'main')")
        .message("Redis takes its address from the environment only in a Trustee after 0.21: say release: main")
)]
pub struct Trustee {
    /// The release of `trusteeImage`; default: what its tag says, else 0.21.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<TrusteeRelease>,
    /// How many; default: 1. More need a storage that they share.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub replicas: Option<i32>,
    /// Where it keeps everything; default: a volume of 1Gi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<TrusteeStorage>,
    /// How its Service is reached from outside; default: ClusterIP, for a Route or an Ingress that passes TLS through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_type: Option<ServiceType>,
}

/// A release of Trustee, as far as their configurations differ.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrusteeRelease {
    /// 0.20.
    #[serde(rename = "0.20")]
    V0_20,
    /// 0.21.
    #[serde(rename = "0.21")]
    V0_21,
    /// The branch after 0.21.
    #[serde(rename = "main")]
    Main,
}

/// Where a Trustee keeps policies, reference values, sessions and, in clear text, secrets.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'LocalFs' || has(self.urlSecret)")
        .message("urlSecret is needed: a Secret whose entry url says where the database is")
)]
pub struct TrusteeStorage {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: StorageKind,
    /// LocalFs: the size of its volume; default: 1Gi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// LocalFs: the StorageClass of its volume; default: that of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Postgres, Redis: a Secret whose entry `url` says where the database is, with user and password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_secret: Option<String>,
    /// Postgres, Redis: the port that the NetworkPolicy lets out to; default: 5432, 6379.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// A kind of storage that replaces what it has stored.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageKind {
    /// A directory on a volume, for one replica.
    #[default]
    LocalFs,
    /// A PostgreSQL database.
    Postgres,
    /// A Redis database that keeps what it is told (AOF).
    Redis,
}

/// The type of a Service.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Reached through something else.
    #[default]
    ClusterIP,
    /// A port of every node of this Kubernetes.
    NodePort,
    /// An address of its own.
    LoadBalancer,
}

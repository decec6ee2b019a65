// SPDX-License-Identifier: Apache-2.0

//! `TrustedExecutionCluster`: what one cluster asks of its machines, and the KBS that keeps their secrets.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "what KubeSchema derives repeats each struct inside a function; columns have types in common"
)]

use super::ignition::Ignition;
use super::machine::Runtime;
use super::registries::Registries;
use super::trustee::Trustee;
use crate::model::{Evidence, Identity};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A cluster all of whose machines are attested. One to a namespace: a KBS serves one cluster.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "trusted-execution-clusters.io",
    version = "v1alpha1",
    kind = "TrustedExecutionCluster",
    namespaced,
    status = "ClusterStatus",
    shortname = "tec",
    derive = "PartialEq",
    doc = "A cluster all of whose machines are attested. One to a namespace.",
    printcolumn(name = "KBS", type_ = "string", json_path = ".spec.kbs.url"),
    printcolumn(name = "Machines", type_ = "integer", json_path = ".status.machines"),
    printcolumn(name = "Served", type_ = "integer", json_path = ".status.served"),
    printcolumn(name = "Images", type_ = "integer", json_path = ".status.images"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.identity) == has(oldSelf.identity) && \
        (!has(self.identity) || self.identity == oldSelf.identity)")
        .message("identity cannot change: every machine would have another name"),
    validation = Rule::new("!has(self.recovery) || !has(self.recovery.passphrase) || \
        self.recovery.passphrase != 'escrowed' || \
        (has(self.recovery.evenWhenConfidential) && self.recovery.evenWhenConfidential) || \
        !has(self.evidence) || self.evidence.all(kind, kind == 'tpm')")
        .message("an escrowed passphrase lets whoever runs the KBS open disks that this evidence promises \
            to keep from them; say evenWhenConfidential: true if that is wanted")
)]
pub struct TrustedExecutionClusterSpec {
    /// A KBS that somebody else runs, to be administrated. Without it, and with `trusteeImage`, this operator runs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kbs: Option<Kbs>,
    /// What differs from the usual in the Trustee that this operator runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trustee: Option<Trustee>,
    /// Kinds of evidence, each sufficient; default: `tpm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Vec<Evidence>>,
    /// Where a machine's name comes from: its attestation key (`ak`, the default) or its init-data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// PCRs that every boot tuple must name; default: pcr04, pcr07, pcr14.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcrs: Option<Vec<String>>,
    /// How an owner gets at a disk when attestation does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// The Ignition config of every machine that has none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignition: Option<Ignition>,
    /// What the running system of every machine may read; a machine's own entries of the same names come first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// The platforms of images that are approved by reference and name none of their own, as `spec.platforms` of an
    /// ApprovedImage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platforms: Option<Vec<String>>,
    /// How to reach the registries of such images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registries: Option<Registries>,
    /// Whether this namespace keeps copies of the machines' secrets, so that a KBS that lost its storage can be
    /// filled again. `Never` (the default): only the KBS has them, and its storage needs a backup.
    /// `Namespace`: whoever reads Secrets here reads every disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<Copies>,
    /// After so many days without a sign of its TPM a machine that has unlocked is called `Stale`; default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub stale_after_days: Option<i64>,
    /// `host:port` at which nodes reach the KBS: its certificate names the host, if this operator makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_trustee_addr: Option<String>,
    /// The port of Trustee's Service; default: 8080.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trustee_kbs_port: Option<i32>,
    /// A Secret with `tls.crt`, `tls.key` and `ca.crt` for Trustee, as cert-manager makes it; default: one that this
    /// operator makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trustee_secret: Option<String>,
    /// The image of Trustee, 0.20 or newer. With it and without `kbs`, this operator runs Trustee.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trustee_image: Option<String>,
    /// Of the reference project: `host:port` at which nodes register their keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_attestation_key_register_addr: Option<String>,
    /// Of the reference project: the port of its attestation-key-register. No meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation_key_register_port: Option<i32>,
    /// Of the reference project: TLS of its attestation-key-register. No meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation_key_register_secret: Option<String>,
    /// Of the reference project: the image of its attestation-key-register. No meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation_key_register_image: Option<String>,
    /// Of the reference project: the port of its register-server. No meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub register_server_port: Option<i32>,
    /// Of the reference project: TLS of its register-server. No meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub register_server_secret: Option<String>,
    /// Of the reference project: the image of its register-server. No meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub register_server_image: Option<String>,
    /// Of the reference project: the image of its compute-pcrs. No meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcrs_compute_image: Option<String>,
}

/// How to reach a KBS as its administrator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.url.startsWith('https://') || (has(self.insecureHttp) && \
        self.insecureHttp && self.url.startsWith('http://'))")
        .message("the address of a KBS begins with https://, or with http:// under insecureHttp"),
    validation = Rule::new("!self.url.startsWith('https://') || has(self.ca)")
        .message("ca is needed: nothing else says which KBS is the right one")
)]
pub struct Kbs {
    /// `https://host:port`.
    pub url: String,
    /// Certificate authorities of the KBS, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Where the administrator's key is.
    pub admin_key: KeyReference,
    /// `iss` of the administrator's tokens; default: sheepfold-operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `role` of the administrator's tokens; default: sheepfold-operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Insist on a release of Trustee.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// Plain HTTP, for a laboratory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_http: Option<bool>,
}

/// An Ed25519 key, PKCS #8 PEM, in a Secret of this namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KeyReference {
    /// The Secret.
    pub secret: String,
    /// Its entry; default: admin.key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A release of Trustee.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 0.20.
    #[serde(rename = "0.20")]
    V0_20,
    /// 0.21 and newer.
    #[serde(rename = "0.21")]
    V0_21,
}

/// Where copies of the machines' secrets are.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// Nowhere.
    #[default]
    Never,
    /// In a Secret for each machine, in this namespace.
    Namespace,
}

/// How an owner gets at a disk when attestation does not work.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// A passphrase for a slot of its own, kept in the KBS as `default/<node>/recovery`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Passphrase>,
    /// Keep one although the evidence promises confidentiality from whoever runs the KBS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub even_when_confidential: Option<bool>,
}

/// Whether a recovery passphrase exists.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Passphrase {
    /// No.
    #[default]
    None,
    /// Yes.
    Escrowed,
}

/// How a cluster stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// `Ready`: the KBS has everything that is wanted. `Installed`: this cluster is the one of its namespace.
    /// `Deployed`, `Available`: the objects of the Trustee that this operator runs are there, and it runs.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The `metadata.generation` that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The operator that wrote this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_operator_version: Option<String>,
    /// What the KBS sounds like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Machines, whatever their state.
    #[serde(default)]
    pub machines: i64,
    /// Machines that get their secrets when they attest.
    #[serde(default)]
    pub served: i64,
    /// Approved images.
    #[serde(default)]
    pub images: i64,
}

// SPDX-License-Identifier: Apache-2.0

//! `Machine` and `AttestationKey`: who may have a secret, and the key that proves it.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "what KubeSchema derives repeats each struct inside a function; columns have types in common"
)]

use super::ignition::Ignition;
use crate::model::State;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A machine of the cluster. Deleting it deletes its secrets: its disks stay shut.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "trusted-execution-clusters.io",
    version = "v1alpha1",
    kind = "Machine",
    namespaced,
    status = "MachineStatus",
    derive = "PartialEq",
    doc = "A machine of the cluster. Deleting it deletes its secrets: its disks stay shut.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image"),
    printcolumn(
        name = "Attested",
        type_ = "date",
        json_path = ".status.lastAttestation"
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.id) || has(self.attestationKey)")
        .message("a machine is known by its attestationKey or by its id"),
    validation = Rule::new("!has(oldSelf.id) || (has(self.id) && self.id == oldSelf.id)")
        .message("id cannot change: another id is another machine"),
    validation = Rule::new("!has(oldSelf.attestationKey) || (has(self.attestationKey) && \
        self.attestationKey == oldSelf.attestationKey)")
        .message("attestationKey cannot change: another key is another machine"),
    validation = Rule::new("!has(oldSelf.rotation) || (has(self.rotation) && self.rotation >= oldSelf.rotation)")
        .message("rotation can only grow"),
    validation = Rule::new("!has(oldSelf.rebound) || (has(self.rebound) && self.rebound >= oldSelf.rebound)")
        .message("rebound can only grow"),
    validation = Rule::new("!has(oldSelf.renewal) || (has(self.renewal) && self.renewal >= oldSelf.renewal)")
        .message("renewal can only grow")
)]
pub struct MachineSpec {
    /// The name where it is assigned. With a key and `identity: ak` it is derived; then this must agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")
    )]
    pub id: Option<String>,
    /// The attestation key, as `trustee-agent status` shows it: base64 of the DER SubjectPublicKeyInfo.
    /// An AttestationKey whose `uuid` is this machine's id stands for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub attestation_key: Option<String>,
    /// The init-data that the machine was started with, to the byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_data: Option<String>,
    /// `approved` (the default), `held` (gets nothing for now, loses nothing) or `revoked` (loses its secrets).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Its volumes; default: root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<String>>,
    /// Raise it to give every volume a new secret. The old ones are kept until `rebound` is raised.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub rotation: Option<i64>,
    /// Raise it when the machine has bound its volumes to the present secrets: older ones are deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub rebound: Option<i64>,
    /// Raise it before its volumes are made anew: the ids of their keys are forgotten, and the next ones that its TPM
    /// signs count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub renewal: Option<i64>,
    /// Its Ignition config, in place of the cluster's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignition: Option<Ignition>,
    /// What its running system may read, besides what every machine may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// Of early manifests of the reference project: where the machine registered from. No meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration_address: Option<String>,
}

/// What a running system may read from the KBS, after the seal too. Whoever is root on the machine can read it: nothing that
/// opens a disk.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// A Secret of this namespace. Each of its entries becomes the resource `runtime/<node>/<entry>`, and is deleted when it
    /// is no longer there.
    pub secret: String,
}

/// How a machine stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// `KeyProvisioned`: its secrets are in the KBS. `AttestationKeyApproved`: its key is known there.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The `metadata.generation` that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The name of its node: the second segment of its resource paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it is not served, in words; empty when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When its TPM last proved something to the registrar: that its key lives in it, or that it has opened its volumes. A
    /// KBS does not report attestations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attestation: Option<Time>,
    /// The ApprovedImage that it had booted when it last said that it has opened its volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// How a machine stands, in one word.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub enum Phase {
    /// Known; its secrets are on their way into the KBS.
    #[default]
    Registered,
    /// It gets its secrets when it attests.
    Served,
    /// As `Served`; it has said, signed by its TPM, that it has opened its volumes, in a boot that is approved.
    Unlocked,
    /// As `Served`; what it last said is too old, or the boot that it said it in is no longer approved.
    Stale,
    /// As `Served`; older secrets are kept until it has bound its volumes anew.
    Rotating,
    /// It gets nothing for now.
    Held,
    /// It gets nothing: what is written down about it contradicts itself or another machine.
    Refused,
    /// It gets nothing any more, its secrets are deleted.
    Revoked,
    /// The KBS lost its secrets, and there is no copy.
    Lost,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Registered,
        Self::Served,
        Self::Unlocked,
        Self::Stale,
        Self::Rotating,
        Self::Held,
        Self::Refused,
        Self::Revoked,
        Self::Lost,
    ];

    /// Whether such a machine gets its secrets when it attests.
    pub fn is_served(self) -> bool {
        matches!(
            self,
            Self::Served | Self::Unlocked | Self::Stale | Self::Rotating
        )
    }
}

/// An attestation key that a registrar has taken in. Belongs to the Machine whose id is its uuid.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "trusted-execution-clusters.io",
    version = "v1alpha1",
    kind = "AttestationKey",
    namespaced,
    status = "AttestationKeyStatus",
    shortname = "ak",
    derive = "PartialEq",
    doc = "An attestation key that a registrar has taken in. Belongs to the Machine whose id is its uuid.",
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(
        name = "Approved",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Approved\")].status"
    ),
    printcolumn(name = "Basis", type_ = "string", json_path = ".spec.basis"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.publicKey == oldSelf.publicKey")
        .message("publicKey cannot change: another key is another object")
)]
pub struct AttestationKeySpec {
    /// Base64 of the DER SubjectPublicKeyInfo.
    #[schemars(length(min = 1, max = 1024))]
    pub public_key: String,
    /// The id of the Machine that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// SHA-256 of the endorsement key of its TPM, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endorsement_key_sha256: Option<String>,
    /// The rule by which the registrar let it in: `ek-certificate`, `ek-allow-list` or `first-use`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
    /// What the machine called itself when it enrolled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
}

/// How a key stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AttestationKeyStatus {
    /// `Approved`: a Machine has this key's uuid, and the KBS knows the key.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The `metadata.generation` that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The node id that this key makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

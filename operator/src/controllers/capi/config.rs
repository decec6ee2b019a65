// SPDX-License-Identifier: Apache-2.0

//! `AttestedConfig`, and its template for MachineDeployments and MachineSets; and the pointer that a machine gets instead
//! of its bootstrap data.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "what KubeSchema derives repeats each struct inside a function; columns have types in common"
)]

use crate::controllers::api::Ignition;
use crate::ignition::SpecVersion;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Bootstrap data that a machine gets when it has attested, and not before.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "trusted-execution-clusters.io",
    version = "v1alpha1",
    kind = "AttestedConfig",
    namespaced,
    status = "AttestedConfigStatus",
    derive = "PartialEq",
    doc = "Bootstrap data that a machine of Cluster API gets when it has attested, and not before.",
    printcolumn(
        name = "Secret",
        type_ = "string",
        json_path = ".status.dataSecretName"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"DataSecretAvailable\")].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.registrar) || self.registrar.startsWith('https://')")
        .message("the address of the registrar begins with https://")
)]
pub struct AttestedConfigSpec {
    /// What is wrapped: an Ignition config in a Secret, from whichever provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigReference>,
    /// `https://host:port` of the registrar, whose `GET /ignition` says which volumes to encrypt. Left out for images whose
    /// agent takes its whole config out of the attestation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registrar: Option<String>,
    /// Certificate authorities of the registrar, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// An Ignition config in a Secret of this namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigReference {
    /// The Secret.
    pub secret: String,
    /// Its entry; default: value, where bootstrap providers put what they make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl From<ConfigReference> for Ignition {
    fn from(reference: ConfigReference) -> Self {
        let key = reference.key.unwrap_or_else(|| ENTRY.to_owned());
        Self {
            secret: reference.secret,
            key: Some(key),
            luks: None,
        }
    }
}

/// How it stands; the members that the contract asks for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AttestedConfigStatus {
    /// The Secret with the pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_secret_name: Option<String>,
    /// Contract v1beta2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialization: Option<Initialization>,
    /// Contract v1beta1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// `DataSecretAvailable`.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

/// Contract v1beta2: what has happened once.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Initialization {
    /// The data secret is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_secret_created: Option<bool>,
}

/// AttestedConfigs for the machines of a set.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "trusted-execution-clusters.io",
    version = "v1alpha1",
    kind = "AttestedConfigTemplate",
    namespaced,
    derive = "PartialEq",
    doc = "AttestedConfigs for the machines of a set."
)]
pub struct AttestedConfigTemplateSpec {
    /// Each of them.
    pub template: Template,
}

/// One of them.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
pub struct Template {
    /// As of an AttestedConfig.
    pub spec: AttestedConfigSpec,
}

/// The user data of a machine: an Ignition config that holds no secret. With a registrar, it merges what that says; without
/// one it is empty, because the agent brings the config.
pub fn pointer(spec: &AttestedConfigSpec) -> Value {
    let mut ignition = json!({"version": SpecVersion::V3_4.as_str()});
    let Some(members) = ignition.as_object_mut() else {
        return Value::Null;
    };
    if let Some(registrar) = &spec.registrar {
        let address = format!(
            "{}{}",
            registrar.trim_end_matches('/'),
            crate::register::ignition::PATH
        );
        members.insert("config".to_owned(), json!({"merge": [{"source": address}]}));
    }
    if let Some(ca) = &spec.ca {
        let source = format!("data:;base64,{}", STANDARD.encode(ca));
        let authorities = json!({"tls": {"certificateAuthorities": [{"source": source}]}});
        members.insert("security".to_owned(), authorities);
    }
    json!({"ignition": ignition})
}

const ENTRY: &str = "value";

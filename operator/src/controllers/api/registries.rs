// SPDX-License-Identifier: Apache-2.0

//! `spec.registries` of a cluster: where the images come from that this operator looks through.

#![allow(
    unreachable_pub,
    reason = "what JsonSchema derives repeats each struct inside a function"
)]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How to reach the registries of approved images.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Registries {
    /// A Secret of this namespace with credentials, type `kubernetes.io/dockerconfigjson`. An image may name another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<String>,
    /// Certificate authorities of the registries, PEM; default: those of the operator's container. Entry: `ca.crt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<ConfigMapEntry>,
    /// `HOST=MIRROR[/PREFIX]`: ask this mirror first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirrors: Option<Vec<String>>,
    /// Speak to these hosts without TLS, in a laboratory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain_http: Option<Vec<String>>,
    /// Insist on a signature by this public key (PEM), as cosign keeps it beside an image. Entry: `cosign.pub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosign_key: Option<ConfigMapEntry>,
}

/// An entry of a ConfigMap of this namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapEntry {
    /// The ConfigMap.
    pub config_map: String,
    /// Its entry, where it has not the usual name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

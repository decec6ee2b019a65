// SPDX-License-Identifier: Apache-2.0

//! Our objects in a cluster: group `trusted-execution-clusters.io`, version `v1alpha1`. `sheepfold-operator
//! crds` prints their definitions.
//!
//! What is a file for `provision` is an object here, with the same names of the same fields. Fields that only
//! manifests of the reference project have (github.com/trusted-execution-clusters/operator) are accepted, so
//! that those apply unchanged; what has no meaning here says so in its description.
//!
//! Texts stay texts: an object whose text is malformed must not keep the list of all objects from being read.
//! [`inventory`](super::inventory) parses them, and enforces the rules (CEL) that an API server before 1.25
//! does not know.

mod cluster;
mod ignition;
mod image;
mod machine;
mod registries;
mod trustee;

pub use cluster::{
    ClusterStatus, Copies, Kbs, KeyReference, Passphrase, Recovery, Release,
    TrustedExecutionCluster, TrustedExecutionClusterSpec,
};
pub use ignition::{Filesystem, Format, Ignition, Luks};
pub use image::{
    ApprovedImage, ApprovedImageSpec, ApprovedImageStatus, Boot, Computed, ComputedBoot,
    ReferenceValues, TcbFloor,
};
pub use machine::{
    AttestationKey, AttestationKeySpec, AttestationKeyStatus, Machine, MachineSpec, MachineStatus,
    Phase, Runtime,
};
pub use registries::{ConfigMapEntry, Registries};
pub use trustee::{ServiceType, StorageKind, Trustee, TrusteeRelease, TrusteeStorage};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// The group of all objects.
pub const GROUP: &str = "trusted-execution-clusters.io";

/// All definitions, in the order in which they are printed.
pub fn crds() -> [CustomResourceDefinition; 4] {
    [
        TrustedExecutionCluster::crd(),
        ApprovedImage::crd(),
        Machine::crd(),
        AttestationKey::crd(),
    ]
}

/// The definitions as one YAML text, as it lies in `operator/deploy/crds.yaml`.
///
/// # Errors
/// None for definitions that were derived; the type says so because YAML cannot hold everything.
pub fn crds_yaml() -> Result<String, serde_saphyr::ser::Error> {
    definitions_yaml("crds", &crds())
}

/// Definitions as one YAML text, which says what writes it.
pub(super) fn definitions_yaml(
    command: &str,
    crds: &[CustomResourceDefinition],
) -> Result<String, serde_saphyr::ser::Error> {
    let mut text = format!("# Written by `sheepfold-operator {command}`; a test compares.\n");
    for crd in crds {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(crd)?);
    }
    Ok(text)
}

#[cfg(test)]
pub(crate) mod tests;

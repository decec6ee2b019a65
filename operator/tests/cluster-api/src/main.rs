// SPDX-License-Identifier: Apache-2.0

//! Prints, as JSON, the CustomResourceDefinition of Cluster API's Machine (`machines.cluster.x-k8s.io`, v1beta2), made from
//! the types that `cluster-api-rs` generates from the one of a release: its fields, their types, which of them are required.
//! Patterns, limits and rules are not in those types.

use kube::CustomResourceExt as _;

fn main() -> serde_json::Result<()> {
    serde_json::to_writer(
        std::io::stdout(),
        &cluster_api_rs::capi_machine::Machine::crd(),
    )
}

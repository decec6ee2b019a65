// SPDX-License-Identifier: Apache-2.0

//! Copies of the machines' secrets: one Secret for each machine, owned by its Machine, where the cluster says
//! `copies: Namespace`. A copy is there before the KBS has the secret, so a KBS that lost its storage can be
//! filled again, and an interrupted write does not cost a secret.

use super::api;
use super::record::{LABEL, MANAGED_BY};
use super::secrets::Vault;
use crate::model::{Machine, NodeName};
use crate::provision::Error;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as Object;
use kbs_protocol::Secret;
use kbs_protocol::encoding::hex;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams};
use kube::{Client, Resource as _, ResourceExt as _};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use tokio::runtime::Handle;

/// The copies of one cluster.
pub struct Store {
    api: Api<Object>,
    runtime: Handle,
    cluster: String,
}

impl Store {
    /// Of this cluster.
    pub fn new(client: Client, namespace: &str, cluster: &str, runtime: Handle) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            runtime,
            cluster: cluster.to_owned(),
        }
    }

    /// Takes the copies of these nodes into the vault.
    ///
    /// # Errors
    /// [`Error::ApiServer`].
    pub fn recall(&self, nodes: &BTreeSet<NodeName>, vault: &mut Vault) -> Result<(), Error> {
        let failed = |error: kube::Error| Error::api("read the copies of secrets", &error);
        if nodes.len() <= FEW {
            for node in nodes {
                let found = self.runtime.block_on(self.api.get_opt(&name(node)));
                if let Some(object) = found.map_err(failed)? {
                    take_in(object, node, vault);
                }
            }
            return Ok(());
        }
        let mut params = ListParams::default()
            .labels(&format!("{LABEL}={}", self.cluster))
            .limit(PAGE);
        loop {
            let page = self
                .runtime
                .block_on(self.api.list(&params))
                .map_err(failed)?;
            params.continue_token = page.metadata.continue_.clone();
            for object in page {
                let node = object.annotations().get(NODE).map(|node| node.parse());
                if let Some(Ok(node)) = node
                    && nodes.contains(&node)
                {
                    take_in(object, &node, vault);
                }
            }
            if params.continue_token.as_ref().is_none_or(String::is_empty) {
                return Ok(());
            }
        }
    }

    /// Makes the copy of a machine what is wanted for it, as far as the bytes are at hand: a secret that was
    /// stored before copies were wanted has none.
    ///
    /// # Errors
    /// [`Error::ApiServer`].
    pub fn keep(
        &self,
        owner: &api::Machine,
        node: &NodeName,
        machine: &Machine,
        vault: &Vault,
    ) -> Result<(), Error> {
        let data: BTreeMap<String, ByteString> = machine
            .secrets
            .iter()
            // What is no secret of ours comes from somewhere else again.
            .filter(|(_, id)| !id.is_made_elsewhere())
            .filter_map(|(tag, id)| {
                let bytes = vault.bytes.get(id)?.expose().to_vec();
                Some((tag.to_string(), ByteString(bytes)))
            })
            .collect();
        let labels = [
            (LABEL, self.cluster.as_str()),
            (MANAGED_BY, crate::kbs_admin::NAME),
        ];
        let object = Object {
            metadata: ObjectMeta {
                name: Some(name(node)),
                labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
                annotations: Some([(NODE.to_owned(), node.to_string())].into()),
                owner_references: owner.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            data: Some(data),
            type_: Some(TYPE.to_owned()),
            ..Object::default()
        };
        let params = PatchParams::apply(crate::kbs_admin::NAME).force();
        let patch = Patch::Apply(&object);
        let name = name(node);
        self.runtime
            .block_on(self.api.patch(&name, &params, &patch))
            .map(drop)
            .map_err(|error| Error::api("keep a copy of a secret", &error))
    }
}

fn take_in(object: Object, node: &NodeName, vault: &mut Vault) {
    for (tag, bytes) in object.data.unwrap_or_default() {
        let path = tag.parse().map(|tag: crate::model::Tag| tag.path(node));
        if let Ok(Ok(path)) = path {
            vault.recall_copy(path.to_string(), Secret::new(bytes.0));
        }
    }
}

/// A node's name may have characters that an object's name may not.
fn name(node: &NodeName) -> String {
    let digest = hex::encode(Sha256::digest(node.to_string()));
    format!("sheepfold-copy-{}", digest.get(..32).unwrap_or_default())
}

/// So many are asked for one by one.
const FEW: usize = 32;
const PAGE: u32 = 250;
const NODE: &str = "trusted-execution-clusters.io/node";
const TYPE: &str = "trusted-execution-clusters.io/machine-secrets";

#[cfg(test)]
mod tests;

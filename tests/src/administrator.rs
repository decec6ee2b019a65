// SPDX-License-Identifier: Apache-2.0
//! What the administrator of a [`World`] does, through the KBS's admin API: approve a node, store its secret.
//! The tests, the demo and the benchmark enrol their node with it.

use anyhow::{Context as _, Result};
use kbs_protocol::Secret;
use kbs_protocol::encoding::hex;
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::resource_secret::ResourceSecret;
use serde_json::{Value, json};

use crate::world::{Node, PATH, World};

/// The secret of a node's volume as the KBS keeps it.
pub struct Stored {
    /// The resource's bytes.
    pub content: Secret,
    /// The 256-bit key inside.
    pub key: Secret,
    /// Where it is stored.
    pub path: ResourcePath,
}

impl World {
    /// Tells the KBS, as its administrator, that this key belongs to this node, and that the node's present
    /// boot is a good one.
    ///
    /// # Errors
    /// The KBS refuses.
    pub fn enrol(&self, node: &Node) -> Result<()> {
        let owner = json!({ &node.ak_public: node.id.to_string() });
        self.set_reference_value(&Self::shard(node)?, &owner)?;
        let tuple = boot_tuple(&self.tpm.read_pcrs()?);
        self.set_reference_value("boot_tuples", &json!([tuple]))
    }

    /// The reference value that holds this node's entry in the map from key to node id. The map is cut into
    /// many, by two characters of the key; the attestation policy computes the same name.
    ///
    /// # Errors
    /// The key is too short to be one.
    pub fn shard(node: &Node) -> Result<String> {
        let shard = node.ak_public.get(60..62).context("a short key")?;
        Ok(format!(
            "node_ak_{}",
            shard.replace('+', "-").replace('/', "_")
        ))
    }

    /// Sets one reference value of the KBS.
    ///
    /// # Errors
    /// The KBS refuses.
    pub fn set_reference_value(&self, name: &str, value: &serde_json::Value) -> Result<()> {
        self.lab
            .admin(&["set-reference-value", name, &value.to_string()], b"")?;
        Ok(())
    }

    /// Makes a new secret for the node's root volume and stores it in the KBS.
    ///
    /// # Errors
    /// The KBS refuses.
    pub fn store_secret(&self, node: &Node) -> Result<Stored> {
        self.store_secret_at(node, PATH)
    }

    /// As [`World::store_secret`], at another path of the node.
    ///
    /// # Errors
    /// The KBS refuses.
    pub fn store_secret_at(&self, node: &Node, path: &str) -> Result<Stored> {
        let path = ResourcePath::expand(path, &node.id)?;
        let secret = ResourceSecret::generate(&node.id, &path)?;
        let content = secret.to_json()?;
        self.lab
            .admin(&["set-resource", path.as_str()], content.expose())?;
        Ok(Stored {
            content,
            key: Secret::new(secret.key().to_vec()),
            path,
        })
    }
}

/// What is approved of a boot that shows these PCRs: `{"pcr04": hex, ...}`.
pub(crate) fn boot_tuple(pcrs: &[[u8; 32]]) -> Value {
    let member = |&index: &usize| {
        let value = hex::encode(pcrs.get(index)?);
        Some((format!("pcr{index:02}"), Value::String(value)))
    };
    BOOT_PCRS.iter().filter_map(member).collect()
}

/// Boot loader code, Secure Boot state, and the machine-owner keys: what a tuple usually names.
const BOOT_PCRS: [usize; 3] = [4, 7, 14];

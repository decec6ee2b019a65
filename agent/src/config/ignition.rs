// SPDX-License-Identifier: Apache-2.0

//! `[ignition]`: that this node takes its Ignition config out of an attestation, and which. Read by
//! `trustee-agent fetch-config`; `dracut` looks for the table when it builds the image.

use super::{ConfigError, Problem, raw};
use kbs_protocol::NodeId;
use kbs_protocol::resource::ResourcePath;

/// `[ignition]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignition {
    path: String,
}

impl Ignition {
    pub(super) fn parse(raw: raw::Ignition) -> Result<Self, ConfigError> {
        let some_node = NodeId::from_spki_der(b"");
        ResourcePath::expand(&raw.path, &some_node).map_err(|error| {
            let cure = "write repository/type/tag, for example default/{node}/ignition";
            let problem = Problem::new(error.to_string(), cure);
            ConfigError::value("ignition.path", &raw.path, problem)
        })?;
        Ok(Self { path: raw.path })
    }

    /// As it is written, with `{node}`.
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Where the config of this node lies in the KBS.
    ///
    /// # Errors
    /// None after a successful check: ids of nodes are all alike.
    pub fn path(&self, node: &NodeId) -> Result<ResourcePath, kbs_protocol::Error> {
        ResourcePath::expand(&self.path, node)
    }
}

// SPDX-License-Identifier: Apache-2.0

//! `spec.ignition`: the config that Ignition takes out of an attestation.

#![allow(
    unreachable_pub,
    reason = "what JsonSchema derives repeats each struct inside a function"
)]

use crate::ignition::Integrity;
use crate::provision::objects;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The config that a machine's Ignition gets from the KBS, at `default/<node>/ignition`, when it has attested. It may
/// hold secrets, so it lies in a Secret.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Ignition {
    /// A Secret of this namespace.
    pub secret: String,
    /// Its entry with the JSON text of the config; default: config.ign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Volumes that are encrypted besides and bound to the pin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub luks: Option<Vec<Luks>>,
}

/// A volume that Ignition encrypts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Luks {
    /// The opened device is `/dev/mapper/<name>`.
    pub name: String,
    /// What is encrypted: a path below `/dev`.
    pub device: String,
    /// Of the LUKS2 header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Of the LUKS2 header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Lose what is on the device (the default); otherwise the boot fails where there is anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wipe_volume: Option<bool>,
    /// What authenticates its sectors; default: none. As `unlock.integrity` in `agent.toml` of the image demands it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integrity: Option<Integrity>,
    /// Pass discards to the device; not where sectors are authenticated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard: Option<bool>,
    /// What is made on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<Filesystem>,
}

/// A file system on an encrypted volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Filesystem {
    /// Its type.
    pub format: Format,
    /// Its label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Where it is mounted while Ignition writes files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A type of file system that Ignition makes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// ext4(5).
    Ext4,
    /// xfs(5).
    #[default]
    Xfs,
    /// btrfs(5).
    Btrfs,
}

impl From<&Luks> for objects::Luks {
    fn from(luks: &Luks) -> Self {
        let luks = luks.clone();
        Self {
            name: luks.name,
            device: luks.device,
            label: luks.label,
            uuid: luks.uuid,
            wipe_volume: luks.wipe_volume.unwrap_or(true),
            integrity: luks.integrity.unwrap_or_default(),
            discard: luks.discard.unwrap_or_default(),
            filesystem: luks.filesystem.map(|wanted| objects::Filesystem {
                format: match wanted.format {
                    Format::Ext4 => objects::Format::Ext4,
                    Format::Xfs => objects::Format::Xfs,
                    Format::Btrfs => objects::Format::Btrfs,
                },
                label: wanted.label,
                path: wanted.path,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Luks;
    use crate::ignition::Integrity;
    use crate::provision::objects;
    use serde_json::json;

    #[test]
    fn what_an_object_leaves_out_is_what_a_file_leaves_out() {
        let read = |more: serde_json::Value| {
            let mut luks = json!({"name": "root", "device": "/dev/vda4"});
            for (member, value) in more.as_object().unwrap() {
                luks[member] = value.clone();
            }
            let object: Luks = serde_json::from_value(luks.clone()).unwrap();
            let file: objects::Luks = serde_json::from_value(luks).unwrap();
            let object = objects::Luks::from(&object);
            assert_eq!(format!("{object:?}"), format!("{file:?}"));
            object
        };
        let plain = read(json!({}));
        assert!(plain.wipe_volume && !plain.discard);
        assert_eq!(plain.integrity, Integrity::None);
        let all = read(json!({
            "label": "l", "uuid": "u", "wipeVolume": false, "integrity": "hmac-sha256", "discard": true,
            "filesystem": {"format": "ext4", "label": "x", "path": "/x"},
        }));
        assert_eq!(all.integrity, Integrity::HmacSha256);
    }
}

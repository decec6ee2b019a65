// SPDX-License-Identifier: Apache-2.0

//! The Ignition config of a machine, for the KBS to give to that machine alone: what an administrator wrote, with
//! the volumes that are to be encrypted merged into it. What a node would refuse is refused here, before it is
//! stored: the same crate judges at both ends.

use super::objects;
use crate::ignition::{self, Existing, Filesystem, Format, Fragment, SpecVersion, Volume};
use crate::model::SecretId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ignition_config::check;
use kbs_protocol::encoding::hex;
use kbs_protocol::{Blame as _, Secret};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// A config that may be stored.
pub struct Config {
    text: Secret,
    id: SecretId,
}

impl Config {
    /// From the text of a config and the volumes that it is to encrypt besides.
    ///
    /// # Errors
    /// A sentence without any of the text: what is wrong and what to do about it.
    pub fn new(text: Secret, luks: &[objects::Luks]) -> Result<Self, String> {
        let refused = |error: ignition_config::Error| format!("{error}; {}", error.advice());
        let facts = check(&text).map_err(refused)?;
        let text = match luks {
            [] => text,
            _ if facts.replaced => {
                return Err(
                    "ignition.config.replace leaves no place for luks: put the volumes into the config that \
                     replaces"
                        .to_owned(),
                );
            }
            luks => {
                let merged = merge(&text, &fragment(luks, facts.version)?)?;
                check(&merged).map_err(refused)?;
                merged
            }
        };
        let id = SecretId(format!(
            "config-{}",
            hex::encode(
                Sha256::digest(text.expose())
                    .get(..ID_LENGTH)
                    .unwrap_or_default()
            )
        ));
        Ok(Self { text, id })
    }

    /// The bytes to store.
    pub fn text(&self) -> Secret {
        Secret::new(self.text.expose().to_vec())
    }

    /// Another text has another id.
    pub fn id(&self) -> &SecretId {
        &self.id
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// The volumes as a config of their own, in the version of the one that it becomes a part of.
fn fragment(luks: &[objects::Luks], version: &'static str) -> Result<String, String> {
    let said = |error: ignition::Error| format!("{error}; {}", error.advice());
    let spec = SpecVersion::ALL
        .into_iter()
        .find(|spec| spec.as_str() == version);
    let spec = spec.ok_or_else(|| {
        format!(
            "specification {version} cannot encrypt a volume, expected a config of 3.2.0 or newer"
        )
    })?;
    let volumes: Result<_, ignition::Error> = luks.iter().map(volume).collect();
    let fragment = Fragment {
        volumes: volumes.map_err(said)?,
    };
    fragment.render(spec).map_err(said)
}

fn volume(luks: &objects::Luks) -> Result<Volume, ignition::Error> {
    let mut volume = Volume::new(luks.name.parse()?, luks.device.parse()?);
    volume.label = optional(luks.label.as_ref())?;
    volume.uuid = optional(luks.uuid.as_ref())?;
    volume.integrity = luks.integrity;
    volume.discard = luks.discard;
    if !luks.wipe_volume {
        volume.existing = Existing::Refuse;
    }
    if let Some(wanted) = &luks.filesystem {
        volume.filesystem = Some(Filesystem {
            format: match wanted.format {
                objects::Format::Ext4 => Format::Ext4,
                objects::Format::Xfs => Format::Xfs,
                objects::Format::Btrfs => Format::Btrfs,
            },
            label: optional(wanted.label.as_ref())?,
            path: optional(wanted.path.as_ref())?,
        });
    }
    Ok(volume)
}

fn optional<T: FromStr>(text: Option<&String>) -> Result<Option<T>, T::Err> {
    text.map(|text| text.parse()).transpose()
}

/// Names the fragment in `ignition.config.merge`, after all others: of two that say something about one volume
/// the last one counts (Ignition configuration specification, `ignition.config.merge`).
fn merge(text: &Secret, fragment: &str) -> Result<Secret, String> {
    let unusual =
        || "ignition.config.merge is no list, or a name is not spelled as the specification does";
    let mut config: Value = serde_json::from_slice(text.expose()).map_err(|error| {
        format!(
            "not JSON at line {}, column {}",
            error.line(),
            error.column()
        )
    })?;
    let merge = config
        .get_mut("ignition")
        .and_then(Value::as_object_mut)
        .ok_or_else(unusual)?
        .entry("config")
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or_else(unusual)?
        .entry("merge")
        .or_insert_with(|| json!([]))
        .as_array_mut()
        .ok_or_else(unusual)?;
    let source = format!("data:;base64,{}", STANDARD.encode(fragment));
    merge.push(json!({ "source": source }));
    Ok(Secret::new(config.to_string().into_bytes()))
}

/// Bytes of the digest in an id.
const ID_LENGTH: usize = 16;

#[cfg(test)]
mod tests;

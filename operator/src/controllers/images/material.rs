// SPDX-License-Identifier: Apache-2.0

//! What a scan needs from the namespace: credentials from a Secret, authorities, keys and platforms from ConfigMaps. All
//! of it stays in memory.

use super::problem::Problem;
use crate::controllers::api;
use k8s_openapi::api::core::v1::{ConfigMap, Secret as Object};
use kbs_protocol::Secret;
use kbs_protocol::encoding::hex;
use kube::Client;
use kube::api::Api;
use measured_boot::platform::PlatformFacts;
use refvals::{Given, platform};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

/// Reads Secrets and ConfigMaps of one namespace.
pub(super) struct Material {
    secrets: Api<Object>,
    config_maps: Api<ConfigMap>,
    runtime: Handle,
}

impl Material {
    pub(super) fn new(client: &Client, namespace: &str, runtime: &Handle) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
            runtime: runtime.clone(),
        }
    }

    /// Credentials, as a pod's pull Secret has them, with the field that names it. Without a Secret there are none: those
    /// of whoever started this program are not for an object to use.
    pub(super) fn credentials(
        &self,
        image: &str,
        secret: Option<(&str, &'static str)>,
    ) -> Result<Given, Problem> {
        let Some((name, setting)) = secret else {
            return Ok(Given::bytes("no pull Secret", Secret::new(b"{}".to_vec())));
        };
        let found = self.runtime.block_on(self.secrets.get_opt(name));
        let found = found.map_err(|error| Problem::api(image, "read its pull Secret", &error))?;
        let mut data = found.and_then(|object| object.data).unwrap_or_default();
        match data.remove(PULL_ENTRY) {
            Some(bytes) => {
                Ok(Given::bytes(format!("Secret {name:?}"), Secret::new(bytes.0)).by(setting))
            }
            None => Err(Problem::spec(
                image,
                "NoPullSecret",
                format!(
                    "there is no Secret {name:?} with an entry {PULL_ENTRY:?} in this namespace: make it (`kubectl create \
                     secret docker-registry`)"
                ),
            )),
        }
    }

    /// An entry of a ConfigMap, if this field names one, and its SHA-256.
    pub(super) fn entry(
        &self,
        image: &str,
        (entry, setting): (Option<&api::ConfigMapEntry>, &'static str),
        usual: &str,
    ) -> Result<Option<(Given, String)>, Problem> {
        let Some(entry) = entry else {
            return Ok(None);
        };
        let key = entry.key.as_deref().unwrap_or(usual);
        let bytes = self.config_map(image, &entry.config_map, key)?;
        let name = format!("ConfigMap {:?}", entry.config_map);
        let digest = hex::encode(Sha256::digest(&bytes));
        let given = Given::bytes(name, Secret::new(bytes)).by(setting);
        Ok(Some((given, digest)))
    }

    /// A platform, and the bytes that it was read from.
    pub(super) fn platform(
        &self,
        image: &str,
        source: &str,
    ) -> Result<(PlatformFacts, Vec<u8>), Problem> {
        let failed = |error| Problem::of(image, &error, None);
        if source.starts_with("profile:") {
            let facts = platform::load(source, None).map_err(failed)?;
            return Ok((facts, source.as_bytes().to_vec()));
        }
        let Some((name, key)) = config_map(source) else {
            return Err(Problem::spec(
                image,
                "InvalidSpec",
                format!(
                    "{source:?} is no platform: expected profile:NAME or configmap:NAME[/ENTRY]"
                ),
            ));
        };
        let bytes = self.config_map(image, name, key)?;
        let facts = platform::from_bytes(name, source, &bytes).map_err(failed)?;
        Ok((facts, bytes))
    }

    fn config_map(&self, image: &str, name: &str, key: &str) -> Result<Vec<u8>, Problem> {
        let found = self.runtime.block_on(self.config_maps.get_opt(name));
        let found = found.map_err(|error| Problem::api(image, "read a ConfigMap", &error))?;
        let found = found.unwrap_or_default();
        let text = found.data.unwrap_or_default().remove(key);
        let binary = found.binary_data.unwrap_or_default().remove(key);
        let bytes = text.map(String::into_bytes).or(binary.map(|bytes| bytes.0));
        bytes.ok_or_else(|| {
            Problem::spec(
                image,
                "NoConfigMap",
                format!("there is no ConfigMap {name:?} with an entry {key:?} in this namespace: make it"),
            )
        })
    }
}

/// The ConfigMaps in a row of platforms.
pub(super) fn config_maps(row: &str) -> impl Iterator<Item = &str> {
    row.split(',')
        .filter_map(|source| Some(config_map(source)?.0))
}

fn config_map(source: &str) -> Option<(&str, &str)> {
    let place = source.strip_prefix("configmap:")?;
    Some(place.split_once('/').unwrap_or((place, PLATFORM_ENTRY)))
}

/// Of Secrets of the type `kubernetes.io/dockerconfigjson`.
const PULL_ENTRY: &str = ".dockerconfigjson";
const PLATFORM_ENTRY: &str = "platform.json";

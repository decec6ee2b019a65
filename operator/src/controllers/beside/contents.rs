// SPDX-License-Identifier: Apache-2.0

//! Secrets that objects name: an Ignition config, or what running systems may read. In one round each is read and judged
//! once, however many machines get of it.

use crate::controllers::{Error, api};
use crate::model::Tag;
use crate::provision::ignition::Config;
use crate::provision::runtime::{Resource, Resources};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as Object;
use kbs_protocol::Secret;
use kube::Client;
use kube::api::Api;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What was read in one round.
pub struct Contents {
    secrets: Api<Object>,
    runtime: Handle,
    configs: BTreeMap<String, Judged<Arc<Config>>>,
    resources: BTreeMap<String, Judged<Arc<Named>>>,
}

/// What may be stored, or a sentence.
type Judged<T> = Result<T, String>;

/// The resources in a Secret.
#[derive(Debug, Default)]
pub struct Named {
    /// Those that may be stored.
    pub good: Resources,
    /// Sentences about the others.
    pub wrong: Vec<String>,
}

impl Contents {
    /// For one namespace.
    pub fn new(client: &Client, namespace: &str, runtime: &Handle) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            runtime: runtime.clone(),
            configs: BTreeMap::new(),
            resources: BTreeMap::new(),
        }
    }

    /// An Ignition config.
    ///
    /// # Errors
    /// [`crate::provision::Error::ApiServer`].
    pub fn config(&mut self, wanted: &api::Ignition) -> Result<Judged<Arc<Config>>, Error> {
        let key = serde_json::to_string(wanted).unwrap_or_default();
        if let Some(read) = self.configs.get(&key) {
            return Ok(read.clone());
        }
        let judged = self.judge(wanted)?;
        self.configs.insert(key, judged.clone());
        Ok(judged)
    }

    fn judge(&self, wanted: &api::Ignition) -> Result<Judged<Arc<Config>>, Error> {
        let entry = wanted.key.as_deref().unwrap_or(ENTRY);
        let mut data = self.read(&wanted.secret)?.unwrap_or_default();
        let Some(text) = data.remove(entry) else {
            let name = &wanted.secret;
            return Ok(Err(format!(
                "there is no Secret {name:?} with an entry {entry:?} in this namespace, where its Ignition config \
                 should be"
            )));
        };
        let luks: Vec<_> = wanted.luks.iter().flatten().map(Into::into).collect();
        let config = Config::new(Secret::new(text.0), &luks);
        Ok(config
            .map(Arc::new)
            .map_err(|why| format!("the Ignition config in Secret {:?}: {why}", wanted.secret)))
    }

    /// What running systems may read: each entry of a Secret, by its name.
    ///
    /// # Errors
    /// [`crate::provision::Error::ApiServer`].
    pub fn resources(&mut self, secret: &str) -> Result<Judged<Arc<Named>>, Error> {
        if let Some(read) = self.resources.get(secret) {
            return Ok(read.clone());
        }
        let judged = self.read(secret)?.map(|data| Arc::new(named(secret, data)));
        let judged = judged.ok_or_else(|| {
            format!(
                "there is no Secret {secret:?} in this namespace, where what its running system may read should be"
            )
        });
        self.resources.insert(secret.to_owned(), judged.clone());
        Ok(judged)
    }

    fn read(&self, secret: &str) -> Result<Option<BTreeMap<String, ByteString>>, Error> {
        let found = self.runtime.block_on(self.secrets.get_opt(secret));
        let found =
            found.map_err(|error| Error::api("read a Secret that an object names", &error))?;
        Ok(found.map(|object| object.data.unwrap_or_default()))
    }
}

fn named(secret: &str, data: BTreeMap<String, ByteString>) -> Named {
    let mut named = Named::default();
    for (name, bytes) in data {
        let resource = Resource::new(Secret::new(bytes.0));
        match (name.parse::<Tag>(), resource) {
            (Ok(tag), Ok(resource)) => drop(named.good.insert(tag, Arc::new(resource))),
            (Err(_), _) => named.wrong.push(format!(
                "{name:?} in Secret {secret:?} cannot be the last segment of a path in the KBS"
            )),
            (_, Err(why)) => {
                named.wrong.push(format!(
                    "the runtime resource {name} in Secret {secret:?} {why}"
                ));
            }
        }
    }
    named
}

const ENTRY: &str = "config.ign";

// SPDX-License-Identifier: Apache-2.0

//! The keys and certificates of a Trustee that is run here, in Secrets: made once and found again, whoever deletes the
//! cluster; a certificate anew when its names or its end ask for it.

use super::MANAGER;
use crate::controllers::{Error, log};
use crate::trustee::render;
use crate::trustee::tls::{self, Tls};
use crate::trustee::{Storage, Wanted, keys, service_names};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as Object;
use kbs_protocol::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use std::collections::BTreeMap;
use std::time::SystemTime;
use tokio::runtime::Handle;

/// The Secrets of one namespace.
pub(super) struct Keys {
    secrets: Api<Object>,
    namespace: String,
    runtime: Handle,
}

impl Keys {
    pub(super) fn new(client: &Client, namespace: &str, runtime: &Handle) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            runtime: runtime.clone(),
        }
    }

    /// Our own key: made once, then kept, whoever deletes the cluster.
    pub(super) fn admin_key(&self) -> Result<Secret, Error> {
        let entries = self.made_once(render::ADMIN_SECRET, "Opaque", || {
            let key = keys::admin()?;
            Ok(BTreeMap::from([(render::ADMIN_KEY, key.expose().to_vec())]))
        })?;
        entry(render::ADMIN_SECRET, entries, render::ADMIN_KEY).map(Secret::new)
    }

    /// The token signer's certificate; its key goes from Secret to pod.
    pub(super) fn token_signer(&self) -> Result<String, Error> {
        let entries = self.made_once(render::TOKEN_SECRET, "Opaque", || {
            let pair = keys::token_signer()?;
            Ok(BTreeMap::from([
                (render::TOKEN_KEY, pair.key.expose().to_vec()),
                (render::TOKEN_CERTIFICATE, pair.certificate.into_bytes()),
            ]))
        })?;
        let certificate = entry(render::TOKEN_SECRET, entries, render::TOKEN_CERTIFICATE)?;
        String::from_utf8(certificate)
            .map_err(|_| malformed(render::TOKEN_SECRET, "its token.crt is no PEM"))
    }

    /// TLS that somebody gave, or our own; and the name by which the operator knows the Service.
    pub(super) fn tls(&self, wanted: &Wanted) -> Result<(String, Tls, String), Error> {
        let [short, long] = service_names(&self.namespace);
        if let Some(secret) = &wanted.tls_secret {
            let entries = self.secret(secret)?.ok_or_else(|| {
                Error::Cluster(format!(
                    "there is no Secret {secret:?} (spec.trusteeSecret) in this namespace: make it, or leave the \
                     field out and this operator makes certificates itself"
                ))
            })?;
            let tls = Tls::read(&entries).map_err(|why| malformed(secret, &why))?;
            let name = [&short, &long].into_iter().find(|name| tls.names(name));
            let name = name.ok_or_else(|| {
                malformed(
                    secret,
                    &format!(
                        "its certificate does not name the Service: add {short} to its dnsNames"
                    ),
                )
            })?;
            return Ok((secret.clone(), tls, name.clone()));
        }
        let mut hosts = vec![short.clone(), long];
        hosts.extend(wanted.public_host.clone());
        let soon = SystemTime::now()
            .checked_add(keys::RENEWED_BEFORE)
            .ok_or_else(|| Error::Keys("the clock is out of range".to_owned()))?;
        let own = self.secret(render::TLS_SECRET)?;
        let read = own.and_then(|entries| Tls::read(&entries).ok());
        let fits = |tls: &Tls| hosts.iter().all(|host| tls.names(host)) && !tls.has_ended(soon);
        let tls = match read.filter(fits) {
            Some(tls) => tls,
            None => self.make_tls(&hosts)?,
        };
        Ok((render::TLS_SECRET.to_owned(), tls, short))
    }

    /// A new server certificate by the same authority, so that nodes go on believing it.
    fn make_tls(&self, hosts: &[String]) -> Result<Tls, Error> {
        let name = render::AUTHORITY_SECRET;
        let authority = self.made_once(name, "kubernetes.io/tls", || {
            let pair = keys::authority()?;
            Ok(BTreeMap::from([
                (tls::KEY, pair.key.expose().to_vec()),
                (tls::CERTIFICATE, pair.certificate.into_bytes()),
            ]))
        })?;
        let ca = entry(name, authority.clone(), tls::CERTIFICATE)?;
        let key = Secret::new(entry(name, authority, tls::KEY)?);
        let pair =
            keys::server(&key, hosts, SystemTime::now()).map_err(|why| malformed(name, &why))?;
        let entries: BTreeMap<String, Vec<u8>> = [
            (tls::KEY, pair.key.expose().to_vec()),
            (tls::CERTIFICATE, pair.certificate.into_bytes()),
            (tls::CA, ca),
        ]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into();
        let object = secret_object(render::TLS_SECRET, "kubernetes.io/tls", entries.clone());
        let params = PatchParams::apply(MANAGER).force();
        self.runtime
            .block_on(
                self.secrets
                    .patch(render::TLS_SECRET, &params, &Patch::Apply(&object)),
            )
            .map_err(|error| Error::api("keep Trustee's certificate", &error))?;
        log(format_args!("made a certificate for {}", hosts.join(", ")));
        Tls::read(&entries).map_err(|why| malformed(render::TLS_SECRET, &why))
    }

    /// Another version of the Secret is another pod.
    pub(super) fn database_version(&self, wanted: &Wanted) -> Result<String, Error> {
        let Storage::Database { url_secret, .. } = &wanted.storage else {
            return Ok(String::new());
        };
        let found = self.runtime.block_on(self.secrets.get_opt(url_secret));
        let found = found.map_err(|error| Error::api("look for the database's address", &error))?;
        let has_url = |object: &Object| {
            object
                .data
                .as_ref()
                .is_some_and(|data| data.contains_key("url"))
        };
        let found = found.filter(has_url).ok_or_else(|| {
            Error::Cluster(format!(
                "there is no Secret {url_secret:?} with an entry \"url\" in this namespace"
            ))
        })?;
        Ok(found.resource_version().unwrap_or_default())
    }

    fn secret(&self, name: &str) -> Result<Option<Entries>, Error> {
        let found = self.runtime.block_on(self.secrets.get_opt(name));
        let found = found.map_err(|error| Error::api("read Trustee's keys", &error))?;
        Ok(found.map(entries))
    }

    /// A Secret that is there, or is made now. If somebody else was first, theirs is kept.
    fn made_once(
        &self,
        name: &str,
        kind: &str,
        make: impl FnOnce() -> Result<BTreeMap<&'static str, Vec<u8>>, String>,
    ) -> Result<Entries, Error> {
        if let Some(entries) = self.secret(name)? {
            return Ok(entries);
        }
        let content = make()
            .map_err(Error::Keys)?
            .into_iter()
            .map(|(name, bytes)| (name.to_owned(), bytes));
        let object = secret_object(name, kind, content.collect());
        let made = self
            .runtime
            .block_on(self.secrets.create(&PostParams::default(), &object));
        match made {
            Ok(made) => Ok(entries(made)),
            Err(kube::Error::Api(status)) if status.code == CONFLICT => {
                self.secret(name)?.ok_or_else(|| {
                    Error::Cluster(format!(
                        "Secret {name:?} comes and goes: find out who deletes it"
                    ))
                })
            }
            Err(error) => Err(Error::api("keep Trustee's keys", &error)),
        }
    }
}

fn secret_object(name: &str, kind: &str, entries: Entries) -> Object {
    let labels = [
        ("app.kubernetes.io/name", render::NAME),
        (
            crate::controllers::record::MANAGED_BY,
            crate::kbs_admin::NAME,
        ),
    ];
    Object {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            ..ObjectMeta::default()
        },
        data: Some(
            entries
                .into_iter()
                .map(|(name, bytes)| (name, ByteString(bytes)))
                .collect(),
        ),
        type_: Some(kind.to_owned()),
        ..Object::default()
    }
}

fn entries(object: Object) -> Entries {
    let data = object.data.unwrap_or_default();
    data.into_iter()
        .map(|(name, bytes)| (name, bytes.0))
        .collect()
}

fn entry(secret: &str, mut entries: Entries, name: &str) -> Result<Vec<u8>, Error> {
    entries
        .remove(name)
        .ok_or_else(|| malformed(secret, &format!("it has no {name}")))
}

pub(super) fn malformed(secret: &str, why: &str) -> Error {
    Error::Cluster(format!("Secret {secret:?} cannot be used: {why}"))
}

type Entries = BTreeMap<String, Vec<u8>>;

const CONFLICT: u16 = 409;

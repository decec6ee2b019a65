// SPDX-License-Identifier: Apache-2.0

//! Runs a Trustee for a cluster that names an image and no KBS: makes its keys once, applies its [objects]
//! (crate::trustee::render) under a field manager of its own, and says how it stands. What somebody changes or
//! deletes is applied again as soon as the watch tells.

use super::api::{self, TrustedExecutionCluster, TrustedExecutionClusterSpec};
use super::status::Conditions;
use super::watch::Seen;
use super::{Error, log};
use crate::trustee::render::{self, Facts};
use crate::trustee::tls::{self, Tls};
use crate::trustee::{Storage, Wanted, keys, service_names};
use futures::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret as Object;
use kbs_protocol::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::time::SystemTime;
use tokio::runtime::Handle;

/// What keeps a Trustee running.
pub struct Deployer {
    client: Client,
    secrets: Api<Object>,
    namespace: String,
    runtime: Handle,
    /// What was applied last, and for whom.
    applied: Option<(String, TrustedExecutionClusterSpec, api::Kbs)>,
    /// None: there is nothing to run.
    standing: Option<Standing>,
}

/// How a Trustee stands that is run here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    deployed: Result<(), String>,
    available: Result<(), String>,
}

impl Deployer {
    /// For one namespace.
    pub fn new(client: &Client, namespace: &str, runtime: &Handle) -> Self {
        Self {
            client: client.clone(),
            secrets: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            runtime: runtime.clone(),
            applied: None,
            standing: None,
        }
    }

    /// Makes it so, if there is something to run: how to reach it, and whether it stands otherwise than before.
    /// Unless something changed or `again` is said, nobody is asked.
    ///
    /// # Errors
    /// [`Error::Cluster`] for what the cluster contradicts, [`Error::Keys`], and whatever a request can meet.
    pub fn ensure(
        &mut self,
        cluster: &TrustedExecutionCluster,
        again: bool,
    ) -> Result<(Option<api::Kbs>, bool), Error> {
        let wanted = Wanted::of(&cluster.spec).map_err(Error::Cluster)?;
        let Some(wanted) = wanted else {
            self.applied = None;
            return Ok((None, self.standing.take().is_some()));
        };
        let uid = cluster.uid().unwrap_or_default();
        if let Some((of, spec, kbs)) = &self.applied
            && !again
            && (of, spec) == (&uid, &cluster.spec)
        {
            return Ok((Some(kbs.clone()), false));
        }
        let before = self.standing.clone();
        match self.deploy(cluster, &wanted) {
            Ok((kbs, available)) => {
                self.standing = Some(Standing {
                    deployed: Ok(()),
                    available,
                });
                self.applied = Some((uid, cluster.spec.clone(), kbs.clone()));
                Ok((Some(kbs), self.standing != before))
            }
            Err(error) => {
                self.applied = None;
                let available = before.map_or_else(
                    || Err("it is not deployed".to_owned()),
                    |before| before.available,
                );
                self.standing = Some(Standing {
                    deployed: Err(error.to_string()),
                    available,
                });
                Err(error)
            }
        }
    }

    /// Adds what is known to the conditions of the cluster.
    pub fn conditions(&self, conditions: &mut Conditions<'_>) {
        let Some(standing) = &self.standing else {
            return;
        };
        let said = |result: &Result<(), String>| result.clone().err().unwrap_or_default();
        let deployed = match &standing.deployed {
            Ok(()) => (true, "Applied"),
            Err(_) => (false, "NotApplied"),
        };
        conditions.set("Deployed", deployed, &said(&standing.deployed));
        let available = match &standing.available {
            Ok(()) => (true, "MinimumReplicasAvailable"),
            Err(_) => (false, "NotAvailable"),
        };
        conditions.set("Available", available, &said(&standing.available));
    }

    /// Why a KBS that does not answer does not answer.
    pub fn explain(&self, error: Error) -> Error {
        match &self.standing {
            Some(Standing {
                available: Err(why),
                ..
            }) => Error::Deploying(why.clone()),
            _ => error,
        }
    }

    fn deploy(
        &self,
        cluster: &TrustedExecutionCluster,
        wanted: &Wanted,
    ) -> Result<(api::Kbs, Result<(), String>), Error> {
        let admin = self.admin_key()?;
        let admin_public =
            keys::public(&admin).map_err(|why| malformed(render::ADMIN_SECRET, &why))?;
        let token_certificate = self.token_signer()?;
        let (tls_secret, tls, name) = self.tls(wanted)?;
        let owner = cluster
            .controller_owner_ref(&())
            .ok_or_else(|| Error::Cluster("the API server gave this object no uid".to_owned()))?;
        let facts = Facts {
            owner: json!(owner),
            admin_public,
            tls_secret,
            tls,
            token_certificate,
            database_version: self.database_version(wanted)?,
        };
        let mut deployment = Value::Null;
        for object in render::objects(wanted, &facts) {
            let applied = self.apply(object)?;
            if applied.get("kind").is_some_and(|kind| kind == "Deployment") {
                deployment = applied;
            }
        }
        let kbs = api::Kbs {
            url: format!("https://{name}:{}", wanted.port),
            ca: Some(facts.tls.ca),
            admin_key: api::KeyReference {
                secret: render::ADMIN_SECRET.to_owned(),
                key: Some(render::ADMIN_KEY.to_owned()),
            },
            ..api::Kbs::default()
        };
        let deployment = serde_json::from_value(deployment).unwrap_or_default();
        Ok((kbs, available(&deployment)))
    }

    /// Our own key: made once, then kept, whoever deletes the cluster.
    fn admin_key(&self) -> Result<Secret, Error> {
        let entries = match self.secret(render::ADMIN_SECRET)? {
            Some(entries) => entries,
            None => {
                let key = keys::admin().map_err(Error::Keys)?;
                let entries = BTreeMap::from([(render::ADMIN_KEY, key.expose().to_vec())]);
                self.create(render::ADMIN_SECRET, "Opaque", entries)?
            }
        };
        entry(render::ADMIN_SECRET, entries, render::ADMIN_KEY).map(Secret::new)
    }

    /// The token signer's certificate; its key goes from Secret to pod.
    fn token_signer(&self) -> Result<String, Error> {
        let entries = match self.secret(render::TOKEN_SECRET)? {
            Some(entries) => entries,
            None => {
                let pair = keys::token_signer().map_err(Error::Keys)?;
                let entries = BTreeMap::from([
                    (render::TOKEN_KEY, pair.key.expose().to_vec()),
                    (render::TOKEN_CERTIFICATE, pair.certificate.into_bytes()),
                ]);
                self.create(render::TOKEN_SECRET, "Opaque", entries)?
            }
        };
        let certificate = entry(render::TOKEN_SECRET, entries, render::TOKEN_CERTIFICATE)?;
        String::from_utf8(certificate)
            .map_err(|_| malformed(render::TOKEN_SECRET, "its token.crt is no PEM"))
    }

    /// TLS that somebody gave, or our own; and the name by which the operator knows the Service.
    fn tls(&self, wanted: &Wanted) -> Result<(String, Tls, String), Error> {
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
        let authority = match self.secret(name)? {
            Some(entries) => entries,
            None => {
                let pair = keys::authority().map_err(Error::Keys)?;
                let entries = BTreeMap::from([
                    (tls::KEY, pair.key.expose().to_vec()),
                    (tls::CERTIFICATE, pair.certificate.into_bytes()),
                ]);
                self.create(name, "kubernetes.io/tls", entries)?
            }
        };
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

    fn database_version(&self, wanted: &Wanted) -> Result<String, Error> {
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

    fn apply(&self, mut object: Value) -> Result<Value, Error> {
        let kind = object.get("kind").cloned().unwrap_or_default();
        if let (true, Some(object)) = (kind == "PodDisruptionBudget", object.as_object_mut()) {
            let version = self.runtime.block_on(budgets(&self.client));
            object.insert("apiVersion".to_owned(), json!(version));
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource(&object));
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        let name = name.unwrap_or_default();
        let params = PatchParams::apply(MANAGER).force();
        let applied = self
            .runtime
            .block_on(api.patch(name, &params, &Patch::Apply(&object)))
            .map_err(|error| Error::api("apply the objects of Trustee", &error))?;
        Ok(json!(applied))
    }

    fn secret(&self, name: &str) -> Result<Option<Entries>, Error> {
        let found = self.runtime.block_on(self.secrets.get_opt(name));
        let found = found.map_err(|error| Error::api("read Trustee's keys", &error))?;
        Ok(found.map(entries))
    }

    /// Makes a Secret. If somebody else was first, theirs is kept.
    fn create(
        &self,
        name: &str,
        kind: &str,
        content: BTreeMap<&str, Vec<u8>>,
    ) -> Result<Entries, Error> {
        let content = content
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

/// Tells the worker whenever one of the objects is not as it was.
pub fn watch(client: &Client, namespace: &str, runtime: &Handle, seen: &Sender<Seen>) {
    for (version, kind) in KINDS {
        let (client, namespace, seen) = (client.clone(), namespace.to_owned(), seen.clone());
        runtime.spawn(async move {
            let version = match kind {
                "PodDisruptionBudget" => budgets(&client).await,
                _ => version,
            };
            let resource = resource(&json!({"apiVersion": version, "kind": kind}));
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::namespaced_with(client, &namespace, &resource);
            let config = watcher::Config::default().labels(render::SELECTOR);
            let mut events = watcher(api, config).default_backoff().boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
                    Ok(_) if seen.send(Seen::Deployed).is_err() => return,
                    Ok(_) => {}
                    Err(error) => log(format_args!("watch of {kind}: {error}")),
                }
            }
        });
    }
}

/// An API server before 1.21 knows disruption budgets by an older name only.
async fn budgets(client: &Client) -> &'static str {
    match client.list_api_group_resources("policy/v1").await {
        Err(kube::Error::Api(status)) if status.code == NOT_FOUND => "policy/v1beta1",
        _ => "policy/v1",
    }
}

fn resource(object: &Value) -> ApiResource {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion")
        .split_once('/')
        .unwrap_or(("", text("apiVersion")));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("kind")))
}

/// Whether it runs, in the words of its Deployment.
fn available(deployment: &Deployment) -> Result<(), String> {
    let status = deployment.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let of = |kind: &str| conditions.iter().find(|one| one.type_ == kind);
    match of("Available") {
        Some(one) if one.status == "True" => Ok(()),
        other => {
            let stuck = of("ReplicaFailure")
                .or_else(|| of("Progressing").filter(|one| one.status == "False"));
            let said = stuck.or(other).and_then(|one| one.message.clone());
            Err(said.unwrap_or_else(|| "no pod of it is ready yet".to_owned()))
        }
    }
}

fn secret_object(name: &str, kind: &str, entries: Entries) -> Object {
    let labels = [
        ("app.kubernetes.io/name", render::NAME),
        (super::record::MANAGED_BY, crate::kbs_admin::NAME),
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

fn malformed(secret: &str, why: &str) -> Error {
    Error::Cluster(format!("Secret {secret:?} cannot be used: {why}"))
}

type Entries = BTreeMap<String, Vec<u8>>;

/// Whose fields the objects' are.
const MANAGER: &str = "sheepfold-operator-trustee";
/// What is watched, each with the version that it is applied in.
const KINDS: [(&str, &str); 6] = [
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("v1", "PersistentVolumeClaim"),
    ("apps/v1", "Deployment"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
];
const CONFLICT: u16 = 409;
const NOT_FOUND: u16 = 404;

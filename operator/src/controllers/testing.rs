// SPDX-License-Identifier: Apache-2.0

//! An API server in memory, for unit tests: it keeps what is written by path and gives it back. What a real one decides
//! (schemas, owners of fields, versions that do not fit) it does not; stories about that are in `operator/tests`.

use super::record::Record;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Response, Uri};
use kube::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::runtime::{Builder, Runtime};

/// It ends when this is dropped.
pub(crate) struct Server {
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Value>,
    /// Of what was written last.
    version: u64,
    writes: Vec<Write>,
    /// Writes fail like this.
    fails: Option<u16>,
    /// Our definitions are not installed.
    is_bare: bool,
    /// The next read finds nothing: what it asks for appears right after it.
    is_late: bool,
}

/// A request that changed something.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

impl Server {
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let kept = Arc::<Mutex<Kept>>::default();
        let shared = Arc::clone(&kept);
        let router = Router::new().fallback(move |method: Method, uri: Uri, body: Bytes| {
            let (status, answer) = shared.lock().unwrap().answer(&method, uri.path(), &body);
            async move {
                let body = Body::from(answer.to_string());
                Response::builder().status(status).body(body).unwrap()
            }
        });
        let client = {
            let _inside = runtime.enter();
            Client::new(router, NAMESPACE)
        };
        Self {
            runtime,
            client,
            kept,
        }
    }

    /// The record of a cluster, by an operator that has the lease.
    pub(crate) fn record(&self) -> Record {
        let held = Arc::new(AtomicBool::new(true));
        self.record_of("cluster", held).unwrap()
    }

    pub(crate) fn record_of(
        &self,
        cluster: &str,
        held: Arc<AtomicBool>,
    ) -> Result<Record, crate::provision::Error> {
        let (client, runtime) = (self.client.clone(), self.runtime.handle().clone());
        Record::load(client, NAMESPACE, cluster, runtime, held)
    }

    /// From now on no write succeeds.
    pub(crate) fn fail(&self, code: u16) {
        self.kept().fails = Some(code);
    }

    /// From now on it does not know our kinds.
    pub(crate) fn undefine(&self) {
        self.kept().is_bare = true;
    }

    /// What the next read asks for appears right after it.
    pub(crate) fn be_late(&self) {
        self.kept().is_late = true;
    }

    /// What was asked to be changed so far; it is forgotten.
    pub(crate) fn writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.kept().writes)
    }

    /// Puts an object there.
    pub(crate) fn put(&self, mut object: Value) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let name = text(&object["metadata"]["name"]);
        object["metadata"]["uid"] = json!(format!("uid-of-{name}"));
        self.kept()
            .objects
            .insert(path(&version, &kind, &name), object);
    }

    /// Somebody deletes an object.
    pub(crate) fn remove(&self, version: &str, kind: &str, name: &str) {
        let gone = self.kept().objects.remove(&path(version, kind, name));
        assert!(gone.is_some(), "there is no {kind} {name}");
    }

    pub(crate) fn put_secret(&self, name: &str, entries: &[(&str, &[u8])]) {
        let data: BTreeMap<_, _> = entries
            .iter()
            .map(|(name, bytes)| (*name, kbs_protocol::encoding::b64::encode(bytes)))
            .collect();
        self.put(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data,
        }));
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }
}

impl Kept {
    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        if method == Method::GET {
            return self.read(path);
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        self.writes.push(Write {
            method: method.to_string(),
            path: path.to_owned(),
            body: body.clone(),
        });
        if let Some(code) = self.fails {
            return refusal(code, "WeFail");
        }
        if method == Method::DELETE {
            return match self.objects.remove(path) {
                Some(object) => (200, object),
                None => refusal(404, "NotFound"),
            };
        }
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let path = match *method {
            Method::POST => format!("{path}/{name}"),
            _ => path.trim_end_matches("/status").to_owned(),
        };
        if method == Method::POST && self.objects.contains_key(&path) {
            return refusal(409, "AlreadyExists");
        }
        let before = self.objects.get(&path).filter(|_| method == Method::PATCH);
        let mut object = before.cloned().unwrap_or_default();
        merge(&mut object, &body);
        self.version = self.version.saturating_add(1);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path, object.clone());
        (200, object)
    }

    fn read(&mut self, path: &str) -> (u16, Value) {
        if path == "/apis" {
            return (
                200,
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
            );
        }
        if std::mem::take(&mut self.is_late) {
            return refusal(404, "NotFound");
        }
        let (_, place) = path
            .split_once(&format!("/{NAMESPACE}/"))
            .unwrap_or_default();
        if let Some(object) = self.objects.get(path) {
            return (200, object.clone());
        }
        if place.contains('/') || (self.is_bare && path.contains(super::api::GROUP)) {
            return refusal(404, "NotFound");
        }
        let prefix = format!("{path}/");
        let items = self.objects.iter();
        let items = items.filter(|(path, _)| path.starts_with(&prefix));
        let items: Vec<_> = items.map(|(_, object)| object).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
        (200, list)
    }
}

/// For kinds whose plural is regular.
fn path(version: &str, kind: &str, name: &str) -> String {
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = format!("{}s", kind.to_lowercase());
    format!("/{root}/{version}/namespaces/{NAMESPACE}/{plural}/{name}")
}

/// As far as it matters who gets which answer, server-side apply is this.
fn merge(object: &mut Value, patch: &Value) {
    match (object.as_object_mut(), patch.as_object()) {
        (Some(members), Some(patch)) => {
            for (name, value) in patch {
                merge(members.entry(name).or_insert(Value::Null), value);
            }
        }
        _ => object.clone_from(patch),
    }
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "message": reason,
        "reason": reason, "code": code,
    });
    (code, status)
}

pub(crate) const NAMESPACE: &str = "n";

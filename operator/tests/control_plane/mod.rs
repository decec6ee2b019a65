// SPDX-License-Identifier: Apache-2.0

//! A namespace of a real API server, with our definitions, a laboratory KBS and operators in this process.
//!
//! `make operator-test` starts the servers and says so in `SHEEPFOLD_OPERATOR_TEST`; without it nothing here
//! runs, because KUBECONFIG may point to a cluster that somebody needs.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use crate::common::{Lab, Tpm};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{Value, json};
use sheepfold_operator::controllers::{self, Settings, api};
use sheepfold_tests::paths;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static NAMES: AtomicUsize = AtomicUsize::new(0);
static CLIENT: OnceLock<Option<Client>> = OnceLock::new();

/// The API server, with our definitions; none, said loudly, where there is none.
fn client() -> Option<Client> {
    let client = CLIENT.get_or_init(|| {
        std::env::var_os("SHEEPFOLD_OPERATOR_TEST")?;
        Some(RUNTIME.block_on(async {
            let config = Config::infer().await.unwrap();
            let client = Client::try_from(config).unwrap();
            let ours = api::crds().map(|crd| serde_json::to_value(crd).unwrap());
            install(&client, ours.to_vec()).await;
            client
        }))
    });
    if client.is_none() {
        eprintln!("SKIPPED: no API server, so nothing was tested here; run `make operator-test`");
    }
    client.clone()
}

/// Our definitions. A server before 1.25 does not know rules and refuses to hear of them.
async fn install(client: &Client, definitions: Vec<Value>) {
    let version = client.apiserver_version().await.unwrap();
    let minor: u32 = version.minor.trim_end_matches('+').parse().unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for mut crd in definitions {
        if minor < 25 {
            without_rules(&mut crd);
        }
        let name = crd["metadata"]["name"].as_str().unwrap().to_owned();
        let params = PatchParams::apply("test").force();
        crds.patch(&name, &params, &Patch::Apply(&crd))
            .await
            .unwrap();
        let established = kube::runtime::conditions::is_crd_established();
        kube::runtime::wait::await_condition(crds.clone(), &name, established)
            .await
            .unwrap();
    }
}

fn without_rules(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("x-kubernetes-validations");
            members.values_mut().for_each(without_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(without_rules),
        _ => {}
    }
}

/// A namespace, and a laboratory KBS beside it. Both go when it is dropped.
pub struct Place {
    pub lab: Lab,
    pub client: Client,
    pub namespace: String,
}

impl Place {
    /// Empty, but for the administrator's key; none where there is no API server.
    pub fn new() -> Option<Self> {
        Self::with(|_| {})
    }

    /// The same, with another laboratory.
    pub fn with(change: impl FnOnce(&mut lab_kbs::Options)) -> Option<Self> {
        let client = client()?;
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("sheepfold-{}-{number}", std::process::id());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object: Namespace =
            serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        RUNTIME
            .block_on(namespaces.create(&PostParams::default(), &object))
            .unwrap();
        let place = Self {
            lab: Lab::with(change),
            client,
            namespace,
        };
        let key = std::fs::read_to_string(place.lab.dir.path().join("lab/admin.key")).unwrap();
        place.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kbs-admin"},
            "stringData": {"admin.key": key},
        }));
        Some(place)
    }

    /// Objects of one kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// `kubectl apply --server-side`, of one object.
    pub fn apply(&self, object: &Value) {
        self.try_apply(object).unwrap();
    }

    pub fn try_apply(&self, object: &Value) -> Result<(), kube::Error> {
        let (group, version) = match object["apiVersion"].as_str().unwrap().split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", object["apiVersion"].as_str().unwrap()),
        };
        let kind = object["kind"].as_str().unwrap();
        let api = self.dynamic(group, version, kind);
        let name = object["metadata"]["name"].as_str().unwrap();
        let params = PatchParams::apply("kubectl").force();
        RUNTIME
            .block_on(api.patch(name, &params, &Patch::Apply(object)))
            .map(drop)
    }

    /// Definitions of other objects.
    pub fn install(&self, definitions: Vec<Value>) {
        RUNTIME.block_on(install(&self.client, definitions));
    }

    fn dynamic(&self, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    pub fn uid(&self, group: &str, version: &str, kind: &str, name: &str) -> String {
        let api = self.dynamic(group, version, kind);
        RUNTIME
            .block_on(api.get(name))
            .unwrap()
            .metadata
            .uid
            .unwrap()
    }

    pub fn delete_dynamic(&self, group: &str, version: &str, kind: &str, name: &str) {
        let api = self.dynamic(group, version, kind);
        let _ = RUNTIME
            .block_on(api.delete(name, &DeleteParams::default()))
            .unwrap();
    }

    /// The documents of a manifest. It may name a namespace of its own.
    pub fn apply_manifest(&self, text: &str) {
        for document in text.split("\n---\n") {
            let mut object: Value = serde_saphyr::from_str(document).unwrap();
            object["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("namespace");
            self.apply(&object);
        }
    }

    /// A cluster behind the laboratory, with further members of its spec.
    pub fn cluster(&self, more: Value) {
        let ca = std::fs::read_to_string(self.lab.dir.path().join("lab/ca.pem")).unwrap();
        let mut spec = json!({"kbs": {
            "url": self.lab.server.url(), "ca": ca, "role": "admin",
            "adminKey": {"secret": "kbs-admin"},
        }});
        let more = more.as_object().cloned().unwrap_or_default();
        spec.as_object_mut().unwrap().extend(more);
        self.apply(&object("TrustedExecutionCluster", "cluster", spec));
    }

    pub fn image(&self, name: &str, tuples: Value) {
        let spec = json!({"referenceValues": {"bootTuples": tuples}});
        self.apply(&object("ApprovedImage", name, spec));
    }

    pub fn machine(&self, name: &str, tpm: &Tpm, more: Value) {
        let mut spec = json!({"attestationKey": tpm.ak_public()});
        let more = more.as_object().cloned().unwrap_or_default();
        spec.as_object_mut().unwrap().extend(more);
        self.apply(&object("Machine", name, spec));
    }

    /// `kubectl delete`, until it is gone.
    pub fn delete<K>(&self, name: &str)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api = self.api::<K>();
        let _ = RUNTIME
            .block_on(api.delete(name, &DeleteParams::default()))
            .unwrap();
        eventually(&format!("{name} is gone"), || {
            RUNTIME.block_on(api.get_opt(name)).unwrap().is_none()
        });
    }

    /// `kubectl delete --wait=false`, of a machine that may be gone already.
    pub fn begin_deletion(&self, name: &str) {
        let machines = self.api::<api::Machine>();
        let _ = RUNTIME.block_on(machines.delete(name, &DeleteParams::default()));
    }

    pub fn has_machine(&self, name: &str) -> bool {
        let machines = self.api::<api::Machine>();
        RUNTIME.block_on(machines.get_opt(name)).unwrap().is_some()
    }

    /// `kubectl patch --type=merge`.
    pub fn change<K>(&self, name: &str, change: &Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api = self.api::<K>();
        let params = PatchParams::default();
        let _ = RUNTIME
            .block_on(api.patch(name, &params, &Patch::Merge(change)))
            .unwrap();
    }

    /// Where requests run.
    pub fn runtime(&self) -> tokio::runtime::Handle {
        RUNTIME.handle().clone()
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        RUNTIME.block_on(future)
    }

    /// Who holds the lease.
    pub fn holder(&self) -> Option<String> {
        let leases: Api<k8s_openapi::api::coordination::v1::Lease> = self.api();
        let lease = RUNTIME.block_on(leases.get("sheepfold-operator")).unwrap();
        lease.spec.unwrap().holder_identity
    }

    pub fn get<K>(&self, name: &str) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        RUNTIME.block_on(self.api::<K>().get(name)).unwrap()
    }

    pub fn status(&self, name: &str) -> api::MachineStatus {
        self.get::<api::Machine>(name).status.unwrap_or_default()
    }

    /// Waits until a machine stands like this; its reason.
    #[track_caller]
    pub fn await_phase(&self, name: &str, phase: api::Phase) -> String {
        eventually(&format!("{name} is {phase:?}"), || {
            self.status(name).phase == Some(phase)
        });
        self.status(name).reason.unwrap_or_default()
    }

    /// Everything in this namespace that anybody with a view of it can read: no Secrets.
    pub fn everything_readable(&self) -> String {
        fn all<K>(place: &Place) -> String
        where
            K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
                + Clone
                + std::fmt::Debug
                + serde::Serialize
                + serde::de::DeserializeOwned,
        {
            let list = place.api::<K>();
            let list = RUNTIME.block_on(list.list(&ListParams::default())).unwrap();
            serde_json::to_string(&list.items).unwrap()
        }
        [
            all::<ConfigMap>(self),
            all::<Event>(self),
            all::<api::Machine>(self),
            all::<api::ApprovedImage>(self),
            all::<api::AttestationKey>(self),
            all::<api::TrustedExecutionCluster>(self),
        ]
        .concat()
    }

    pub fn events(&self) -> Vec<Event> {
        let list = self.api::<Event>();
        let list = RUNTIME.block_on(list.list(&ListParams::default())).unwrap();
        list.items
    }

    pub fn secrets(&self) -> Vec<Secret> {
        let list = self.api::<Secret>();
        let list = RUNTIME.block_on(list.list(&ListParams::default())).unwrap();
        list.items
    }

    /// A kubeconfig with which one acts as a service account of this namespace.
    pub fn kubeconfig_of(&self, account: &str) -> std::path::PathBuf {
        let file = std::env::var("KUBECONFIG").unwrap();
        let mut config: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let account = format!("system:serviceaccount:{}:{account}", self.namespace);
        config["users"][0]["user"]["as"] = json!(account);
        let path = self
            .lab
            .dir
            .path()
            .join(format!("{}.kubeconfig", account.replace(':', "-")));
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The operator as it is installed: a process of its own, with the rights that come with it.
    pub fn installed_operator(&self) -> Installed {
        self.installed_operator_with(&[])
    }

    /// The same, with further arguments.
    pub fn installed_operator_with(&self, arguments: &[&str]) -> Installed {
        self.rights(include_str!("../../deploy/rbac.yaml"));
        let log = self.lab.dir.path().join("operator.log");
        let child = Command::new(paths::binary("sheepfold-operator").unwrap())
            .args(["run", "--namespace", &self.namespace])
            .args(["--metrics", "127.0.0.1:0"])
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig_of("sheepfold-operator"))
            // Nobody has looked through its images before.
            .env("XDG_CACHE_HOME", self.lab.dir.path().join("cache"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Installed { child, log }
    }

    /// The program, as a person starts it who may do everything in the cluster.
    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(paths::binary("sheepfold-operator").unwrap())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Service accounts and roles, for this namespace.
    pub fn rights(&self, manifest: &str) {
        let subject = format!("- kind: ServiceAccount\n  namespace: {}\n", self.namespace);
        self.apply_manifest(&manifest.replace("- kind: ServiceAccount\n", &subject));
    }

    /// An operator in this process.
    pub fn operator(&self, identity: &str) -> Operator {
        self.operator_with(identity, |_| {})
    }

    pub fn operator_with(&self, identity: &str, change: impl FnOnce(&mut Settings)) -> Operator {
        let mut settings = self.settings(identity);
        // A machine that is busy with tests renews late.
        settings.lease = Duration::from_secs(20);
        change(&mut settings);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || controllers::run(&settings, Some(stopped)));
        Operator {
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn settings(&self, identity: &str) -> Settings {
        let mut settings = Settings::new(identity);
        settings.namespace = Some(self.namespace.clone());
        settings.probe = Duration::from_millis(500);
        settings.refresh = Duration::from_secs(1);
        settings
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        // Machines with a finalizer would stay without an operator.
        let machines = self.api::<api::Machine>();
        RUNTIME.block_on(async {
            let all = machines.list_metadata(&ListParams::default()).await;
            let all = all.into_iter().flat_map(|list| list.items);
            let freed = all.map(|machine| {
                let machines = machines.clone();
                async move {
                    let free = json!({"metadata": {"finalizers": null}});
                    let name = machine.metadata.name.unwrap_or_default();
                    let params = PatchParams::default();
                    drop(machines.patch(&name, &params, &Patch::Merge(&free)).await);
                }
            });
            let () = stream::iter(freed).buffer_unordered(32).collect().await;
            let _ = namespaces
                .delete(&self.namespace, &DeleteParams::default())
                .await;
        });
    }
}

/// A running operator of its own process.
pub struct Installed {
    child: Child,
    log: std::path::PathBuf,
}

impl Installed {
    /// The answer to `GET /metrics`.
    pub fn metrics(&self) -> String {
        let mut url = None;
        eventually("it says where it can be asked", || {
            let log = std::fs::read_to_string(&self.log).unwrap();
            let mut lines = log.lines();
            url = lines.find_map(|line| line.strip_prefix("metrics at ").map(str::to_owned));
            url.is_some()
        });
        let client = reqwest::blocking::Client::builder()
            .no_proxy()
            .build()
            .unwrap();
        let answer = client.get(url.unwrap()).send().unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        assert!(
            answer.headers()["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/plain; version=0.0.4")
        );
        answer.text().unwrap()
    }

    /// The most memory that it has had resident, in KiB, as the kernel counts.
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }

    /// Ends it, as a crash would; what it logged.
    pub fn end(self) -> String {
        let log = self.log.clone();
        drop(self);
        std::fs::read_to_string(log).unwrap()
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running operator; it gives its lease back when it is dropped.
pub struct Operator {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<Result<(), controllers::Error>>>,
}

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap().unwrap();
        }
    }
}

pub fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "trusted-execution-clusters.io/v1alpha1", "kind": kind,
        "metadata": {"name": name}, "spec": spec,
    })
}

/// Waits for something that happens soon. How soon is not tested; that it does not happen at all takes a minute.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(90), "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The plan applied from Kubernetes objects: `sheepfold-operator run`. What [`provision`](crate::provision)
//! does once from files, this does for ever from a namespace.
//!
//! 1. [`lease`] lets one operator of several work.
//! 2. [`watch`] tells what the API server says about our objects ([`api`]).
//! 3. [`inventory`] parses and indexes them; one event costs what it touches.
//! 4. [`worker`] plans that part, carries it out against the KBS and keeps the [`record`]; [`secrets`] makes
//!    secrets, and keeps [`copies`] of them where that is wanted; [`beside`] adds what else a machine gets.
//! 5. [`images`] looks through approved images that have only a name.
//! 6. [`keeper`] looks after the KBS when nobody changes anything: storage that was lost, values that somebody
//!    else changed.
//! 7. [`deploy`] runs the KBS, where nobody else does.
//! 8. [`status`] says how each object stands; [`metrics`] says it to a monitoring system.
//!
//! Around it: [`handover`] begins a cluster that was begun outside; [`show`] and [`gather`] tell people how it stands.
//!
//! Watches and the lease are asynchronous; the worker is one thread, because a KBS has one writer.

pub mod api;
pub mod beside;
pub mod capi;
pub mod copies;
pub mod deploy;
mod error;
pub mod gather;
pub mod handover;
pub mod images;
pub mod inventory;
pub mod keeper;
pub mod lease;
pub mod metrics;
mod parse;
pub mod record;
pub mod secrets;
pub mod show;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod watch;
pub mod worker;

pub use error::Error;

use kube::{Client, Config};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};

/// How an operator runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The namespace whose objects it serves; default: that of its service account or kubeconfig.
    pub namespace: Option<String>,
    /// Its name in the lease; other operators need other names.
    pub identity: String,
    /// How often the KBS is asked whether it still has its storage.
    pub probe: Duration,
    /// How often policies are written again, and a share of the reference values is compared: nobody can read a
    /// policy, and somebody else may have replaced it.
    pub refresh: Duration,
    /// How often everything is planned and reported as if it had just changed.
    pub resync: Duration,
    /// How long a lease holds without being renewed.
    pub lease: Duration,
    /// Where the KBS is looked for, in place of what DNS says: for an operator outside of the cluster.
    pub kbs_address: Option<IpAddr>,
    /// Where a monitoring system can ask for [`metrics`]; default: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Whether it is a bootstrap provider of Cluster API ([`capi`]) as well.
    pub cluster_api: bool,
    /// Where facts about images are kept by digest; default: nowhere.
    pub image_cache: Option<PathBuf>,
    /// The most bytes of layers that an approved image may have, as its registry sends them; default: any number.
    pub image_bytes: u64,
}

impl Settings {
    /// The usual times.
    pub fn new(identity: &str) -> Self {
        Self {
            namespace: None,
            identity: identity.to_owned(),
            probe: Duration::from_secs(3),
            refresh: Duration::from_secs(60),
            resync: Duration::from_secs(300),
            lease: Duration::from_secs(15),
            kbs_address: None,
            metrics: None,
            cluster_api: false,
            image_cache: None,
            image_bytes: u64::MAX,
        }
    }
}

/// Works until the lease is lost or somebody asks it to end: by SIGTERM or SIGINT, or with `stop`, by sending
/// something there or dropping the sender. The lease is then given back.
///
/// # Errors
/// When there is no API server, and [`Error::LeaseLost`].
pub fn run(settings: &Settings, stop: Option<mpsc::Receiver<()>>) -> Result<(), Error> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let figures = metrics::Metrics::default();
    if let Some(address) = settings.metrics {
        let listener = runtime.block_on(metrics::Listener::bind(address))?;
        if let Ok(address) = listener.address() {
            log(format_args!("metrics at http://{address}/metrics"));
        }
        runtime.spawn(listener.serve(figures.clone()));
    }
    let (client, namespace) = runtime.block_on(connect(settings.namespace.clone()))?;
    let ended = work(
        settings,
        &figures,
        &client,
        &namespace,
        runtime.handle(),
        stop,
    );
    // Watches wait for the API server: nobody waits for them.
    runtime.shutdown_background();
    ended
}

/// Waits for an answer of the API server, for somebody who asks once.
///
/// # Errors
/// As the question; [`Error::Runtime`].
pub fn ask<T>(question: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(question)
}

fn work(
    settings: &Settings,
    figures: &metrics::Metrics,
    client: &Client,
    namespace: &str,
    runtime: &Handle,
    stop: Option<mpsc::Receiver<()>>,
) -> Result<(), Error> {
    let (sender, seen) = mpsc::channel();
    let lease = lease::Lease::new(client.clone(), namespace, settings);
    let term = runtime.spawn(lease.clone().hold(sender.clone()));
    watch::start(client, namespace, runtime, &sender, figures);
    let objects = deploy::Objects::new(client, namespace, runtime);
    objects.watch(&sender);
    if settings.cluster_api {
        capi::start(client, namespace, runtime, lease.held());
    }
    match stop {
        Some(stop) => drop(std::thread::spawn(move || {
            let _ = stop.recv();
            let _ = sender.send(watch::Seen::Stop);
        })),
        None => drop(runtime.spawn(async move {
            signalled().await;
            let _ = sender.send(watch::Seen::Stop);
        })),
    }
    let (held, figures) = (lease.held(), figures.clone());
    let place = (client, namespace, runtime);
    let ended = worker::Worker::new(settings, figures, place, objects, held).run(&seen);
    term.abort();
    if ended.is_ok() {
        runtime.block_on(lease.release());
    }
    ended
}

/// Until the kubelet, or a person at a terminal, asks us to end.
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// The API server that KUBECONFIG or the service account names, and the namespace: this one, or the usual one.
pub(crate) async fn connect(namespace: Option<String>) -> Result<(Client, String), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::NoApiServer(error.to_string());
    let config = Config::infer().await.map_err(|error| failed(&error))?;
    let client = Client::try_from(config).map_err(|error| failed(&error))?;
    let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    Ok((client, namespace))
}

/// One line for whoever reads the log of a container. Nothing secret has a way to get here.
#[expect(
    clippy::print_stderr,
    reason = "a container's log is its standard error"
)]
fn log(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}

// SPDX-License-Identifier: Apache-2.0

//! `sheepfold-operator register`: serves, lists, approves; called by [`crate::cli`]. The audit log goes to standard output, words
//! for people to standard error.

use super::audit::Audit;
use super::config::{Config, List};
use super::decide::{self, Undecided};
use super::files::FileRegistry;
use super::identity::Identity;
use super::objects::ObjectRegistry;
use super::registry::Registry;
use super::server::{Server, ServerError};
use super::{Registrar, config::ConfigError, files::FilesError};
use crate::controllers;
use kbs_protocol::{Blame, NodeId, Owner};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What to do with the registrar's list.
#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    /// Take in nodes until told to stop.
    Serve,
    /// Show who enrolled.
    List,
    /// Let a held key replace the approved one of its TPM.
    Approve(NodeId),
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Cluster(#[from] controllers::Error),
    #[error(transparent)]
    Undecided(#[from] Undecided),
    #[error("cannot {0}: {1}")]
    Io(&'static str, std::io::Error),
}

/// Whose list it is.
#[derive(Debug)]
pub enum Of {
    /// That of the registrar that this configuration file describes.
    Configuration(PathBuf),
    /// That of the cluster of KUBECONFIG: this namespace, or that of its context.
    Cluster(Option<String>),
}

/// Runs it.
pub fn run(task: &Task, of: Of) -> ExitCode {
    let Err(error) = perform(task, of) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("sheepfold-operator: {error}");
    let (code, advice) = match &error {
        Error::Config(error) => (error.owner().exit_code(), error.advice()),
        Error::Files(error) => (error.owner().exit_code(), error.advice()),
        Error::Cluster(error) => (error.owner().exit_code(), error.advice()),
        Error::Server(_) => (
            Owner::Configuration.exit_code(),
            "correct listen, tls_certificate_file or tls_key_file".to_owned(),
        ),
        Error::Undecided(Undecided::NoSuchNode(_)) => (
            USAGE,
            "`--list` in place of `--approve` shows the keys".to_owned(),
        ),
        Error::Undecided(Undecided::NoMachine { key, .. }) => (
            USAGE,
            format!(
                "`kubectl delete attestationkey {key}`; the node's next enrolment makes a new one"
            ),
        ),
        Error::Io(..) => (
            Owner::Machine.exit_code(),
            "look at what the program is connected to".to_owned(),
        ),
    };
    eprintln!("  next:    {advice}");
    ExitCode::from(code)
}

fn perform(task: &Task, of: Of) -> Result<(), Error> {
    let file = match of {
        Of::Configuration(file) => file,
        Of::Cluster(namespace) => return in_cluster(task, namespace),
    };
    let config = Config::load(&file)?;
    let directory = match &config.list {
        List::Files(directory) => file.parent().unwrap_or(Path::new("")).join(directory),
        List::Objects(namespace) if *task == Task::Serve => {
            let namespace = namespace.clone();
            return serve(config, async |runtime, most| {
                let (client, namespace) = controllers::connect(namespace).await?;
                let registry = ObjectRegistry::open(&client, &namespace, most, runtime).await?;
                let registry: Box<dyn Registry> = Box::new(registry);
                Ok(registry)
            });
        }
        List::Objects(namespace) => return in_cluster(task, namespace.clone()),
    };
    let registry = FileRegistry::open(&directory, config.limits.machines)?;
    match task {
        Task::Serve => serve(config, async |_, _| {
            let registry: Box<dyn Registry> = Box::new(registry);
            Ok(registry)
        }),
        Task::List => list(&registry),
        Task::Approve(node) => match registry.approve(*node)? {
            true => Ok(()),
            false => Err(Undecided::NoSuchNode(*node).into()),
        },
    }
}

/// Nothing here serves: that takes a configuration.
fn in_cluster(task: &Task, namespace: Option<String>) -> Result<(), Error> {
    let Task::Approve(node) = task else {
        let rows = controllers::ask(decide::list(namespace))?;
        return show(&rows);
    };
    let changes = controllers::ask(decide::approve(namespace, *node))??;
    if changes.is_empty() {
        eprintln!("sheepfold-operator: node {node} was approved already");
    }
    for (machine, state) in changes {
        let word = json!(state);
        let word = word.as_str().unwrap_or_default();
        eprintln!("sheepfold-operator: Machine {machine} is {word} now");
    }
    Ok(())
}

fn serve(
    config: Config,
    registry: impl AsyncFnOnce(Handle, usize) -> Result<Box<dyn Registry>, Error>,
) -> Result<(), Error> {
    match &config.identity {
        Identity::TrustOnFirstUse => eprintln!(
            "sheepfold-operator: warning: identity is \"trust-on-first-use\": any TPM, also one made of \
             software, can enrol"
        ),
        Identity::EkCertificate { roots, also_listed } if also_listed.is_empty() => eprintln!(
            "sheepfold-operator: {} certificates vouch for TPMs; every TPM of these makers can enrol",
            roots.len()
        ),
        Identity::EkCertificate { .. } | Identity::EkAllowList(_) => {}
    }
    let Config {
        identity,
        limits,
        listen,
        tls,
        fragments,
        ..
    } = config;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::Io("start threads", error))?;
    let handle = runtime.handle().clone();
    runtime.block_on(async {
        let registry = registry(handle, limits.machines).await?;
        let audit = Audit::to(std::io::stdout());
        let registrar = Arc::new(Registrar::new(identity, registry, audit, &limits));
        let server = Server::bind(listen, &tls, registrar, fragments, &limits).await?;
        let address = server
            .address()
            .map_err(|error| Error::Io("read the address", error))?;
        eprintln!("sheepfold-operator: registrar listening on https://{address}");
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .map_err(|error| Error::Io("wait for signals", error))?;
        tokio::select! {
            () = server.serve() => {}
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(())
    })
}

fn list(registry: &FileRegistry) -> Result<(), Error> {
    let mut rows = Vec::new();
    for tpm in registry.all()? {
        rows.extend(tpm.keys.iter().map(|key| {
            json!({
                "node_id": key.node_id, "state": key.state, "ek_sha256": tpm.ek_sha256, "basis": key.basis,
                "product": key.product, "since": key.since, "ak_public": key.ak_public,
            })
        }));
    }
    show(&rows)
}

/// One JSON object a line, as `jq` likes it.
fn show(rows: &[Value]) -> Result<(), Error> {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::Io("write to standard output", error))
}

/// Somebody typed what cannot be meant.
const USAGE: u8 = 2;

// SPDX-License-Identifier: Apache-2.0

//! `sheepfold-operator register`: serves, lists, approves. The audit log goes to standard output, words
//! for people to standard error.

use super::audit::Audit;
use super::config::Config;
use super::files::FileRegistry;
use super::identity::Identity;
use super::server::{Server, ServerError};
use super::{Registrar, config::ConfigError, files::FilesError};
use kbs_protocol::{Blame, NodeId};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

enum Task {
    Serve,
    List,
    Approve(NodeId),
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("no registered TPM has shown the key of node {0}")]
    NoSuchNode(NodeId),
    #[error("cannot {0}: {1}")]
    Io(&'static str, std::io::Error),
}

/// Runs it with the arguments after `register`.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Err(error) = parse(args).and_then(|(task, file)| perform(task, &file)) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("sheepfold-operator: {error}");
    let (owner, advice) = match &error {
        Error::Usage(_) => return ExitCode::from(2),
        Error::Config(error) => (10, error.advice()),
        Error::Files(error) => (11, error.advice()),
        Error::Server(_) => (
            10,
            "correct listen, tls_certificate_file or tls_key_file".to_owned(),
        ),
        Error::NoSuchNode(_) => (
            2,
            "`register --config FILE --list` shows the keys".to_owned(),
        ),
        Error::Io(..) => (11, "look at what the program is connected to".to_owned()),
    };
    eprintln!("  next:    {advice}");
    ExitCode::from(owner)
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Task, PathBuf), Error> {
    use lexopt::Arg::Long;
    use lexopt::ValueExt as _;
    let usage = |error: lexopt::Error| Error::Usage(format!("{error}\n{USAGE}"));
    let (mut task, mut file) = (Task::Serve, None);
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Long("config") => file = Some(PathBuf::from(parser.value().map_err(usage)?)),
            Long("list") => task = Task::List,
            Long("approve") => {
                let node = parser
                    .value()
                    .and_then(|value| value.parse())
                    .map_err(usage)?;
                task = Task::Approve(node);
            }
            other => return Err(usage(other.unexpected())),
        }
    }
    let file = file.ok_or_else(|| Error::Usage(USAGE.to_owned()))?;
    Ok((task, file))
}

fn perform(task: Task, file: &std::path::Path) -> Result<(), Error> {
    let config = Config::load(file)?;
    let directory = file
        .parent()
        .unwrap_or(std::path::Path::new(""))
        .join(&config.state_directory);
    let registry = FileRegistry::open(&directory, config.limits.machines)?;
    match task {
        Task::Serve => serve(config, registry),
        Task::List => list(&registry),
        Task::Approve(node) => match registry.approve(node)? {
            true => Ok(()),
            false => Err(Error::NoSuchNode(node)),
        },
    }
}

fn serve(config: Config, registry: FileRegistry) -> Result<(), Error> {
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
        ..
    } = config;
    let audit = Audit::to(std::io::stdout());
    let registrar = Arc::new(Registrar::new(identity, Box::new(registry), audit, &limits));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::Io("start threads", error))?;
    runtime.block_on(async {
        let server = Server::bind(listen, &tls, registrar, &limits).await?;
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

/// One JSON object a line, as `jq` likes it.
fn list(registry: &FileRegistry) -> Result<(), Error> {
    let mut text = String::new();
    for tpm in registry.all()? {
        for key in &tpm.keys {
            let line = serde_json::json!({
                "node_id": key.node_id, "state": key.state, "ek_sha256": tpm.ek_sha256, "basis": key.basis,
                "product": key.product, "since": key.since, "ak_public": key.ak_public,
            });
            text.push_str(&line.to_string());
            text.push('\n');
        }
    }
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::Io("write to standard output", error))
}

const USAGE: &str = "\
usage: sheepfold-operator register --config FILE                 serve
       sheepfold-operator register --config FILE --list          show who enrolled, one JSON object a line
       sheepfold-operator register --config FILE --approve NODE  let a held node attest instead of the
                                                                 key approved for its TPM before";

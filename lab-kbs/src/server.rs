// SPDX-License-Identifier: Apache-2.0

//! The server's life: keys and state are loaded, a port is opened, connections are served until the
//! handle is stopped or dropped. Called by the command line and, in their own process, by tests.

use crate::fault::Faults;
use crate::http;
use crate::keys;
use crate::options::Options;
use crate::store::Store;
use crate::token::TokenSigner;
use crate::verifier::Roots;
use anyhow::Context as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// A running server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    url: String,
    runtime: Option<Runtime>,
}

impl Server {
    /// Loads keys and state, opens the port and begins to serve on threads of its own. When this
    /// returns, the port accepts connections.
    ///
    /// # Errors
    /// When the directory was not made by [`crate::keys::init`], the state file is damaged, the address
    /// is taken, or an option is wrong; the message says which.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let acceptor = match options.insecure_http {
            true => None,
            false => Some(TlsAcceptor::from(Arc::new(tls_config(&options)?))),
        };
        let shared = Arc::new(Shared::new(options)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(handlers())
            .thread_name("lab-kbs")
            .enable_all()
            .build()
            .context("cannot start threads")?;
        let address = shared.options.listen;
        let listener = runtime
            .block_on(TcpListener::bind(address))
            .with_context(|| format!("cannot listen on {address}"))?;
        let url = url(listener.local_addr()?, acceptor.is_some());
        runtime.spawn(accept(listener, acceptor, shared.clone()));
        Ok(Self {
            shared,
            url,
            runtime: Some(runtime),
        })
    }

    /// `https://127.0.0.1:PORT`, or `http://` with the insecure option.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The fault knobs; what is set holds from the next request on.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// How many TCP connections were accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The requests so far (at most the first 100 000), in the order in which they were answered.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    /// Makes every session expire at once.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn expire_sessions(&self) -> anyhow::Result<()> {
        Ok(self.shared.store.update(|state| state.sessions.clear())?)
    }

    /// Closes the port and all connections. What was confirmed is on disk.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Number of the TCP connection, from 1.
    pub connection: u64,
    /// HTTP method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// HTTP status; 0 when the connection was dropped without an answer.
    pub status: u16,
    /// Why the request was refused, for the log only: the client is told less.
    pub cause: Option<String>,
}

impl Seen {
    /// One line, whatever a stranger put into the request or a policy engine into its message.
    fn log_line(&self) -> String {
        let Self {
            connection,
            method,
            path,
            status,
            cause,
        } = self;
        let cause = cause
            .as_ref()
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        let line = format!("lab-kbs: [{connection}] {method} {path} -> {status}{cause}");
        line.replace(char::is_control, " ") + "\n"
    }
}

/// What the handlers share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) signer: TokenSigner,
    pub(crate) admin_key: ed25519_dalek::VerifyingKey,
    pub(crate) acls: Vec<(String, regex::Regex)>,
    pub(crate) roots: Roots,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicU64,
}

impl Shared {
    fn new(options: Options) -> anyhow::Result<Self> {
        let dir = &options.dir;
        let (key, certificate) = keys::token_signer(dir)?;
        let faults = Faults::default();
        for fault in &options.faults {
            faults.set_text(fault)?;
        }
        let store = match options.in_memory {
            true => Store::in_memory(),
            false => Store::open(dir.join("state.json"))?,
        };
        if options
            .faults
            .iter()
            .any(|fault| fault == "never-overwrite")
        {
            // The storage backend that this fault imitates also puts the stock policies back at each start.
            store.update(|state| {
                state.resource_policy = None;
                state.attestation_policies.clear();
            })?;
        }
        let acls = options
            .acls
            .iter()
            .map(|acl| Ok((acl.role.clone(), acl.compile()?)));
        Ok(Self {
            roots: Roots::load(&options)?,
            signer: TokenSigner::new(
                key,
                certificate,
                options.dialect,
                options.insecure_header_jwk,
            ),
            admin_key: keys::admin_public(dir)?,
            acls: acls.collect::<anyhow::Result<_>>()?,
            store,
            faults,
            seen: Mutex::default(),
            connections: AtomicU64::new(0),
            options,
        })
    }

    /// Remembers an answered request and, if asked to, writes it to stderr.
    pub(crate) fn saw(&self, request: Seen) {
        if self.options.log {
            // A log that cannot be written must not stop the server.
            let line = request.log_line();
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        }
        let mut seen = self.seen();
        if seen.len() < SEEN_LIMIT {
            seen.push(request);
        }
    }

    /// How many requests were answered.
    pub(crate) fn request_count(&self) -> usize {
        self.seen().len()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let number = shared
                    .connections
                    .fetch_add(1, Ordering::Relaxed)
                    .saturating_add(1);
                tokio::spawn(connection(stream, acceptor.clone(), shared.clone(), number));
            }
            // Out of file descriptors, most likely: wait for connections to end.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A connection that fails is its client's problem: nothing is reported.
async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>, number: u64) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => serve(stream, shared, number).await,
        Some(acceptor) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(TLS_TIMEOUT, acceptor.accept(stream)).await
            {
                serve(stream, shared, number).await;
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>, number: u64) {
    let service = service_fn(|request| http::exchange(shared.clone(), number, request));
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// TLS 1.3 with the named provider; the process-wide default is not looked at.
fn tls_config(options: &Options) -> anyhow::Result<rustls::ServerConfig> {
    let (chain, key) = keys::tls(&options.dir)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the TLS certificate and key do not belong together")
}

fn url(address: SocketAddr, tls: bool) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}

/// How many requests are worked on at a time; the others wait for their turn. With all of a storm at work at
/// once, each would be slow, and policies have a time limit: approved nodes would be refused for the load.
fn handlers() -> usize {
    std::thread::available_parallelism().map_or(WORKERS, std::num::NonZero::get)
}

const WORKERS: usize = 2;
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
const SEEN_LIMIT: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::Seen;

    #[test]
    fn log_lines_are_one_line_without_control_characters() {
        let seen = Seen {
            connection: 1,
            method: "GET".into(),
            path: "/a".into(),
            status: 401,
            cause: Some("two\nlines \u{1b}[2J".into()),
        };
        assert_eq!(
            seen.log_line(),
            "lab-kbs: [1] GET /a -> 401: two lines  [2J\n"
        );
    }
}

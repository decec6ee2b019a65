// SPDX-License-Identifier: Apache-2.0

//! The registrar behind HTTPS: TLS 1.3, a few routes, limits on everything that somebody could make large,
//! slow or many. What is asked and answered is [`Registrar`]'s business.

use super::Registrar;
use super::config::{Limits, Tls};
use super::ignition::{self, Fragments};
use super::limit::Source;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kbs_protocol::enroll::{BEGIN_PATH, FINISH_PATH, REQUEST_LIMIT, Refusal, RefusalKind};
use kbs_protocol::volume_record::VOLUMES_PATH;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The certificate or key is unusable.
    #[error("the TLS certificate or key is not usable: {0}")]
    Tls(String),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A port that is open and not yet served.
pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    desks: Desks,
    most_time: Duration,
}

impl Server {
    /// Opens the port.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(
        address: SocketAddr,
        tls: &Tls,
        registrar: Arc<Registrar>,
        fragments: Option<Fragments>,
        limits: &Limits,
    ) -> Result<Self, ServerError> {
        let acceptor = TlsAcceptor::from(Arc::new(tls_config(tls)?));
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServerError::Listen { address, source })?;
        Ok(Self {
            listener,
            acceptor,
            router: router(registrar, fragments),
            desks: Desks::new(limits),
            most_time: CONNECTION_TIME,
        })
    }

    /// Ends each connection after this time, whatever it is used for, in place of two minutes.
    #[must_use]
    pub fn within(self, most_time: Duration) -> Self {
        Self { most_time, ..self }
    }

    /// The address, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the task is dropped.
    pub async fn serve(self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let source = Source::from(peer.ip());
                    // Nobody waits for a desk: who holds them all must not hold up the door as well.
                    if let Some(desk) = self.desks.take(source) {
                        let (acceptor, router) = (self.acceptor.clone(), self.router.clone());
                        let most_time = self.most_time;
                        tokio::spawn(async move {
                            let served = serve_one(stream, acceptor, router, source);
                            let _ = tokio::time::timeout(most_time, served).await;
                            drop(desk);
                        });
                    }
                }
                // Out of file descriptors, most likely: wait for connections to end.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// A connection that fails is its client's problem: nothing is reported.
async fn serve_one(stream: TcpStream, acceptor: TlsAcceptor, router: Router, source: Source) {
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream));
    let Ok(Ok(stream)) = handshake.await else {
        return;
    };
    answer_on(stream, router.layer(Extension(source))).await;
}

/// HTTP/1 over a connection, until its client leaves or is too slow with the head of a request.
pub(crate) async fn answer_on<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIME)
        .max_buf_size(HEADER_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn router(registrar: Arc<Registrar>, fragments: Option<Fragments>) -> Router {
    let router = match fragments {
        Some(fragments) => {
            let answer = move |headers: HeaderMap| async move { fragments.answer(&headers) };
            Router::new().route(ignition::PATH, get(answer))
        }
        None => Router::new(),
    };
    router
        .route(BEGIN_PATH, post(begin))
        .route(FINISH_PATH, post(finish))
        .route(VOLUMES_PATH, post(volumes))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(DefaultBodyLimit::max(REQUEST_LIMIT))
        .with_state(registrar)
}

async fn begin(
    State(registrar): State<Arc<Registrar>>,
    Extension(source): Extension<Source>,
    body: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    answer(body, move |body| {
        registrar.begin(source, body, SystemTime::now())
    })
    .await
}

async fn finish(
    State(registrar): State<Arc<Registrar>>,
    Extension(source): Extension<Source>,
    body: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    answer(body, move |body| {
        registrar.finish(source, body, SystemTime::now())
    })
    .await
}

async fn volumes(
    State(registrar): State<Arc<Registrar>>,
    Extension(source): Extension<Source>,
    body: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    answer(body, move |body| {
        registrar.volumes(source, body, SystemTime::now())
    })
    .await
}

async fn not_found() -> Response<Body> {
    refuse(&Refusal::new(
        RefusalKind::NotFound,
        "POST /v1/enroll/begin, POST /v1/enroll/finish, POST /v1/volumes",
    ))
}

/// Big numbers and disks take their time: not on a thread that serves others.
async fn answer(
    body: Result<Bytes, BytesRejection>,
    decide: impl FnOnce(&[u8]) -> Result<Vec<u8>, Refusal> + Send + 'static,
) -> Response<Body> {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            return refuse(&Refusal::new(RefusalKind::Request, rejection.body_text()));
        }
    };
    match tokio::task::spawn_blocking(move || decide(&body)).await {
        Ok(Ok(json)) => reply(StatusCode::OK, json),
        Ok(Err(refusal)) => refuse(&refusal),
        Err(_) => refuse(&Refusal::new(
            RefusalKind::Failure,
            "the request was not completed",
        )),
    }
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    let status =
        StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = reply(status, refusal.to_json());
    if matches!(
        refusal.error,
        RefusalKind::TooManyRequests | RefusalKind::Busy
    ) {
        response.headers_mut().insert(
            header::RETRY_AFTER,
            header::HeaderValue::from_static(RETRY_AFTER),
        );
    }
    response
}

fn reply(status: StatusCode, json: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Room for so many connections, and for so many of each source.
struct Desks {
    all: Arc<Semaphore>,
    most_of_one: usize,
    taken: Arc<Mutex<HashMap<Source, usize>>>,
}

/// One of them; free again when dropped.
struct Desk {
    source: Source,
    taken: Arc<Mutex<HashMap<Source, usize>>>,
    _one_of_all: OwnedSemaphorePermit,
}

impl Desks {
    fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            most_of_one: limits.connections_per_address,
            taken: Arc::default(),
        }
    }

    fn take(&self, source: Source) -> Option<Desk> {
        let one_of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = taken.entry(source).or_insert(0);
        if *of_this >= self.most_of_one {
            return None;
        }
        *of_this = of_this.saturating_add(1);
        Some(Desk {
            source,
            taken: Arc::clone(&self.taken),
            _one_of_all: one_of_all,
        })
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_this) = taken.get_mut(&self.source) {
            *of_this = of_this.saturating_sub(1);
            if *of_this == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

/// TLS 1.3 with the named provider; the process-wide default is not looked at.
fn tls_config(tls: &Tls) -> Result<rustls::ServerConfig, ServerError> {
    let failed = |error: &dyn std::fmt::Display| ServerError::Tls(error.to_string());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(tls.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).map_err(|error| failed(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| failed(&error))
}

const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Two requests, and a TPM between them that takes its time.
const CONNECTION_TIME: Duration = Duration::from_secs(120);
const HEADER_LIMIT: usize = 16 * 1024;
/// Seconds.
const RETRY_AFTER: &str = "5";

#[cfg(test)]
mod tests {
    use super::Desks;
    use crate::register::config::Limits;
    use crate::register::limit::Source;
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn desks_are_limited_for_all_and_for_each() {
        let source = |last| Source::from(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
        let desks = Desks::new(&Limits {
            connections: 3,
            connections_per_address: 2,
            ..Limits::default()
        });
        let (first, second) = (desks.take(source(1)), desks.take(source(1)));
        assert!(first.is_some() && second.is_some());
        assert!(desks.take(source(1)).is_none(), "one source");
        let third = desks.take(source(2));
        assert!(third.is_some());
        assert!(desks.take(source(3)).is_none(), "all");
        drop(first);
        assert!(desks.take(source(1)).is_some());
        drop((second, third));
        assert!(
            desks.taken.lock().unwrap().is_empty(),
            "nothing is remembered about who left"
        );
    }
}

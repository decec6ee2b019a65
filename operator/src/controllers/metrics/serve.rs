// SPDX-License-Identifier: Apache-2.0

//! `GET /metrics` over plain HTTP, for a monitoring system in the same cluster: there is nothing secret to read and
//! nothing to change.

use super::Metrics;
use crate::register::server::answer_on;
use axum::Router;
use axum::http::header;
use axum::routing::get;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Why nobody can ask.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (--metrics): {source}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// A port that is open and not yet served.
pub struct Listener(TcpListener);

impl Listener {
    /// Opens the port.
    ///
    /// # Errors
    /// It is taken, or not ours.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(address).await;
        listener
            .map(Self)
            .map_err(|source| ListenError { address, source })
    }

    /// The address, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until the task is dropped. Who holds all connections gets no more of them, and after some seconds
    /// loses those.
    pub async fn serve(self, metrics: Metrics) {
        let text = move || {
            let text = metrics.text();
            async move { ([(header::CONTENT_TYPE, FORMAT)], text) }
        };
        let router = Router::new().route("/metrics", get(text));
        let desks = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok((stream, _)) = self.0.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if let Ok(desk) = Arc::clone(&desks).try_acquire_owned() {
                let router = router.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(TIME, answer_on(stream, router)).await;
                    drop(desk);
                });
            }
        }
    }
}

const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(super) const CONNECTIONS: usize = 16;
/// A scraper that keeps its connection opens another one.
const TIME: Duration = Duration::from_secs(300);

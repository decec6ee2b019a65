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
pub struct Listener {
    port: TcpListener,
    most_time: Duration,
}

impl Listener {
    /// Opens the port.
    ///
    /// # Errors
    /// It is taken, or not ours.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let port = TcpListener::bind(address).await;
        let port = port.map_err(|source| ListenError { address, source })?;
        Ok(Self {
            port,
            most_time: TIME,
        })
    }

    /// Ends each connection after this time, in place of five minutes.
    #[cfg(test)]
    pub(super) fn within(self, most_time: Duration) -> Self {
        Self { most_time, ..self }
    }

    /// The address, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.port.local_addr()
    }

    /// Answers until the task is dropped. Who holds all connections gets no more of them, and loses those: after some
    /// seconds of silence, and after some minutes in any case.
    pub async fn serve(self, metrics: Metrics) {
        let text = move || {
            let text = metrics.text();
            async move { ([(header::CONTENT_TYPE, FORMAT)], text) }
        };
        let router = Router::new().route("/metrics", get(text));
        let desks = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok((stream, _)) = self.port.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if let Ok(desk) = Arc::clone(&desks).try_acquire_owned() {
                let (router, most_time) = (router.clone(), self.most_time);
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(most_time, answer_on(stream, router)).await;
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

// SPDX-License-Identifier: Apache-2.0

//! Several servers, one challenge: a dead server must not cost its whole time limit.
//!
//! The first server is asked alone. When it fails, or has not answered within the hedge delay, the next
//! one is asked as well, and so on. The first challenge wins. Threads of slower servers end with their own
//! time limits; nobody waits for them, and their sessions expire unused.

use super::error::KbsError;
use super::handshake::{Challenged, auth};
use super::http::Http;
use kbs_protocol::Tee;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The first challenge, and why it is none of a server that was asked earlier: a sentence for each.
///
/// # Errors
/// One error for each server.
pub(super) fn first_challenge(
    servers: &[Arc<Http>],
    tee: Tee,
    hedge: Duration,
    until: Option<Instant>,
) -> Result<(Challenged, Vec<String>), Vec<KbsError>> {
    let mut failures = Vec::new();
    if let [server] = servers {
        // No thread: there is nobody to overtake it.
        return match auth(server, tee, until) {
            Ok(challenged) => Ok((challenged, Vec::new())),
            Err(error) => Err(vec![error]),
        };
    }
    let (sender, answers) = mpsc::channel();
    let mut waiting = servers.iter();
    let mut running: usize = 0;
    loop {
        if let Some(server) = waiting.next() {
            let (thread_server, sender) = (Arc::clone(server), sender.clone());
            let spawned = std::thread::Builder::new()
                .name("auth".to_owned())
                .spawn(move || {
                    // A closed channel means that another server won.
                    let _ = sender.send(auth(&thread_server, tee, until));
                });
            match spawned {
                Ok(_) => running = running.saturating_add(1),
                Err(error) => failures.push(KbsError::Setup {
                    server: server.server.clone(),
                    why: error.to_string(),
                }),
            }
        }
        let more = waiting.len() > 0;
        if running == 0 {
            if more {
                continue;
            }
            return Err(failures);
        }
        let answer = if more {
            answers.recv_timeout(hedge)
        } else {
            answers.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match answer {
            Ok(Ok(challenged)) => {
                let passed_by = passed_by(servers, &challenged, &failures);
                return Ok((challenged, passed_by));
            }
            Ok(Err(error)) => {
                running = running.saturating_sub(1);
                failures.push(error);
            }
            Err(RecvTimeoutError::Timeout) => {}
            // We hold a sender ourselves, so this cannot happen; ending is right if it does.
            Err(RecvTimeoutError::Disconnected) => return Err(failures),
        }
    }
}

/// What became of the servers before the one that answered.
fn passed_by(servers: &[Arc<Http>], winner: &Challenged, failures: &[KbsError]) -> Vec<String> {
    servers
        .iter()
        .map(|http| &http.server)
        .take_while(|server| **server != winner.http.server)
        .map(
            |server| match failures.iter().find(|e| e.server() == Some(server)) {
                Some(error) => error.to_string(),
                None => format!("{server}: no answer yet"),
            },
        )
        .collect()
}

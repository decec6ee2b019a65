// SPDX-License-Identifier: Apache-2.0

//! The client's half of the KBS protocol: from a list of servers and a source of evidence to a secret.
//!
//! [`Client::fetch`] reads like this: [`race`] finds a server that answers, [`handshake`] walks through
//! challenge, evidence, token and resource with it over one connection of [`http`] under [`tls`], and
//! [`retry`] starts over while that can help. A [`Session`] gets several resources for one attestation. Subcommands and the Clevis pin call it; nothing else in this
//! program opens a socket.

mod blame;
mod error;
mod handshake;
mod headers;
mod http;
mod race;
mod registrar;
mod retry;
mod session;
mod tls;
mod tls_problem;
mod token;

pub use error::{EvidenceFailure, KbsError};
pub(crate) use http::{innermost, plain_client};
pub use registrar::{Enrol, Registrar};
pub use retry::{Pace, Patience, SystemPace, Wait};
pub use session::Session;
pub use tls_problem::TlsProblem;
pub use token::Token;

use crate::config::{ServerUrl, Timeouts};
use crate::evidence::Evidence;
use crate::trust::Target;
use handshake::{Attested, Challenged, auth};
use http::Http;
use kbs_protocol::message::{CompositeEvidence, InitData, RuntimeData};
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::{Blame as _, Owner, Persistence, Secret, Tee};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A source of evidence.
///
/// It is opened, with its key loaded, before the client is called: a session lasts 5 minutes from its
/// first message, and making a key can take a slow TPM one of them.
pub trait Attest {
    /// The kind, named in the first message.
    fn tee(&self) -> Tee;

    /// Evidence over a nonce and the key of one handshake. Called once per handshake.
    ///
    /// # Errors
    /// Whatever kept this machine from making it.
    fn evidence(&mut self, data: &RuntimeData) -> Result<CompositeEvidence, EvidenceFailure>;
}

impl Attest for Evidence {
    fn tee(&self) -> Tee {
        Evidence::tee(self)
    }

    fn evidence(&mut self, data: &RuntimeData) -> Result<CompositeEvidence, EvidenceFailure> {
        match self.collect(data) {
            Ok(evidence) => Ok(evidence),
            Err(error) => Err(Box::new(error)),
        }
    }
}

/// Several servers that keep the same secrets.
pub struct Client {
    servers: Vec<Arc<Http>>,
    hedge: Duration,
    init_data: Option<InitData>,
}

/// A secret and how it came.
pub struct Fetched {
    /// The resource, decrypted, as the server stores it.
    pub secret: Secret,
    /// The attestation token.
    pub token: Token,
    /// The server that gave it.
    pub server: ServerUrl,
    /// How long each step took.
    pub timings: Timings,
    /// The server's clock minus ours in seconds, if the server told its time.
    pub clock_skew: Option<i64>,
}

/// A token and how it came.
#[derive(Debug)]
pub struct Attestation {
    /// The attestation token.
    pub token: Token,
    /// The server that gave it.
    pub server: ServerUrl,
    /// How long each step took; there is no resource.
    pub timings: Timings,
    /// The server's clock minus ours in seconds, if the server told its time.
    pub clock_skew: Option<i64>,
}

/// What one server said to a request for a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The server.
    pub server: ServerUrl,
    /// Its clock minus ours in seconds, if it told its time.
    pub clock_skew: Option<i64>,
}

/// The steps of the handshake that succeeded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Connection, request and challenge.
    pub auth: Duration,
    /// Evidence.
    pub evidence: Duration,
    /// Attestation and token.
    pub attest: Duration,
    /// Resource.
    pub resource: Duration,
}

impl Client {
    /// Prepares connections to the servers of a target; nothing is sent yet.
    ///
    /// # Errors
    /// [`KbsError::Setup`].
    pub fn new(target: &Target, timeouts: &Timeouts) -> Result<Self, KbsError> {
        let servers = target
            .servers
            .iter()
            .map(|server| Http::new(&server.url, &server.anchors, timeouts).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            servers,
            hedge: timeouts.hedge,
            init_data: target.init_data.clone(),
        })
    }

    /// Attests and gets one resource.
    ///
    /// # Errors
    /// [`KbsError`], when retrying is pointless or patience ends. After the attestation it carries the
    /// token.
    pub fn fetch(
        &self,
        attester: &mut dyn Attest,
        path: &ResourcePath,
        patience: Patience,
        on_wait: &mut dyn FnMut(Wait<'_>),
    ) -> Result<Fetched, KbsError> {
        let (fetched, _) = self.begin(attester, path, patience, on_wait)?;
        Ok(fetched)
    }

    /// As [`Client::fetch`], and keeps the door open for further resources.
    fn begin(
        &self,
        attester: &mut dyn Attest,
        path: &ResourcePath,
        patience: Patience,
        on_wait: &mut dyn FnMut(Wait<'_>),
    ) -> Result<(Fetched, Attested), KbsError> {
        retry::retry(patience, &mut SystemPace, on_wait, |until| {
            self.round(attester, until, &mut |attested, until| {
                attested.fetch(path, until)
            })
        })
    }

    /// Attests and stops there: the token tells what the server thinks of this node.
    ///
    /// # Errors
    /// [`KbsError`], when retrying is pointless or patience ends.
    pub fn attest(
        &self,
        attester: &mut dyn Attest,
        patience: Patience,
        on_wait: &mut dyn FnMut(Wait<'_>),
    ) -> Result<Attestation, KbsError> {
        retry::retry(patience, &mut SystemPace, on_wait, |until| {
            self.round(attester, until, &mut |_, _| Ok(()))
                .map(|((), attested)| attested.attestation())
        })
    }

    /// Asks each server for a challenge, one after the other, and forgets it: name, connection, TLS and
    /// protocol version are right, or the error says which is not.
    pub fn probe(&self, tee: Tee) -> Vec<Result<Probe, KbsError>> {
        self.servers
            .iter()
            .map(|http| {
                auth(http, tee, None).map(|challenged| Probe {
                    server: http.server.clone(),
                    clock_skew: challenged.clock_skew,
                })
            })
            .collect()
    }

    /// One round: the first server that answers, then the others if it fails in a way they may not.
    fn round<T>(
        &self,
        attester: &mut dyn Attest,
        until: Option<Instant>,
        finish: &mut Finish<'_, T>,
    ) -> Result<(T, Attested), KbsError> {
        let mut candidates = self.servers.clone();
        let mut failures = Vec::new();
        while !candidates.is_empty() {
            let challenged =
                match race::first_challenge(&candidates, attester.tee(), self.hedge, until) {
                    Ok((challenged, passed_by)) => {
                        for why in &passed_by {
                            log::warn!("{why}; using {}", challenged.http.server);
                        }
                        challenged
                    }
                    Err(errors) => {
                        failures.extend(errors);
                        break;
                    }
                };
            let server = challenged.http.server.clone();
            match self.complete(challenged, attester, until, finish) {
                Ok(done) => return Ok(done),
                Err(error) if others_may_help(&error) => {
                    candidates.retain(|http| http.server != server);
                    failures.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(KbsError::of_servers(failures))
    }

    /// Goes on with the server that answered. A session that the server lost is worth one new handshake.
    fn complete<T>(
        &self,
        challenged: Challenged,
        attester: &mut dyn Attest,
        until: Option<Instant>,
        finish: &mut Finish<'_, T>,
    ) -> Result<(T, Attested), KbsError> {
        let http = Arc::clone(&challenged.http);
        let tee = attester.tee();
        match self.once(challenged, attester, until, finish) {
            Err(error) if error.wants_new_handshake() => {
                log::info!("{error}; starting a new handshake");
                self.once(auth(&http, tee, until)?, attester, until, finish)
            }
            other => other,
        }
    }

    fn once<T>(
        &self,
        challenged: Challenged,
        attester: &mut dyn Attest,
        until: Option<Instant>,
        finish: &mut Finish<'_, T>,
    ) -> Result<(T, Attested), KbsError> {
        let attested = challenged.attest(attester, self.init_data.as_ref(), until)?;
        let value = finish(&attested, until)?;
        Ok((value, attested))
    }
}

impl Drop for Client {
    /// The HTTP library ends its threads by waiting for them, and a name lookup under way cannot be called
    /// off: a resolver that is away would hold up a program that has its secret already.
    fn drop(&mut self) {
        let servers = std::mem::take(&mut self.servers);
        // Without a thread to spare they are dropped here.
        let _ = std::thread::Builder::new().spawn(move || drop(servers));
    }
}

/// What to do once attested.
type Finish<'f, T> = dyn FnMut(&Attested, Option<Instant>) -> Result<T, KbsError> + 'f;

/// Another server may answer where this one is broken. A policy, this machine or our configuration is the
/// same for all of them.
fn others_may_help(error: &KbsError) -> bool {
    let about_this_server = matches!(error.owner(), Owner::Server | Owner::Network);
    about_this_server || error.persistence() == Persistence::Temporary
}

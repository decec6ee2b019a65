// SPDX-License-Identifier: Apache-2.0

//! One handshake with one server, step by step; each step's type holds what the next one needs.
//!
//! Request and challenge ([`auth`]), attestation and token ([`Challenged::attest`]), resource
//! ([`Attested::resource`]).

use super::error::KbsError;
use super::http::{Answer, Call, Credential, Http};
use super::{Attest, Fetched, Timings, Token};
use kbs_protocol::Secret;
use kbs_protocol::Tee;
use kbs_protocol::jwe::ResourceJwe;
use kbs_protocol::message::{
    ATTEST_PATH, AUTH_PATH, AttestResponse, Attestation, Challenge, InitData, RESOURCE_PREFIX,
    Request, RuntimeData,
};
use kbs_protocol::refusal::{Refusal, RefusalKind, Step};
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::tee_key::TeeKey;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A server has answered with a challenge.
pub(super) struct Challenged {
    pub(super) http: Arc<Http>,
    challenge: Challenge,
    cookie: String,
    /// When the request left: the session is at most this old.
    since: Instant,
    pub(super) took: Duration,
    pub(super) clock_skew: Option<i64>,
}

/// A server has issued a token. That does not mean that it trusts the node.
pub(super) struct Attested {
    http: Arc<Http>,
    cookie: String,
    key: TeeKey,
    since: Instant,
    pub(super) token: Token,
    auth_took: Duration,
    evidence_took: Duration,
    attest_took: Duration,
    clock_skew: Option<i64>,
}

/// `POST /auth`.
pub(super) fn auth(
    http: &Arc<Http>,
    tee: Tee,
    until: Option<Instant>,
) -> Result<Challenged, KbsError> {
    let since = Instant::now();
    let call = Call {
        step: Step::Auth,
        path: AUTH_PATH,
        body: Some(json(http, &Request::new(tee))?),
        credential: None,
    };
    let answer = http.send(call, until)?;
    let answer = expect_ok(http, Step::Auth, Sent::default(), answer)?;
    let challenge = Challenge::parse(&answer.body).map_err(|e| protocol(http, e, None))?;
    let Some(cookie) = answer.cookie else {
        return Err(KbsError::NoCookie {
            server: http.server.clone(),
        });
    };
    Ok(Challenged {
        http: Arc::clone(http),
        challenge,
        cookie,
        since,
        took: since.elapsed(),
        clock_skew: answer.clock_skew,
    })
}

impl Challenged {
    /// Makes a key and evidence over it, then `POST /attest`.
    pub(super) fn attest(
        self,
        attester: &mut dyn Attest,
        init_data: Option<&InitData>,
        until: Option<Instant>,
    ) -> Result<Attested, KbsError> {
        let http = self.http;
        let key = TeeKey::generate().map_err(|e| protocol(&http, e, None))?;
        let runtime_data = RuntimeData {
            nonce: self.challenge.nonce,
            tee_pubkey: key.public(),
        };
        let evidence_begins = Instant::now();
        let tee_evidence = attester
            .evidence(&runtime_data)
            .map_err(KbsError::Evidence)?;
        let evidence_took = evidence_begins.elapsed();

        let attestation = Attestation {
            init_data: init_data.cloned(),
            runtime_data,
            tee_evidence,
        };
        let call = Call {
            step: Step::Attest,
            path: ATTEST_PATH,
            body: Some(json(&http, &attestation)?),
            credential: Some(Credential::Cookie(&self.cookie)),
        };
        let attest_begins = Instant::now();
        let answer = http.send(call, until)?;
        let sent = Sent {
            since: Some(self.since),
            ..Sent::default()
        };
        let answer = expect_ok(&http, Step::Attest, sent, answer)?;
        let response = AttestResponse::parse(&answer.body).map_err(|e| protocol(&http, e, None))?;
        Ok(Attested {
            http,
            cookie: answer.cookie.unwrap_or(self.cookie),
            key,
            since: self.since,
            token: Token::new(response.token),
            auth_took: self.took,
            evidence_took,
            attest_took: attest_begins.elapsed(),
            clock_skew: self.clock_skew,
        })
    }
}

impl Attested {
    /// The token and how it came.
    pub(super) fn attestation(&self) -> super::Attestation {
        super::Attestation {
            token: self.token.clone(),
            server: self.http.server.clone(),
            timings: Timings {
                auth: self.auth_took,
                evidence: self.evidence_took,
                attest: self.attest_took,
                resource: Duration::ZERO,
            },
            clock_skew: self.clock_skew,
        }
    }

    /// One resource, and how it came.
    pub(super) fn fetch(
        &self,
        path: &ResourcePath,
        until: Option<Instant>,
    ) -> Result<Fetched, KbsError> {
        let begin = Instant::now();
        let secret = self.resource(path, until)?;
        let attestation = self.attestation();
        Ok(Fetched {
            secret,
            token: attestation.token,
            server: attestation.server,
            timings: Timings {
                resource: begin.elapsed(),
                ..attestation.timings
            },
            clock_skew: attestation.clock_skew,
        })
    }

    /// `GET /resource/…`: by session and, if the server lost the session, by token.
    fn resource(&self, path: &ResourcePath, until: Option<Instant>) -> Result<Secret, KbsError> {
        let by_session = self.get(path, Credential::Cookie(&self.cookie), until);
        match by_session {
            Err(error)
                if error
                    .refusal()
                    .is_some_and(|r| r.kind == RefusalKind::NoSession)
                    && self.token.as_str().len() <= BEARER_LIMIT =>
            {
                log::info!("{error}; asking again with the token");
                self.get(path, Credential::Bearer(self.token.as_str()), until)
            }
            other => other,
        }
    }

    fn get(
        &self,
        path: &ResourcePath,
        credential: Credential<'_>,
        until: Option<Instant>,
    ) -> Result<Secret, KbsError> {
        let call = Call {
            step: Step::Resource,
            path: &format!("{RESOURCE_PREFIX}{path}"),
            body: None,
            credential: Some(credential),
        };
        let answer = self.http.send(call, until)?;
        let token = Some(&self.token);
        let sent = Sent {
            asked: Some(path),
            since: Some(self.since),
            token,
        };
        let answer = expect_ok(&self.http, Step::Resource, sent, answer)?;
        ResourceJwe::parse(&answer.body)
            .and_then(|jwe| jwe.open(&self.key))
            .map_err(|error| protocol(&self.http, error, token))
    }
}

/// What a refusal is explained with.
#[derive(Default)]
struct Sent<'a> {
    asked: Option<&'a ResourcePath>,
    /// When the session began.
    since: Option<Instant>,
    token: Option<&'a Token>,
}

/// Everything but status 200 is a refusal.
fn expect_ok(http: &Http, step: Step, sent: Sent<'_>, answer: Answer) -> Result<Answer, KbsError> {
    if answer.status == 200 {
        return Ok(answer);
    }
    let refusal = Refusal::read(step, answer.status, &answer.body);
    Err(KbsError::Refused {
        server: http.server.clone(),
        asked: sent.asked.cloned().map(Box::new),
        retry_after: answer
            .retry_after
            .filter(|_| refusal.kind == RefusalKind::Busy),
        refusal,
        session_age: sent.since.map(|since| since.elapsed()),
        token: sent.token.cloned(),
    })
}

fn protocol(http: &Http, error: kbs_protocol::Error, token: Option<&Token>) -> KbsError {
    KbsError::Protocol {
        server: http.server.clone(),
        error,
        token: token.cloned(),
    }
}

fn json(http: &Http, message: &impl Serialize) -> Result<Vec<u8>, KbsError> {
    serde_json::to_vec(message).map_err(|error| KbsError::Setup {
        server: http.server.clone(),
        why: format!("a message cannot be written as JSON: {error}"),
    })
}

/// Proxies commonly limit all headers together to 8 or 16 KiB; a larger token would only hide the real
/// refusal behind theirs.
const BEARER_LIMIT: usize = 16 * 1024;

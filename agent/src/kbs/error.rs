// SPDX-License-Identifier: Apache-2.0

//! Everything that can go wrong between this node and a KBS or registrar, with the server's address in each sentence.

use super::Token;
use super::tls_problem::TlsProblem;
use crate::config::ServerUrl;
use kbs_protocol::enroll::{self, Outcome};
use kbs_protocol::refusal::{Refusal, RefusalKind, Step};
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::{Blame, Persistence};
use std::fmt;
use std::time::Duration;

/// An error of the evidence source, whatever that is on this machine.
pub type EvidenceFailure = Box<dyn Blame + Send + Sync>;

/// Why a handshake gave no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KbsError {
    /// No connection could even be prepared.
    #[error("{server}: cannot prepare a connection: {why}")]
    Setup {
        /// The server.
        server: ServerUrl,
        /// What the TLS or HTTP library said.
        why: String,
    },
    /// The name of the server did not resolve.
    #[error("{server}: its name does not resolve: {why}")]
    Dns {
        /// The server.
        server: ServerUrl,
        /// What the resolver said.
        why: String,
    },
    /// Nothing accepts connections.
    #[error("{server}: no connection: {why}")]
    Connect {
        /// The server.
        server: ServerUrl,
        /// What the system said.
        why: String,
    },
    /// The server did not prove who it is, or does not speak our TLS.
    #[error("{server}: {problem}")]
    Tls {
        /// The server.
        server: ServerUrl,
        /// What is wrong.
        problem: TlsProblem,
    },
    /// The server took the request and closed the connection: a KBS whose handler crashed does that, and so does a load
    /// balancer with no KBS behind it.
    #[error("{server}: it closed the connection instead of answering {step}: {why}")]
    NoAnswer {
        /// The server.
        server: ServerUrl,
        /// What was asked.
        step: Step,
        /// What the connection said.
        why: String,
    },
    /// The answer began and broke off.
    #[error("{server}: the answer to {step} broke off: {why}")]
    Cut {
        /// The server.
        server: ServerUrl,
        /// What was asked.
        step: Step,
        /// What the connection said.
        why: String,
    },
    /// No complete answer in time.
    #[error("{server}: no complete answer to {step} within {} s", .after.as_secs_f32())]
    Timeout {
        /// The server.
        server: ServerUrl,
        /// What was asked.
        step: Step,
        /// How long we waited.
        after: Duration,
    },
    /// The answer is larger than any honest one.
    #[error("{server}: the answer to {step} is larger than {limit} bytes")]
    TooLarge {
        /// The server.
        server: ServerUrl,
        /// What was asked.
        step: Step,
        /// The limit in bytes.
        limit: usize,
    },
    /// The server sends us elsewhere; only the configuration may do that.
    #[error(
        "{server}: it answered {step} with a redirection to {location:?}, which is not followed"
    )]
    Redirect {
        /// The server.
        server: ServerUrl,
        /// What was asked.
        step: Step,
        /// Where to.
        location: String,
    },
    /// The server said no.
    #[error("{server}: {refusal}{}", Asked(asked.as_deref()))]
    Refused {
        /// The server.
        server: ServerUrl,
        /// The resource, if one was asked for.
        asked: Option<Box<ResourcePath>>,
        /// What it said, understood.
        refusal: Refusal,
        /// Age of the session when it said so.
        session_age: Option<Duration>,
        /// How long it asks us to stay away.
        retry_after: Option<Duration>,
        /// The attestation token, if there was one by then: it tells what the policy saw.
        token: Option<Token>,
    },
    /// The registrar said no.
    #[error("{server}: {refusal}")]
    Registrar {
        /// The registrar.
        server: ServerUrl,
        /// What it said, understood.
        refusal: enroll::Refusal,
        /// How long it asks us to stay away.
        retry_after: Option<Duration>,
    },
    /// The registrar believes this node, and waits for a person.
    #[error(
        "{server}: node {} is held for approval: {}",
        .outcome.node_id,
        .outcome.reason.as_deref().unwrap_or("no reason given")
    )]
    Held {
        /// The registrar.
        server: ServerUrl,
        /// What it decided.
        outcome: Outcome,
    },
    /// The challenge came without the cookie that names the session.
    #[error("{server}: the challenge came without the session cookie kbs-session-id")]
    NoCookie {
        /// The server.
        server: ServerUrl,
    },
    /// The server said yes, and what came is not what the protocol says.
    #[error("{server}: {error}")]
    Protocol {
        /// The server.
        server: ServerUrl,
        /// What is wrong with it.
        error: kbs_protocol::Error,
        /// The attestation token, if there was one by then.
        token: Option<Token>,
    },
    /// This machine made no evidence.
    #[error("{0}")]
    Evidence(EvidenceFailure),
    /// Several servers were asked, each failed.
    #[error("none of {} servers helped: {}", .0.len(), sentences(.0))]
    Servers(
        /// One error a server, in the order in which they failed; never empty.
        Vec<KbsError>,
    ),
    /// The time was up.
    #[error("gave up after {} s and {tries} tries, at last because of {last}{}", .after.as_secs(), Others(.others))]
    GaveUp {
        /// How long it was tried.
        after: Duration,
        /// How often it was tried.
        tries: u32,
        /// The last error.
        last: Box<KbsError>,
        /// The other errors on the way, and how often each came.
        others: Vec<(String, u32)>,
    },
}

impl KbsError {
    /// The errors of one round, of which there is at least one.
    pub(super) fn of_servers(mut errors: Vec<Self>) -> Self {
        match errors.pop() {
            Some(only) if errors.is_empty() => only,
            last => {
                errors.extend(last);
                Self::Servers(errors)
            }
        }
    }

    /// The attestation token of the handshake that failed, for `explain`.
    pub fn token(&self) -> Option<&Token> {
        match self.lead() {
            Self::Refused { token, .. } | Self::Protocol { token, .. } => token.as_ref(),
            _ => None,
        }
    }

    /// The refusal behind this error, for `explain`.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self.lead() {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// The server that this error is about.
    pub fn server(&self) -> Option<&ServerUrl> {
        match self.lead() {
            Self::Setup { server, .. }
            | Self::Dns { server, .. }
            | Self::Connect { server, .. }
            | Self::Tls { server, .. }
            | Self::NoAnswer { server, .. }
            | Self::Cut { server, .. }
            | Self::Timeout { server, .. }
            | Self::TooLarge { server, .. }
            | Self::Redirect { server, .. }
            | Self::Refused { server, .. }
            | Self::Registrar { server, .. }
            | Self::Held { server, .. }
            | Self::NoCookie { server }
            | Self::Protocol { server, .. } => Some(server),
            Self::Evidence(_) | Self::Servers(_) | Self::GaveUp { .. } => None,
        }
    }

    /// The decision of a registrar that waits for a person.
    pub fn held(&self) -> Option<&Outcome> {
        match self.lead() {
            Self::Held { outcome, .. } => Some(outcome),
            _ => None,
        }
    }

    /// How long the server asked us to stay away.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self.lead() {
            Self::Refused { retry_after, .. } | Self::Registrar { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the session, rather than the node, was refused: a new handshake may help.
    pub(super) fn wants_new_handshake(&self) -> bool {
        self.refusal()
            .is_some_and(|r| matches!(r.kind, RefusalKind::NoSession | RefusalKind::Token))
    }

    /// The error that decides what to do: of several the most hopeful one, because while one server may
    /// yet help it is too early to stop.
    pub(super) fn lead(&self) -> &Self {
        match self {
            Self::GaveUp { last, .. } => last.lead(),
            Self::Servers(errors) => {
                let with = |persistence| {
                    errors
                        .iter()
                        .map(Self::lead)
                        .find(|e| e.persistence() == persistence)
                };
                with(Persistence::Temporary)
                    .or_else(|| with(Persistence::UntilApproved))
                    .or_else(|| errors.first().map(Self::lead))
                    .unwrap_or(self)
            }
            other => other,
        }
    }
}

fn sentences(errors: &[KbsError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// "; asked for default/…/root", or nothing.
struct Asked<'p>(Option<&'p ResourcePath>);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, "; asked for {path}"),
            None => Ok(()),
        }
    }
}

/// "; before that: … (3 times)", or nothing.
struct Others<'e>(&'e [(String, u32)]);

impl fmt::Display for Others<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (sentence, times)) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "; before that " } else { ", " })?;
            write!(f, "{sentence} ({times} times)")?;
        }
        Ok(())
    }
}

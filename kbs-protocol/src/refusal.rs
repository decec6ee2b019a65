// SPDX-License-Identifier: Apache-2.0

//! What a KBS means when it says no.
//!
//! A KBS answers almost everything with status 401 and a `type` URL; "no such resource" and "internal
//! failure" look alike, and a failed attestation has no reason at all. This module turns status, type and
//! detail into a kind with an owner, a persistence and a next step.

use crate::encoding::printable;
use crate::error::{Blame, Owner, Persistence};
use crate::message::{ErrorInformation, SMALL_LIMIT};
use std::fmt;

/// A step of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// `POST /auth`.
    Auth,
    /// `POST /attest`.
    Attest,
    /// `GET /resource/…`.
    Resource,
    /// Before all of these: the enrolment, [`crate::enroll::BEGIN_PATH`].
    EnrollBegin,
    /// Its end, [`crate::enroll::FINISH_PATH`].
    EnrollFinish,
    /// The record of a node's volumes, at the registrar.
    RecordVolumes,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auth => "the request for a challenge",
            Self::Attest => "the evidence",
            Self::Resource => "the request for the resource",
            Self::EnrollBegin => "the request to enrol",
            Self::EnrollFinish => "the activated credential",
            Self::RecordVolumes => "the record of volumes",
        })
    }
}

/// A refusal by the server, understood as far as its body allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was refused.
    pub step: Step,
    /// HTTP status.
    pub status: u16,
    /// What it means.
    pub kind: RefusalKind,
    /// The server's own sentence, shortened and without control characters.
    pub detail: String,
}

/// The refusals that a KBS of the supported range can produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The server speaks another protocol version.
    Version,
    /// The server does not understand the request, or does not know this TEE.
    Request,
    /// The KBS cannot reach its attestation service, or that one refused to make a challenge.
    ChallengeUnavailable,
    /// The evidence was not accepted; the reason is in the server's log only.
    Evidence,
    /// There is no attested session: it expired, or the server lost it.
    NoSession,
    /// The server does not trust the token, its own included.
    Token,
    /// The resource policy says no.
    Policy,
    /// The resource policy itself is broken.
    PolicyBroken,
    /// No such resource, or the storage behind it failed.
    Resource,
    /// The server cannot encrypt to our key.
    Encryption,
    /// The reference-value store behind the server failed.
    ReferenceValues,
    /// Wrong URL: not a KBS, another prefix, or the plugin is not configured.
    NotFound,
    /// Something in between limits the size of requests.
    TooLarge,
    /// The server asks for patience.
    Busy,
    /// The server, or a proxy before it, failed.
    Failure,
    /// Anything else.
    Other,
}

impl Refusal {
    /// Understands an answer whose status is not 200. The body is read as JSON whatever its content type
    /// says: a KBS sets none on errors.
    pub fn read(step: Step, status: u16, body: &[u8]) -> Self {
        let body = body.get(..SMALL_LIMIT).unwrap_or(body);
        let (kind, detail) = match serde_json::from_slice::<ErrorInformation>(body) {
            Ok(information) => {
                let name = information
                    .error_type
                    .rsplit('/')
                    .next()
                    .unwrap_or_default();
                (
                    kind_of_type(name, &information.detail, step),
                    information.detail,
                )
            }
            Err(_) => (None, String::from_utf8_lossy(body).into_owned()),
        };
        let kind = kind.unwrap_or_else(|| kind_of_status(status));
        Self {
            step,
            status,
            kind,
            detail: printable(&detail, DETAIL_LIMIT),
        }
    }

    fn rule(&self) -> &'static Rule {
        RULES
            .iter()
            .find(|rule| rule.kind == self.kind)
            .unwrap_or(&OTHER)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the server refused {}: {} (status {}",
            self.step,
            self.rule().meaning,
            self.status
        )?;
        if !self.detail.is_empty() {
            write!(f, ", {:?}", self.detail)?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for Refusal {}

impl Blame for Refusal {
    fn owner(&self) -> Owner {
        self.rule().owner
    }

    fn persistence(&self) -> Persistence {
        self.rule().persistence
    }

    fn advice(&self) -> String {
        self.rule().advice.to_owned()
    }
}

/// The kind by the last segment of the `type` URL and, where several causes share one, by the detail.
fn kind_of_type(name: &str, detail: &str, step: Step) -> Option<RefusalKind> {
    Some(match name {
        "AttestationError" if detail.contains("Protocol Version Mismatch") => RefusalKind::Version,
        "AttestationError" if detail.contains("generate challenge failed") => {
            RefusalKind::ChallengeUnavailable
        }
        "AttestationError" if step == Step::Auth => RefusalKind::Request,
        "AttestationError" => RefusalKind::Evidence,
        "TokenNotFound" => RefusalKind::NoSession,
        "TokenVerifierError" => RefusalKind::Token,
        "PolicyDeny" => RefusalKind::Policy,
        "PolicyEngineError" => RefusalKind::PolicyBroken,
        "PluginInternalError" => RefusalKind::Resource,
        "JweError" => RefusalKind::Encryption,
        "RvpsError" => RefusalKind::ReferenceValues,
        "PluginNotFound" | "InvalidRequestPath" => RefusalKind::NotFound,
        _ => return None,
    })
}

fn kind_of_status(status: u16) -> RefusalKind {
    match status {
        404 | 405 => RefusalKind::NotFound,
        413 => RefusalKind::TooLarge,
        429 | 503 => RefusalKind::Busy,
        500..=599 => RefusalKind::Failure,
        _ => RefusalKind::Other,
    }
}

struct Rule {
    kind: RefusalKind,
    owner: Owner,
    persistence: Persistence,
    meaning: &'static str,
    advice: &'static str,
}

const DETAIL_LIMIT: usize = 300;

const OTHER: Rule = Rule {
    kind: RefusalKind::Other,
    owner: Owner::Server,
    persistence: Persistence::Permanent,
    meaning: "its answer is none that a KBS gives",
    advice: "make sure that the address is a Trustee KBS and that no proxy answers in its place",
};

/// One line a kind; everything a reader needs to know about a refusal stands here.
const RULES: &[Rule] = &[
    Rule {
        kind: RefusalKind::Version,
        owner: Owner::Server,
        persistence: Persistence::Permanent,
        meaning: "it speaks another protocol version",
        advice: "this agent speaks 0.4.0, which Trustee 0.14 to 0.21 accept: upgrade the side that is \
                 older",
    },
    Rule {
        kind: RefusalKind::Request,
        owner: Owner::Server,
        persistence: Persistence::Permanent,
        meaning: "it does not understand the request or does not know this kind of TEE",
        advice: "use a KBS whose attestation service is built with a verifier for this TEE (the REST \
                 flavour knows no TPM)",
    },
    Rule {
        kind: RefusalKind::ChallengeUnavailable,
        owner: Owner::Server,
        persistence: Persistence::Temporary,
        meaning: "its attestation service made no challenge",
        advice: "look at whether the KBS reaches its attestation service",
    },
    Rule {
        kind: RefusalKind::Evidence,
        owner: Owner::Server,
        persistence: Persistence::UntilApproved,
        meaning: "it did not accept the evidence and does not say why",
        advice: "the reason is in the log of the attestation service: an expired session, evidence it \
                 cannot verify, init-data that PCR 8 does not carry, or an attestation policy that does not \
                 load",
    },
    Rule {
        kind: RefusalKind::NoSession,
        owner: Owner::Server,
        persistence: Persistence::Temporary,
        meaning: "it knows no attested session",
        advice: "the session expired or a replica does not share sessions; if it repeats, give the KBS \
                 replicas one session storage, and on Trustee 0.20 do not use LocalJson storage",
    },
    Rule {
        kind: RefusalKind::Token,
        owner: Owner::Server,
        persistence: Persistence::Temporary,
        meaning: "it does not trust the attestation token",
        advice: "if it repeats with a fresh token, trusted_certs_paths of the KBS does not match the \
                 certificate of its token signer, or that certificate expired",
    },
    Rule {
        kind: RefusalKind::Policy,
        owner: Owner::Policy,
        persistence: Persistence::UntilApproved,
        meaning: "the resource policy does not give this secret to this node",
        advice: "run `trustee-agent explain` on the node: it shows what the policy saw; then approve the \
                 image, the key or the path, or find out who changed the node",
    },
    Rule {
        kind: RefusalKind::PolicyBroken,
        owner: Owner::Policy,
        persistence: Persistence::UntilApproved,
        meaning: "the resource policy itself does not evaluate",
        advice: "upload a resource policy in Rego v1 syntax",
    },
    Rule {
        kind: RefusalKind::Resource,
        owner: Owner::Server,
        persistence: Persistence::UntilApproved,
        meaning: "the policy would allow it, but the resource does not exist or cannot be read",
        advice: "store the node's secret under this path, or look at the KBS storage",
    },
    Rule {
        kind: RefusalKind::Encryption,
        owner: Owner::Server,
        persistence: Persistence::Permanent,
        meaning: "it cannot encrypt to the key of this handshake",
        advice: "use a Trustee of version 0.20 or newer, which encrypts to EC P-256",
    },
    Rule {
        kind: RefusalKind::ReferenceValues,
        owner: Owner::Server,
        persistence: Persistence::Temporary,
        meaning: "its reference-value store failed",
        advice: "look at the reference value provider service behind the KBS",
    },
    Rule {
        kind: RefusalKind::NotFound,
        owner: Owner::Configuration,
        persistence: Persistence::Permanent,
        meaning: "there is no KBS at this address",
        advice: "correct kbs.servers (scheme, host, port, and any prefix a proxy adds), or enable the \
                 resource plugin in the KBS",
    },
    Rule {
        kind: RefusalKind::TooLarge,
        owner: Owner::Server,
        persistence: Persistence::Permanent,
        meaning: "the evidence is larger than it accepts",
        advice: "raise payload_request_size of the KBS, or the limit of the proxy before it",
    },
    Rule {
        kind: RefusalKind::Busy,
        owner: Owner::Server,
        persistence: Persistence::Temporary,
        meaning: "it asks for patience",
        advice: "wait; if it lasts, look at the load of the KBS",
    },
    Rule {
        kind: RefusalKind::Failure,
        owner: Owner::Server,
        persistence: Persistence::Temporary,
        meaning: "it failed",
        advice: "look at the log of the KBS or of the proxy before it",
    },
];

#[cfg(test)]
mod tests {
    use super::{RULES, Refusal, RefusalKind, Step};
    use crate::error::{Blame, Owner, Persistence};

    fn read(step: Step, kind: &str, detail: &str) -> Refusal {
        let body = format!(
            r#"{{"type":"https://github.com/confidential-containers/kbs/errors/{kind}","detail":"{detail}"}}"#
        );
        Refusal::read(step, 401, body.as_bytes())
    }

    #[test]
    fn each_kind_of_the_protocol_has_owner_and_persistence() {
        use {Owner as O, Persistence as P, RefusalKind as K, Step as S};
        let failed = "Attestation error: RCAR handshake Auth failed: ";
        let version = format!(
            "{failed}KBS Client Protocol Version Mismatch: expect =0.5.0 while the request is 0.4.0"
        );
        for (step, name, detail, kind, owner, persistence) in [
            (
                S::Auth,
                "AttestationError",
                version.as_str(),
                K::Version,
                O::Server,
                P::Permanent,
            ),
            (
                S::Auth,
                "AttestationError",
                &format!("{failed}deserialize Request"),
                K::Request,
                O::Server,
                P::Permanent,
            ),
            (
                S::Auth,
                "AttestationError",
                &format!("{failed}failed to parse KBS version"),
                K::Request,
                O::Server,
                P::Permanent,
            ),
            (
                S::Auth,
                "AttestationError",
                &format!("{failed}Attestation Service generate challenge failed"),
                K::ChallengeUnavailable,
                O::Server,
                P::Temporary,
            ),
            (
                S::Auth,
                "AttestationError",
                "something new",
                K::Request,
                O::Server,
                P::Permanent,
            ),
            (
                S::Attest,
                "AttestationError",
                "Attestation error: RCAR handshake Attest failed",
                K::Evidence,
                O::Server,
                P::UntilApproved,
            ),
            (
                S::Resource,
                "TokenNotFound",
                "Attestation Token not found",
                K::NoSession,
                O::Server,
                P::Temporary,
            ),
            (
                S::Resource,
                "TokenVerifierError",
                "Token Verifier error",
                K::Token,
                O::Server,
                P::Temporary,
            ),
            (
                S::Resource,
                "PolicyDeny",
                "Access denied by policy",
                K::Policy,
                O::Policy,
                P::UntilApproved,
            ),
            (
                S::Resource,
                "PolicyEngineError",
                "Policy engine error: x",
                K::PolicyBroken,
                O::Policy,
                P::UntilApproved,
            ),
            (
                S::Resource,
                "PluginInternalError",
                "Plugin internal error",
                K::Resource,
                O::Server,
                P::UntilApproved,
            ),
            (
                S::Resource,
                "JweError",
                "JWE failed",
                K::Encryption,
                O::Server,
                P::Permanent,
            ),
            (
                S::Resource,
                "RvpsError",
                "RVPS configuration failed: x",
                K::ReferenceValues,
                O::Server,
                P::Temporary,
            ),
            (
                S::Resource,
                "PluginNotFound",
                "Plugin x not found",
                K::NotFound,
                O::Configuration,
                P::Permanent,
            ),
            (
                S::Resource,
                "InvalidRequestPath",
                "Request path x is invalid",
                K::NotFound,
                O::Configuration,
                P::Permanent,
            ),
        ] {
            let refusal = read(step, name, detail);
            assert_eq!(refusal.kind, kind, "{name} {detail}");
            assert_eq!(refusal.owner(), owner, "{name} {detail}");
            assert_eq!(refusal.persistence(), persistence, "{name} {detail}");
            assert!(refusal.to_string().contains(detail), "{refusal}");
        }
    }

    #[test]
    fn bodies_that_are_not_json_go_by_status() {
        for (status, kind) in [
            (400, RefusalKind::Other),
            (403, RefusalKind::Other),
            (404, RefusalKind::NotFound),
            (405, RefusalKind::NotFound),
            (413, RefusalKind::TooLarge),
            (429, RefusalKind::Busy),
            (500, RefusalKind::Failure),
            (502, RefusalKind::Failure),
            (503, RefusalKind::Busy),
        ] {
            let refusal = Refusal::read(Step::Attest, status, b"<html>no</html>");
            assert_eq!(refusal.kind, kind, "{status}");
            assert!(!refusal.advice().is_empty());
            let wordless = Refusal::read(Step::Attest, status, b"").to_string();
            assert!(
                wordless.ends_with(&format!("(status {status})")),
                "{wordless}"
            );
        }
    }

    #[test]
    fn a_servers_sentence_cannot_drive_the_console() {
        let refusal = read(
            Step::Auth,
            "Unheard",
            &format!("a\\u001b[2Jb{}", "x".repeat(5000)),
        );
        assert!(!refusal.to_string().contains('\u{1b}'));
        assert!(refusal.to_string().len() < 600);
        assert_eq!(refusal.kind, RefusalKind::Other);
    }

    #[test]
    fn every_rule_is_reachable_once() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(
                RULES
                    .iter()
                    .skip(index + 1)
                    .all(|other| other.kind != rule.kind)
            );
        }
    }
}

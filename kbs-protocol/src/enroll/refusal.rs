// SPDX-License-Identifier: Apache-2.0

//! Why a registrar did not enrol a node: one word on the wire, and what it means for whoever reads it.

use crate::error::{Blame, Owner, Persistence};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A refusal by the registrar, its whole body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was refused.
    pub error: RefusalKind,
    /// The registrar's sentence. It says nothing that the node did not know.
    pub detail: String,
}

/// What a registrar refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RefusalKind {
    /// The message is not understood.
    Request,
    /// The TPM showed no certificate for its EK, and this registrar wants one.
    EkCertificateMissing,
    /// Nobody whom the registrar trusts vouches for this EK.
    EkNotTrusted,
    /// The certificate is not one for an EK, is for another key, or is not valid now.
    EkCertificate,
    /// The EK is not of a kind that can protect a credential.
    EkUnsuitable,
    /// The AK would prove nothing.
    AkUnsuitable,
    /// No such enrolment: it expired, was used, or never was.
    UnknownEnrolment,
    /// The secret is another one: EK and AK are not in one TPM.
    WrongSecret,
    /// No more keys are kept for this EK.
    TooManyKeys,
    /// The attestation key is not that of an approved node.
    UnknownNode,
    /// What was signed is not what was sent, or not by this key.
    Signature,
    /// No more records of volumes are kept for this node.
    TooManyRecords,
    /// Too many requests from this address.
    TooManyRequests,
    /// The registrar has too much to do.
    Busy,
    /// Not a path or method of a registrar.
    NotFound,
    /// The registrar could not write down what it decided.
    Failure,
    /// A word that this program does not know.
    #[serde(other)]
    Other,
}

impl Refusal {
    /// A refusal with this sentence.
    pub fn new(error: RefusalKind, detail: impl Into<String>) -> Self {
        Self {
            error,
            detail: detail.into(),
        }
    }

    /// Understands an answer whose status is not 200.
    pub fn read(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<Self>(body.get(..LIMIT).unwrap_or(body)) {
            Ok(refusal) => Self {
                detail: super::printable(&refusal.detail),
                ..refusal
            },
            Err(_) => Self {
                error: match status {
                    404 | 405 => RefusalKind::NotFound,
                    413 => RefusalKind::Request,
                    429 => RefusalKind::TooManyRequests,
                    502..=504 => RefusalKind::Busy,
                    500..=599 => RefusalKind::Failure,
                    _ => RefusalKind::Other,
                },
                detail: format!("status {status}"),
            },
        }
    }

    /// The HTTP status that goes with it.
    pub fn status(&self) -> u16 {
        match self.error {
            RefusalKind::Request => 400,
            RefusalKind::NotFound => 404,
            RefusalKind::UnknownEnrolment => 410,
            RefusalKind::TooManyRequests => 429,
            RefusalKind::Failure => 500,
            RefusalKind::Busy => 503,
            _ => 403,
        }
    }

    /// The body on the wire.
    pub fn to_json(&self) -> Vec<u8> {
        super::json(self)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the registrar refused: {} ({:?})",
            self.error, self.detail
        )
    }
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "it does not understand the request",
            Self::EkCertificateMissing => "it wants a certificate for the endorsement key",
            Self::EkNotTrusted => "nobody whom it trusts vouches for this TPM",
            Self::EkCertificate => "the certificate of the endorsement key is not acceptable",
            Self::EkUnsuitable => "the endorsement key is not one of the kinds it knows",
            Self::AkUnsuitable => "the attestation key would prove nothing",
            Self::UnknownEnrolment => "it does not know this enrolment (any more)",
            Self::WrongSecret => "the TPM did not open the credential",
            Self::TooManyKeys => "this TPM has shown too many attestation keys",
            Self::UnknownNode => "no approved node has this attestation key",
            Self::Signature => "the record of volumes is not signed by this node's TPM",
            Self::TooManyRecords => "this node has recorded its volumes too often",
            Self::TooManyRequests => "too many requests from this address",
            Self::Busy => "it is busy",
            Self::NotFound => "it has no such service",
            Self::Failure => "it failed",
            Self::Other => "for a reason that this program does not know",
        })
    }
}

impl std::error::Error for Refusal {}

impl Blame for Refusal {
    fn owner(&self) -> Owner {
        match self.error {
            RefusalKind::EkCertificateMissing
            | RefusalKind::EkCertificate
            | RefusalKind::EkUnsuitable
            | RefusalKind::AkUnsuitable
            | RefusalKind::WrongSecret
            | RefusalKind::Signature => Owner::Machine,
            RefusalKind::EkNotTrusted
            | RefusalKind::TooManyKeys
            | RefusalKind::UnknownNode
            | RefusalKind::TooManyRecords => Owner::Policy,
            RefusalKind::NotFound => Owner::Configuration,
            _ => Owner::Server,
        }
    }

    fn persistence(&self) -> Persistence {
        match self.error {
            RefusalKind::UnknownEnrolment
            | RefusalKind::TooManyRequests
            | RefusalKind::Busy
            | RefusalKind::Failure => Persistence::Temporary,
            RefusalKind::EkNotTrusted
            | RefusalKind::EkCertificateMissing
            | RefusalKind::TooManyKeys
            | RefusalKind::UnknownNode
            | RefusalKind::TooManyRecords => Persistence::UntilApproved,
            _ => Persistence::Permanent,
        }
    }

    fn advice(&self) -> String {
        match self.error {
            RefusalKind::Request => "use an agent and a registrar of the same release",
            RefusalKind::EkCertificateMissing => {
                "this TPM holds no certificate: have its administrator add the EK's digest \
                 (`trustee-agent enroll` shows it) to the registrar's ek_sha256 and set identity = \
                 \"ek-allow-list\""
            }
            RefusalKind::EkNotTrusted => {
                "have the registrar's administrator add the root certificate of the TPM's maker to \
                 ek_roots_file, or the EK's digest to ek_sha256"
            }
            RefusalKind::EkCertificate => {
                "compare the certificate in the TPM (`tpm2_getekcertificate`) with its key \
                 (`tpm2_createek`), and the registrar's clock with its dates"
            }
            RefusalKind::EkUnsuitable => {
                "this program uses the endorsement keys of templates L-1 (RSA-2048) and L-2 (P-256): update \
                 the firmware of the TPM or vTPM"
            }
            RefusalKind::AkUnsuitable => {
                "remove the key with `tpm2_evictcontrol -C o -c HANDLE`, and this program creates a good one"
            }
            RefusalKind::UnknownEnrolment => "the agent begins again",
            RefusalKind::WrongSecret => {
                "something between this node and the registrar mixes up answers, or the TPM is not the one \
                 it claims to be"
            }
            RefusalKind::TooManyKeys => {
                "find out who makes new attestation keys on this machine, then have the registrar's \
                 administrator remove the old ones"
            }
            RefusalKind::UnknownNode => {
                "enrol first: `trustee-agent enroll`; if the key is held, have the registrar's administrator approve it"
            }
            RefusalKind::Signature => {
                "use an agent and a registrar of the same release; if they are, find out what changes the record on \
                 its way"
            }
            RefusalKind::TooManyRecords => {
                "find out who makes this node's volumes again and again, then have the registrar's administrator remove \
                 old records from the TPM's file"
            }
            RefusalKind::TooManyRequests | RefusalKind::Busy => "the agent tries again",
            RefusalKind::NotFound => "make sure that enroll.registrar is the address of a Sheepfold registrar",
            RefusalKind::Failure => "look at the registrar's log",
            RefusalKind::Other => "look at the registrar's audit log, and use the same release on both sides",
        }
        .to_owned()
    }
}

const LIMIT: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::{Refusal, RefusalKind};
    use crate::{Blame, Owner, Persistence};

    #[test]
    fn words_survive_the_wire_and_new_ones_do_not_break_old_nodes() {
        let refusal = Refusal::new(RefusalKind::EkNotTrusted, "no root\nfor CN=x");
        let read = Refusal::read(refusal.status(), &refusal.to_json());
        assert_eq!(read.error, RefusalKind::EkNotTrusted);
        assert_eq!(read.detail, "no rootfor CN=x", "no line breaks");
        assert_eq!(
            (read.owner(), read.persistence()),
            (Owner::Policy, Persistence::UntilApproved)
        );
        let newer = Refusal::read(403, br#"{"error":"moon-phase","detail":"d"}"#);
        assert_eq!(newer.error, RefusalKind::Other);
    }

    #[test]
    fn a_proxy_is_understood_by_its_status() {
        for (status, kind) in [
            (404, RefusalKind::NotFound),
            (429, RefusalKind::TooManyRequests),
            (503, RefusalKind::Busy),
            (500, RefusalKind::Failure),
            (418, RefusalKind::Other),
        ] {
            assert_eq!(Refusal::read(status, b"<html>").error, kind);
        }
    }
}

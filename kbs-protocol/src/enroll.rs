// SPDX-License-Identifier: Apache-2.0

//! Enrolment: how a node proves to the registrar that its attestation key (AK) lives in a known TPM.
//!
//! 1. The node posts a [`Begin`] to [`BEGIN_PATH`]: its endorsement key (EK) with the certificate that the
//!    TPM's maker gave it, and its AK.
//! 2. The registrar answers with a [`Challenge`]: a secret that only the TPM with this EK can open, and
//!    only if the AK with this very name is loaded beside it (TPM2_MakeCredential, TPM 2.0 Library Part 3).
//! 3. The node has its TPM open it (TPM2_ActivateCredential) and posts the secret as a [`Finish`] to
//!    [`FINISH_PATH`]. The answer, an [`Outcome`], names the node and says whether it may attest.
//!
//! A registrar that says no answers with a [`Refusal`]. All bodies are JSON, all bytes in them base64 with
//! padding; members nobody knows are ignored.

mod refusal;

pub use refusal::{Refusal, RefusalKind};

use crate::encoding::b64;
use crate::error::{ENROLMENT_ANSWER, Error};
use crate::message::parse;
use crate::tpm::public::PublicArea;
use crate::{NodeId, Secret};
use serde::{Deserialize, Serialize};

/// `POST`: [`Begin`] in, [`Challenge`] out.
pub const BEGIN_PATH: &str = "/v1/enroll/begin";
/// `POST`: [`Finish`] in, [`Outcome`] out.
pub const FINISH_PATH: &str = "/v1/enroll/finish";

/// What the platform offers.
#[derive(Debug, Clone)]
pub struct Begin {
    /// The endorsement key.
    pub ek_public: PublicArea,
    /// Its certificate in DER (RFC 5280; TCG EK Credential Profile), if the TPM holds one.
    pub ek_certificate: Option<Vec<u8>>,
    /// Certificates between it and the maker's root, in DER, in any order.
    pub ek_chain: Vec<Vec<u8>>,
    /// The attestation key.
    pub ak_public: PublicArea,
    /// What the machine calls itself. A claim, for people; decides nothing.
    pub product: Option<String>,
    /// Name and version of the enrolling program.
    pub agent: String,
}

impl Begin {
    /// Reads the message (the registrar's side).
    ///
    /// # Errors
    /// Too large, not JSON, a member missing, not base64, or a key that [`PublicArea::parse_sized`]
    /// refuses.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let wire: BeginWire = parse(BEGIN, bytes, REQUEST_LIMIT)?;
        if wire.ek_chain.len() > CHAIN_LIMIT {
            return Err(Error::malformed(
                BEGIN,
                format!(
                    "{} certificates in ek_chain, at most {CHAIN_LIMIT} are accepted",
                    wire.ek_chain.len()
                ),
            ));
        }
        let certificate = wire.ek_certificate.as_deref();
        let chain = wire.ek_chain.iter();
        Ok(Self {
            ek_public: key(&wire.ek_public)?,
            ek_certificate: certificate
                .map(|text| bytes_of(BEGIN, "ek_certificate", text))
                .transpose()?,
            ek_chain: chain
                .map(|text| bytes_of(BEGIN, "ek_chain", text))
                .collect::<Result<_, _>>()?,
            ak_public: key(&wire.ak_public)?,
            product: wire.product.map(|text| printable(&text)),
            agent: printable(&wire.agent),
        })
    }
}

/// The same message as the node writes it: the keys as TPM2B_PUBLIC, exactly as its TPM gave them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BeginWire {
    /// TPM2B_PUBLIC of the endorsement key, base64.
    pub ek_public: String,
    /// See [`Begin::ek_certificate`], base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<String>,
    /// See [`Begin::ek_chain`], base64 each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ek_chain: Vec<String>,
    /// TPM2B_PUBLIC of the attestation key, base64.
    pub ak_public: String,
    /// See [`Begin::product`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// See [`Begin::agent`].
    pub agent: String,
}

/// The registrar's question, made for one EK and one AK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Names this enrolment until it is finished or expires.
    pub enrolment: String,
    /// TPM2B_ID_OBJECT, with its length.
    pub credential_blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET, with its length.
    pub secret: Vec<u8>,
}

impl Challenge {
    /// Reads the question (the node's side).
    ///
    /// # Errors
    /// Too large, not JSON, a member missing or empty, or not base64.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let wire: ChallengeWire = parse(ENROLMENT_ANSWER, bytes, ANSWER_LIMIT)?;
        if wire.enrolment.is_empty() || wire.enrolment.len() > ID_LIMIT {
            return Err(Error::malformed(
                ENROLMENT_ANSWER,
                format!("an enrolment id of {} bytes", wire.enrolment.len()),
            ));
        }
        Ok(Self {
            enrolment: wire.enrolment,
            credential_blob: bytes_of(ENROLMENT_ANSWER, "credential_blob", &wire.credential_blob)?,
            secret: bytes_of(ENROLMENT_ANSWER, "secret", &wire.secret)?,
        })
    }

    /// Writes the question (the registrar's side).
    pub fn to_json(&self) -> Vec<u8> {
        json(&ChallengeWire {
            enrolment: self.enrolment.clone(),
            credential_blob: b64::encode(&self.credential_blob),
            secret: b64::encode(&self.secret),
        })
    }
}

/// The node's answer: what its TPM found inside.
pub struct Finish {
    /// See [`Challenge::enrolment`].
    pub enrolment: String,
    /// The activated secret.
    pub activated: Secret,
}

impl Finish {
    /// Reads the answer (the registrar's side).
    ///
    /// # Errors
    /// Too large, not JSON, a member missing, or not base64.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let wire: FinishWire = parse(FINISH, bytes, FINISH_LIMIT)?;
        Ok(Self {
            activated: Secret::new(bytes_of(FINISH, "activated", &wire.activated)?),
            enrolment: wire.enrolment,
        })
    }

    /// Writes the answer (the node's side).
    pub fn to_json(&self) -> Vec<u8> {
        json(&FinishWire {
            enrolment: self.enrolment.clone(),
            activated: b64::encode(self.activated.expose()),
        })
    }
}

/// What the registrar decided about a node that proved itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The node's name, derived from its AK.
    #[serde(with = "as_text")]
    pub node_id: NodeId,
    /// Whether it may attest.
    pub state: State,
    /// Why it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a node may attest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Yes.
    Approved,
    /// Not before an administrator says so.
    Held,
}

impl State {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Held => "held",
        }
    }
}

impl Outcome {
    /// Reads the decision (the node's side).
    ///
    /// # Errors
    /// Too large, not JSON, a member missing, a node id that is none, or an unknown state.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let outcome: Self = parse(ENROLMENT_ANSWER, bytes, ANSWER_LIMIT)?;
        Ok(Self {
            reason: outcome.reason.map(|text| printable(&text)),
            ..outcome
        })
    }

    /// Writes the decision (the registrar's side).
    pub fn to_json(&self) -> Vec<u8> {
        json(self)
    }
}

#[derive(Serialize, Deserialize)]
struct ChallengeWire {
    enrolment: String,
    credential_blob: String,
    secret: String,
}

#[derive(Serialize, Deserialize)]
struct FinishWire {
    enrolment: String,
    activated: String,
}

/// A node id as its text.
mod as_text {
    use crate::NodeId;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &NodeId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<NodeId, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

fn key(text: &str) -> Result<PublicArea, Error> {
    let wrong = || Error::malformed(BEGIN, "a key is not base64");
    PublicArea::parse_sized(&b64::decode(text).ok_or_else(wrong)?)
}

fn bytes_of(what: &'static str, member: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    b64::decode(text).ok_or_else(|| Error::malformed(what, format!("{member} is not base64")))
}

/// JSON of a value of ours, which always has one.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// What a stranger wrote may stand in a log: shortened, and without control characters.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(TEXT_LIMIT)
        .collect()
}

const BEGIN: &str = "the enrolment request";
const FINISH: &str = "the activated credential";
/// Two keys are 1 KiB; a certificate is 1 to 2 KiB, a chain up to four of them.
pub const REQUEST_LIMIT: usize = 64 * 1024;
const FINISH_LIMIT: usize = 4 * 1024;
const ANSWER_LIMIT: usize = 16 * 1024;
const CHAIN_LIMIT: usize = 8;
const ID_LIMIT: usize = 128;
const TEXT_LIMIT: usize = 128;

#[cfg(test)]
mod tests {
    use super::{Begin, Challenge, Finish, Outcome, REQUEST_LIMIT, State};
    use crate::{Blame, Error, NodeId, Owner, Secret};
    use proptest::prelude::proptest;

    #[test]
    fn both_ends_understand_each_other() {
        let challenge = Challenge {
            enrolment: "id".to_owned(),
            credential_blob: vec![1, 2],
            secret: vec![3],
        };
        assert_eq!(Challenge::parse(&challenge.to_json()).unwrap(), challenge);
        let finish = Finish {
            enrolment: "id".to_owned(),
            activated: Secret::new(vec![7; 32]),
        };
        let read = Finish::parse(&finish.to_json()).unwrap();
        assert_eq!(
            (read.enrolment.as_str(), read.activated.expose()),
            ("id", &[7; 32][..])
        );
        let outcome = Outcome {
            node_id: NodeId::from_spki_der(b""),
            state: State::Held,
            reason: Some("why".to_owned()),
        };
        assert_eq!(Outcome::parse(&outcome.to_json()).unwrap(), outcome);
        assert_eq!(
            String::from_utf8(outcome.to_json()).unwrap(),
            r#"{"node_id":"e3b0c442-98fc-8c14-9afb-f4c8996fb924","state":"held","reason":"why"}"#
        );
    }

    #[test]
    fn what_is_wrong_is_named_and_not_quoted() {
        let begin = |text: &str| Begin::parse(text.as_bytes()).unwrap_err();
        for (error, reason) in [
            (begin("{}"), "a member is missing"),
            (
                begin(r#"{"ek_public":"?","ak_public":"?","agent":"a"}"#),
                "a key is not base64",
            ),
            (
                begin(r#"{"ek_public":"AAA=","ak_public":"AAA=","agent":"a"}"#),
                "2 bytes expected",
            ),
            (
                begin(&format!(
                    r#"{{"ek_public":"","ak_public":"","agent":"a","ek_chain":[{}""]}}"#,
                    r#""","#.repeat(8)
                )),
                "9 certificates",
            ),
            (
                Finish::parse(br#"{"enrolment":"i","activated":"%hidden"}"#)
                    .err()
                    .unwrap(),
                "activated is not base64",
            ),
            (
                Challenge::parse(br#"{"enrolment":"","credential_blob":"","secret":""}"#)
                    .unwrap_err(),
                "0 bytes",
            ),
        ] {
            assert!(error.to_string().contains(reason), "{reason}: {error}");
            assert!(!error.to_string().contains("hidden"));
        }
        let huge = vec![b' '; REQUEST_LIMIT + 1];
        assert!(matches!(Begin::parse(&huge), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_strange_answer_is_the_registrars_fault() {
        for bad in [
            "",
            "{}",
            r#"{"node_id":"x","state":"approved"}"#,
            r#"{"node_id":"e3b0c442-98fc-8c14-9afb-f4c8996fb924","state":"maybe"}"#,
        ] {
            let error = Outcome::parse(bad.as_bytes()).unwrap_err();
            assert_eq!(error.owner(), Owner::Server);
            assert!(
                error.advice().contains("enroll.registrar"),
                "{}",
                error.advice()
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Begin::parse(&bytes);
            let _ = Challenge::parse(&bytes);
            let _ = Finish::parse(&bytes);
            let _ = Outcome::parse(&bytes);
        }
    }
}

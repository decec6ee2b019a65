// SPDX-License-Identifier: Apache-2.0
//! Replays recorded handshakes of a real Trustee and an upstream client against our half of the protocol:
//! we must read every answer the server gave, and produce, byte for byte, what its verifier accepted.
//!
//! The recordings live outside the repository (see `sheepfold_tests::paths::fixtures`); without them each
//! test here says loudly that it was skipped.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]
#![allow(clippy::arithmetic_side_effects)]

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::ear::Ear;
use kbs_protocol::evidence::{SampleEvidence, TpmEvidence};
use kbs_protocol::jwe::ResourceJwe;
use kbs_protocol::message::{AttestResponse, Attestation, Challenge, Request};
use kbs_protocol::refusal::{Refusal, RefusalKind, Step};
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::tee_key::TeeKey;
use kbs_protocol::tpm::Attest;
use kbs_protocol::{Blame as _, Owner, Persistence, Tee, verify};
use serde_json::Value;
use sheepfold_tests::paths;

/// One recorded run: several handshakes if the server refused and the client came again.
struct Recording {
    name: String,
    json: Value,
}

struct Exchange<'a> {
    path: &'a str,
    sent: &'a str,
    status: u16,
    received: &'a str,
}

fn recordings() -> Vec<Recording> {
    let Some(dir) = paths::fixtures("kbs-transcripts") else {
        return Vec::new();
    };
    let mut all: Vec<Recording> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .map(|path| Recording {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            json: serde_json::from_slice(&fs::read(&path).unwrap()).unwrap(),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!all.is_empty(), "a fixture directory without recordings");
    all
}

impl Recording {
    fn exchanges(&self) -> Vec<Exchange<'_>> {
        self.json["exchanges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|exchange| Exchange {
                path: exchange["request"]["path"].as_str().unwrap(),
                sent: exchange["request"]["body"]["raw"]
                    .as_str()
                    .unwrap_or_default(),
                status: u16::try_from(exchange["response"]["status"].as_u64().unwrap()).unwrap(),
                received: exchange["response"]["body"]["raw"]
                    .as_str()
                    .unwrap_or_default(),
            })
            .collect()
    }

    fn step(&self, wanted: Step) -> Vec<Exchange<'_>> {
        self.exchanges()
            .into_iter()
            .filter(|exchange| exchange.step() == wanted)
            .collect()
    }

    fn tee(&self) -> Tee {
        if self.name.starts_with("sample") {
            Tee::Sample
        } else {
            Tee::Tpm
        }
    }

    /// The handshake's private key, where it is of the kind our client makes.
    fn p256_key(&self) -> Option<TeeKey> {
        if self.json["tee_key_kind"] != "ec-p256" {
            return None;
        }
        let pem = self.json["tee_private_key_pem"].as_str().unwrap();
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(text).unwrap();
        // PKCS #8 around RFC 5915: version 1, then an OCTET STRING of 32 bytes, the scalar.
        let marker = [2, 1, 1, 4, 32];
        let at = der
            .windows(marker.len())
            .position(|window| window == marker)
            .unwrap();
        let scalar: [u8; 32] = der[at + marker.len()..][..32].try_into().unwrap();
        Some(TeeKey::from_scalar(&scalar).unwrap())
    }
}

impl Exchange<'_> {
    fn step(&self) -> Step {
        match self.path {
            "/kbs/v0/auth" => Step::Auth,
            "/kbs/v0/attest" => Step::Attest,
            path if path.starts_with("/kbs/v0/resource/") => Step::Resource,
            other => panic!("unexpected path {other}"),
        }
    }
}

#[test]
fn our_request_is_byte_for_byte_the_recorded_one() {
    for recording in recordings() {
        for auth in recording.step(Step::Auth) {
            let ours = serde_json::to_string(&Request::new(recording.tee())).unwrap();
            assert_eq!(ours, auth.sent, "{}", recording.name);
        }
    }
}

#[test]
fn every_challenge_is_read_and_its_nonce_sent_back_unchanged() {
    for recording in recordings() {
        let challenges = recording.step(Step::Auth);
        let attestations = recording.step(Step::Attest);
        assert_eq!(challenges.len(), attestations.len(), "{}", recording.name);
        for (auth, attest) in challenges.iter().zip(&attestations) {
            let challenge = Challenge::parse(auth.received.as_bytes()).unwrap();
            let sent = Attestation::parse(attest.sent.as_bytes()).unwrap();
            assert_eq!(
                challenge.nonce, sent.runtime_data.nonce,
                "{}",
                recording.name
            );
        }
    }
}

#[test]
fn our_attestation_is_byte_for_byte_the_recorded_one() {
    for recording in recordings() {
        for attest in recording.step(Step::Attest) {
            let read = Attestation::parse(attest.sent.as_bytes()).unwrap();
            // Through our evidence structs as well, so that their members' names and order are checked.
            let primary = read.tee_evidence.primary_evidence.clone();
            let evidence = match recording.tee() {
                Tee::Sample => {
                    let typed: SampleEvidence = serde_json::from_value(primary).unwrap();
                    serde_json::to_value(typed)
                }
                _ => {
                    let typed: TpmEvidence = serde_json::from_value(primary).unwrap();
                    serde_json::to_value(typed)
                }
            };
            let mut ours = read;
            ours.tee_evidence.primary_evidence = evidence.unwrap();
            let text = serde_json::to_string(&ours).unwrap();
            assert_eq!(text, attest.sent, "{}", recording.name);
        }
    }
}

#[test]
fn our_runtime_digest_is_what_the_evidence_carries() {
    for recording in recordings() {
        for attest in recording.step(Step::Attest) {
            let sent = Attestation::parse(attest.sent.as_bytes()).unwrap();
            let digest =
                RuntimeDigest::primary(&sent.runtime_data, &sent.tee_evidence.additional_evidence)
                    .unwrap();
            let primary = sent.tee_evidence.primary_evidence;
            if recording.tee() == Tee::Sample {
                let evidence: SampleEvidence = serde_json::from_value(primary).unwrap();
                assert_eq!(
                    evidence.report_data,
                    digest.to_base64(),
                    "{}",
                    recording.name
                );
            } else {
                let evidence: TpmEvidence = serde_json::from_value(primary).unwrap();
                let message = STANDARD.decode(&evidence.tpm_quote.message).unwrap();
                let expected = digest.report_data(Tee::Tpm);
                assert_eq!(Attest::parse(&message).unwrap().extra_data, expected);
                // The strict verifier of our server accepts what a real TPM and a real client made.
                verify::tpm_quote(&evidence, &expected).unwrap();
            }
        }
    }
}

#[test]
fn our_key_is_the_public_key_the_client_sent() {
    for recording in recordings() {
        let Some(key) = recording.p256_key() else {
            continue;
        };
        let attest = recording.step(Step::Attest);
        let sent = Attestation::parse(attest[0].sent.as_bytes()).unwrap();
        assert_eq!(
            key.public(),
            sent.runtime_data.tee_pubkey,
            "{}",
            recording.name
        );
    }
}

#[test]
fn every_token_is_read() {
    for recording in recordings() {
        for attest in recording.step(Step::Attest) {
            let response = AttestResponse::parse(attest.received.as_bytes()).unwrap();
            let ear = Ear::read(&response.token).unwrap();
            let appraisal = ear.primary().unwrap();
            let expected = match recording.name.as_str() {
                "tpm-wrong-pcr-fail" | "tpm-unknown-ak-fail" | "sample-ec-p256-denied" => "warning",
                "tpm-ec-p256-ok" | "tpm-ec-p521-ok" | "tpm-missing-resource-fail" => "affirming",
                _ => continue,
            };
            assert_eq!(
                appraisal.status.as_deref(),
                Some(expected),
                "{}",
                recording.name
            );
            if recording.tee() == Tee::Tpm {
                assert_eq!(appraisal.pcrs.len(), 24, "{}", recording.name);
                assert!(appraisal.ak_public.is_some(), "{}", recording.name);
            }
        }
    }
}

#[test]
fn released_resources_open_with_the_recorded_key() {
    let mut opened = 0;
    for recording in recordings() {
        let Some(key) = recording.p256_key() else {
            continue;
        };
        for released in recording.step(Step::Resource) {
            if released.status != 200 {
                continue;
            }
            let jwe = ResourceJwe::parse(released.received.as_bytes()).unwrap();
            let expected = recording.json["client_stdout_base64_resource"]
                .as_str()
                .unwrap();
            let secret = jwe.open(&key).unwrap();
            assert_eq!(
                STANDARD.encode(secret.expose()),
                expected.trim(),
                "{}",
                recording.name
            );
            opened += 1;
        }
    }
    assert!(
        opened >= 3 || recordings().is_empty(),
        "only {opened} resources"
    );
}

#[test]
fn refusals_name_their_owner() {
    for recording in recordings() {
        let (kind, owner, persistence) = match recording.name.as_str() {
            "tpm-missing-resource-fail" | "tpm-plain-path-fail" => (
                RefusalKind::Resource,
                Owner::Server,
                Persistence::UntilApproved,
            ),
            name if name.ends_with("-fail") || name.ends_with("-denied") => (
                RefusalKind::Policy,
                Owner::Policy,
                Persistence::UntilApproved,
            ),
            _ => continue,
        };
        let refused = recording.step(Step::Resource);
        assert_eq!(refused.len(), 3, "{}", recording.name);
        for exchange in refused {
            let refusal = Refusal::read(
                Step::Resource,
                exchange.status,
                exchange.received.as_bytes(),
            );
            assert_eq!(
                (refusal.kind, refusal.owner(), refusal.persistence()),
                (kind, owner, persistence),
                "{}",
                recording.name
            );
            assert!(!refusal.advice().is_empty());
        }
    }
}

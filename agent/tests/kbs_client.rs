// SPDX-License-Identifier: Apache-2.0

//! The KBS client against servers that play scenarios: every call is expected, every refusal is read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "helpers of tests"
)]
#![allow(unreachable_pub, reason = "a test crate exports nothing")]

mod scenario;

use kbs_protocol::message::{Attestation, CompositeEvidence, RuntimeData};
use kbs_protocol::{Blame as _, NodeId, Owner, Persistence, Tee};
use scenario::certificate::Certificate;
use scenario::{
    ATTEST, AUTH, COOKIE, RESOURCE, Reply, Scenario, TOKEN, challenge, good, html, refusal, token,
};
use serde_json::json;
use std::time::Duration;
use trustee_agent::config::Config;
use trustee_agent::kbs::{
    Attest, Client, EvidenceFailure, Fetched, KbsError, Patience, TlsProblem,
};
use trustee_agent::trust;

const SECRET: &[u8] = b"a secret that belongs to this node";

#[test]
fn a_handshake_takes_one_connection() {
    let certificate = Certificate::good();
    let server = Scenario::tls(&certificate, good(SECRET));
    let fetched = fetch(&config(&[&server.url()], &with_ca(&certificate))).unwrap();

    assert_eq!(fetched.secret.expose(), SECRET);
    assert_eq!(fetched.token.as_str(), TOKEN);
    assert_eq!(fetched.server.as_str(), server.url());
    assert!(
        fetched.clock_skew.unwrap() < -86_400,
        "the server's Date header is from the year 2000"
    );
    assert_eq!(server.connections(), 1);
    let calls = server.finish();
    assert_eq!(calls[0].header("cookie"), None);
    assert_eq!(
        String::from_utf8_lossy(&calls[0].body),
        r#"{"version":"0.4.0","tee":"sample","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}"#
    );
    for call in &calls[1..] {
        assert_eq!(call.header("cookie"), Some(COOKIE), "{}", call.line);
        assert_eq!(call.header("authorization"), None, "{}", call.line);
    }
    for call in &calls {
        assert_eq!(
            call.header("accept-encoding"),
            None,
            "no compression is asked for"
        );
        assert_eq!(call.header("referer"), None);
    }
    let attestation = Attestation::parse(&calls[1].body).unwrap();
    assert!(attestation.init_data.is_none());
    assert_eq!(
        attestation.tee_evidence.primary_evidence["nonce"],
        attestation.runtime_data.nonce
    );
}

/// `[kbs]` for these servers, with short limits; `more` is appended to the table.
fn config(servers: &[&str], more: &str) -> Config {
    let text = format!(
        "[kbs]\nservers = {servers:?}\npath = \"default/n1/root\"\n{more}\n\
         [timeouts]\nconnect = \"20s\"\nrequest = \"20s\"\nhedge = \"20s\"\n"
    );
    Config::parse(&text).unwrap()
}

fn with_ca(certificate: &Certificate) -> String {
    format!("ca_pem = '''\n{}'''\n", certificate.ca_pem)
}

fn with_pin(certificate: &Certificate) -> String {
    format!("spki_sha256 = [\"{}\"]\n", certificate.spki)
}

fn fetch(config: &Config) -> Result<Fetched, KbsError> {
    let target = trust::configured(config, &NodeId::from_spki_der(b"node")).unwrap();
    let client = Client::new(&target, &config.timeouts).unwrap();
    client.fetch(&mut Fake, &target.path, Patience::Once, &mut |_| {
        panic!("nobody waits")
    })
}

/// An attester whose evidence shows what it was asked over.
struct Fake;

impl Attest for Fake {
    fn tee(&self) -> Tee {
        Tee::Sample
    }

    fn evidence(&mut self, data: &RuntimeData) -> Result<CompositeEvidence, EvidenceFailure> {
        Ok(CompositeEvidence {
            primary_evidence: json!({ "nonce": data.nonce }),
            additional_evidence: String::new(),
        })
    }
}

// SPDX-License-Identifier: Apache-2.0

//! What the black-box tests share: a laboratory in a temporary directory, and an HTTP client that trusts it.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(
    clippy::indexing_slicing,
    clippy::large_enum_variant,
    unreachable_pub,
    clippy::arithmetic_side_effects
)]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kbs_protocol::Tee;
use kbs_protocol::jwe::ResourceJwe;
use kbs_protocol::message::{Challenge, RuntimeData};
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::tee_key::TeeKey;
use lab_kbs::admin_client::AdminClient;
use lab_kbs::keys::{self, InitOptions};
use lab_kbs::{Options, Server};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

pub use soft_tee::tpm::SoftTpm;

/// A running laboratory.
pub struct Lab {
    pub dir: TempDir,
    pub server: Server,
    http: reqwest::blocking::Client,
}

/// An answer, read completely.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub content_type: Option<String>,
    pub cookie: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Asserts a refusal: status, type and detail.
    #[track_caller]
    pub fn is_refusal(&self, status: u16, kind: &str, detail: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.content_type, None, "errors have no Content-Type");
        let prefix = "https://github.com/confidential-containers/kbs/errors/";
        let expected = json!({ "type": format!("{prefix}{kind}"), "detail": detail });
        assert_eq!(self.json(), expected);
    }

    #[track_caller]
    pub fn is_attest_failure(&self) {
        let detail = "Attestation error: RCAR handshake Attest failed";
        self.is_refusal(401, "AttestationError", detail);
    }
}

impl Lab {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        keys::init(dir.path(), &InitOptions::default()).unwrap();
        let server = start(dir.path(), change);
        let http = client(dir.path());
        Self { dir, server, http }
    }

    /// Stops the server and starts another one on the same directory.
    pub fn restart(self, change: impl FnOnce(&mut Options)) -> Self {
        let Self { dir, server, http } = self;
        server.stop();
        let server = start(dir.path(), change);
        Self { dir, server, http }
    }

    pub fn admin(&self) -> AdminClient {
        AdminClient::open(self.dir.path(), self.server.url()).unwrap()
    }

    /// Sends a request; `Err` when the connection broke before the whole answer was there.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Result<Answer, reqwest::Error> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.server.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.body(body.into()).send()?;
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        Ok(Answer {
            status: response.status().as_u16(),
            content_type: header("content-type"),
            cookie: header("set-cookie"),
            body: response.bytes()?.to_vec(),
        })
    }

    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        self.try_send(method, path, headers, body).unwrap()
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.send("POST", path, headers, body.to_string())
    }

    /// `/auth`: the cookie pair and the nonce.
    pub fn auth(&self, tee: &str) -> (String, String) {
        let request = json!({ "version": "0.4.0", "tee": tee, "extra-params": {} });
        let answer = self.post("/kbs/v0/auth", &[], &request);
        assert_eq!(answer.status, 200, "{answer:?}");
        let cookie = answer.cookie.unwrap();
        let pair = cookie.split(';').next().unwrap().to_owned();
        (pair, Challenge::parse(&answer.body).unwrap().nonce)
    }

    pub fn attest(&self, cookie: &str, body: &Value) -> Answer {
        self.post("/kbs/v0/attest", &[("cookie", cookie)], body)
    }

    pub fn resource(&self, cookie: &str, path: &str) -> Answer {
        self.send(
            "GET",
            &format!("/kbs/v0/resource/{path}"),
            &[("cookie", cookie)],
            "",
        )
    }

    /// The whole handshake: cookie, key, token.
    pub fn handshake(&self, node: &Node) -> (String, TeeKey, String) {
        let (cookie, nonce) = self.auth(node.tee());
        let key = TeeKey::generate().unwrap();
        let answer = self.attest(&cookie, &node.attestation(&nonce, &key));
        assert_eq!(answer.status, 200, "{answer:?}");
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        (cookie, key, token)
    }

    /// The causes the server logged, last one last.
    pub fn last_cause(&self) -> String {
        self.server
            .requests()
            .last()
            .unwrap()
            .cause
            .clone()
            .unwrap_or_default()
    }
}

pub fn start(dir: &Path, change: impl FnOnce(&mut Options)) -> Server {
    let mut options = Options::new(dir);
    change(&mut options);
    Server::start(options).unwrap()
}

/// An HTTP client that trusts the laboratory's CA and nobody else.
pub fn client(dir: &Path) -> reqwest::blocking::Client {
    use rustls::pki_types::pem::PemObject as _;
    let ca = rustls::pki_types::CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::blocking::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .build()
        .unwrap()
}

/// What attests.
pub enum Node {
    Sample,
    Tpm(SoftTpm),
}

impl Node {
    pub fn tee(&self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Tpm(_) => "tpm",
        }
    }

    pub fn attestation(&self, nonce: &str, key: &TeeKey) -> Value {
        let runtime_data = RuntimeData {
            nonce: nonce.to_owned(),
            tee_pubkey: key.public(),
        };
        let digest = RuntimeDigest::primary(&runtime_data, "").unwrap();
        let evidence = match self {
            Self::Sample => json!({ "svn": "1", "report_data": digest.to_base64() }),
            Self::Tpm(tpm) => tpm.evidence(&digest.report_data(Tee::Tpm)),
        };
        json!({
            "init-data": null,
            "runtime-data": runtime_data,
            "tee-evidence": { "primary_evidence": evidence, "additional_evidence": "" },
        })
    }
}

/// Opens a released resource.
pub fn open(answer: &Answer, key: &TeeKey) -> Vec<u8> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.content_type.as_deref(), Some("application/json"));
    ResourceJwe::parse(&answer.body)
        .unwrap()
        .open(key)
        .unwrap()
        .expose()
        .to_vec()
}

/// Header and claims of a token, unverified.
pub fn token_parts(token: &str) -> (Value, Value) {
    let parts: Vec<Value> = token
        .split('.')
        .take(2)
        .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
        .collect();
    (parts[0].clone(), parts[1].clone())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

// SPDX-License-Identifier: Apache-2.0

//! One request, one answer: TLS 1.3 to pinned authorities, no redirects, no proxy, bounded answers.

use super::{Access, Error};
use bytes::Bytes;
use kbs_protocol::message::ErrorInformation;
use reqwest::blocking::{Body, Client, RequestBuilder};
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// A connection to one KBS.
pub(super) struct Http {
    client: Client,
    base: String,
}

/// What came back.
pub(super) struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Http {
    pub(super) fn new(access: &Access) -> Result<Self, Error> {
        let wrong = |why: String| Error::Configuration(why);
        let base = access.url.trim_end_matches('/').to_owned();
        match base.split_once("://") {
            Some(("https", _)) => {}
            Some(("http", _)) if access.insecure_http => {}
            Some(("http", _)) => {
                return Err(wrong(format!(
                    "{base} is plain HTTP, which insecure_http has to allow"
                )));
            }
            _ => {
                return Err(wrong(format!(
                    "the address of a KBS begins with https://, got {base:?}"
                )));
            }
        }
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls(&access.ca_pem, &base)?)
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(REQUEST);
        if let (Some(address), Some(host)) = (access.address, host(&base)) {
            // The port that counts is that of the URL.
            builder = builder.resolve(host, SocketAddr::new(address, 0));
        }
        let client = builder
            .build()
            .map_err(|error| wrong(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { client, base })
    }

    pub(super) fn url(&self) -> &str {
        &self.base
    }

    pub(super) fn get(&self, path: &str, token: Option<&str>) -> Result<Answer, Error> {
        let request = self.client.get(format!("{}{path}", self.base));
        self.send(match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// The body may be a secret: our copy of it is wiped.
    pub(super) fn post(&self, path: &str, token: &str, body: &[u8]) -> Result<Answer, Error> {
        let body = Body::from(Bytes::from_owner(Zeroizing::new(body.to_vec())));
        self.send(
            self.client
                .post(format!("{}{path}", self.base))
                .bearer_auth(token)
                .body(body),
        )
    }

    pub(super) fn delete(&self, path: &str, token: &str) -> Result<Answer, Error> {
        self.send(
            self.client
                .delete(format!("{}{path}", self.base))
                .bearer_auth(token),
        )
    }

    fn send(&self, request: RequestBuilder) -> Result<Answer, Error> {
        let failed = |why: String| Error::Unreachable {
            url: self.base.clone(),
            why,
        };
        let response = request.send().map_err(|error| failed(innermost(&error)))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        response
            .take(LIMIT)
            .read_to_end(&mut body)
            .map_err(|error| failed(format!("the answer broke off: {error}")))?;
        Ok(Answer { status, body })
    }
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// The last path element of the error's `type`; empty for success and for what is no error of a KBS.
    pub(super) fn kind(&self) -> String {
        let information = self.information();
        information
            .error_type
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    /// Whether this is the error of that name.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.status != OK && self.kind() == kind
    }

    pub(super) fn is_success(&self) -> bool {
        self.status == OK
    }

    /// The answer again if it is a success, else what it means to an administrator.
    pub(super) fn success(self, what: &str) -> Result<Self, Error> {
        if self.is_success() {
            return Ok(self);
        }
        let (what, kind) = (what.to_owned(), printable(&self.kind()));
        let detail = printable(&self.information().detail);
        Err(match kind.as_str() {
            "AdminAuth" | "AdminAuthAccess" | "AdminAuthInitialization" => {
                Error::Denied { what, kind, detail }
            }
            _ => Error::Refused {
                what,
                status: self.status,
                kind,
                detail,
            },
        })
    }

    pub(super) fn json(&self) -> Result<Value, Error> {
        serde_json::from_slice(&self.body).map_err(|_| Error::Refused {
            what: "a question, as its answer is no JSON".to_owned(),
            status: self.status,
            kind: String::new(),
            detail: String::new(),
        })
    }

    fn information(&self) -> ErrorInformation {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| ErrorInformation {
            error_type: String::new(),
            detail: String::from_utf8_lossy(&self.body).into_owned(),
        })
    }
}

fn tls(ca_pem: &str, base: &str) -> Result<rustls::ClientConfig, Error> {
    let wrong = |why: String| Error::Configuration(why);
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate =
            certificate.map_err(|error| wrong(format!("the CA is not PEM: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| wrong(format!("the CA is no certificate: {error}")))?;
    }
    if roots.is_empty() && base.starts_with("https:") {
        return Err(wrong(
            "there is no CA certificate, so no KBS can be recognised".to_owned(),
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong(format!("cannot speak TLS 1.3: {error}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The host of an address, if it is a name.
fn host(base: &str) -> Option<&str> {
    let (_, rest) = base.split_once("://")?;
    let authority = rest.split('/').next()?;
    let host = authority
        .split_once(':')
        .map_or(authority, |(host, _)| host);
    (host.parse::<IpAddr>().is_err() && !host.starts_with('[')).then_some(host)
}

/// The cause that says most; the layers above it only say that something failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A server's sentence goes to a terminal: one line, no escape sequences, not endless.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SHOWN)
        .collect()
}

const OK: u16 = 200;
const CONNECT: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(30);
/// No answer of the admin API is larger than a reference value, and none of ours is larger than this.
const LIMIT: u64 = 4 * 1024 * 1024;
const SHOWN: usize = 300;

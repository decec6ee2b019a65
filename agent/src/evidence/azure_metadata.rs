// SPDX-License-Identifier: Apache-2.0

//! Azure's instance metadata service, as far as evidence needs it: the certificate of the processor's key, and quotes
//! of TDs. Plain HTTP to a link-local address: nothing it says is believed here, a verifier checks the signatures.

use super::tee_error::TeeError;
use crate::kbs;
use kbs_protocol::Tee;
use kbs_protocol::encoding::b64u;
use reqwest::blocking::{Client, RequestBuilder};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::io::Read as _;

/// The service, asked once for each piece of evidence.
pub(super) struct Metadata {
    tee: Tee,
    url: String,
    client: Client,
}

impl Metadata {
    /// Asks nothing yet. `url` is `http://169.254.169.254` on a node.
    pub(super) fn new(tee: Tee, url: &str) -> Result<Self, TeeError> {
        Ok(Self {
            tee,
            url: url.to_owned(),
            client: kbs::plain_client().map_err(|why| TeeError::Metadata { tee, why })?,
        })
    }

    /// The certificate of the processor's key for the firmware that it has now, DER.
    pub(super) fn vcek(&self) -> Result<Vec<u8>, TeeError> {
        #[derive(Deserialize)]
        struct Certificates {
            #[serde(rename = "vcekCert")]
            vcek: String,
        }
        let url = format!("{}{CERTIFICATES}", self.url);
        let answer: Certificates = self.ask(self.client.get(url))?;
        CertificateDer::from_pem_slice(answer.vcek.as_bytes())
            .map(|der| der.to_vec())
            .map_err(|_| self.failed("its vcekCert is no certificate in PEM"))
    }

    /// A quote over a TD report.
    pub(super) fn td_quote(&self, report: &[u8]) -> Result<Vec<u8>, TeeError> {
        #[derive(Deserialize)]
        struct Answer {
            quote: String,
        }
        let body = json!({ "report": b64u::encode(report) }).to_string();
        let request = self
            .client
            .post(format!("{}{QUOTES}", self.url))
            .header("Content-Type", "application/json")
            .body(body);
        let answer: Answer = self.ask(request)?;
        b64u::decode(answer.quote.trim_end_matches('='))
            .ok_or_else(|| self.failed("its quote is not base64url"))
    }

    fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, TeeError> {
        let answer = request.header("Metadata", "true").send();
        let answer = answer.map_err(|error| self.failed(&kbs::innermost(&error)))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(self.failed(&format!("it answers {status}")));
        }
        let mut body = Vec::new();
        answer
            .take(LIMIT)
            .read_to_end(&mut body)
            .map_err(|error| self.failed(&error.to_string()))?;
        serde_json::from_slice(&body).map_err(|_| self.failed("its answer has another form"))
    }

    fn failed(&self, why: &str) -> TeeError {
        TeeError::Metadata {
            tee: self.tee,
            why: why.to_owned(),
        }
    }
}

/// Trusted Hardware Identity Management.
const CERTIFICATES: &str = "/metadata/THIM/amd/certification";
const QUOTES: &str = "/acc/tdquote";
/// Three certificates and quotes are 10 KiB; what is longer is cut, and then no JSON.
const LIMIT: u64 = 128 * 1024;

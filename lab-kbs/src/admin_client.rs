// SPDX-License-Identifier: Apache-2.0

//! The administrator's side of the admin API, as `lab-kbs admin` and tests use it. The same calls work
//! against Trustee 0.20 and later, with the administrator's key of that server in `admin.key`.

use crate::clock::unix_now;
use crate::{jws, keys};
use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use kbs_protocol::NodeId;
use kbs_protocol::encoding::hex;
use kbs_protocol::message::{ErrorInformation, RESOURCE_PREFIX};
use reqwest::Method;
use reqwest::blocking::{Client, Response};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The role that the client's tokens carry and the server's access list lets in by default.
pub const ROLE: &str = "admin";

/// A client with the administrator's key.
pub struct AdminClient {
    http: Client,
    base: String,
    key: SigningKey,
    role: String,
}

impl AdminClient {
    /// Reads `admin.key` and `ca.pem` in `dir`. Nothing is sent yet.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the URL is none.
    pub fn open(dir: &Path, url: &str) -> anyhow::Result<Self> {
        ensure!(
            url.starts_with("https://") || url.starts_with("http://"),
            "{url:?} is no URL of a KBS: it says `listening on https://…` when it starts"
        );
        let mut roots = rustls::RootCertStore::empty();
        roots.add(keys::ca(dir)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let http = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(TIMEOUT)
            .build()
            .context("cannot make an HTTP client")?;
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self {
            http,
            base,
            key: keys::admin(dir)?,
            role: ROLE.to_owned(),
        })
    }

    /// The same client under another role.
    pub fn with_role(mut self, role: &str) -> Self {
        role.clone_into(&mut self.role);
        self
    }

    /// A token that every supported Trustee accepts: EdDSA, a role, five minutes, no audience.
    pub fn token(&self) -> String {
        let now = unix_now();
        self.token_with(&json!({
            "iss": "lab-kbs", "role": self.role, "iat": now, "exp": now.saturating_add(TOKEN_SECONDS),
        }))
    }

    /// A token with these claims, for tests of what a server refuses.
    pub fn token_with(&self, claims: &Value) -> String {
        self.sign(&json!({ "typ": "JWT", "alg": "EdDSA" }), claims)
    }

    /// The administrator's signature under any header and claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        jws::encode(header, claims, |input| self.key.sign(input).to_vec())
    }

    /// Stores a resource under `repository/type/tag`, replacing what was there.
    pub fn set_resource(&self, path: &str, content: Vec<u8>) -> anyhow::Result<()> {
        self.call(Method::POST, &format!("{RESOURCE_PREFIX}{path}"), content)
            .map(drop)
    }

    /// Removes a resource.
    pub fn delete_resource(&self, path: &str) -> anyhow::Result<()> {
        self.call(
            Method::DELETE,
            &format!("{RESOURCE_PREFIX}{path}"),
            Vec::new(),
        )
        .map(drop)
    }

    /// Replaces the resource policy.
    pub fn set_resource_policy(&self, rego: &str) -> anyhow::Result<()> {
        let body = json!({ "policy": URL_SAFE_NO_PAD.encode(rego) });
        self.call(
            Method::POST,
            "/kbs/v0/resource-policy",
            body.to_string().into(),
        )
        .map(drop)
    }

    /// Replaces an attestation policy. A KBS evaluates `default_cpu` only.
    pub fn set_attestation_policy(&self, id: &str, rego: &str) -> anyhow::Result<()> {
        let policy = URL_SAFE_NO_PAD.encode(rego);
        let body = json!({ "type": "rego", "policy_id": id, "policy": policy });
        self.call(
            Method::POST,
            "/kbs/v0/attestation-policy",
            body.to_string().into(),
        )
        .map(drop)
    }

    /// Registers a reference value, replacing the old one whole.
    pub fn set_reference_value(&self, name: &str, value: &Value) -> anyhow::Result<()> {
        let payload = Value::from(Map::from_iter([(name.to_owned(), value.clone())]));
        let payload = STANDARD.encode(payload.to_string());
        let body = json!({ "version": "0.1.0", "type": "sample", "payload": payload });
        self.call(
            Method::POST,
            "/kbs/v0/reference-value",
            body.to_string().into(),
        )
        .map(drop)
    }

    /// A reference value; `None` when there is none of this name.
    pub fn reference_value(&self, name: &str) -> anyhow::Result<Option<Value>> {
        let path = format!("/kbs/v0/reference-value/{name}");
        let response = self.send(Method::GET, &path, Vec::new())?;
        if response.status().is_success() {
            return Ok(Some(
                serde_json::from_slice(&response.bytes()?)
                    .context("the reference value is not JSON")?,
            ));
        }
        let error = refusal(response);
        // The server has one error for "absent" and for "broken"; only the text tells them apart.
        if error.error_type.ends_with("/RvpsError")
            && error.detail.to_lowercase().contains("not found")
        {
            return Ok(None);
        }
        bail!("GET {path}: {}", error.detail)
    }

    /// Lets a node in under the laboratory's own policies: adds its key to the right shard of
    /// `node_ak_…` and, if given, its PCRs to `boot_tuples`. Reads, then writes: one administrator at a
    /// time. Returns the node's id, under which its resources go.
    ///
    /// # Errors
    /// When the key or the tuple is none (then nothing is written), or the server refuses.
    pub fn allow_node(&self, ak_public: &str, boot_tuple: Option<Value>) -> anyhow::Result<NodeId> {
        let spki = STANDARD
            .decode(ak_public)
            .context("the AK is not base64 (standard, padded)")?;
        let node = NodeId::from_spki_der(&spki);
        let shard = shard_of(ak_public).context("the AK is too short to be a public key")?;
        boot_tuple.as_ref().map_or(Ok(()), check_boot_tuple)?;
        let known = self.reference_value(&shard)?.unwrap_or_else(|| json!({}));
        let Value::Object(mut known) = known else {
            bail!("{shard} is not a JSON object")
        };
        known.insert(ak_public.to_owned(), json!(node.to_string()));
        self.set_reference_value(&shard, &known.into())?;
        if let Some(tuple) = boot_tuple {
            let tuples = self
                .reference_value("boot_tuples")?
                .unwrap_or_else(|| json!([]));
            let Value::Array(mut tuples) = tuples else {
                bail!("boot_tuples is not a JSON list")
            };
            if !tuples.contains(&tuple) {
                tuples.push(tuple);
            }
            self.set_reference_value("boot_tuples", &tuples.into())?;
        }
        Ok(node)
    }

    fn call(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Response> {
        let response = self.send(method.clone(), path, body)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        bail!("{method} {path}: {status}: {}", refusal(response).detail)
    }

    fn send(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Response> {
        let request = self.http.request(method, format!("{}{path}", self.base));
        let request = request.bearer_auth(self.token()).body(body);
        request
            .send()
            .with_context(|| format!("cannot reach {}", self.base))
    }
}

/// The reference value that lists a key: chosen by two characters from inside the modulus, so that each
/// value stays small however many nodes there are.
pub fn shard_of(ak_public: &str) -> Option<String> {
    let two = ak_public.get(60..62)?;
    Some(format!(
        "node_ak_{}",
        two.replace('+', "-").replace('/', "_")
    ))
}

/// A member that no policy compares, or a value that no PCR ever has, would let nobody in and say nothing.
fn check_boot_tuple(tuple: &Value) -> anyhow::Result<()> {
    let members = tuple.as_object().filter(|members| !members.is_empty());
    let members = members.with_context(|| {
        format!("{tuple} is no boot tuple, expected {{\"pcr04\": …, \"pcr07\": …, \"pcr14\": …}}")
    })?;
    for (name, value) in members {
        ensure!(
            (0..PCRS).any(|number| *name == format!("pcr{number:02}")),
            "the boot tuple names {name:?}: policies know pcr00, pcr01 and so on to pcr23, with two digits"
        );
        let value = value.as_str().unwrap_or_default();
        ensure!(
            hex::is_sha256(value),
            "{name} of the boot tuple is {value:?}, expected a SHA-256 digest: 64 lower-case hexadecimal digits"
        );
    }
    Ok(())
}

fn refusal(response: Response) -> ErrorInformation {
    let text = response.text().unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|_| ErrorInformation {
        error_type: String::new(),
        detail: text,
    })
}

const TIMEOUT: Duration = Duration::from_secs(30);
const TOKEN_SECONDS: u64 = 300;
/// Of a TPM (TCG PC Client Platform Firmware Profile 2.3.4).
const PCRS: usize = 24;

#[cfg(test)]
mod tests {
    use super::shard_of;

    #[test]
    fn shards_are_storage_keys() {
        let ak = format!("{}+/{}", "A".repeat(60), "B".repeat(300));
        assert_eq!(shard_of(&ak).unwrap(), "node_ak_-_");
        assert_eq!(shard_of("short"), None);
        assert_eq!(
            shard_of(&"é".repeat(60)),
            Some("node_ak_é".to_owned()),
            "no panic"
        );
    }
}

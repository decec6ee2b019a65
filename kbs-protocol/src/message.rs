// SPDX-License-Identifier: Apache-2.0

//! The JSON messages of the handshake, in the order in which they cross the wire.
//!
//! Mind the casing: outer members are kebab-case, the two members inside `tee-evidence` are snake_case.
//! Unknown members are ignored everywhere, as the protocol asks.

use crate::error::Error;
use crate::tee::Tee;
use crate::tee_key::TeePubKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The only protocol version that Trustee 0.14 to 0.21 accept; the server compares it exactly.
pub const PROTOCOL_VERSION: &str = "0.4.0";
/// The name of the session cookie.
pub const COOKIE_NAME: &str = "kbs-session-id";
/// `POST`: [`Request`] in, [`Challenge`] out.
pub const AUTH_PATH: &str = "/kbs/v0/auth";
/// `POST`: [`Attestation`] in, [`AttestResponse`] out.
pub const ATTEST_PATH: &str = "/kbs/v0/attest";
/// `GET`, followed by a [`crate::resource::ResourcePath`]: a [`crate::jwe::ResourceJwe`] out.
pub const RESOURCE_PREFIX: &str = "/kbs/v0/resource/";

/// The first message: which protocol and which kind of attester.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Request {
    /// Protocol version, [`PROTOCOL_VERSION`].
    pub version: String,
    /// The kind of attester whose evidence will be the primary one.
    pub tee: Tee,
    /// Must be present; only one TEE outside this project's scope reads it.
    pub extra_params: Value,
}

impl Request {
    /// The request of an attester of this kind.
    pub fn new(tee: Tee) -> Self {
        Self {
            version: PROTOCOL_VERSION.to_owned(),
            tee,
            extra_params: json!({ "supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"] }),
        }
    }
}

/// The server's answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Challenge {
    /// 32 random bytes in base64, but opaque: it is hashed as the string it is, never decoded.
    pub nonce: String,
    /// `""` for every TEE of this project.
    pub extra_params: Value,
}

impl Challenge {
    /// Reads a challenge.
    ///
    /// # Errors
    /// Too large, not JSON, a member missing, an empty nonce, or a hash algorithm other than SHA-384
    /// (which no TEE of this project uses, so that answering it would fail later and without a reason).
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let challenge: Self = parse(CHALLENGE, bytes, SMALL_LIMIT)?;
        if challenge.nonce.is_empty() {
            return Err(Error::malformed(CHALLENGE, "the nonce is empty"));
        }
        match challenge.extra_params.get("selected-hash-algorithm") {
            None => Ok(challenge),
            Some(Value::String(name)) if name.eq_ignore_ascii_case("sha384") => Ok(challenge),
            Some(other) => Err(Error::Algorithm {
                what: CHALLENGE,
                name: other.as_str().unwrap_or("(not a string)").to_owned(),
                allowed: "sha384",
            }),
        }
    }
}

/// What the evidence commits to: the challenge and the key that secrets will be encrypted to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuntimeData {
    /// The nonce, exactly as received.
    pub nonce: String,
    /// The public half of this handshake's key.
    pub tee_pubkey: TeePubKey,
}

/// Primary evidence and, as text, whatever accompanies it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompositeEvidence {
    /// The evidence of the TEE named in the request; its form depends on that TEE.
    pub primary_evidence: Value,
    /// Empty, or a JSON object from TEE name to evidence, serialised to a string. A string because the
    /// primary evidence commits to these very bytes.
    #[serde(default)]
    pub additional_evidence: String,
}

/// Init-data in plain text, whose digest the platform or PCR 8 carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitData {
    /// Always `toml`.
    pub format: String,
    /// The TOML text, byte for byte: the digest is over exactly this.
    pub body: String,
}

/// The second message: the evidence.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attestation {
    /// Init-data, if the node has any.
    #[serde(default)]
    pub init_data: Option<InitData>,
    /// What the evidence commits to.
    pub runtime_data: RuntimeData,
    /// The evidence.
    pub tee_evidence: CompositeEvidence,
}

impl Attestation {
    /// Reads an attestation (the server's side).
    ///
    /// # Errors
    /// Too large, not JSON, a member missing, or init-data of a format other than `toml`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let attestation: Self = parse(ATTESTATION, bytes, ATTESTATION_LIMIT)?;
        match &attestation.init_data {
            Some(init_data) if init_data.format != "toml" => Err(Error::Algorithm {
                what: ATTESTATION,
                name: init_data.format.clone(),
                allowed: "toml",
            }),
            _ => Ok(attestation),
        }
    }
}

/// The server's answer to an [`Attestation`]. It does not mean that the node is trusted: the verdict is
/// inside the token, and only the resource policy acts on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttestResponse {
    /// An EAR in a compact JWS; see [`crate::ear`].
    pub token: String,
}

impl AttestResponse {
    /// Reads the answer.
    ///
    /// # Errors
    /// Too large, not JSON, no `token`, or a token that is not three base64url parts.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let response: Self = parse(ATTEST_RESPONSE, bytes, ATTESTATION_LIMIT)?;
        let is_token_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let parts: Vec<&str> = response.token.split('.').collect();
        if parts.len() != 3
            || parts.iter().any(|part| part.is_empty())
            || !response.token.chars().all(is_token_char)
        {
            return Err(Error::malformed(
                ATTEST_RESPONSE,
                "the token is not a compact JWS",
            ));
        }
        Ok(response)
    }
}

/// The body of every refusal by a KBS.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorInformation {
    /// A URL whose last path segment is the kind of error.
    #[serde(rename = "type")]
    pub error_type: String,
    /// One sentence.
    pub detail: String,
}

/// Reads one JSON message within a limit. The reason given names the place, never the content.
pub(crate) fn parse<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<T, Error> {
    Error::check_size(what, bytes, limit)?;
    serde_json::from_slice(bytes).map_err(|error| json_error(what, &error))
}

/// serde's messages quote unexpected values; a secret could be one. Keep the category and the place.
pub(crate) fn json_error(what: &'static str, error: &serde_json::Error) -> Error {
    let problem = match error.classify() {
        serde_json::error::Category::Eof => "it ends early",
        serde_json::error::Category::Syntax => "it is not JSON",
        serde_json::error::Category::Data => "a member is missing or has the wrong type",
        serde_json::error::Category::Io => "it could not be read",
    };
    Error::malformed(
        what,
        format!("{problem}, line {} column {}", error.line(), error.column()),
    )
}

const CHALLENGE: &str = "the challenge";
const ATTESTATION: &str = "the attestation";
const ATTEST_RESPONSE: &str = "the answer to the attestation";
/// Challenges and errors are under 1 KiB.
pub(crate) const SMALL_LIMIT: usize = 64 * 1024;
/// The server's own default limit for requests; tokens of TDX carry the whole event log.
pub const ATTESTATION_LIMIT: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::{AttestResponse, Attestation, Challenge, Request, SMALL_LIMIT};
    use crate::tee::Tee;

    #[test]
    fn request_is_the_one_upstream_clients_send() {
        assert_eq!(
            serde_json::to_string(&Request::new(Tee::Tpm)).unwrap(),
            r#"{"version":"0.4.0","tee":"tpm","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}"#
        );
    }

    #[test]
    fn challenges() {
        let ok = br#"{"nonce":"AAEC","extra-params":"","later":1}"#;
        assert_eq!(Challenge::parse(ok).unwrap().nonce, "AAEC");
        let sha384 = br#"{"nonce":"AAEC","extra-params":{"selected-hash-algorithm":"SHA384"}}"#;
        assert!(Challenge::parse(sha384).is_ok());
        let sha512 = br#"{"nonce":"AAEC","extra-params":{"selected-hash-algorithm":"sha512"}}"#;
        assert!(
            Challenge::parse(sha512)
                .unwrap_err()
                .to_string()
                .contains("sha512")
        );
        let huge = vec![b' '; SMALL_LIMIT + 1];
        assert!(
            Challenge::parse(&huge)
                .unwrap_err()
                .to_string()
                .contains("at most")
        );
        for bad in [
            &b""[..],
            b"{}",
            b"[]",
            br#"{"nonce":""}"#,
            br#"{"nonce":"","extra-params":""}"#,
        ] {
            assert!(
                Challenge::parse(bad).is_err(),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn json_errors_do_not_quote_what_came() {
        let error = Challenge::parse(br#"{"nonce":424242,"extra-params":""}"#).unwrap_err();
        assert!(!error.to_string().contains("424242"), "{error}");
    }

    #[test]
    fn tokens_are_three_parts() {
        let token =
            |token: &str| AttestResponse::parse(format!(r#"{{"token":"{token}"}}"#).as_bytes());
        assert!(token("a.b.c").is_ok());
        for bad in ["", "a", "a.b", "a.b.c.d", "a.b.", "a.b.c=", "a b.c.d"] {
            assert!(token(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn init_data_must_be_toml() {
        let with = |init: &str| {
            Attestation::parse(
                format!(
                    r#"{{"init-data":{init},"runtime-data":{{"nonce":"n","tee-pubkey":{{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"x","y":"y"}}}},"tee-evidence":{{"primary_evidence":1,"additional_evidence":""}}}}"#
                )
                .as_bytes(),
            )
        };
        assert!(with("null").is_ok());
        assert!(with(r#"{"format":"toml","body":""}"#).is_ok());
        assert!(
            with(r#"{"format":"json","body":""}"#)
                .unwrap_err()
                .to_string()
                .contains("json")
        );
    }
}

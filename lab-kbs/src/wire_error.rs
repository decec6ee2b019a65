// SPDX-License-Identifier: Apache-2.0

//! Every refusal a Trustee client can meet, with its exact status, `type` and `detail`.
//!
//! Trustee answers 404 to a wrong address and 401 to everything else, internal failures included, and gives
//! no reason for a failed attestation. The reason is kept here as `Refused::cause` for the server's log.

use crate::http::Reply;
use kbs_protocol::message::ErrorInformation;

/// A refusal, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The client speaks another protocol version.
    #[error(
        "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: \
         expect ={expected} while the request is {actual}"
    )]
    VersionMismatch {
        /// The version this server speaks.
        expected: String,
        /// The version that came.
        actual: String,
    },
    /// The request is not JSON of the right form, or names an unknown TEE.
    #[error("Attestation error: RCAR handshake Auth failed: deserialize Request")]
    AuthRequest,
    /// The version is not a semantic version.
    #[error("Attestation error: RCAR handshake Auth failed: failed to parse KBS version")]
    AuthVersion,
    /// No nonce could be made.
    #[error(
        "Attestation error: RCAR handshake Auth failed: Attestation Service generate challenge failed"
    )]
    AuthChallenge,
    /// Anything at all that is wrong with an attestation.
    #[error("Attestation error: RCAR handshake Attest failed")]
    Attest,
    /// An attestation policy could not be stored.
    #[error("Attestation error: Set Attestation Policy failed")]
    SetAttestationPolicy,
    /// Neither an attested session nor a bearer token.
    #[error("Attestation Token not found")]
    TokenNotFound,
    /// The token has expired or its signer is not trusted.
    #[error("Token Verifier error")]
    TokenVerifier,
    /// The resource policy says no.
    #[error("Access denied by policy")]
    PolicyDeny,
    /// The resource policy does not work.
    #[error("Policy engine error: {0}")]
    PolicyEngine(String),
    /// No such resource, an illegal path, or storage failed.
    #[error("Plugin internal error")]
    PluginInternal,
    /// The resource could not be encrypted to the key in the token.
    #[error("JWE failed")]
    Jwe,
    /// An uploaded resource policy has the wrong form.
    #[error("Failed to parse policy: {0}")]
    ParsePolicy(String),
    /// A reference value message is wrong, or there is no such value.
    #[error("RVPS configuration failed: {0}")]
    Rvps(String),
    /// An administrator's token is refused (0.20).
    #[error("Admin auth error: {0}")]
    AdminAuth(String),
    /// An administrator's token is refused (0.21, built-in endpoints).
    #[error("admin access denied for endpoint {endpoint}: Admin access denied: {reason}")]
    AdminAccess {
        /// The path asked for.
        endpoint: String,
        /// Why not.
        reason: String,
    },
    /// An administrator's token is refused (0.21, resources).
    #[error("failed to initialize [admin] configuration: Admin access denied: {0}")]
    AdminInitialization(String),
    /// No plugin of this name takes this method.
    #[error("Plugin {0} not found")]
    PluginNotFound(String),
    /// There is nothing after the prefix.
    #[error("Request path {0} is invalid")]
    InvalidRequestPath(String),
}

impl WireError {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::PluginNotFound(_) | Self::InvalidRequestPath(_) => 404,
            _ => 401,
        }
    }

    /// The last path element of the `type` member.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::VersionMismatch { .. }
            | Self::AuthRequest
            | Self::AuthVersion
            | Self::AuthChallenge
            | Self::Attest
            | Self::SetAttestationPolicy => "AttestationError",
            Self::TokenNotFound => "TokenNotFound",
            Self::TokenVerifier => "TokenVerifierError",
            Self::PolicyDeny => "PolicyDeny",
            Self::PolicyEngine(_) => "PolicyEngineError",
            Self::PluginInternal => "PluginInternalError",
            Self::Jwe => "JweError",
            Self::ParsePolicy(_) => "ParsePolicyError",
            Self::Rvps(_) => "RvpsError",
            Self::AdminAuth(_) => "AdminAuth",
            Self::AdminAccess { .. } => "AdminAuthAccess",
            Self::AdminInitialization(_) => "AdminAuthInitialization",
            Self::PluginNotFound(_) => "PluginNotFound",
            Self::InvalidRequestPath(_) => "InvalidRequestPath",
        }
    }

    /// The answer: JSON, but without a `Content-Type`, as Trustee sends it.
    pub(crate) fn reply(&self) -> Reply {
        let information = ErrorInformation {
            error_type: format!("{TYPE_PREFIX}{}", self.kind()),
            detail: self.to_string(),
        };
        let body = serde_json::to_vec(&information).unwrap_or_default();
        Reply {
            status: self.status(),
            body,
            ..Reply::default()
        }
    }

    /// The error of this name in [`WireError::catalogue`].
    pub fn by_name(name: &str) -> Option<Self> {
        Self::catalogue()
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, error)| error)
    }

    /// One example of each refusal under the name that `--fault error=STEP:NAME` uses.
    pub fn catalogue() -> Vec<(&'static str, Self)> {
        let text = || "injected".to_owned();
        vec![
            (
                "version-mismatch",
                Self::VersionMismatch {
                    expected: "0.2.0".into(),
                    actual: "0.4.0".into(),
                },
            ),
            ("auth-request", Self::AuthRequest),
            ("auth-version", Self::AuthVersion),
            ("auth-challenge", Self::AuthChallenge),
            ("attest", Self::Attest),
            ("set-attestation-policy", Self::SetAttestationPolicy),
            ("token-not-found", Self::TokenNotFound),
            ("token-verifier", Self::TokenVerifier),
            ("policy-deny", Self::PolicyDeny),
            ("policy-engine", Self::PolicyEngine(text())),
            ("plugin-internal", Self::PluginInternal),
            ("jwe", Self::Jwe),
            ("parse-policy", Self::ParsePolicy(text())),
            ("rvps", Self::Rvps(text())),
            ("admin-auth", Self::AdminAuth(text())),
            (
                "admin-access",
                Self::AdminAccess {
                    endpoint: "/kbs/v0/x".into(),
                    reason: text(),
                },
            ),
            ("admin-initialization", Self::AdminInitialization(text())),
            ("plugin-not-found", Self::PluginNotFound("resource".into())),
            (
                "invalid-request-path",
                Self::InvalidRequestPath("/kbs/v0/".into()),
            ),
        ]
    }
}

/// A refusal together with its reason. The client sees the first, the server's log the second.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) error: WireError,
    pub(crate) cause: String,
}

impl Refused {
    pub(crate) fn new(error: WireError, cause: impl ToString) -> Self {
        Self {
            error,
            cause: cause.to_string(),
        }
    }

    /// A failed attestation; the client learns nothing but that.
    pub(crate) fn attest(cause: impl ToString) -> Self {
        Self::new(WireError::Attest, cause)
    }

    /// A challenge that could not be made.
    pub(crate) fn challenge(cause: impl ToString) -> Self {
        Self::new(WireError::AuthChallenge, cause)
    }
}

impl From<WireError> for Refused {
    fn from(error: WireError) -> Self {
        Self {
            cause: error.to_string(),
            error,
        }
    }
}

const TYPE_PREFIX: &str = "https://github.com/confidential-containers/kbs/errors/";

#[cfg(test)]
mod tests {
    use super::WireError;

    #[test]
    fn exact_bodies() {
        let body = |error: WireError| String::from_utf8(error.reply().body).unwrap();
        let prefix = "https://github.com/confidential-containers/kbs/errors";
        assert_eq!(
            body(WireError::PolicyDeny),
            format!(r#"{{"type":"{prefix}/PolicyDeny","detail":"Access denied by policy"}}"#)
        );
        assert_eq!(
            body(WireError::VersionMismatch {
                expected: "0.4.0".into(),
                actual: "0.2.0".into()
            }),
            format!(
                r#"{{"type":"{prefix}/AttestationError","detail":"Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is 0.2.0"}}"#
            )
        );
        assert_eq!(
            body(WireError::AuthChallenge),
            format!(
                r#"{{"type":"{prefix}/AttestationError","detail":"Attestation error: RCAR handshake Auth failed: Attestation Service generate challenge failed"}}"#
            )
        );
    }

    #[test]
    fn only_wrong_addresses_are_404_and_no_error_has_a_content_type() {
        for (name, error) in WireError::catalogue() {
            let expected = if name.contains("path") || name.contains("not-found") {
                404
            } else {
                401
            };
            let expected = if name == "token-not-found" {
                401
            } else {
                expected
            };
            assert_eq!(error.status(), expected, "{name}");
            assert_eq!(error.reply().content_type, None, "{name}");
            assert_eq!(WireError::by_name(name), Some(error));
        }
        assert_eq!(WireError::by_name("nonsense"), None);
    }
}

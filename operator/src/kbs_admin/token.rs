// SPDX-License-Identifier: Apache-2.0

//! The two tokens that we make: an administrator's, and one that no KBS must believe.

use super::Error;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::{Signer as _, SigningKey};
use kbs_protocol::Secret;
use kbs_protocol::tee_key::TeeKey;
use p256::ecdsa;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The administrator's key and the names that go with it.
pub(super) struct AdminKey {
    key: SigningKey,
    issuer: String,
    role: String,
}

impl AdminKey {
    pub(super) fn read(pem: &Secret, issuer: &str, role: &str) -> Result<Self, Error> {
        let key = std::str::from_utf8(pem.expose())
            .ok()
            .and_then(|pem| SigningKey::from_pkcs8_pem(pem).ok());
        let key = key.ok_or_else(|| {
            let why =
                "the administrator's key must be an Ed25519 key in PKCS #8 PEM (BEGIN PRIVATE KEY)";
            Error::Configuration(why.to_owned())
        })?;
        Ok(Self {
            key,
            issuer: issuer.to_owned(),
            role: role.to_owned(),
        })
    }

    /// A JWT (RFC 7519, EdDSA after RFC 8037) that every supported release accepts: 0.21 asks for `role`,
    /// 0.20 refuses any `aud`. It cannot be taken back, so it lives for minutes.
    pub(super) fn token(&self) -> Result<String, Error> {
        let now = now()?;
        let claims = json!({
            "iss": self.issuer, "role": self.role, "iat": now, "exp": now.saturating_add(LIFETIME),
        });
        Ok(sign(
            &json!({"alg": "EdDSA", "typ": "JWT"}),
            &claims,
            |input| self.key.sign(input).to_bytes().to_vec(),
        ))
    }
}

/// An attestation result in the form of Trustee's own, signed by a new key that its header brings along.
/// It says that nothing is trustworthy: should a KBS believe it, nothing is gained with it.
pub(super) fn forged() -> Result<String, Error> {
    let now = now()?;
    let key = ecdsa::SigningKey::random(&mut rand_core::OsRng);
    let point = key.verifying_key().to_encoded_point(false);
    let [x, y] =
        [point.x(), point.y()].map(|c| URL_SAFE_NO_PAD.encode(c.copied().unwrap_or_default()));
    let header = json!({
        "typ": "JWT", "alg": "ES256",
        "jwk": {"kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y},
    });
    let tee_key = TeeKey::generate().map_err(|error| Error::Configuration(error.to_string()))?;
    let evidence = json!({
        "sample": {}, "runtime_data_claims": {"nonce": "", "tee-pubkey": tee_key.public()},
    });
    let claims = json!({
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iss": "CoCo-Attestation-Service",
        "iat": now, "nbf": now, "exp": now.saturating_add(LIFETIME),
        "ear.verifier-id": {"build": "probe", "developer": "sheepfold"},
        "submods": {"cpu0": {
            "ear.status": "contraindicated",
            "ear.trustworthiness-vector": {"hardware": 97},
            "ear.appraisal-policy-id": "default",
            "ear.veraison.annotated-evidence": evidence,
        }},
    });
    Ok(sign(&header, &claims, |input| {
        let signature: ecdsa::Signature = key.sign(input);
        signature.to_bytes().to_vec()
    }))
}

/// RFC 7515 section 3.1: the compact serialization.
fn sign(header: &Value, claims: &Value, signature: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", encode(header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(signature(input.as_bytes()));
    format!("{input}.{signature}")
}

fn now() -> Result<u64, Error> {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|since| since.as_secs())
        .map_err(|_| Error::Configuration("our clock is before 1970, set it".to_owned()))
}

/// Seconds. A KBS allows one minute of difference between the clocks.
const LIFETIME: u64 = 300;

#[cfg(test)]
mod tests {
    use super::{AdminKey, LIFETIME};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ed25519_dalek::pkcs8::EncodePrivateKey as _;
    use ed25519_dalek::{Signature, SigningKey, Verifier as _};
    use kbs_protocol::Secret;
    use serde_json::{Value, json};

    fn pem(key: &SigningKey) -> Secret {
        Secret::new(
            key.to_pkcs8_pem(Default::default())
                .unwrap()
                .as_bytes()
                .to_vec(),
        )
    }

    #[test]
    fn one_shape_for_every_release() {
        let key = SigningKey::generate(&mut rand_core::OsRng);
        let token = AdminKey::read(&pem(&key), "me", "boss")
            .unwrap()
            .token()
            .unwrap();
        let (input, signature) = token.rsplit_once('.').unwrap();
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let signature = Signature::from_slice(&decode(signature)).unwrap();
        key.verifying_key()
            .verify(input.as_bytes(), &signature)
            .unwrap();
        let (header, claims) = input.split_once('.').unwrap();
        let [header, claims] =
            [header, claims].map(|p| serde_json::from_slice::<Value>(&decode(p)).unwrap());
        assert_eq!(header, json!({"alg": "EdDSA", "typ": "JWT"}));
        let members: Vec<_> = claims
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(members, ["exp", "iat", "iss", "role"], "0.20 refuses aud");
        assert_eq!(
            (claims["iss"].as_str(), claims["role"].as_str()),
            (Some("me"), Some("boss"))
        );
        let life = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        assert_eq!(life, LIFETIME);
    }

    #[test]
    fn other_keys_are_refused_without_being_quoted() {
        for bad in [
            "",
            "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
            "\u{0}secret",
        ] {
            let refused = AdminKey::read(&Secret::new(bad.as_bytes().to_vec()), "i", "r");
            let why = refused.err().unwrap().to_string();
            assert!(
                why.contains("Ed25519") && !why.contains("c2Vj") && !why.contains("secret"),
                "{why}"
            );
        }
    }
}

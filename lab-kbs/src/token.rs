// SPDX-License-Identifier: Apache-2.0

//! Signs attestation tokens and decides whether a token that comes back is one of ours.

use crate::clock::unix_now;
use crate::dialect::Dialect;
use crate::jws::{self, Unverified};
use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use serde_json::{Value, json};

/// The server's token key, with its certificate as the trust anchor.
pub(crate) struct TokenSigner {
    key: SigningKey,
    certificate_der: Vec<u8>,
    dialect: Dialect,
    trusts_header_key: bool,
}

impl TokenSigner {
    pub(crate) fn new(
        key: SigningKey,
        certificate_der: Vec<u8>,
        dialect: Dialect,
        trusts_header_key: bool,
    ) -> Self {
        Self {
            key,
            certificate_der,
            dialect,
            trusts_header_key,
        }
    }

    /// A compact JWS with ES256, its public key and certificate in the header as Trustee writes them.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let point = self.key.verifying_key().to_encoded_point(false);
        let [x, y] =
            [point.x(), point.y()].map(|c| self.coordinate(&c.copied().unwrap_or_default()));
        let header = json!({
            "typ": "JWT",
            "alg": "ES256",
            "jwk": {
                "alg": "ES256", "kty": "EC", "crv": "P-256", "x": x, "y": y,
                "x5c": [self.certificate_text()],
            },
        });
        jws::encode(&header, claims, |input| {
            let signature: Signature = self.key.sign(input);
            signature.to_bytes().to_vec()
        })
    }

    /// The claims of a token that we trust: signed by the key of the certificate that this server holds
    /// (or, with the insecure option, by whatever key the token brings), and not past.
    pub(crate) fn verify(&self, token: &str) -> anyhow::Result<Value> {
        let token = jws::decode(token).context("the token is not a compact JWS")?;
        ensure!(
            token.header_text("alg") == Some("ES256"),
            "the token is not signed with ES256"
        );
        let jwk = token
            .header
            .get("jwk")
            .context("the token's header has no jwk")?;
        let key = if self.trusts_header_key {
            read_jwk(jwk)?
        } else {
            self.anchored_key(jwk)?
        };
        check_signature(&key, &token)?;
        ensure!(
            token.is_current(unix_now()),
            "the token has no exp or is past it"
        );
        Ok(token.claims)
    }

    /// Our own key, if the header's certificate chain is exactly our certificate. The key that stands
    /// beside it in the header is not looked at.
    fn anchored_key(&self, jwk: &Value) -> anyhow::Result<VerifyingKey> {
        let chain = jwk
            .get("x5c")
            .and_then(Value::as_array)
            .context("the token has no x5c")?;
        let [certificate] = chain.as_slice() else {
            bail!(
                "the token's x5c has {} certificates, expected 1",
                chain.len()
            )
        };
        let is_ours = certificate.as_str().is_some_and(|text| {
            // Either spelling: a token may have been issued before the dialect changed.
            STANDARD
                .decode(text)
                .or_else(|_| URL_SAFE_NO_PAD.decode(text))
                .ok()
                .as_deref()
                == Some(self.certificate_der.as_slice())
        });
        ensure!(is_ours, "the token's certificate is not the trusted one");
        Ok(*self.key.verifying_key())
    }

    /// Before 0.21 leading zero bytes were dropped.
    fn coordinate(&self, bytes: &[u8]) -> String {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let skipped = if self.dialect.has_standard_tokens() {
            0
        } else {
            zeros
        };
        URL_SAFE_NO_PAD.encode(bytes.iter().skip(skipped).copied().collect::<Vec<_>>())
    }

    /// RFC 7515 section 4.1.6 wants padded base64; before 0.21 it was base64url.
    fn certificate_text(&self) -> String {
        if self.dialect.has_standard_tokens() {
            STANDARD.encode(&self.certificate_der)
        } else {
            URL_SAFE_NO_PAD.encode(&self.certificate_der)
        }
    }
}

fn check_signature(key: &VerifyingKey, token: &Unverified<'_>) -> anyhow::Result<()> {
    let signature =
        Signature::from_slice(&token.signature).context("the token's signature is not 64 bytes")?;
    key.verify(token.signing_input, &signature)
        .context("the token's signature is wrong")
}

/// A P-256 JWK, short coordinates included.
fn read_jwk(jwk: &Value) -> anyhow::Result<VerifyingKey> {
    let coordinate = |name: &str| {
        let text = jwk.get(name).and_then(Value::as_str)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let missing = 32_usize.checked_sub(bytes.len())?;
        Some([vec![0; missing], bytes].concat())
    };
    let (x, y) = coordinate("x")
        .zip(coordinate("y"))
        .context("the token's jwk is not a P-256 key")?;
    let sec1 = [vec![SEC1_UNCOMPRESSED], x, y].concat();
    VerifyingKey::from_sec1_bytes(&sec1).context("the token's jwk is not a point on P-256")
}

const SEC1_UNCOMPRESSED: u8 = 4;

#[cfg(test)]
mod tests {
    use super::TokenSigner;
    use crate::dialect::Dialect;
    use crate::jws;
    use p256::ecdsa::SigningKey;
    use serde_json::{Value, json};

    const FAR: u64 = 4_000_000_000;

    fn signer(seed: u8, dialect: Dialect, insecure: bool) -> TokenSigner {
        let key = SigningKey::from_slice(&[seed; 32]).unwrap();
        TokenSigner::new(key, vec![seed, 0xfb, 0xff], dialect, insecure)
    }

    fn header(token: &str) -> Value {
        jws::decode(token).unwrap().header
    }

    #[test]
    fn own_tokens_pass_in_both_spellings() {
        for dialect in [Dialect::V0_20, Dialect::V0_21] {
            let ours = signer(1, dialect, false);
            let token = ours.sign(&json!({"exp": FAR, "a": 1}));
            assert_eq!(ours.verify(&token).unwrap()["a"], 1);
        }
        let x5c =
            |dialect| header(&signer(1, dialect, false).sign(&json!({})))["jwk"]["x5c"][0].clone();
        assert_eq!(
            (x5c(Dialect::V0_20), x5c(Dialect::V0_21)),
            (json!("Afv_"), json!("Afv/"))
        );
    }

    #[test]
    fn short_coordinates_are_a_matter_of_dialect() {
        // The public key of this scalar has an x coordinate with a leading zero byte.
        let scalar = (1_u16..)
            .map(|n| [&[0; 30][..], &n.to_be_bytes()].concat())
            .find(|scalar| {
                let key = SigningKey::from_slice(scalar).unwrap();
                key.verifying_key().to_encoded_point(false).x().unwrap()[0] == 0
            })
            .unwrap();
        let token = |dialect| {
            let key = SigningKey::from_slice(&scalar).unwrap();
            TokenSigner::new(key, vec![1], dialect, true).sign(&json!({"exp": FAR}))
        };
        let length = |token: &str| header(token)["jwk"]["x"].as_str().unwrap().len();
        assert_eq!(length(&token(Dialect::V0_21)), 43);
        assert!(length(&token(Dialect::V0_20)) < 43);
        assert!(
            signer(9, Dialect::V0_20, true)
                .verify(&token(Dialect::V0_20))
                .is_ok()
        );
    }

    #[test]
    fn foreign_tokens_pass_only_with_the_insecure_option() {
        let foreign = signer(2, Dialect::V0_21, false).sign(&json!({"exp": FAR}));
        let refusal = signer(1, Dialect::V0_21, false)
            .verify(&foreign)
            .unwrap_err()
            .to_string();
        assert!(refusal.contains("not the trusted one"), "{refusal}");
        assert!(signer(1, Dialect::V0_21, true).verify(&foreign).is_ok());
    }

    #[test]
    fn our_certificate_on_a_foreign_signature_is_refused() {
        let key = SigningKey::from_slice(&[2; 32]).unwrap();
        let forged = TokenSigner::new(key, vec![1, 0xfb, 0xff], Dialect::V0_21, false)
            .sign(&json!({"exp": FAR}));
        let refusal = signer(1, Dialect::V0_21, false)
            .verify(&forged)
            .unwrap_err()
            .to_string();
        assert!(refusal.contains("signature is wrong"), "{refusal}");
    }

    #[test]
    fn another_algorithm_is_refused_even_with_our_signature() {
        use p256::ecdsa::signature::Signer as _;
        let ours = signer(1, Dialect::V0_21, false);
        let mut header = header(&ours.sign(&json!({})));
        let sign = |header: &Value| {
            jws::encode(header, &json!({"exp": FAR}), |input| {
                let signature: p256::ecdsa::Signature = ours.key.sign(input);
                signature.to_bytes().to_vec()
            })
        };
        assert!(ours.verify(&sign(&header)).is_ok());
        for alg in ["none", "HS256", "ES384", "es256"] {
            header["alg"] = json!(alg);
            assert!(ours.verify(&sign(&header)).is_err(), "{alg}");
        }
    }

    #[test]
    fn past_changed_and_unsigned_tokens_are_refused() {
        for insecure in [false, true] {
            let ours = signer(1, Dialect::V0_21, insecure);
            assert!(
                ours.verify(&ours.sign(&json!({"exp": 1000}))).is_err(),
                "past"
            );
            assert!(ours.verify(&ours.sign(&json!({}))).is_err(), "no exp");
            let good = ours.sign(&json!({"exp": FAR}));
            let (input, signature) = good.rsplit_once('.').unwrap();
            assert!(ours.verify(&format!("{input}.")).is_err(), "no signature");
            assert!(
                ours.verify(&format!("{input}.{}", &signature[..40]))
                    .is_err(),
                "short signature"
            );
            let parts: Vec<_> = good.split('.').collect();
            let other = ours.sign(&json!({"exp": FAR, "b": 2}));
            let claims = other.split('.').nth(1).unwrap();
            assert!(
                ours.verify(&format!("{}.{claims}.{}", parts[0], parts[2]))
                    .is_err(),
                "claims"
            );
            for header in [
                json!({"alg": "none", "jwk": header(&good)["jwk"]}),
                json!({"alg": "ES256"}),
                json!({"alg": "ES256", "jwk": {"x": "AA", "y": "AA"}}),
                json!({"alg": "ES256", "jwk": {"x5c": []}}),
                json!({"alg": "ES256", "jwk": {"x5c": [1]}}),
            ] {
                let token = jws::encode(&header, &json!({"exp": FAR}), |_| vec![1; 64]);
                assert!(ours.verify(&token).is_err(), "{header}");
            }
        }
    }
}

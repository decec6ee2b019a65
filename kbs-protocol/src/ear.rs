// SPDX-License-Identifier: Apache-2.0

//! Reading an attestation result (EAR, draft-ietf-rats-ear) to explain it to a person.
//!
//! Nothing here is verified and nothing depends on it: the server acts on its own token. The reader is
//! lenient, because releases differ in small ways and a half-readable token still tells more than none. What
//! it returns goes to a console, so texts come without control characters and cut to a sane length.

use crate::encoding::{b64u, printable};
use crate::error::Error;
use crate::message::{ATTESTATION_LIMIT, parse};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The parts of a token that explain a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ear {
    /// Seconds since 1970, by the server's clock.
    pub issued_at: Option<i64>,
    /// Seconds since 1970, by the server's clock.
    pub expires_at: Option<i64>,
    /// One appraisal for each piece of evidence; the primary one is `cpu0`.
    pub submods: BTreeMap<String, Appraisal>,
}

/// The verdict on one piece of evidence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appraisal {
    /// `none`, `affirming`, `warning` or `contraindicated`.
    pub status: Option<String>,
    /// Claim name to value (AR4SI, draft-ietf-rats-ar4si section 2.3).
    pub trust_vector: BTreeMap<String, i64>,
    /// The policy that decided.
    pub policy_id: Option<String>,
    /// The kind of evidence, where the policy says so.
    pub tee: Option<String>,
    /// Why the claims are no better, in the policy's words.
    pub reasons: Vec<String>,
    /// The node that the policy recognised, where it says so.
    pub node: Option<String>,
    /// Base64 of the attestation key's SubjectPublicKeyInfo.
    pub ak_public: Option<String>,
    /// PCR number to lower-case hexadecimal value, as the server saw them.
    pub pcrs: BTreeMap<u8, String>,
}

/// The tier of a trust-vector value (AR4SI section 2.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// No statement.
    None,
    /// Recognised and good.
    Affirming,
    /// Recognised, with a reservation, or not recognised.
    Warning,
    /// Known to be bad.
    Contraindicated,
}

impl Tier {
    /// -1 to 1 none; -32 to 31 affirming; -96 to 95 warning; the rest contraindicated.
    pub fn of(value: i64) -> Self {
        match value {
            -1..=1 => Self::None,
            -32..=31 => Self::Affirming,
            -96..=95 => Self::Warning,
            _ => Self::Contraindicated,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
        })
    }
}

impl Ear {
    /// Reads the payload of a compact JWS, without looking at its signature.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::TooLarge`] when there is no JSON object in the middle part. Members
    /// that are missing or of another type are left out, not refused.
    pub fn read(token: &str) -> Result<Self, Error> {
        Error::check_size(TOKEN, token.as_bytes(), ATTESTATION_LIMIT)?;
        let payload = token
            .split('.')
            .nth(1)
            .and_then(b64u::decode)
            .ok_or_else(|| Error::malformed(TOKEN, "it is not a compact JWS"))?;
        let claims: serde_json::Map<String, Value> = parse(TOKEN, &payload, ATTESTATION_LIMIT)?;
        let submods = claims.get("submods").and_then(Value::as_object);
        Ok(Self {
            issued_at: claims.get("iat").and_then(Value::as_i64),
            expires_at: claims.get("exp").and_then(Value::as_i64),
            submods: submods
                .into_iter()
                .flatten()
                .map(|(name, value)| (shown(name), Appraisal::read(value)))
                .collect(),
        })
    }

    /// The appraisal of the primary evidence, which resource policies look at.
    pub fn primary(&self) -> Option<&Appraisal> {
        self.submods.get("cpu0")
    }

    /// The appraisal that a refusal is about: the worst one; the primary one among equals. One bad piece of evidence
    /// spoils the others.
    pub fn decisive(&self) -> Option<&Appraisal> {
        let badness = |appraisal: &&Appraisal| {
            let worst = appraisal
                .trust_vector
                .values()
                .map(|value| Tier::of(*value));
            (
                appraisal.status.as_deref() != Some("affirming"),
                worst.max(),
            )
        };
        // Among equals the last one is taken.
        self.submods.values().rev().max_by_key(badness)
    }
}

impl Appraisal {
    fn read(submod: &Value) -> Self {
        let text = |name: &str| submod.get(name).and_then(Value::as_str).map(shown);
        let evidence = submod.get("ear.veraison.annotated-evidence");
        // Azure nests the PCRs below the TEE's own name, a bare TPM has them directly.
        let tpm = evidence.and_then(|e| {
            e.get("tpm")
                .or_else(|| e.as_object()?.values().find_map(|tee| tee.get("tpm")))
        });
        Self {
            status: text("ear.status"),
            trust_vector: object(submod.get("ear.trustworthiness-vector"))
                .filter_map(|(name, value)| Some((shown(name), value.as_i64()?)))
                .collect(),
            policy_id: text("ear.appraisal-policy-id"),
            tee: text("sheepfold.tee"),
            reasons: submod
                .get("sheepfold.reasons")
                .and_then(Value::as_str)
                .into_iter()
                .flat_map(|reasons| reasons.split("; "))
                .take(MOST_REASONS)
                .map(shown)
                .collect(),
            node: text("sheepfold.node"),
            ak_public: tpm
                .and_then(|t| t.get("ak_public")?.as_str())
                .map(str::to_owned),
            pcrs: object(tpm)
                .filter_map(|(name, value)| {
                    let number = name.strip_prefix("pcr")?.parse().ok()?;
                    Some((number, shown(value.as_str()?).to_lowercase()))
                })
                .collect(),
        }
    }
}

fn object(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

/// Names, verdicts and digests of an honest token are shorter.
fn shown(text: &str) -> String {
    printable(text, TEXT_LIMIT)
}

const TOKEN: &str = "the attestation token";
const TEXT_LIMIT: usize = 200;
/// Four parts of a TCB below as many floors as anybody keeps, and a debug bit.
const MOST_REASONS: usize = 16;

#[cfg(test)]
mod tests {
    use super::{Ear, Tier};
    use crate::encoding::b64u;
    use serde_json::json;

    fn token(claims: &serde_json::Value) -> String {
        format!("e30.{}.c2ln", b64u::encode(claims.to_string()))
    }

    #[test]
    fn reads_what_explains_a_verdict() {
        let ear = Ear::read(&token(&json!({
            "iat": 1_790_000_000, "exp": 1_790_000_300,
            "submods": { "cpu0": {
                "ear.status": "warning",
                "ear.trustworthiness-vector": { "executables": 33, "hardware": 2 },
                "ear.appraisal-policy-id": "default",
                "sheepfold.node": "n1", "sheepfold.tee": "tpm", "sheepfold.reasons": "a is 1; b\u{1b}",
                "ear.veraison.annotated-evidence": {
                    "tpm": { "ak_public": "MIIB", "pcr00": "AA", "pcr14": "bb" },
                }
            }}
        })))
        .unwrap();
        assert_eq!(
            (ear.issued_at, ear.expires_at),
            (Some(1_790_000_000), Some(1_790_000_300))
        );
        let cpu = ear.primary().unwrap();
        assert_eq!(cpu.status.as_deref(), Some("warning"));
        assert_eq!(cpu.trust_vector["executables"], 33);
        assert_eq!(cpu.policy_id.as_deref(), Some("default"));
        assert_eq!(cpu.node.as_deref(), Some("n1"));
        assert_eq!(cpu.tee.as_deref(), Some("tpm"));
        assert_eq!(cpu.reasons.len(), 2);
        assert_eq!(cpu.reasons[0], "a is 1");
        assert!(!cpu.reasons[1].contains('\u{1b}'));
        assert_eq!(cpu.ak_public.as_deref(), Some("MIIB"));
        assert_eq!(
            (cpu.pcrs[&0].as_str(), cpu.pcrs[&14].as_str()),
            ("aa", "bb")
        );
    }

    #[test]
    fn the_worst_piece_decides() {
        let decisive = |pieces: &[(&str, i64)]| {
            let submods: serde_json::Map<_, _> = (0..)
                .zip(pieces)
                .map(|(n, (status, value))| {
                    let submod = json!({
                        "ear.status": status, "ear.trustworthiness-vector": {"hardware": value},
                        "sheepfold.tee": format!("{n}"),
                    });
                    (format!("cpu{n}"), submod)
                })
                .collect();
            let ear = Ear::read(&token(&json!({"submods": submods}))).unwrap();
            ear.decisive().unwrap().tee.clone().unwrap()
        };
        assert_eq!(decisive(&[("affirming", 2), ("affirming", 2)]), "0");
        assert_eq!(decisive(&[("affirming", 2), ("warning", 33)]), "1");
        assert_eq!(decisive(&[("contraindicated", 97), ("warning", 33)]), "0");
        assert_eq!(decisive(&[("affirming", 2), ("none", 0)]), "1");
    }

    #[test]
    fn azure_nests_the_pcrs() {
        let ear = Ear::read(&token(&json!({ "submods": { "cpu0": {
            "ear.veraison.annotated-evidence": { "az-snp-vtpm": { "tpm": { "pcr04": "cc" } } }
        }}})))
        .unwrap();
        assert_eq!(ear.primary().unwrap().pcrs[&4], "cc");
    }

    #[test]
    fn odd_members_are_left_out() {
        let ear = Ear::read(&token(&json!({ "iat": "soon", "submods": { "cpu0": {
            "ear.status": 7, "ear.trustworthiness-vector": [1], "ear.veraison.annotated-evidence": "x"
        }, "cpu1": null }})))
        .unwrap();
        assert_eq!(ear.issued_at, None);
        assert_eq!(ear.primary().unwrap(), &super::Appraisal::default());
        assert!(ear.submods.contains_key("cpu1"));
    }

    #[test]
    fn a_token_cannot_write_on_the_console() {
        let evil = "\u{1b}[2Jaffirming\n";
        let ear = Ear::read(&token(&json!({ "submods": { "cpu0": {
            "ear.status": evil, "sheepfold.node": evil, "ear.appraisal-policy-id": "x".repeat(5000),
            "ear.trustworthiness-vector": { evil: 2 },
            "ear.veraison.annotated-evidence": { "tpm": { "pcr04": evil } },
        } } })))
        .unwrap();
        let cpu = ear.primary().unwrap();
        for text in [
            cpu.status.as_ref(),
            cpu.node.as_ref(),
            cpu.trust_vector.keys().next(),
            cpu.pcrs.get(&4),
        ] {
            assert_eq!(text.unwrap().to_lowercase(), " [2jaffirming ");
        }
        assert_eq!(cpu.policy_id.as_ref().unwrap().len(), 200);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for bad in ["", "a", "a.!.c", "a.e30=.c", "a.W10.c", "a.bm90IGpzb24.c"] {
            assert!(Ear::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tiers() {
        for (value, tier) in [
            (0, Tier::None),
            (1, Tier::None),
            (-1, Tier::None),
            (2, Tier::Affirming),
            (31, Tier::Affirming),
            (-32, Tier::Affirming),
            (32, Tier::Warning),
            (95, Tier::Warning),
            (-33, Tier::Warning),
            (-96, Tier::Warning),
            (96, Tier::Contraindicated),
            (-97, Tier::Contraindicated),
        ] {
            assert_eq!(Tier::of(value), tier, "{value}");
        }
    }
}

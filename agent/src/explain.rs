// SPDX-License-Identifier: Apache-2.0

//! Why the secret came or did not: one sentence, then the facts a person needs to act on it.
//!
//! The facts come from the attestation token, which the server signed but which is not verified here: it is
//! shown, never acted on.

use kbs_protocol::Owner;
use kbs_protocol::ear::{Appraisal, Ear, Tier};
use kbs_protocol::encoding::{b64, hex};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// What there is to tell. Every member but the verdict may be missing: a server may say little.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// What came of the request.
    pub outcome: Outcome<'a>,
    /// The path that was asked for.
    pub path: Option<&'a str>,
    /// The server that answered.
    pub server: Option<&'a str>,
    /// This node's id, as derived here.
    pub node: Option<String>,
    /// The token, if there was one.
    pub ear: Option<Ear>,
}

/// What came of the request.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// The secret came, and was thrown away.
    Released,
    /// It did not.
    Refused(&'a dyn kbs_protocol::Blame),
    /// This node attested and asked for nothing: the verdict is the outcome.
    Attested,
    /// Somebody's token was given; to show it is all there is to do.
    TokenOnly,
}

impl Explanation<'_> {
    /// The one sentence.
    pub fn sentence(&self) -> String {
        let appraisal = self.ear.as_ref().and_then(Ear::decisive);
        let path = self.path.unwrap_or("the resource");
        match (self.outcome, appraisal) {
            (Outcome::Released, _) => format!("the KBS gives {path} to this node"),
            (Outcome::Refused(error), None) => error.to_string(),
            (Outcome::Refused(error), Some(_)) if error.owner() != Owner::Policy => {
                error.to_string()
            }
            (Outcome::Refused(_), Some(appraisal)) => {
                format!(
                    "the KBS does not give {path} to this node: {}",
                    complaint(appraisal)
                )
            }
            (Outcome::Attested | Outcome::TokenOnly, Some(appraisal)) => match worst(appraisal) {
                None if vouched(appraisal) => "the KBS trusts what this node booted".to_owned(),
                _ => format!("the KBS does not trust this node: {}", complaint(appraisal)),
            },
            (Outcome::Attested | Outcome::TokenOnly, None) => {
                "the token holds no appraisal of a machine".to_owned()
            }
        }
    }

    /// The next step.
    pub fn advice(&self) -> Option<String> {
        let owner = self.owner()?;
        let appraisal = self.ear.as_ref().and_then(Ear::decisive);
        match (self.outcome, appraisal) {
            (_, Some(appraisal)) if owner == Owner::Policy => Some(cure(appraisal).to_owned()),
            (Outcome::Refused(error), _) => Some(error.advice()),
            _ => None,
        }
    }

    /// The party that has to act, if any: also where the KBS answers and does not trust.
    pub fn owner(&self) -> Option<Owner> {
        match self.outcome {
            Outcome::Released | Outcome::TokenOnly => None,
            Outcome::Refused(error) => Some(error.owner()),
            Outcome::Attested => match self.ear.as_ref().and_then(Ear::decisive) {
                Some(appraisal) if vouched(appraisal) => None,
                _ => Some(Owner::Policy),
            },
        }
    }

    /// Sentence and table, for people.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n\n", self.sentence());
        for (name, value) in self.rows() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<17} {value}");
        }
        text
    }

    /// The same, for programs.
    pub fn to_json(&self) -> Value {
        let appraisal = self.ear.as_ref().and_then(Ear::decisive);
        json!({
            "ok": self.owner().is_none(),
            "sentence": self.sentence(),
            "advice": self.advice(),
            "server": self.server,
            "path": self.path,
            "node_id": self.node,
            "status": appraisal.and_then(|a| a.status.as_deref()),
            "policy_id": appraisal.and_then(|a| a.policy_id.as_deref()),
            "evidence": appraisal.and_then(|a| a.tee.as_deref()),
            "trust_vector": appraisal.map(|a| &a.trust_vector),
            "reasons": appraisal.map(|a| &a.reasons),
            "recognised_as": self.of_any(|a| a.node.clone()),
            "ak_sha256": self.of_any(fingerprint),
            "pcrs": self.tpm().map(|a| &a.pcrs),
            "error": match self.outcome {
                Outcome::Refused(error) => crate::report::error_json(error),
                _ => Value::Null,
            },
        })
    }

    /// What the first piece of evidence that has it says.
    fn of_any<T>(&self, get: impl Fn(&Appraisal) -> Option<T>) -> Option<T> {
        self.ear.as_ref()?.submods.values().find_map(get)
    }

    /// The piece of evidence with PCRs.
    fn tpm(&self) -> Option<&Appraisal> {
        let mut pieces = self.ear.as_ref()?.submods.values();
        pieces.find(|appraisal| !appraisal.pcrs.is_empty())
    }

    fn rows(&self) -> Vec<(String, String)> {
        let mut rows: Vec<(String, String)> = Vec::new();
        let mut row = |name: &str, value: Option<String>| {
            rows.extend(value.map(|value| (name.to_owned(), value)));
        };
        row("server", self.server.map(str::to_owned));
        row("path", self.path.map(str::to_owned));
        row("node id", self.node.clone());
        if let Some(appraisal) = self.ear.as_ref().and_then(Ear::decisive) {
            row("recognised as", self.of_any(|a| a.node.clone()));
            row("AK SHA-256", self.of_any(fingerprint));
            row("evidence", appraisal.tee.clone());
            row("verdict", appraisal.status.clone());
            row("policy", appraisal.policy_id.clone());
            for (claim, value) in appraisal
                .trust_vector
                .iter()
                .filter(|(_, value)| **value != 0)
            {
                row(claim, Some(format!("{value} ({})", Tier::of(*value))));
            }
            for reason in &appraisal.reasons {
                row("because", Some(reason.clone()));
            }
        }
        if let Some(appraisal) = self.tpm() {
            for (number, value) in appraisal.pcrs.iter().filter(|(_, value)| is_used(value)) {
                row(&format!("PCR {number}"), Some(value.clone()));
            }
            let unused = appraisal.pcrs.iter().filter(|(_, value)| !is_used(value));
            let unused: Vec<String> = unused.map(|(number, _)| number.to_string()).collect();
            let unused = Some(unused.join(" ")).filter(|numbers| !numbers.is_empty());
            row(
                "never extended",
                unused.map(|numbers| format!("PCR {numbers}")),
            );
        }
        row("to act", self.owner().map(|owner| owner.to_string()));
        row("next", self.advice());
        rows
    }
}

/// What the policy disliked, from the worst claim of the trust vector.
fn complaint(appraisal: &Appraisal) -> String {
    match worst(appraisal) {
        None if !vouched(appraisal) => format!(
            "its attestation policy does not vouch for this node (verdict {})",
            appraisal.status.as_deref().unwrap_or("missing")
        ),
        None => "it trusts what this node booted, but the resource policy reserves this path for another \
                 node or for a later phase of the boot"
            .to_owned(),
        Some((claim, tier)) => {
            let what = match claim {
                "executables" if appraisal.node.is_none() && appraisal.ak_public.is_some() => {
                    "what it booted is not approved, or its attestation key is not registered"
                }
                "executables" if matches!(appraisal.tee.as_deref(), Some("snp" | "tdx")) => {
                    "its launch is not approved"
                }
                "executables" => "what it booted is not approved",
                "hardware" => "its hardware or firmware is not approved",
                "configuration" => "its configuration is not approved",
                "instance-identity" => "it is not a known machine",
                _ => "the attestation policy is not satisfied",
            };
            match appraisal.reasons.as_slice() {
                [] => format!("{what} ({claim} is {tier})"),
                reasons => format!("{what} ({claim} is {tier}): {}", reasons.join(", ")),
            }
        }
    }
}

fn cure(appraisal: &Appraisal) -> &'static str {
    match worst(appraisal).map(|(claim, _)| claim) {
        None if !vouched(appraisal) => {
            "look at the attestation policy of the KBS: it found nothing wrong and nothing right"
        }
        None => {
            "ask for this node's own path (kbs.path in agent.toml), or register the node under it"
        }
        Some("executables") if matches!(appraisal.tee.as_deref(), Some("snp" | "tdx")) => {
            "compare the launch measurement with the reference values of the KBS; approve the firmware and image if the \
             difference is yours, else treat the host as hostile"
        }
        Some("executables") => {
            "compare the PCRs with the reference values of the KBS and the key with its registered keys; approve the image or register the node if the difference is yours, else treat the \
             machine as tampered with"
        }
        Some("hardware") if appraisal.tee.as_deref() == Some("tpm") => {
            "register the machine's attestation key: its TPM is none that the KBS knows"
        }
        Some("hardware") => "update the machine's firmware, or lower the policy's floor knowingly",
        Some(_) => "compare the claims with the attestation policy of the KBS",
    }
}

/// Whether the verdict is good. A policy that says nothing at all gives `none`, without a bad claim.
fn vouched(appraisal: &Appraisal) -> bool {
    appraisal.status.as_deref() == Some("affirming")
}

/// The claim with the worst tier, if one is worse than affirming.
fn worst(appraisal: &Appraisal) -> Option<(&str, Tier)> {
    appraisal
        .trust_vector
        .iter()
        .map(|(claim, value)| (claim.as_str(), Tier::of(*value)))
        .filter(|(_, tier)| *tier > Tier::Affirming)
        .max_by_key(|(_, tier)| *tier)
}

/// SHA-256 of the key's DER, as key lists are usually written.
fn fingerprint(appraisal: &Appraisal) -> Option<String> {
    let der = b64::decode(appraisal.ak_public.as_ref()?)?;
    Some(hex::encode(Sha256::digest(der)))
}

/// A register that nothing extended: all zeros, or all ones for the resettable ones. Its value tells nothing;
/// that nothing measured into it may tell all.
fn is_used(pcr: &str) -> bool {
    !pcr.chars().all(|c| c == '0') && !pcr.chars().all(|c| c == 'f')
}

#[cfg(test)]
mod tests {
    use super::{Explanation, Outcome};
    use kbs_protocol::Owner;
    use kbs_protocol::ear::{Appraisal, Ear, Tier};
    use kbs_protocol::refusal::{Refusal, Step};
    use std::collections::BTreeMap;

    fn deny() -> Refusal {
        Refusal::read(
            Step::Resource,
            401,
            br#"{"type":"x/PolicyDeny","detail":"Access denied by policy"}"#,
        )
    }

    fn explanation<'a>(
        refusal: &'a Refusal,
        executables: i64,
        node: Option<&str>,
    ) -> Explanation<'a> {
        let appraisal = Appraisal {
            status: Some(Tier::of(executables).to_string()),
            trust_vector: [
                ("executables".to_owned(), executables),
                ("hardware".to_owned(), 2),
            ]
            .into(),
            ak_public: Some("AAEC".to_owned()),
            node: node.map(str::to_owned),
            pcrs: BTreeMap::from([
                (4, "ab".repeat(32)),
                (16, "00".repeat(32)),
                (17, "ff".repeat(32)),
            ]),
            ..Appraisal::default()
        };
        Explanation {
            outcome: Outcome::Refused(refusal),
            path: Some("default/n1/root"),
            server: Some("https://kbs:8080"),
            node: Some("n1".to_owned()),
            ear: Some(Ear {
                issued_at: None,
                expires_at: None,
                submods: BTreeMap::from([("cpu0".to_owned(), appraisal)]),
            }),
        }
    }

    #[test]
    fn a_changed_boot_of_a_known_node() {
        let refusal = deny();
        let explained = explanation(&refusal, 33, Some("n1"));
        assert_eq!(
            explained.sentence(),
            "the KBS does not give default/n1/root to this node: what it booted is not approved \
             (executables is warning)"
        );
        let text = explained.to_text();
        for part in [
            "PCR 4             abab",
            "AK SHA-256        ae4b3280e56e2faf83f414a6e3dabe9d5fbe18976544c05fed121accb85b53fc",
            "executables       33 (warning)",
            "hardware          2 (affirming)",
            "to act            the policy",
            "https://kbs:8080",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.contains("never extended    PCR 16 17\n"), "{text}");
        assert_eq!(explained.to_json()["error"]["exit_code"], 14);
    }

    #[test]
    fn an_unknown_key_is_named_as_a_possible_cause() {
        let refusal = deny();
        assert!(
            explanation(&refusal, 33, None)
                .sentence()
                .contains("key is not registered")
        );
    }

    /// The processor's piece is good; the TPM beside it is not, or the other way round.
    #[test]
    fn of_two_pieces_the_bad_one_is_explained() {
        let refusal = deny();
        let mut explained = explanation(&refusal, 3, None);
        let ear = explained.ear.as_mut().unwrap();
        let mut chip = ear.submods["cpu0"].clone();
        chip.tee = Some("snp".to_owned());
        chip.ak_public = None;
        chip.pcrs.clear();
        let mut tpm = ear.submods["cpu0"].clone();
        tpm.tee = Some("tpm".to_owned());
        tpm.status = Some("warning".to_owned());
        tpm.trust_vector.insert("executables".to_owned(), 33);
        let two = |chip: &Appraisal, tpm: &Appraisal| {
            BTreeMap::from([
                ("cpu0".to_owned(), chip.clone()),
                ("cpu1".to_owned(), tpm.clone()),
            ])
        };
        ear.submods = two(&chip, &tpm);
        assert!(
            explained
                .sentence()
                .contains("what it booted is not approved"),
            "{}",
            explained.sentence()
        );
        tpm.status = Some("affirming".to_owned());
        tpm.trust_vector.insert("executables".to_owned(), 3);
        chip.status = Some("contraindicated".to_owned());
        chip.trust_vector.insert("hardware".to_owned(), 97);
        chip.reasons = vec!["microcode is 218, a floor is 219".to_owned()];
        explained.ear.as_mut().unwrap().submods = two(&chip, &tpm);
        assert!(
            explained.sentence().ends_with(
                "its hardware or firmware is not approved (hardware is contraindicated): microcode is 218, a floor is 219"
            ),
            "{}",
            explained.sentence()
        );
        let text = explained.to_text();
        for part in [
            "evidence          snp",
            "because           microcode",
            "PCR 4 ",
            "AK SHA-256",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_trusted_node_with_another_nodes_path() {
        let refusal = deny();
        let explained = explanation(&refusal, 3, Some("n2"));
        assert!(
            explained
                .sentence()
                .contains("reserves this path for another node")
        );
        assert!(explained.advice().unwrap().contains("this node's own path"));
    }

    #[test]
    fn a_policy_that_says_nothing_does_not_trust() {
        let refusal = deny();
        let mut explained = explanation(&refusal, 0, None);
        assert!(
            explained
                .sentence()
                .ends_with("does not vouch for this node (verdict none)"),
            "{}",
            explained.sentence()
        );
        assert!(explained.advice().unwrap().contains("attestation policy"));
        explained.outcome = Outcome::Attested;
        assert!(
            explained
                .sentence()
                .starts_with("the KBS does not trust this node")
        );
        assert_eq!(explained.owner(), Some(Owner::Policy));
        assert_eq!(explained.to_json()["ok"], false);
        assert!(explained.advice().is_some());
        explained.outcome = Outcome::TokenOnly;
        assert!(explained.sentence().contains("does not trust") && explained.owner().is_none());
        let mut trusted = explanation(&refusal, 3, Some("n1"));
        trusted.outcome = Outcome::Attested;
        assert_eq!(trusted.sentence(), "the KBS trusts what this node booted");
        assert_eq!((trusted.owner(), trusted.advice()), (None, None));
        assert_eq!(trusted.to_json()["ok"], true);
    }

    #[test]
    fn other_refusals_speak_for_themselves() {
        let refusal = Refusal::read(Step::Resource, 500, b"");
        let explained = explanation(&refusal, 33, None);
        assert_eq!(explained.sentence(), refusal.to_string());
    }
}

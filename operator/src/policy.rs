// SPDX-License-Identifier: Apache-2.0

//! The two policies that a KBS runs for us, and the means to run them here.
//!
//! Both are constant text. `attestation.rego` judges one piece of evidence and writes into the token which
//! node it is; `resource.rego` compares that node with the path that is asked for. What differs from
//! cluster to cluster, image to image and node to node are reference values ([`model`](crate::model)), so a policy is
//! uploaded once for each version of this program. The [`plan`](crate::plan) decides when.
//!
//! A policy that does not compile makes a KBS refuse everybody, and a trust claim with an unknown name
//! makes it drop connections: [`validate`] finds both before an upload. [`engine`] evaluates policies as
//! the KBS does; tests and the planner's proofs use it.

pub mod engine;

#[cfg(test)]
mod mutants;
#[cfg(test)]
mod tables;

use engine::{AttestationPolicy, ReferenceValues, ResourcePolicy};
use kbs_protocol::{Blame, Owner, Persistence};
use serde_json::json;

/// The attestation policy, Rego v1.
pub const ATTESTATION: &str = include_str!("policy/attestation.rego");

/// The resource policy, Rego v1.
pub const RESOURCE: &str = include_str!("policy/resource.rego");

/// A resource policy that gives nothing to anybody, in force while anything else about policies changes.
pub const DENY_ALL: &str = include_str!("policy/deny-all.rego");

/// The only id under which a KBS evaluates an attestation policy for processors and TPMs.
pub const ATTESTATION_ID: &str = "default_cpu";

/// Compiles the three texts and checks every claim they can make. Call it before an upload.
///
/// # Errors
/// As [`validate_attestation`] and [`validate_resource`].
pub fn validate() -> Result<(), Error> {
    validate_attestation(ATTESTATION)?;
    validate_resource(RESOURCE)?;
    validate_resource(DENY_ALL)
}

/// Compiles an attestation policy and evaluates it for each kind of evidence, with no reference values.
///
/// # Errors
/// [`Error::Compile`] when the text does not load, [`Error::Evaluate`] when it fails for some evidence,
/// [`Error::Claim`] when it makes a claim that AR4SI (draft-ietf-rats-ar4si section 2.3) does not know,
/// [`Error::Trusting`] when it is content with evidence that nobody approved.
pub fn validate_attestation(text: &str) -> Result<(), Error> {
    let policy = AttestationPolicy::compile(text)?;
    let nothing = ReferenceValues::default();
    for tee in TEES {
        let verdict = policy.appraise(&json!({ tee: {} }), &nothing)?;
        if verdict.status() <= kbs_protocol::ear::Tier::Affirming {
            return Err(Error::Trusting {
                what: "evidence that nobody approved",
            });
        }
    }
    Ok(())
}

/// Compiles a resource policy and asks it for a secret without any attestation.
///
/// # Errors
/// [`Error::Compile`] or [`Error::Evaluate`] when the text does not load or run, [`Error::Trusting`] when
/// it lets a token through that says nothing.
pub fn validate_resource(text: &str) -> Result<(), Error> {
    let policy = ResourcePolicy::compile(text)?;
    if policy.allows(&json!({}), "resource", &["default", "node", "root"])? {
        return Err(Error::Trusting {
            what: "a token that says nothing",
        });
    }
    Ok(())
}

/// What can be wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is not Rego v1 in package `policy`.
    #[error("the policy does not compile: {0}")]
    Compile(String),
    /// It fails while it runs.
    #[error("the policy does not evaluate: {0}")]
    Evaluate(String),
    /// It makes a claim with a name that a KBS does not survive.
    #[error("the policy makes the claim {0:?}, AR4SI has no such claim")]
    Claim(String),
    /// It says yes where it must say no.
    #[error("the policy is content with {what}, it has to refuse by default")]
    Trusting {
        /// With what.
        what: &'static str,
    },
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        Owner::Policy
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        "upload the policies that this program brings; changes belong into reference values"
            .to_owned()
    }
}

/// The evidence that the attestation policy judges, as the KBS names it.
const TEES: [&str; 5] = ["tpm", "snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm"];

#[cfg(test)]
mod tests {
    use super::{Error, validate, validate_attestation, validate_resource};

    #[test]
    fn our_own_policies_are_valid() {
        validate().unwrap();
    }

    #[test]
    fn what_breaks_a_server_is_found_before_the_upload() {
        let attestation = |body: &str| {
            validate_attestation(&format!("package policy\nimport rego.v1\n{body}")).unwrap_err()
        };
        assert!(matches!(attestation("a := "), Error::Compile(_)));
        assert!(matches!(attestation("a { true }"), Error::Compile(_)));
        assert!(matches!(
            attestation("trust_claims := {}"),
            Error::Evaluate(_)
        ));
        assert!(matches!(
            attestation(r#"trust_claims := {"hardware": "2"}"#),
            Error::Evaluate(_)
        ));
        assert_eq!(
            attestation(r#"trust_claims := {"hardware": 97, "speed": 2}"#),
            Error::Claim("speed".to_owned())
        );
        for careless in ["other := 1", r#"trust_claims := {"hardware": 2}"#] {
            assert!(
                matches!(attestation(careless), Error::Trusting { .. }),
                "{careless}"
            );
        }
        let resource = |text: &str| validate_resource(text).unwrap_err();
        assert!(matches!(
            resource("package policy\nallow {"),
            Error::Compile(_)
        ));
        assert!(matches!(
            resource("package policy\nallow := true"),
            Error::Trusting { .. }
        ));
        assert!(
            validate_resource("package policy\nallow := 1").is_ok(),
            "only true is yes"
        );
    }
}

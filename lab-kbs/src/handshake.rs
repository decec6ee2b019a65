// SPDX-License-Identifier: Apache-2.0

//! The handshake's two steps: challenge, then evidence against token (KBS protocol, RCAR).

use crate::ear;
use crate::fault::Step;
use crate::http::{Call, Reply};
use crate::policy;
use crate::random;
use crate::server::Shared;
use crate::session;
use crate::verifier::{self, Claims};
use crate::wire_error::{Refused, WireError};
use kbs_protocol::Tee;
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::message::{AttestResponse, Attestation, Challenge, PROTOCOL_VERSION, Request};
use kbs_protocol::runtime_data::RuntimeDigest;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `POST /auth`: checks the version, opens a session, hands out its nonce.
pub(crate) fn auth(shared: &Shared, call: &Call) -> Result<Reply, Refused> {
    let request: Request = serde_json::from_slice(&call.body)
        .map_err(|error| Refused::new(WireError::AuthRequest, error))?;
    if !is_semver(&request.version) {
        return Err(WireError::AuthVersion.into());
    }
    let expected = shared
        .faults
        .protocol_version()
        .unwrap_or_else(|| PROTOCOL_VERSION.to_owned());
    if request.version != expected {
        return Err(WireError::VersionMismatch {
            expected,
            actual: request.version,
        }
        .into());
    }
    let (id, session) = session::begin(shared, request.tee)?;
    let nonce = match shared.faults.wrong_nonce() {
        true => random::nonce()?,
        false => session.nonce.clone(),
    };
    let challenge = Challenge {
        nonce,
        extra_params: json!(""),
    };
    let body = serde_json::to_vec(&challenge).map_err(Refused::challenge)?;
    Ok(Reply {
        cookie: Some(session.cookie(&id)),
        ..Reply::json(body)
    })
}

/// `POST /attest`: verifies the evidence and appraises it. A 200 does not mean that the node is trusted:
/// the verdict is in the token. A failure leaves the session usable.
pub(crate) fn attest(shared: &Shared, call: &Call) -> Result<Reply, Refused> {
    if call.cookie.is_none() {
        return Err(Refused::attest("no session cookie"));
    }
    let attestation = Attestation::parse(&call.body).map_err(Refused::attest)?;
    let (id, session) = session::of(shared, call, Step::Attest)
        .ok_or_else(|| Refused::attest("the session is unknown or has expired"))?;
    let token = match &session.token {
        Some(token) => token.clone(),
        None => {
            if attestation.runtime_data.nonce != session.nonce {
                return Err(Refused::attest("the nonce is not the one of this session"));
            }
            let token = appraise(shared, session.tee, &attestation)
                .map_err(|e| Refused::attest(format!("{e:#}")))?;
            session::attested(shared, &id, token.clone())?;
            token
        }
    };
    let body = serde_json::to_vec(&AttestResponse { token }).map_err(Refused::attest)?;
    Ok(Reply {
        cookie: Some(session.cookie(&id)),
        ..Reply::json(body)
    })
}

/// Primary evidence first, as `cpu0`; then each piece of additional evidence, over the device digest.
fn appraise(shared: &Shared, tee: Tee, attestation: &Attestation) -> anyhow::Result<String> {
    let runtime = &attestation.runtime_data;
    let additional_text = &attestation.tee_evidence.additional_evidence;
    let init_data = match &attestation.init_data {
        Some(init_data) => Some(InitDataToml::parse(&init_data.body)?),
        None => None,
    };
    let init_claims = ear::init_data_claims(init_data.as_ref())?;

    let digest = RuntimeDigest::primary(runtime, additional_text)?;
    let evidence = &attestation.tee_evidence.primary_evidence;
    let primary = verifier::verify(
        tee,
        evidence,
        &digest,
        init_data.as_ref(),
        &shared.roots,
        shared.options.dialect,
    )?;
    let mut runtime_claims = json!(runtime);
    let device_claims = runtime_claims.clone();
    if let Some(members) = runtime_claims.as_object_mut() {
        members.insert("additional-evidence".to_owned(), json!(additional_text));
    }

    let mut inputs = vec![ear::policy_input(&primary, &runtime_claims, &init_claims)];
    for claims in additional(shared, additional_text, &RuntimeDigest::device(runtime)?)? {
        inputs.push(ear::policy_input(&claims, &device_claims, &Value::Null));
    }
    let (rego, values) = shared.store.read(|state| {
        (
            state.attestation_policies.get(POLICY_ID).cloned(),
            state.reference_values.clone(),
        )
    });
    let rego =
        rego.unwrap_or_else(|| policy::built_in::attestation(shared.options.policies).to_owned());
    let mut submods = BTreeMap::new();
    for (number, input) in inputs.into_iter().enumerate() {
        let verdict = policy::appraise(&rego, &input, &values)?;
        submods.insert(format!("cpu{number}"), ear::submodule(verdict, input)?);
    }
    Ok(ear::issue(shared, submods))
}

fn additional(shared: &Shared, text: &str, digest: &RuntimeDigest) -> anyhow::Result<Vec<Claims>> {
    let (roots, dialect) = (&shared.roots, shared.options.dialect);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let items: BTreeMap<Tee, Value> = serde_json::from_str(text)?;
    items
        .into_iter()
        .map(|(tee, evidence)| verifier::verify(tee, &evidence, digest, None, roots, dialect))
        .collect()
}

/// Three numbers, and perhaps a pre-release or build part (semver.org, version 2.0.0, loosely).
fn is_semver(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    core.split('.').count() == 3 && core.split('.').all(is_number) && text.chars().all(is_plain)
}

/// The only policy id that a KBS ever evaluates for CPUs.
pub(crate) const POLICY_ID: &str = "default_cpu";

#[cfg(test)]
mod tests {
    use super::is_semver;

    #[test]
    fn versions() {
        for good in ["0.4.0", "10.20.30", "1.0.0-rc.1", "1.0.0+build"] {
            assert!(is_semver(good), "{good}");
        }
        for bad in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "a.b.c",
            "1..3",
            "v1.2.3",
            " 1.2.3",
            "1.2.3-\u{1b}",
        ] {
            assert!(!is_semver(bad), "{bad}");
        }
    }
}

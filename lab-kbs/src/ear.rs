// SPDX-License-Identifier: Apache-2.0

//! Writes the attestation token: an EAR (draft-ietf-rats-ear) in the profile of Trustee. The object a
//! policy sees is the object that ends up in the token, so both are made here. Called by the handshake.

use crate::clock::unix_now;
use crate::policy::Verdict;
use crate::server::Shared;
use crate::verifier::Claims;
use anyhow::{Context as _, ensure};
use kbs_protocol::init_data::InitDataToml;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What the attestation policy gets as `input`.
pub(crate) fn policy_input(claims: &Claims, runtime_claims: &Value, init_claims: &Value) -> Value {
    let mut input = json!({
        "report_data": claims.report_data,
        "runtime_data_claims": runtime_claims,
    });
    if let Some(members) = input.as_object_mut() {
        members.insert(claims.tee.to_string(), claims.claims.clone());
        if let Some(init_data) = &claims.init_data {
            members.insert("init_data".to_owned(), json!(init_data));
            members.insert("init_data_claims".to_owned(), init_claims.clone());
        }
    }
    input
}

/// The `data` table of the init-data, with the two members that hold TOML files opened; `null` without
/// init-data.
pub(crate) fn init_data_claims(init_data: Option<&InitDataToml>) -> anyhow::Result<Value> {
    let Some(init_data) = init_data else {
        return Ok(Value::Null);
    };
    let mut claims = Map::new();
    for (name, text) in &init_data.data {
        let value = match name.as_str() {
            "aa.toml" | "cdh.toml" => {
                toml::from_str(text).with_context(|| format!("{name} is not TOML"))?
            }
            _ => json!(text),
        };
        claims.insert(name.clone(), value);
    }
    Ok(claims.into())
}

/// One member of `submods`.
pub(crate) fn submodule(verdict: Verdict, input: Value) -> anyhow::Result<Value> {
    let mut members = Map::from_iter([
        ("ear.status".to_owned(), json!(verdict.status.to_string())),
        (
            "ear.trustworthiness-vector".to_owned(),
            json!(verdict.vector),
        ),
        ("ear.appraisal-policy-id".to_owned(), json!("default")),
        ("ear.veraison.annotated-evidence".to_owned(), input),
    ]);
    for (name, value) in verdict.extensions {
        ensure!(
            !members.contains_key(&name),
            "the extension {name:?} would replace a claim of the token"
        );
        members.insert(name, value);
    }
    Ok(members.into())
}

/// Puts the submodules into a signed token.
pub(crate) fn issue(shared: &Shared, submods: BTreeMap<String, Value>) -> String {
    let now = unix_now();
    let mut claims = json!({
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iat": now,
        "exp": now.saturating_add(shared.options.token_lifetime.as_secs()),
        "ear.verifier-id": {
            "build": concat!("lab-kbs ", env!("CARGO_PKG_VERSION")),
            "developer": "https://confidentialcontainers.org",
        },
        "submods": submods,
    });
    if shared.options.dialect.has_standard_tokens()
        && let Some(members) = claims.as_object_mut()
    {
        members.insert("iss".to_owned(), json!("CoCo-Attestation-Service"));
    }
    shared.signer.sign(&claims)
}

#[cfg(test)]
mod tests {
    use super::{init_data_claims, submodule};
    use crate::policy::Verdict;
    use kbs_protocol::ear::Tier;
    use kbs_protocol::init_data::InitDataToml;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    #[test]
    fn init_data_opens_the_two_toml_members() {
        let parse = |data: &str| {
            InitDataToml::parse(&format!(
                "version=\"0.1.0\"\nalgorithm=\"sha256\"\n[data]\n{data}"
            ))
            .unwrap()
        };
        let claims =
            init_data_claims(Some(&parse("node = \"n1\"\n\"aa.toml\" = \"[a]\\nb = 1\""))).unwrap();
        assert_eq!(claims, json!({"node": "n1", "aa.toml": {"a": {"b": 1}}}));
        assert!(init_data_claims(Some(&parse("\"cdh.toml\" = \"not toml\""))).is_err());
        assert_eq!(init_data_claims(None).unwrap(), Value::Null);
    }

    #[test]
    fn an_extension_cannot_replace_the_verdict() {
        let verdict = |name: &str| Verdict {
            status: Tier::Warning,
            vector: BTreeMap::new(),
            extensions: BTreeMap::from([(name.to_owned(), json!("affirming"))]),
        };
        assert!(submodule(verdict("ear.status"), json!({})).is_err());
        assert_eq!(
            submodule(verdict("x"), json!({})).unwrap()["x"],
            "affirming"
        );
    }
}

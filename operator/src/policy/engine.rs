// SPDX-License-Identifier: Apache-2.0

//! Evaluates policies as a Trustee KBS does, with the same engine and the same builtins.
//!
//! The attestation service evaluates `data.policy.trust_claims` and `data.policy.extensions` for each piece
//! of evidence and makes a token of the results; the KBS then evaluates `data.policy.allow` over the
//! token's payload for each request.

use super::Error;
use kbs_protocol::ear::Tier;
use regorus::Engine;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reference values by name, shared cheaply.
#[derive(Debug, Clone, Default)]
pub struct ReferenceValues(Arc<BTreeMap<String, regorus::Value>>);

impl<'a> FromIterator<(&'a String, &'a Value)> for ReferenceValues {
    fn from_iter<T: IntoIterator<Item = (&'a String, &'a Value)>>(values: T) -> Self {
        Self(Arc::new(
            values
                .into_iter()
                .map(|(name, v)| (name.clone(), to_rego(v)))
                .collect(),
        ))
    }
}

/// A compiled attestation policy.
#[derive(Debug, Clone)]
pub struct AttestationPolicy(Engine);

/// A compiled resource policy.
#[derive(Debug, Clone)]
pub struct ResourcePolicy(Engine);

/// The verdict on one piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appraisal {
    /// Claim name to value, as far as the policy makes claims.
    pub claims: BTreeMap<String, i64>,
    /// Further members for the token, in the order of their names.
    pub extensions: BTreeMap<String, Value>,
}

impl AttestationPolicy {
    /// Loads the text.
    ///
    /// # Errors
    /// [`Error::Compile`].
    pub fn compile(text: &str) -> Result<Self, Error> {
        compile(text).map(Self)
    }

    /// Judges one piece of evidence. `input` has the form of the KBS protocol: the claims under the name of
    /// the TEE, beside `init_data`, `init_data_claims`, `report_data` and `runtime_data_claims`.
    ///
    /// # Errors
    /// [`Error::Evaluate`] or [`Error::Claim`]: what the server answers with a failed attestation.
    pub fn appraise(&self, input: &Value, values: &ReferenceValues) -> Result<Appraisal, Error> {
        let mut engine = self.0.clone();
        let values = Arc::clone(&values.0);
        let query = move |arguments: Vec<regorus::Value>| {
            let [name] = arguments.as_slice() else {
                return Ok(regorus::Value::Null);
            };
            let value = values.get(name.as_string()?.as_ref());
            Ok(value.cloned().unwrap_or(regorus::Value::Null))
        };
        engine
            .add_extension("query_reference_value".to_owned(), 1, Box::new(query))
            .map_err(|error| Error::Evaluate(error.to_string()))?;
        engine.set_input(to_rego(input));
        Ok(Appraisal {
            claims: claims(&mut engine)?,
            extensions: extensions(&mut engine)?,
        })
    }
}

impl Appraisal {
    /// `ear.status`: the worst tier of all claims, none for none.
    pub fn status(&self) -> Tier {
        self.claims
            .values()
            .copied()
            .map(Tier::of)
            .max()
            .unwrap_or(Tier::None)
    }

    /// The submodule that the token carries for this verdict on this evidence.
    pub fn submodule(&self, evidence: &Value) -> Value {
        let mut members: Map<_, _> = self.extensions.clone().into_iter().collect();
        members.insert("ear.status".to_owned(), json!(self.status().to_string()));
        members.insert("ear.trustworthiness-vector".to_owned(), json!(self.claims));
        members.insert("ear.appraisal-policy-id".to_owned(), json!("default"));
        members.insert(
            "ear.veraison.annotated-evidence".to_owned(),
            evidence.clone(),
        );
        Value::Object(members)
    }
}

impl ResourcePolicy {
    /// Loads the text.
    ///
    /// # Errors
    /// [`Error::Compile`].
    pub fn compile(text: &str) -> Result<Self, Error> {
        compile(text).map(Self)
    }

    /// Whether the bearer of a token with this payload may read the path. Anything but `true` is no.
    ///
    /// # Errors
    /// [`Error::Evaluate`]: the server denies with `PolicyEngineError`.
    pub fn allows(&self, token: &Value, plugin: &str, path: &[&str]) -> Result<bool, Error> {
        Ok(self.decide(token, plugin, path)? == Some(true))
    }

    /// As [`ResourcePolicy::allows`]; `None` when the policy says neither yes nor no.
    pub(super) fn decide(
        &self,
        token: &Value,
        plugin: &str,
        path: &[&str],
    ) -> Result<Option<bool>, Error> {
        let mut engine = self.0.clone();
        engine
            .add_data(to_rego(
                &json!({"plugin": plugin, "resource-path": path, "query": {}}),
            ))
            .map_err(|error| Error::Evaluate(error.to_string()))?;
        engine.set_input(to_rego(token));
        Ok(evaluate(&mut engine, "data.policy.allow")?
            .as_ref()
            .and_then(Value::as_bool))
    }
}

fn claims(engine: &mut Engine) -> Result<BTreeMap<String, i64>, Error> {
    let wrong = |what: &str| Err(Error::Evaluate(what.to_owned()));
    let claims = match evaluate(engine, "data.policy.trust_claims")? {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(claims)) if !claims.is_empty() => claims,
        Some(_) => return wrong("trust_claims is not an object with at least one claim"),
    };
    if let Some(name) = claims.keys().find(|name| !CLAIMS.contains(&name.as_str())) {
        return Err(Error::Claim(name.clone()));
    }
    let numbers = claims
        .into_iter()
        .map(|(name, value)| Some((name, value.as_i64()?)));
    numbers
        .collect::<Option<_>>()
        .map_or_else(|| wrong("a trust claim is not an integer"), Ok)
}

fn extensions(engine: &mut Engine) -> Result<BTreeMap<String, Value>, Error> {
    let list = match evaluate(engine, "data.policy.extensions")? {
        None => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Error::Evaluate("extensions is not a list".to_owned())),
    };
    let read = |extension: &Value| {
        extension.get("key")?.as_i64()?;
        let name = extension.get("name")?.as_str()?.to_owned();
        Some((name, extension.get("value")?.clone()))
    };
    list.iter().map(read).collect::<Option<_>>().ok_or_else(|| {
        Error::Evaluate("an extension needs a name, an integer key and a value".to_owned())
    })
}

fn compile(text: &str) -> Result<Engine, Error> {
    let mut engine = Engine::new();
    engine
        .add_policy("policy.rego".to_owned(), text.to_owned())
        .map_err(|error| Error::Compile(error.to_string()))?;
    Ok(engine)
}

/// The value of a rule; `None` when there is no such rule or nothing makes it true.
fn evaluate(engine: &mut Engine, rule: &str) -> Result<Option<Value>, Error> {
    let failed = |error: String| Err(Error::Evaluate(error));
    match engine.eval_rule(rule.to_owned()) {
        Ok(regorus::Value::Undefined) => Ok(None),
        Ok(value) => serde_json::to_value(value)
            .map_or_else(|error| failed(error.to_string()), |v| Ok(Some(v))),
        // The engine has no typed error; this is its whole message for a rule that does not exist.
        Err(error) if error.to_string() == "not a valid rule path" => Ok(None),
        Err(error) => failed(error.to_string()),
    }
}

/// Every JSON value is a Rego value; should the engine ever disagree, the value is missing.
fn to_rego(value: &Value) -> regorus::Value {
    serde_json::from_value(value.clone()).unwrap_or(regorus::Value::Undefined)
}

/// AR4SI trustworthiness claims (draft-ietf-rats-ar4si section 2.3).
const CLAIMS: [&str; 8] = [
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
];

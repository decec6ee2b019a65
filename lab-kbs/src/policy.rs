// SPDX-License-Identifier: Apache-2.0

//! Runs the two Rego policies with the engine Trustee uses. The attestation policy turns claims into a
//! trust vector; the resource policy turns a token and a path into yes or no.

use anyhow::{Context as _, bail, ensure};
use kbs_protocol::ear::Tier;
use regorus::Engine;
use regorus::utils::limits::ExecutionTimerConfig;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Reference values by name, shared with the engine.
pub(crate) type ReferenceValues = Arc<BTreeMap<String, Value>>;

/// What the attestation policy made of one piece of evidence.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    /// The worst tier of the vector.
    pub(crate) status: Tier,
    /// All eight claims of AR4SI; 0 where the policy says nothing.
    pub(crate) vector: BTreeMap<&'static str, i8>,
    /// Further members for the token.
    pub(crate) extensions: BTreeMap<String, Value>,
}

/// Evaluates `data.policy.trust_claims` and `data.policy.extensions`.
///
/// A policy without the first rule has no opinion (all claims 0). A claim name outside AR4SI makes real
/// servers drop the connection; here it fails the attestation like any other mistake in a policy.
pub(crate) fn appraise(
    rego: &str,
    input: &Value,
    values: &ReferenceValues,
) -> anyhow::Result<Verdict> {
    let mut engine = engine(rego)?;
    let values = values.clone();
    engine.add_extension(
        "query_reference_value".to_owned(),
        1,
        Box::new(move |arguments: Vec<regorus::Value>| {
            let name = arguments
                .first()
                .context("query_reference_value takes a name")?;
            let value = values
                .get(name.as_string()?.as_ref())
                .unwrap_or(&Value::Null);
            to_rego(value)
        }),
    )?;
    engine.set_input(to_rego(input)?);

    let mut vector: BTreeMap<_, _> = CLAIMS.into_iter().map(|claim| (claim, 0)).collect();
    if let Some(claims) = evaluate(&mut engine, "data.policy.trust_claims")? {
        let claims = claims
            .as_object()
            .context("trust_claims is not an object")?;
        ensure!(
            !claims.is_empty(),
            "trust_claims must have at least one claim"
        );
        for (name, value) in claims {
            let slot = vector.get_mut(name.as_str());
            *slot.with_context(|| format!("{name:?} is no AR4SI claim"))? = cut_to_i8(value)?;
        }
    }
    let mut extensions = BTreeMap::new();
    if let Some(list) = evaluate(&mut engine, "data.policy.extensions")? {
        for extension in list.as_array().context("extensions is not a list")? {
            let name = extension
                .get("name")
                .and_then(Value::as_str)
                .context("extension without name")?;
            ensure!(
                extension.get("key").is_some_and(Value::is_i64),
                "extension {name:?} without key"
            );
            let value = extension.get("value").context("extension without value")?;
            extensions.insert(name.to_owned(), value.clone());
        }
    }
    let status = vector
        .values()
        .map(|claim| Tier::of(i64::from(*claim)))
        .max()
        .unwrap_or(Tier::None);
    Ok(Verdict {
        status,
        vector,
        extensions,
    })
}

/// What is asked of the resource policy.
pub(crate) struct Question<'a> {
    /// The whole payload of the token.
    pub(crate) token: &'a Value,
    /// Always `resource` here.
    pub(crate) plugin: &'a str,
    /// The segments after the plugin's name.
    pub(crate) path: &'a [&'a str],
    /// The query parameters.
    pub(crate) query: &'a BTreeMap<String, String>,
}

/// Evaluates `data.policy.allow`; anything but `true` is a no.
pub(crate) fn allows(rego: &str, question: &Question<'_>) -> anyhow::Result<bool> {
    let mut engine = engine(rego)?;
    engine.add_data(to_rego(&json!({
        "plugin": question.plugin,
        "resource-path": question.path,
        "query": question.query,
    }))?)?;
    engine.set_input(to_rego(question.token)?);
    Ok(evaluate(&mut engine, "data.policy.allow")? == Some(Value::Bool(true)))
}

/// Whether the policy parses.
pub(crate) fn check(rego: &str) -> anyhow::Result<()> {
    engine(rego).map(drop)
}

fn engine(rego: &str) -> anyhow::Result<Engine> {
    let mut engine = Engine::new();
    engine.set_execution_timer_config(ExecutionTimerConfig {
        limit: EVALUATION_LIMIT,
        check_interval: NonZeroU32::MIN,
    });
    engine.add_policy("policy.rego".to_owned(), rego.to_owned())?;
    Ok(engine)
}

/// The value of a rule; `None` when there is no such rule or nothing makes it true.
fn evaluate(engine: &mut Engine, rule: &str) -> anyhow::Result<Option<Value>> {
    match engine.eval_rule(rule.to_owned()) {
        Ok(regorus::Value::Undefined) => Ok(None),
        Ok(value) => Ok(Some(serde_json::to_value(value)?)),
        // The engine has no typed error; this is its whole message for a rule that does not exist.
        Err(error) if error.to_string() == "not a valid rule path" => Ok(None),
        Err(error) => Err(error),
    }
}

fn to_rego(value: &Value) -> anyhow::Result<regorus::Value> {
    Ok(serde_json::from_value(value.clone())?)
}

/// The low byte, as Trustee takes it.
fn cut_to_i8(value: &Value) -> anyhow::Result<i8> {
    let Some(number) = value.as_i64() else {
        bail!("a trust claim is not an integer")
    };
    let [low, ..] = number.to_le_bytes();
    Ok(i8::from_le_bytes([low]))
}

/// AR4SI trustworthiness claims, in the order of the draft.
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

/// Trustee waits this long for a reference value; a whole policy gets no more here.
const EVALUATION_LIMIT: Duration = Duration::from_secs(10);

/// Policies in force while none is stored.
pub(crate) mod built_in {
    use crate::options::PolicySet;

    /// The attestation policy `default_cpu`.
    pub(crate) fn attestation(set: PolicySet) -> &'static str {
        match set {
            PolicySet::Strict => include_str!("../policies/attestation.rego"),
            PolicySet::Stock => include_str!("../policies/stock-attestation.rego"),
        }
    }

    /// The resource policy.
    pub(crate) fn resource(set: PolicySet) -> &'static str {
        match set {
            PolicySet::Strict => include_str!("../policies/resource.rego"),
            PolicySet::Stock => include_str!("../policies/stock-resource.rego"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Question, ReferenceValues, Tier, Verdict, allows, appraise, built_in, check};
    use crate::options::PolicySet;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn values(json: Value) -> ReferenceValues {
        Arc::new(json.as_object().unwrap().clone().into_iter().collect())
    }

    fn with_claims(claims: &str) -> anyhow::Result<Verdict> {
        appraise(
            &format!("package policy\ntrust_claims := {claims}"),
            &json!({}),
            &values(json!({})),
        )
    }

    /// 62 characters, so that characters 60 and 61 are `+/` and the shard is `node_ak_-_`.
    fn ak() -> String {
        format!("{}+/", "A".repeat(60))
    }

    fn strict(tpm: Value, known: Value) -> Verdict {
        let rego = built_in::attestation(PolicySet::Strict);
        appraise(rego, &json!({ "tpm": tpm }), &values(known)).unwrap()
    }

    #[test]
    fn tiers() {
        for (claims, status) in [
            (r#"{"hardware": 1}"#, Tier::None),
            (r#"{"hardware": 2}"#, Tier::Affirming),
            (r#"{"hardware": 31}"#, Tier::Affirming),
            (r#"{"hardware": 32}"#, Tier::Warning),
            (r#"{"hardware": 2, "executables": 33}"#, Tier::Warning),
            (r#"{"hardware": 95}"#, Tier::Warning),
            (
                r#"{"hardware": 96, "executables": 3}"#,
                Tier::Contraindicated,
            ),
            (r#"{"hardware": -1}"#, Tier::None),
            (r#"{"hardware": -32}"#, Tier::Affirming),
            (r#"{"hardware": -97}"#, Tier::Contraindicated),
            (r#"{"hardware": 258}"#, Tier::Affirming),
        ] {
            assert_eq!(with_claims(claims).unwrap().status, status, "{claims}");
        }
    }

    #[test]
    fn what_a_policy_may_not_say() {
        for bad in [
            "{}",
            "[]",
            "3",
            r#"{"hardware": "2"}"#,
            r#"{"hardware": 2.5}"#,
            r#"{"speed": 2}"#,
        ] {
            assert!(with_claims(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "package",
            "package policy\nallow { true }",
            "package policy\ntrust_claims := nothing(1)",
        ] {
            assert!(
                check(bad).is_err() || appraise(bad, &json!({}), &values(json!({}))).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn extensions_have_name_integer_key_and_value() {
        let with = |list: &str| {
            let rego = format!("package policy\nextensions := {list}");
            appraise(&rego, &json!({}), &values(json!({})))
        };
        let good = with(r#"[{"name": "a", "key": -1, "value": null}]"#).unwrap();
        assert_eq!(good.extensions["a"], Value::Null);
        for bad in [
            r#"{}"#,
            r#"[1]"#,
            r#"[{"key": 1, "value": 1}]"#,
            r#"[{"name": 1, "key": 1, "value": 1}]"#,
            r#"[{"name": "a", "value": 1}]"#,
            r#"[{"name": "a", "key": "1", "value": 1}]"#,
            r#"[{"name": "a", "key": 1}]"#,
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_rule_has_no_opinion() {
        for rego in [
            "package policy\nother := 1",
            "package elsewhere\ntrust_claims := {\"hardware\": 2}",
        ] {
            let verdict = appraise(rego, &json!({}), &values(json!({}))).unwrap();
            assert_eq!(
                (verdict.status, verdict.vector.len()),
                (Tier::None, 8),
                "{rego}"
            );
            assert!(verdict.vector.values().all(|claim| *claim == 0));
        }
    }

    #[test]
    fn reference_values_keep_their_type_and_absent_ones_match_nothing() {
        let rego = r#"
            package policy
            trust_claims := {"hardware": v}
            default v := 97
            v := 2 if {
                input.x in query_reference_value("list")
                input.x == query_reference_value("scalar")
            }"#;
        let status = |known| {
            appraise(rego, &json!({"x": "a"}), &values(known))
                .unwrap()
                .status
        };
        assert_eq!(
            status(json!({"list": ["a"], "scalar": "a"})),
            Tier::Affirming
        );
        assert_eq!(
            status(json!({"list": ["b"], "scalar": "a"})),
            Tier::Contraindicated
        );
        assert_eq!(
            status(json!({"scalar": "a"})),
            Tier::Contraindicated,
            "null contains nothing"
        );
        assert_eq!(
            status(json!({"list": "a", "scalar": "a"})),
            Tier::Contraindicated,
            "a string is no list"
        );
    }

    #[test]
    fn strict_policy_wants_a_known_key_and_a_whole_tuple() {
        let tpm = json!({"ak_public": ak(), "pcr04": "aa", "pcr07": "bb", "pcr14": "cc"});
        let node = json!({ ak(): "node-1" });
        let with = |tuples: Value| json!({"node_ak_-_": node, "boot_tuples": tuples});
        let good = with(json!([{"pcr04": "00"}, {"pcr04": "aa", "pcr07": "bb", "pcr14": "cc"}]));
        let verdict = strict(tpm.clone(), good.clone());
        assert_eq!(
            (verdict.status, verdict.vector["executables"]),
            (Tier::Affirming, 3)
        );
        assert_eq!(verdict.extensions["sheepfold.node"], "node-1");

        let status = |known: Value| strict(tpm.clone(), known).status;
        assert_eq!(
            status(with(json!([{"pcr04": "aa"}]))),
            Tier::Affirming,
            "unnamed PCRs are skipped"
        );
        for (why, bad) in [
            ("no tuples", json!({"node_ak_-_": node})),
            ("tuples is no list", with(json!({"pcr04": "aa"}))),
            ("empty list", with(json!([]))),
            ("empty tuple", with(json!([{}]))),
            ("tuple is no object", with(json!(["aa", null, 1]))),
            ("tuple of no PCRs", with(json!([{"ak_public": ak()}]))),
            (
                "PCR that was not quoted",
                with(json!([{"pcr04": "aa", "pcr99": "dd"}])),
            ),
            (
                "one PCR differs",
                with(json!([{"pcr04": "aa", "pcr14": "dd"}])),
            ),
            (
                "mixture of tuples",
                with(json!([{"pcr04": "aa", "pcr14": "x"}, {"pcr04": "x", "pcr14": "cc"}])),
            ),
            (
                "unknown AK",
                json!({"node_ak_-_": {"other": "n"}, "boot_tuples": [{"pcr04": "aa"}]}),
            ),
            (
                "AK in another shard",
                json!({"node_ak_AA": node, "boot_tuples": [{"pcr04": "aa"}]}),
            ),
            ("nothing at all", json!({})),
        ] {
            assert_eq!(status(bad), Tier::Warning, "{why}");
        }
        let unknown = strict(json!({"ak_public": "short"}), good);
        assert_eq!(
            (unknown.status, unknown.extensions.len()),
            (Tier::Warning, 0)
        );
    }

    #[test]
    fn strict_policy_does_not_trust_sample() {
        let rego = built_in::attestation(PolicySet::Strict);
        let input = json!({"sample": {"svn": "1", "launch_digest": "abcde"}});
        let verdict = appraise(
            rego,
            &input,
            &values(json!({"boot_tuples": [{"svn": "1"}]})),
        )
        .unwrap();
        assert_eq!(
            (verdict.status, verdict.extensions.len()),
            (Tier::Warning, 0)
        );
    }

    #[test]
    fn strict_resource_policy_table() {
        let rego = built_in::resource(PolicySet::Strict);
        let token = |status: &str, node: Value| json!({"submods": {"cpu0": {"ear.status": status, "sheepfold.node": node}}});
        let good = token("affirming", json!("n1"));
        let query = BTreeMap::new();
        let ask = |token: &Value, plugin, path: &[&str]| {
            allows(
                rego,
                &Question {
                    token,
                    plugin,
                    path,
                    query: &query,
                },
            )
            .unwrap()
        };
        assert!(ask(&good, "resource", &["default", "n1", "root"]));
        for (why, token, plugin, path) in [
            (
                "another node",
                &good,
                "resource",
                &["default", "n2", "root"][..],
            ),
            (
                "node in another place",
                &good,
                "resource",
                &["n1", "default", "root"],
            ),
            ("two segments", &good, "resource", &["default", "n1"]),
            (
                "four segments",
                &good,
                "resource",
                &["", "default", "n1", "root"],
            ),
            (
                "another plugin",
                &good,
                "provisioner",
                &["default", "n1", "root"],
            ),
            (
                "warning",
                &token("warning", json!("n1")),
                "resource",
                &["default", "n1", "root"],
            ),
            (
                "none",
                &token("none", json!("n1")),
                "resource",
                &["default", "n1", "root"],
            ),
            (
                "null node",
                &token("affirming", Value::Null),
                "resource",
                &["default", "n1", "root"],
            ),
            (
                "no claims",
                &json!({}),
                "resource",
                &["default", "n1", "root"],
            ),
        ] {
            assert!(!ask(token, plugin, path), "{why}");
        }
    }

    #[test]
    fn allow_must_be_true_and_nothing_else() {
        let query = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let token = json!({});
        let question = Question {
            token: &token,
            plugin: "resource",
            path: &["x"],
            query: &query,
        };
        let ask = |rego: &str| allows(&format!("package policy\n{rego}"), &question);
        assert!(ask(r#"allow if data.query.a == "b""#).unwrap());
        for no in [
            "allow := 1",
            "allow := \"true\"",
            "allow := false",
            "other := true",
            "allow if 1 == 2",
        ] {
            assert!(!ask(no).unwrap(), "{no}");
        }
        assert!(
            ask("allow if nothing(1)").is_err(),
            "an evaluation error is an error, not a no"
        );
    }

    #[test]
    fn stock_policies_release_anything_but_sample() {
        let rego = built_in::attestation(PolicySet::Stock);
        let tpm = appraise(
            rego,
            &json!({"tpm": {"ak_public": "x"}}),
            &values(json!({})),
        )
        .unwrap();
        assert_eq!(
            (
                tpm.vector["executables"],
                tpm.vector["hardware"],
                tpm.vector["configuration"]
            ),
            (33, 2, 0)
        );
        let allowed = |evidence: Value| {
            let token = json!({"submods": {"cpu0": {
                "ear.status": "contraindicated", "ear.veraison.annotated-evidence": evidence}}});
            let query = BTreeMap::new();
            let question = Question {
                token: &token,
                plugin: "resource",
                path: &["a"],
                query: &query,
            };
            allows(built_in::resource(PolicySet::Stock), &question).unwrap()
        };
        assert!(allowed(json!({"tpm": {}})));
        assert!(!allowed(json!({"sample": {"svn": "1"}})));
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The administrator's endpoints: resources, policies, reference values. Changes hold from the next
//! request on and are on disk before they are confirmed.

use crate::admin_auth::{Endpoint, authorize};
use crate::http::{Call, Reply};
use crate::policy;
use crate::server::Shared;
use crate::store::State;
use crate::wire_error::{Refused, WireError};
use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kbs_protocol::resource::ResourcePath;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `POST resource/r/t/tag` with the raw bytes.
pub(crate) fn set_resource(shared: &Shared, call: &Call, path: &str) -> Result<Reply, Refused> {
    authorize(shared, call, Endpoint::Plugin)?;
    let path = resource_path(path)?;
    let content = STANDARD.encode(&call.body);
    change(shared, |state, keep| {
        put(&mut state.resources, path, content, keep)
    })
    .map_err(|error| Refused::new(WireError::PluginInternal, error))?;
    Ok(plugin_reply())
}

/// `DELETE resource/r/t/tag`; a missing one is an error.
pub(crate) fn delete_resource(shared: &Shared, call: &Call, path: &str) -> Result<Reply, Refused> {
    authorize(shared, call, Endpoint::Plugin)?;
    let path = resource_path(path)?;
    let failed = |cause: String| Refused::new(WireError::PluginInternal, cause);
    let removed = shared
        .store
        .update(|state| state.resources.remove(&path))
        .map_err(|error| failed(error.to_string()))?;
    removed
        .map(|_| plugin_reply())
        .ok_or_else(|| failed(format!("there is no resource {path}")))
}

/// `POST resource-policy` with `{"policy": base64url}`.
pub(crate) fn set_resource_policy(shared: &Shared, call: &Call) -> Result<Reply, Refused> {
    authorize(shared, call, Endpoint::BuiltIn)?;
    #[derive(Deserialize)]
    struct Upload {
        policy: String,
    }
    let upload: Upload = serde_json::from_slice(&call.body)
        .map_err(|error| WireError::ParsePolicy(error.to_string()))?;
    let rego = decode_policy(&upload.policy)
        .map_err(|error| WireError::ParsePolicy(format!("{error:#}")))?;
    if shared.options.dialect.parses_uploads() {
        policy::check(&rego).map_err(|error| WireError::PolicyEngine(error.to_string()))?;
    }
    change(shared, |state, keep| {
        if !keep || state.resource_policy.is_none() {
            state.resource_policy = Some(rego);
        }
    })
    .map_err(|error| WireError::PolicyEngine(error.to_string()))?;
    Ok(Reply::default())
}

/// `GET resource-policy`: the ids, not the text. There is always exactly one.
pub(crate) fn list_resource_policies(shared: &Shared, call: &Call) -> Result<Reply, Refused> {
    authorize(shared, call, Endpoint::BuiltIn)?;
    Ok(Reply::json(r#"["resource-policy"]"#))
}

/// `POST attestation-policy` with `{"type", "policy_id", "policy": base64url}`; any id is stored.
pub(crate) fn set_attestation_policy(shared: &Shared, call: &Call) -> Result<Reply, Refused> {
    authorize(shared, call, Endpoint::BuiltIn)?;
    #[derive(Deserialize)]
    struct Upload {
        #[serde(rename = "type")]
        _type: String,
        policy_id: String,
        policy: String,
    }
    let failed =
        |error: anyhow::Error| Refused::new(WireError::SetAttestationPolicy, format!("{error:#}"));
    let upload: Upload =
        serde_json::from_slice(&call.body).map_err(|error| failed(error.into()))?;
    let rego = decode_policy(&upload.policy).map_err(failed)?;
    if shared.options.dialect.parses_uploads() {
        policy::check(&rego).map_err(failed)?;
    }
    change(shared, |state, keep| {
        put(
            &mut state.attestation_policies,
            upload.policy_id,
            rego,
            keep,
        );
    })
    .map_err(|error| failed(error.into()))?;
    Ok(Reply::default())
}

/// `POST reference-value` with an RVPS message of type `sample`: each name replaces its old value whole.
pub(crate) fn register_values(shared: &Shared, call: &Call) -> Result<Reply, Refused> {
    authorize(shared, call, Endpoint::BuiltIn)?;
    let failed = |error: anyhow::Error| {
        WireError::Rvps(format!("Failed to register reference value: {error:#}"))
    };
    let values = read_message(&call.body).map_err(failed)?;
    change(shared, |state, keep| {
        let stored = Arc::make_mut(&mut state.reference_values);
        for (name, value) in values {
            put(stored, name, value, keep);
        }
    })
    .map_err(|error| failed(error.into()))?;
    Ok(Reply::default())
}

/// `GET reference-value/{id}`: the JSON value.
pub(crate) fn reference_value(shared: &Shared, call: &Call, id: &str) -> Result<Reply, Refused> {
    authorize(shared, call, Endpoint::BuiltIn)?;
    let value = shared
        .store
        .read(|state| state.reference_values.get(id).map(Value::to_string));
    match value {
        Some(json) => Ok(Reply::json(json)),
        None => {
            Err(WireError::Rvps(format!("Failed to get reference_values: {id} not found")).into())
        }
    }
}

/// The RVPS message, protocol of the reference value provider service.
fn read_message(body: &[u8]) -> anyhow::Result<Map<String, Value>> {
    #[derive(Deserialize)]
    struct Message {
        #[serde(default = "rvps_version")]
        version: String,
        #[serde(rename = "type")]
        kind: String,
        payload: String,
    }
    let message: Message = serde_json::from_slice(body).context("the message is not JSON")?;
    ensure!(
        message.version == RVPS_VERSION,
        "the message has version {:?}, expected {RVPS_VERSION}",
        message.version
    );
    ensure!(
        message.kind == "sample",
        "there is no extractor for type {:?}",
        message.kind
    );
    let payload = STANDARD
        .decode(&message.payload)
        .context("the payload is not base64")?;
    serde_json::from_slice(&payload).context("the payload is not a JSON object")
}

/// Strictly base64url without padding, as Trustee reads it.
fn decode_policy(text: &str) -> anyhow::Result<String> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .context("the policy is not base64url without padding")?;
    String::from_utf8(bytes).context("the policy is not UTF-8")
}

fn resource_path(path: &str) -> Result<String, Refused> {
    let path: ResourcePath = path
        .parse()
        .map_err(|error| Refused::new(WireError::PluginInternal, error))?;
    Ok(path.to_string())
}

/// Applies a change, telling it whether existing keys are to be kept (a fault of an old storage backend).
fn change(shared: &Shared, change: impl FnOnce(&mut State, bool)) -> std::io::Result<()> {
    let keep = shared.faults.never_overwrite();
    shared.store.update(|state| change(state, keep))
}

fn put<V>(map: &mut BTreeMap<String, V>, name: String, value: V, keep: bool) {
    if !keep || !map.contains_key(&name) {
        map.insert(name, value);
    }
}

/// Trustee labels the empty answer of its resource plugin so.
fn plugin_reply() -> Reply {
    Reply {
        content_type: Some("text/xml"),
        ..Reply::default()
    }
}

fn rvps_version() -> String {
    RVPS_VERSION.to_owned()
}

const RVPS_VERSION: &str = "0.1.0";

#[cfg(test)]
mod tests {
    use super::{decode_policy, read_message};

    #[test]
    fn rvps_messages() {
        let read = |json: &str| read_message(json.as_bytes());
        let good = read(r#"{"version":"0.1.0","type":"sample","payload":"eyJhIjpbMV19"}"#).unwrap();
        assert_eq!(good["a"][0], 1);
        assert!(
            read(r#"{"type":"sample","payload":"eyJhIjpbMV19"}"#).is_ok(),
            "version has a default"
        );
        for bad in [
            "",
            "{}",
            r#"{"version":"0.2.0","type":"sample","payload":"eyJhIjpbMV19"}"#,
            r#"{"version":"0.1.0","type":"swid","payload":"eyJhIjpbMV19"}"#,
            r#"{"version":"0.1.0","type":"sample","payload":"!"}"#,
            r#"{"version":"0.1.0","type":"sample","payload":"W10="}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn policies_are_base64url_without_padding() {
        assert_eq!(decode_policy("YQ").unwrap(), "a");
        for bad in ["YQ==", "_/", "+w", "_w"] {
            assert!(decode_policy(bad).is_err(), "{bad}");
        }
    }
}

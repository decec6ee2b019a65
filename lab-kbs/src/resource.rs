// SPDX-License-Identifier: Apache-2.0

//! `GET resource/…`: who asks (token), may they (policy), what is it (store), for whose eyes (JWE), in
//! this order. So a denial says nothing about whether the resource exists.

use crate::fault::Step;
use crate::http::{Call, Reply};
use crate::policy::{self, Question};
use crate::server::Shared;
use crate::session;
use crate::wire_error::{Refused, WireError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::jwe::ResourceJwe;
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::tee_key::TeePubKey;
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::BTreeMap;

/// Releases a resource to the key in the caller's token.
pub(crate) fn get(shared: &Shared, call: &Call, path: &str) -> Result<Reply, Refused> {
    let token = token_of(shared, call).ok_or(WireError::TokenNotFound)?;
    let claims = shared
        .signer
        .verify(&token)
        .map_err(|error| Refused::new(WireError::TokenVerifier, format!("{error:#}")))?;
    ask_policy(shared, call, path, &claims)?;
    let resource = read(shared, path)?;
    let sealed = seal(shared, &claims, &resource)
        .map_err(|error| Refused::new(WireError::Jwe, format!("{error:#}")))?;
    Ok(Reply::json(sealed))
}

/// The token of the attested session, else the bearer token.
fn token_of(shared: &Shared, call: &Call) -> Option<String> {
    let from_session =
        session::of(shared, call, Step::Resource).and_then(|(_, session)| session.token);
    from_session.or_else(|| call.bearer().map(str::to_owned))
}

fn ask_policy(shared: &Shared, call: &Call, path: &str, claims: &Value) -> Result<(), Refused> {
    let rego = shared
        .store
        .read(|state| state.resource_policy.clone())
        .unwrap_or_else(|| policy::built_in::resource(shared.options.policies).to_owned());
    let query = call.query.as_deref().unwrap_or_default();
    let query: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let path: Vec<_> = path.split('/').collect();
    let question = Question {
        token: claims,
        plugin: "resource",
        path: &path,
        query: &query,
    };
    match policy::allows(&rego, &question) {
        Ok(true) => Ok(()),
        Ok(false) => Err(WireError::PolicyDeny.into()),
        Err(error) => Err(WireError::PolicyEngine(error.to_string()).into()),
    }
}

fn read(shared: &Shared, path: &str) -> Result<Vec<u8>, Refused> {
    let failed = |cause: String| Refused::new(WireError::PluginInternal, cause);
    let path: ResourcePath = path.parse().map_err(|error| failed(format!("{error}")))?;
    let path = shared
        .faults
        .swapped_resource()
        .unwrap_or_else(|| path.to_string());
    let text = shared
        .store
        .read(|state| state.resources.get(&path).cloned())
        .ok_or_else(|| failed(format!("there is no resource {path}")))?;
    STANDARD
        .decode(text)
        .map_err(|error| failed(format!("the stored resource is damaged: {error}")))
}

fn seal(shared: &Shared, claims: &Value, resource: &[u8]) -> anyhow::Result<Vec<u8>> {
    let key = KEY_POINTERS
        .iter()
        .find_map(|pointer| claims.pointer(pointer))
        .ok_or_else(|| anyhow::anyhow!("the token has no tee-pubkey"))?;
    let key = TeePubKey::deserialize(key)?;
    let mut jwe = match shared.faults.header_order() {
        true => ResourceJwe::seal_spelled(&key, resource, enc_first)?,
        false => ResourceJwe::seal(&key, resource)?,
    };
    if shared.faults.corrupt_tag() {
        let replacement = if jwe.tag.starts_with('A') { "B" } else { "A" };
        jwe.tag.replace_range(..1, replacement);
    }
    Ok(serde_json::to_vec(&jwe)?)
}

/// The same header with `enc` in front and a blank after each comma: equally valid JSON.
fn enc_first(header: String) -> String {
    let enc = "\"enc\":\"A256GCM\"";
    let rest = header.replacen(&format!(",{enc}"), "", 1);
    rest.replacen('{', &format!("{{{enc},"), 1)
        .replace(',', ", ")
}

/// Where Trustee looks for the attester's key in a token, in this order.
const KEY_POINTERS: [&str; 5] = [
    "/tdx/attester_runtime_data/tee-pubkey",
    "/tdx/attester_user_data/tee-pubkey",
    "/customized_claims/runtime_data/tee-pubkey",
    "/submods/cpu0/ear.veraison.annotated-evidence/runtime_data_claims/tee-pubkey",
    "/tee-pubkey",
];

#[cfg(test)]
mod tests {
    use super::enc_first;

    #[test]
    fn header_in_another_order_is_the_same_header() {
        let header = r#"{"alg":"a","enc":"A256GCM","epk":{"crv":"c","kty":"EC"}}"#;
        let other = enc_first(header.to_owned());
        assert_eq!(
            other,
            r#"{"enc":"A256GCM", "alg":"a", "epk":{"crv":"c", "kty":"EC"}}"#
        );
    }
}

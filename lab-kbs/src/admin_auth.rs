// SPDX-License-Identifier: Apache-2.0

//! Who may change the server's state: a JWT signed with the administrator's Ed25519 key, judged as
//! Trustee 0.20 (personas) or 0.21 (roles and an access list) would.

use crate::clock::unix_now;
use crate::http::Call;
use crate::jws::{self, Unverified};
use crate::server::Shared;
use crate::wire_error::{Refused, WireError};
use ed25519_dalek::Signature;
use serde_json::Value;

/// Which kind of endpoint is called; Trustee 0.21 has another error for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Policies and reference values.
    BuiltIn,
    /// Resources.
    Plugin,
}

/// Lets an administrator pass.
pub(crate) fn authorize(shared: &Shared, call: &Call, endpoint: Endpoint) -> Result<(), Refused> {
    let result = if shared.options.dialect.has_roles() {
        by_role(shared, call)
    } else {
        by_persona(shared, call)
    };
    result.map_err(|reason| {
        let error = match endpoint {
            _ if !shared.options.dialect.has_roles() => WireError::AdminAuth(reason.clone()),
            Endpoint::BuiltIn => WireError::AdminAccess {
                endpoint: call.path.clone(),
                reason: reason.clone(),
            },
            Endpoint::Plugin => WireError::AdminInitialization(reason.clone()),
        };
        Refused::new(error, reason)
    })
}

/// 0.20: our key and an unexpired token suffice; a token made for some audience is not for us.
fn by_persona(shared: &Shared, call: &Call) -> Result<(), String> {
    let token = call
        .bearer()
        .and_then(jws::decode)
        .ok_or("no bearer token in the request")?;
    if !is_signed_by_admin(shared, &token) || token.claims.get("aud").is_some() {
        return Err("no persona matches the token".to_owned());
    }
    Ok(())
}

/// 0.21: the token names a role, and the access list lets the role call this address.
fn by_role(shared: &Shared, call: &Call) -> Result<(), String> {
    let bearer = call
        .bearer()
        .ok_or("Failed to parse HTTP Auth Bearer header")?;
    let token = jws::decode(bearer).filter(|token| is_signed_by_admin(shared, token));
    let role = token
        .as_ref()
        .and_then(|token| token.claims.get("role"))
        .and_then(Value::as_str);
    let role = role.ok_or("Cannot verify token with any of the issuers")?;
    let target = match &call.query {
        Some(query) => format!("{}?{query}", call.path),
        None => call.path.clone(),
    };
    let mut acls = shared.acls.iter().filter(|(name, _)| name == role);
    match acls.any(|(_, allowed)| allowed.is_match(&target)) {
        true => Ok(()),
        false => Err(format!("Role {role} not allowed for path {target}")),
    }
}

fn is_signed_by_admin(shared: &Shared, token: &Unverified<'_>) -> bool {
    let Ok(signature) = Signature::from_slice(&token.signature) else {
        return false;
    };
    token.header_text("alg") == Some("EdDSA")
        && token.is_current(unix_now())
        && shared
            .admin_key
            .verify_strict(token.signing_input, &signature)
            .is_ok()
}

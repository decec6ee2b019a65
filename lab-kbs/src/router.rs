// SPDX-License-Identifier: Apache-2.0

//! From method and path to a handler, with Trustee's answers to everything that has none.

use crate::http::{Call, Reply};
use crate::server::Shared;
use crate::wire_error::{Refused, WireError};
use crate::{handshake, management, resource};

/// Answers a call; the second value is the cause of a refusal, for the server's own log.
pub(crate) fn answer(shared: &Shared, call: &Call) -> (Reply, Option<String>) {
    match route(shared, call) {
        Ok(reply) => (reply, None),
        Err(refused) => (refused.error.reply(), Some(refused.cause)),
    }
}

fn route(shared: &Shared, call: &Call) -> Result<Reply, Refused> {
    let method = call.method.as_str();
    let Some(rest) = call.path.strip_prefix(PREFIX) else {
        return Ok(outside(shared, method, &call.path));
    };
    if !matches!(method, "GET" | "POST" | "PUT" | "DELETE") {
        return Ok(Reply::text(405, ""));
    }
    let (name, path) = match rest.split_once('/') {
        Some((name, path)) => (name, Some(path)),
        None => (rest, None),
    };
    match (method, name, path) {
        (_, "", _) => Err(WireError::InvalidRequestPath(call.path.clone()).into()),
        ("POST", "auth", None) => handshake::auth(shared, call),
        ("POST", "attest", None) => handshake::attest(shared, call),
        ("POST", "attestation-policy", None) => management::set_attestation_policy(shared, call),
        ("POST", "resource-policy", None) => management::set_resource_policy(shared, call),
        ("GET", "resource-policy", None) => management::list_resource_policies(shared, call),
        ("POST", "reference-value", None) => management::register_values(shared, call),
        ("GET", "reference-value", Some(id)) => management::reference_value(shared, call, id),
        ("GET", "resource", path) => resource::get(shared, call, path.unwrap_or_default()),
        ("POST", "resource", path) => {
            management::set_resource(shared, call, path.unwrap_or_default())
        }
        ("DELETE", "resource", path) => {
            management::delete_resource(shared, call, path.unwrap_or_default())
        }
        (_, "resource", _) => Err(Refused::new(
            WireError::PluginInternal,
            "resources know GET, POST and DELETE",
        )),
        (_, name, _) => Err(WireError::PluginNotFound(name.to_owned()).into()),
    }
}

fn outside(shared: &Shared, method: &str, path: &str) -> Reply {
    match (method, path) {
        ("GET", "/healthz") if shared.options.dialect.has_health() => Reply::default(),
        ("GET", "/metrics") => {
            let requests = shared.request_count();
            let text =
                format!("# TYPE http_requests_total counter\nhttp_requests_total {requests}\n");
            Reply::text(200, &text)
        }
        _ => Reply::text(404, ""),
    }
}

const PREFIX: &str = "/kbs/v0/";

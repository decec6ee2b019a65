// SPDX-License-Identifier: Apache-2.0

//! The members that a pin configuration and a token header share, read in one place for both.

use std::num::NonZeroU64;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::json::{Members, quoted};

/// One KBS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Base address, such as `https://kbs.example:8080`.
    pub url: String,
    /// The server's certificate authority: PEM text, a digest, or empty for "as configured on the machine".
    pub cert: String,
}

/// How often the older pin tries again. This pin stores it and leaves the decision to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumRetries {
    /// This many times.
    Count(NonZeroU64),
    /// For ever: the text `infinity`.
    Infinity,
}

impl Serialize for NumRetries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(count.get()),
            Self::Infinity => serializer.serialize_str(INFINITY),
        }
    }
}

/// Whether a server must say `cert`. The older pin cannot read a token in which one does not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cert {
    Required,
    MayBeAbsent,
}

/// `servers`: a list of `{"url", "cert"}`. Also returns the names of members that nobody reads.
pub(crate) fn servers(
    members: &Members<'_>,
    cert: Cert,
) -> Result<(Vec<Server>, Vec<String>), String> {
    let mut servers = Vec::new();
    let mut unknown = Vec::new();
    for (index, value) in members.list("servers")?.into_iter().flatten().enumerate() {
        let place = format!("servers[{index}]");
        let Value::Object(object) = value else {
            return Err(format!("`{place}` is not an object with `url` and `cert`"));
        };
        let server = Members::new(&place, object);
        let url = server.required("url", printable(&server, "url")?)?;
        let cert = match server.string("cert")? {
            None if cert == Cert::MayBeAbsent => "",
            found => server.required("cert", found)?,
        };
        servers.push(Server {
            url: url.to_owned(),
            cert: cert.to_owned(),
        });
        unknown.extend(
            server
                .unknown(&["url", "cert"])
                .map(|name| format!("{place}.{name}")),
        );
    }
    Ok((servers, unknown))
}

/// A member whose text will be shown to people: not empty, no control characters.
pub(crate) fn printable<'a>(members: &Members<'a>, name: &str) -> Result<Option<&'a str>, String> {
    let found = members.string(name)?;
    match found {
        Some("") => Err(format!("{} is empty", members.at(name))),
        Some(text) if text.contains(char::is_control) => Err(format!(
            "{} is {}, expected no control characters",
            members.at(name),
            quoted(text)
        )),
        _ => Ok(found),
    }
}

/// `num_retries`: absent, a whole number from 1 up, or `"infinity"`.
pub(crate) fn num_retries(members: &Members<'_>) -> Result<Option<NumRetries>, String> {
    let name = "num_retries";
    let Some(value) = members.get(name) else {
        return Ok(None);
    };
    if value.as_str() == Some(INFINITY) {
        return Ok(Some(NumRetries::Infinity));
    }
    match value.as_u64().and_then(NonZeroU64::new) {
        Some(count) => Ok(Some(NumRetries::Count(count))),
        None => Err(format!(
            "{} is {}, expected a whole number from 1 up or \"infinity\"",
            members.at(name),
            quoted(&value.to_string())
        )),
    }
}

/// `attestation_key`: absent or an object, kept as found.
pub(crate) fn attestation_key(members: &Members<'_>) -> Result<Option<Map<String, Value>>, String> {
    Ok(members.object("attestation_key")?.cloned())
}

const INFINITY: &str = "infinity";

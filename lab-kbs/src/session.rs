// SPDX-License-Identifier: Apache-2.0

//! Handshakes in progress: begun by `/auth`, attested by `/attest`, used by resource requests until they
//! expire. Trustee counts the lifetime from `/auth` and does not extend it.

use crate::clock::{http_date, unix_now};
use crate::fault::Step;
use crate::http::Call;
use crate::random;
use crate::server::Shared;
use crate::wire_error::Refused;
use kbs_protocol::Tee;
use kbs_protocol::message::COOKIE_NAME;
use serde::{Deserialize, Serialize};

/// One handshake.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The nonce the evidence must commit to.
    pub(crate) nonce: String,
    /// The kind of evidence announced.
    pub(crate) tee: Tee,
    /// End of life, in seconds since 1970.
    pub(crate) expires: u64,
    /// The token, once attested.
    pub(crate) token: Option<String>,
}

impl Session {
    /// The `Set-Cookie` value: no path, no attributes but the expiry.
    pub(crate) fn cookie(&self, id: &str) -> String {
        format!("{COOKIE_NAME}={id}; Expires={}", http_date(self.expires))
    }
}

/// Opens a session and forgets those that are over.
pub(crate) fn begin(shared: &Shared, tee: Tee) -> Result<(String, Session), Refused> {
    let id = match shared.faults.fixed_session() {
        Some(id) => id,
        None => random::session_id()?,
    };
    let nonce = match shared.faults.fixed_nonce() {
        Some(nonce) => nonce,
        None => random::nonce()?,
    };
    let now = unix_now();
    let expires = now.saturating_add(shared.options.session_ttl.as_secs());
    let session = Session {
        nonce,
        tee,
        expires,
        token: None,
    };
    shared
        .store
        .update(|state| {
            state.sessions.retain(|_, session| session.expires > now);
            state.sessions.insert(id.clone(), session.clone());
        })
        .map_err(Refused::challenge)?;
    Ok((id, session))
}

/// The living session that the call's cookie names.
pub(crate) fn of(shared: &Shared, call: &Call, step: Step) -> Option<(String, Session)> {
    let id = cookie_value(call.cookie.as_deref()?)?;
    let session = shared.store.read(|state| state.sessions.get(id).cloned())?;
    let is_alive = session.expires > unix_now() && !shared.faults.session_expired(step);
    is_alive.then(|| (id.to_owned(), session))
}

/// Marks the session attested. The first token stays, whoever comes second.
pub(crate) fn attested(shared: &Shared, id: &str, token: String) -> Result<(), Refused> {
    if shared.faults.never_overwrite() {
        return Ok(());
    }
    let recorded = shared
        .store
        .update(|state| match state.sessions.get_mut(id) {
            Some(session) => {
                session.token.get_or_insert(token);
                true
            }
            None => false,
        });
    match recorded.map_err(Refused::attest)? {
        true => Ok(()),
        false => Err(Refused::attest(
            "the session was forgotten while its evidence was verified",
        )),
    }
}

fn cookie_value(header: &str) -> Option<&str> {
    header.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE_NAME).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::cookie_value;

    #[test]
    fn cookies() {
        assert_eq!(cookie_value("kbs-session-id=ab"), Some("ab"));
        assert_eq!(cookie_value("a=b; kbs-session-id=ab; c=d"), Some("ab"));
        assert_eq!(cookie_value("a=kbs-session-id; xkbs-session-id=ab"), None);
        assert_eq!(cookie_value(""), None);
    }
}

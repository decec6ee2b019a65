// SPDX-License-Identifier: Apache-2.0

//! What kind of KBS this is, and whether it can keep a secret at all. Asked once, before anything is written.

use super::error::Fault;
use super::http::Http;
use super::{AdminClient, Error, token};
use kbs_protocol::NodeId;
use kbs_protocol::message::RESOURCE_PREFIX;
use rand_core::{OsRng, RngCore as _};
use serde_json::json;
use std::fmt;

/// Which administration a KBS has. It does not tell its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// Trustee 0.20: personas.
    V0_20,
    /// Trustee 0.21 and newer: issuers, roles, an access list.
    V0_21,
    /// It answers without asking who we are, so it did not have to say.
    Unnamed,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0_20 => "Trustee 0.20",
            Self::V0_21 => "Trustee 0.21 or newer",
            Self::Unnamed => "release unknown",
        })
    }
}

/// Asks for something that needs an administrator, without being one: each release refuses by another name,
/// and one that does not refuse is open to all.
pub(super) fn dialect(http: &Http) -> Result<Dialect, Error> {
    let answer = http.get("/kbs/v0/resource-policy", None)?;
    match answer.kind().as_str() {
        _ if answer.is_success() => {
            let fault = Fault::OpenAdministration;
            Err(Error::Unfit {
                dialect: Dialect::Unnamed,
                fault,
            })
        }
        "AdminAuth" => Ok(Dialect::V0_20),
        "AdminAuthAccess" | "AdminAuthInitialization" => Ok(Dialect::V0_21),
        kind => Err(Error::Unknown {
            url: http.url().to_owned(),
            status: answer.status(),
            kind: kind.chars().filter(|c| !c.is_control()).take(80).collect(),
        }),
    }
}

/// Asks for a secret that does not exist, with a token whose signer nobody knows. A KBS checks the token
/// before everything else, so any answer but "the token is not good" means that it was believed.
pub(super) fn refuses_forged_tokens(http: &Http, dialect: Dialect) -> Result<(), Error> {
    let mut random = [0; 16];
    OsRng
        .try_fill_bytes(&mut random)
        .map_err(|_| Error::Configuration("this system has no random numbers".to_owned()))?;
    let nowhere = format!(
        "{RESOURCE_PREFIX}default/{}/probe",
        NodeId::from_spki_der(&random)
    );
    let answer = http.get(&nowhere, Some(&token::forged()?))?;
    let fault = match answer.kind().as_str() {
        "TokenVerifierError" => return Ok(()),
        "PolicyDeny" | "PolicyEngineError" | "PluginInternalError" | "JweError" => {
            Fault::ForgedTokens
        }
        _ if answer.is_success() => Fault::ForgedTokens,
        kind => Fault::Unclear {
            status: answer.status(),
            kind: kind.chars().filter(|c| !c.is_control()).take(80).collect(),
        },
    };
    Err(Error::Unfit { dialect, fault })
}

/// Writes one reference value twice and reads it once: on a store that keeps the first value, a revocation
/// would be acknowledged and ignored.
pub(super) fn replaces_what_it_stored(client: &AdminClient) -> Result<(), Error> {
    let now = json!([OsRng.next_u64().to_string()]);
    client.set_reference_values([(PROBE, json!([]))])?;
    client.set_reference_values([(PROBE, now.clone())])?;
    match client.reference_value(PROBE)? {
        Some(stored) if stored == now => Ok(()),
        _ => Err(Error::Unfit {
            dialect: client.dialect(),
            fault: Fault::KeepsOldValues,
        }),
    }
}

const PROBE: &str = "sheepfold_probe";

// SPDX-License-Identifier: Apache-2.0

//! Tokens: those of Clevis, and what they carry.

use super::{LAST_KEYSLOT, OTHER_KEYSLOTS};
use crate::error::{Refusal, not_allowed, quoted, refused};
use crate::json::{Document, Number, Token};
use crate::rules::Rules;
use serde::Deserialize;
use std::collections::BTreeSet;

/// A token that Clevis wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClevisToken {
    /// Its number.
    pub id: u32,
    /// The key slot that it opens.
    pub keyslot: u32,
    /// What it carries.
    pub jwe: Jwe,
}

/// A JWE in flattened form (RFC 7515 section 7.2.2), as Clevis stores it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwe {
    protected: String,
    #[serde(default)]
    encrypted_key: String,
    iv: String,
    ciphertext: String,
    tag: String,
}

impl Jwe {
    /// The compact form (RFC 7516 section 3.1), as pins read it.
    pub fn compact(&self) -> String {
        [
            &self.protected,
            &self.encrypted_key,
            &self.iv,
            &self.ciphertext,
            &self.tag,
        ]
        .map(String::as_str)
        .join(".")
    }
}

/// The tokens of Clevis; others only where the rules allow other key slots, and never on a slot of Clevis.
pub(super) fn tokens(document: &Document, rules: &Rules) -> Result<Vec<ClevisToken>, Refusal> {
    let mut found: Vec<ClevisToken> = Vec::new();
    let mut named = BTreeSet::new();
    for (&id, token) in &document.tokens.0 {
        if id > LAST_KEYSLOT {
            return refused(format!("token {id}, where the last one is {LAST_KEYSLOT}"));
        }
        for &Number(keyslot) in &token.keyslots {
            if !document.keyslots.0.contains_key(&keyslot) {
                return refused(format!(
                    "token {id} is for key slot {keyslot}, which does not exist"
                ));
            }
            if !named.insert(keyslot) {
                return refused(format!(
                    "token {id} is for key slot {keyslot}, which has a token already"
                ));
            }
        }
        if token.r#type == CLEVIS {
            found.push(clevis(id, token)?);
        } else if !rules.other_keyslots {
            return not_allowed(
                OTHER_KEYSLOTS,
                format!(
                    "token {id} is of type {}, not clevis",
                    quoted(&token.r#type)
                ),
            );
        }
    }
    if found.is_empty() {
        return refused("no Clevis token: the volume is not bound");
    }
    Ok(found)
}

fn clevis(id: u32, token: &Token) -> Result<ClevisToken, Refusal> {
    let &[Number(keyslot)] = token.keyslots.as_slice() else {
        return refused(format!(
            "Clevis token {id} is for {} key slots, expected one",
            token.keyslots.len()
        ));
    };
    let mut members = token.rest.clone();
    let jwe = members.remove("jwe").unwrap_or_default();
    if let Some(name) = members.keys().next() {
        return refused(format!("Clevis token {id} has a member {}", quoted(name)));
    }
    match Jwe::deserialize(jwe) {
        Ok(jwe) => Ok(ClevisToken { id, keyslot, jwe }),
        Err(error) => refused(format!("Clevis token {id} holds no flattened JWE: {error}")),
    }
}

const CLEVIS: &str = "clevis";

// SPDX-License-Identifier: Apache-2.0

//! The attestation token as this agent handles it: forwarded, shown on request, never printed by accident.

use std::fmt;

/// An attestation token: no secret, but it holds all evidence and opens doors for minutes, so it is not
/// printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The compact JWS.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

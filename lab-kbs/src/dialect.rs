// SPDX-License-Identifier: Apache-2.0

//! Where the supported releases of Trustee differ on the wire. Chosen once, by `--dialect`.

use std::fmt;
use std::str::FromStr;

/// The release of Trustee to sound like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Dialect {
    /// 0.20: administrators are personas, tokens have no issuer.
    V0_20,
    /// 0.21: administrators have roles with an access list, tokens name their issuer.
    #[default]
    V0_21,
    /// The development branch after 0.21: uploaded policies are parsed at once.
    Main,
}

impl Dialect {
    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_20 => "0.20",
            Self::V0_21 => "0.21",
            Self::Main => "main",
        }
    }

    /// Whether an administrator's token needs a role that an access list knows.
    pub(crate) fn has_roles(self) -> bool {
        self >= Self::V0_21
    }

    /// Whether tokens carry `iss`, and certificates and coordinates in their standard spelling.
    pub(crate) fn has_standard_tokens(self) -> bool {
        self >= Self::V0_21
    }

    /// Whether a policy that does not parse is refused when it is uploaded, not when it is used.
    pub(crate) fn parses_uploads(self) -> bool {
        self >= Self::Main
    }

    /// Whether `GET /healthz` exists.
    pub(crate) fn has_health(self) -> bool {
        self >= Self::V0_21
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Dialect {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        [Self::V0_20, Self::V0_21, Self::Main]
            .into_iter()
            .find(|dialect| dialect.as_str() == text)
            .ok_or_else(|| anyhow::anyhow!("the dialect is 0.20, 0.21 or main, not {text:?}"))
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Why a header is not opened.

/// What is wrong with a header. Messages quote foreign text escaped and cut short, and never a key or a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no LUKS2 header where one was expected.
    #[error("no LUKS2 header: {0}")]
    NotLuks2(String),
    /// Neither copy of the header is whole, or they contradict each other.
    #[error("the LUKS2 header is damaged: {0}")]
    Damaged(String),
    /// The metadata is not what LUKS2 allows, or says it twice.
    #[error("the LUKS2 metadata is malformed: {0}")]
    Malformed(String),
    /// A valid header that this node must not open.
    #[error("the LUKS2 header is refused: {0}")]
    Refused(String),
    /// A valid header that the configuration can allow.
    #[error("the LUKS2 header is refused: {why}; agent.toml does not allow it ({key})")]
    NotAllowed {
        /// What was found.
        why: String,
        /// The key of `agent.toml` that decides.
        key: &'static str,
    },
}

impl Refusal {
    /// The next step for the person who reads the message.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NotLuks2(_) => "check which device was meant: this one holds no LUKS2 volume",
            Self::Damaged(_) | Self::Malformed(_) => {
                "restore the header from a backup, or format the volume again; nothing was opened"
            }
            Self::Refused(_) => {
                "nobody's tool writes such a header for this use: find out who changed it, then restore it from a \
                 backup or format the volume again; nothing was opened"
            }
            Self::NotAllowed { .. } => {
                "if the volume was made so on purpose, allow it in agent.toml and build the image again; if not, \
                 find out who changed the header"
            }
        }
    }
}

/// A [`Refusal::Refused`] in one line.
pub(crate) fn refused<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Refused(why.into()))
}

/// A [`Refusal::NotAllowed`] in one line.
pub(crate) fn not_allowed<T>(key: &'static str, why: impl Into<String>) -> Result<T, Refusal> {
    let why = why.into();
    Err(Refusal::NotAllowed { why, key })
}

/// Foreign text for a message.
pub(crate) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

const SHOWN: usize = 48;

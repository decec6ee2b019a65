// SPDX-License-Identifier: Apache-2.0

//! What can go wrong between a configuration and a token, each with its next step.
//!
//! The agent maps each [`Fault`] to an owner and an exit code; no message ever holds key or plaintext bytes.

use thiserror::Error;

/// Why a token was not made or not opened.
#[derive(Debug, Error)]
pub enum Error<E: std::error::Error + 'static> {
    /// Something about the configuration, the token or the key.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The source had no key to give.
    #[error(transparent)]
    Source(E),
}

/// What was wrong with a configuration, a token, or the key for it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The pin's CONFIG argument.
    #[error("pin configuration: {0}")]
    Config(String),
    /// The token is not a compact JWE with a header that we can read.
    #[error("malformed token: {0}")]
    TokenMalformed(String),
    /// The token belongs to another pin, or to a later version of this one.
    #[error("the token is not for this pin: {0}")]
    TokenForeign(String),
    /// The token asks for cryptography that this pin does not do (RFC 7516 section 4.1).
    #[error("the token asks for other cryptography: {0}")]
    Algorithm(String),
    /// The KBS returned another key than the one the token was made with.
    #[error("the key from the KBS is not the one that the token was made with; asked for {path}")]
    KidMismatch {
        /// The resource path in the token.
        path: String,
    },
    /// The authentication tag does not fit the token and the key (RFC 7516 section 5.2).
    #[error("the token does not open with the key from the KBS")]
    NotAuthentic,
    /// Something is longer than it may be.
    #[error("{what} is too large: {length} bytes, at most {limit} are allowed")]
    TooLarge {
        /// What is too large.
        what: Subject,
        /// Its length in bytes.
        length: usize,
        /// The most it may have.
        limit: usize,
    },
    /// There is nothing to encrypt.
    #[error("the plaintext is empty, expected at least one byte on standard input")]
    NoPlaintext,
    /// The operating system gave no random numbers.
    #[error("no random numbers from the operating system: {0}")]
    Random(String),
    /// The token that was just made could not be read back.
    #[error("the new token could not be opened again: {0}")]
    SelfCheck(String),
    /// The KBS was asked twice while a token was made, and gave two keys.
    #[error("the KBS gave one key for the new token and another one to open it again")]
    TwoKeys,
}

/// The things that have a size limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The pin's CONFIG argument.
    Config,
    /// The protected header of a new token.
    Header,
    /// A whole token.
    Token,
    /// What a new token is to carry.
    Plaintext,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Config => "the pin configuration",
            Self::Header => "the token header",
            Self::Token => "the token",
            Self::Plaintext => "the plaintext",
        })
    }
}

impl Fault {
    /// The next step for the person who reads the message.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Config(_) => "correct the configuration given to `clevis encrypt trustee`",
            Self::TokenMalformed(_) | Self::Algorithm(_) => {
                "bind the volume again, and find out who changed its LUKS header"
            }
            Self::TokenForeign(_) => "give the token to the pin that it names",
            Self::KidMismatch { .. } => {
                "restore the old key at this resource path in the KBS, or bind the volume again"
            }
            Self::NotAuthentic => {
                "check that the KBS still holds the old key; if it does, the token was changed: bind the volume again"
            }
            Self::TooLarge { what, .. } => match what {
                Subject::Header => "put the certificate's digest instead of its PEM text in `cert`",
                Subject::Config => {
                    "put certificates in the agent's configuration, not in the pin's"
                }
                Subject::Token => "check what was given as token",
                Subject::Plaintext => "encrypt a key with this pin, and the data with that key",
            },
            Self::NoPlaintext => "check the command that feeds `clevis encrypt trustee`",
            Self::Random(_) => "check that the kernel's random number generator is up",
            Self::SelfCheck(_) => {
                "report this with the pin configuration; nothing was changed on disk"
            }
            Self::TwoKeys => {
                "wait for a rotation to end, or have all servers serve one storage, then bind again; nothing was \
                 changed on disk"
            }
        }
    }
}

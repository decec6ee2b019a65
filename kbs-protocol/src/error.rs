// SPDX-License-Identifier: Apache-2.0

//! Whose fault it is, whether waiting helps, and what to do next.
//!
//! Every error a user can meet implements [`Blame`]. A person at a console needs three things from an
//! error: which of six parties to look at, whether the node will recover by itself, and the next step.

use std::fmt;

/// The party that has to act before the operation can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// What we configured: `agent.toml`, a command line, an image.
    Configuration,
    /// This machine: its TPM, its TEE, its kernel, its clock.
    Machine,
    /// What lies between this machine and the server.
    Network,
    /// The KBS, its set-up or its storage.
    Server,
    /// The attestation or resource policy, or the reference values behind them.
    Policy,
    /// Bytes that somebody stored or sent: a token, a LUKS header, a secret.
    Data,
}

impl Owner {
    /// Everybody who can have to act.
    pub const ALL: [Self; 6] = [
        Self::Configuration,
        Self::Machine,
        Self::Network,
        Self::Server,
        Self::Policy,
        Self::Data,
    ];

    /// The word used in JSON output and in the name of the exit code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Machine => "machine",
            Self::Network => "network",
            Self::Server => "server",
            Self::Policy => "policy",
            Self::Data => "data",
        }
    }
}

impl Owner {
    /// The exit code of a program that ends because this party has to act; `docs/exit-codes.md`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Configuration => 10,
            Self::Machine => 11,
            Self::Network => 12,
            Self::Server => 13,
            Self::Policy => 14,
            Self::Data => 15,
        }
    }
}

impl fmt::Display for Owner {
    /// As a sentence wants it: "our configuration", "this machine", "the network", …
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration => f.write_str("our configuration"),
            Self::Machine => f.write_str("this machine"),
            other => write!(f, "the {}", other.as_str()),
        }
    }
}

/// Whether trying again can help, and at which pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Persistence {
    /// Likely to pass by itself: retry with back-off.
    Temporary,
    /// An administrator may still say yes: retry slowly, if at all.
    UntilApproved,
    /// The same attempt gives the same answer: stop.
    Permanent,
}

/// What every error of this project can tell beyond its sentence.
pub trait Blame: std::error::Error {
    /// The party that has to act.
    fn owner(&self) -> Owner;
    /// Whether trying again can help.
    fn persistence(&self) -> Persistence;
    /// The next step, as one or two sentences to the person who reads the error.
    fn advice(&self) -> String;
}

/// What can be wrong with a value of the protocol.
///
/// Which party is to blame depends on where the bytes came from; [`Blame::owner`] names the party that
/// normally produces such a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A message is larger than its limit, or than any honest one.
    #[error("{what} is {actual} bytes long, at most {limit} are accepted")]
    TooLarge {
        /// The message or member.
        what: &'static str,
        /// Its length in bytes.
        actual: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A message or member does not have the form the protocol gives it.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// The message or member.
        what: &'static str,
        /// What was expected and what came, without secret content.
        why: String,
    },
    /// An algorithm outside the allow list of this implementation.
    #[error("{what} names the algorithm {name:?}, only {allowed} is accepted")]
    Algorithm {
        /// The message or member.
        what: &'static str,
        /// The name that came.
        name: String,
        /// The names that are accepted.
        allowed: &'static str,
    },
    /// The JWE was not made for this key, or a byte of it changed on the way.
    #[error("the resource does not open with this handshake's key: {what} is not authentic")]
    NotAuthentic {
        /// Which part failed: `encrypted_key` or `ciphertext`.
        what: &'static str,
    },
    /// The secret names another node or another path than the one asked for.
    #[error("the secret belongs to {what} {named:?}, this node asked as {expected:?}")]
    WrongBinding {
        /// `node` or `path`.
        what: &'static str,
        /// What the secret says.
        named: String,
        /// What was expected.
        expected: String,
    },
    /// The secret does not say which node and path it is for, and the configuration wants it to.
    #[error("the secret does not name the {what} it is for, and secret.binding is \"required\"")]
    Unbound {
        /// `node` or `path`.
        what: &'static str,
    },
    /// A TPM quote that is well formed but does not prove what it must.
    #[error("the TPM quote is not acceptable: {why}")]
    Quote {
        /// Which check failed, with the expected and the received value.
        why: String,
    },
    /// The system's random number generator did not answer.
    #[error("no random numbers from the operating system")]
    Random,
}

impl Error {
    /// A [`Error::Malformed`] in one line.
    pub(crate) fn malformed(what: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed {
            what,
            why: why.into(),
        }
    }

    /// Refuses a message above its limit before anything looks inside it.
    pub(crate) fn check_size(what: &'static str, bytes: &[u8], limit: usize) -> Result<(), Self> {
        if bytes.len() > limit {
            return Err(Self::TooLarge {
                what,
                actual: bytes.len(),
                limit,
            });
        }
        Ok(())
    }
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        match self {
            Self::WrongBinding { .. } | Self::Unbound { .. } => Owner::Data,
            Self::Quote { .. } | Self::Random => Owner::Machine,
            Self::TooLarge { what, .. }
            | Self::Malformed { what, .. }
            | Self::Algorithm { what, .. } => owner_of(what),
            Self::NotAuthentic { .. } => Owner::Server,
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Random => Persistence::Temporary,
            _ => Persistence::Permanent,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::WrongBinding { .. } => {
                "somebody stored another node's secret under this path: provision this node's secret \
                 again, and find out who could write to the KBS"
            }
            Self::Unbound { .. } => {
                "store the secret with its node and path members, or set secret.binding = \
                 \"if-present\" in agent.toml"
            }
            Self::Quote { .. } => {
                "look at the TPM (`trustee-agent doctor`) and at whether something extends PCRs while \
                 the node attests"
            }
            Self::Random => "wait for the kernel's random number generator, then try again",
            Self::NotAuthentic { .. } => {
                "something between this node and the KBS altered the answer, or the KBS encrypted to \
                 another key: look for a proxy that mixes sessions, then at the KBS version"
            }
            Self::TooLarge { what, .. } | Self::Malformed { what, .. } | Self::Algorithm { what, .. } => {
                match owner_of(what) {
                    Owner::Configuration => "correct the value, then try again",
                    Owner::Data => "store the value again in the form the protocol gives it",
                    _ if *what == ENROLMENT_ANSWER => {
                        "make sure that enroll.registrar is a Sheepfold registrar of the agent's release"
                    }
                    _ => {
                        "make sure that the address is a Trustee KBS of version 0.20 or newer and that \
                         no proxy rewrites its answers"
                    }
                }
            }
        }
        .to_owned()
    }
}

/// Who normally produces a value of this name.
fn owner_of(what: &str) -> Owner {
    match what {
        RESOURCE_PATH | INIT_DATA => Owner::Configuration,
        RESOURCE_SECRET => Owner::Data,
        _ if what.starts_with("the TPM") => Owner::Machine,
        _ => Owner::Server,
    }
}

pub(crate) const RESOURCE_PATH: &str = "the resource path";
pub(crate) const ENROLMENT_ANSWER: &str = "the registrar's answer";
pub(crate) const INIT_DATA: &str = "the init-data";
pub(crate) const RESOURCE_SECRET: &str = "the secret stored in the KBS";

#[cfg(test)]
mod tests {
    use super::{ENROLMENT_ANSWER, Error, INIT_DATA, Owner, RESOURCE_PATH, RESOURCE_SECRET};
    use crate::Blame;

    #[test]
    fn each_origin_has_its_owner() {
        let owner = |what| Error::malformed(what, "x").owner();
        assert_eq!(owner(RESOURCE_PATH), Owner::Configuration);
        assert_eq!(owner(INIT_DATA), Owner::Configuration);
        assert_eq!(owner(RESOURCE_SECRET), Owner::Data);
        assert_eq!(owner("the challenge"), Owner::Server);
        assert_eq!(owner("the TPM quote (TPMS_ATTEST)"), Owner::Machine);
        let advice = |what| Error::malformed(what, "x").advice();
        assert!(advice("the challenge").contains("Trustee KBS"));
        assert!(advice(ENROLMENT_ANSWER).contains("registrar"));
    }

    #[test]
    fn owners_read_well_in_a_sentence() {
        assert_eq!(Owner::Configuration.to_string(), "our configuration");
        assert_eq!(Owner::Machine.to_string(), "this machine");
        assert_eq!(Owner::Policy.to_string(), "the policy");
    }
}

// SPDX-License-Identifier: Apache-2.0

//! What can be wrong with `agent.toml`: always the key, the value and the cure.

use kbs_protocol::{Blame, Owner, Persistence};
use std::path::PathBuf;
use std::sync::Arc;

/// Why the configuration cannot be used. Always permanent: nobody but a person changes it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file, or a file it names, cannot be read.
    #[error("{key}: cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The key that names the file, or "the configuration".
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// A file is larger than any honest one.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// The file or text.
        what: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not TOML, a key that does not exist, or a value of the wrong type.
    #[error("line {line}, {text:?}: {problem}")]
    Syntax {
        /// Line number, from 1.
        line: usize,
        /// The line, shortened.
        text: String,
        /// What the TOML reader expected.
        problem: String,
    },
    /// A value that is well formed and cannot be right.
    #[error("{key} = {value:?}: {problem}")]
    Value {
        /// The key, with its table.
        key: &'static str,
        /// The value, shortened.
        value: String,
        /// What was expected.
        problem: String,
        /// What to write instead.
        cure: String,
    },
    /// Any of these, with the file it was found in.
    #[error("{}: {error}", .path.display())]
    In {
        /// The configuration file.
        path: PathBuf,
        /// What is wrong in it.
        error: Box<ConfigError>,
    },
}

impl ConfigError {
    pub(crate) fn value(key: &'static str, value: &str, problem: Problem) -> Self {
        Self::Value {
            key,
            value: shorten(value),
            problem: problem.what,
            cure: problem.cure,
        }
    }

    /// Finds the line a TOML error points at.
    pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or(text);
        let line = before.matches('\n').count();
        Self::Syntax {
            line: line.saturating_add(1),
            text: shorten(text.lines().nth(line).unwrap_or_default().trim()),
            problem: error.message().replace('\n', " "),
        }
    }
}

impl Blame for ConfigError {
    fn owner(&self) -> Owner {
        Owner::Configuration
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        match self {
            Self::Unreadable { .. } => "put the file into the image (and into its initramfs), readable \
                 for root, or name another one: --config and TRUSTEE_AGENT_CONFIG choose the configuration"
                .to_owned(),
            Self::TooLarge { .. } => "name the right file".to_owned(),
            Self::Syntax { .. } => "correct this line; the tables are [kbs], [enroll], [timeouts], [tpm], \
                 [trust], [secret], [evidence], [boot], [ignition] and [unlock], and a misspelt key is an error so that no setting is lost in silence"
                .to_owned(),
            Self::Value { cure, .. } => cure.clone(),
            Self::In { error, .. } => error.advice(),
        }
    }
}

/// What is wrong with a value and what to write instead, before the key is known.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) what: String,
    pub(crate) cure: String,
}

impl Problem {
    pub(crate) fn new(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cure: cure.into(),
        }
    }
}

/// Enough of a value to recognise it.
fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain(['…']).collect()
}

const SHOWN: usize = 120;

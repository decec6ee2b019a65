// SPDX-License-Identifier: Apache-2.0

//! Why a boot stands still, and for whom. Whoever waits writes it here and takes it away afterwards; `status` shows it.

use super::{RunDirectory, StateError};
use crate::clock;
use kbs_protocol::Blame;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Why something did not come, in our words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// What went wrong.
    pub why: String,
    /// Who has to act, and the exit code that stands for them: [`kbs_protocol::Owner`].
    pub owner: String,
    /// See `owner`.
    pub exit_code: u8,
    /// What they can do.
    pub advice: String,
}

/// A process that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// The process. It may have been killed since.
    pub pid: u32,
    /// Since when, in milliseconds since the kernel started.
    pub since_ms: u64,
    /// When it is tried again, by the same clock.
    pub next_ms: u64,
    /// How often it was tried.
    pub tries: u32,
    /// Why the last try failed.
    pub reason: Reason,
}

/// A secret that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// How often in a row.
    pub times: u32,
    /// Not asked for again before this, in milliseconds since the kernel started.
    pub until_ms: u64,
    /// Why it was refused.
    pub reason: Reason,
}

impl Reason {
    /// Of an error.
    pub fn of(error: &dyn Blame) -> Self {
        Self {
            why: error.to_string(),
            owner: error.owner().as_str().to_owned(),
            exit_code: error.owner().exit_code(),
            advice: error.advice(),
        }
    }
}

impl Waiting {
    /// This process waits since then, and goes on after `next`.
    pub fn new(since: Duration, next: Duration, tries: u32, reason: Reason) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            pid: std::process::id(),
            since_ms: millis(since),
            next_ms: millis(clock::since_boot().saturating_add(next)),
            tries,
            reason,
        }
    }
}

/// The record of one wait of this process. It ends with its owner.
pub struct WaitRecord {
    run: Option<RunDirectory>,
    what: String,
    noted: bool,
}

impl WaitRecord {
    /// For what is waited for: the path of a resource. Nothing is written yet.
    pub fn of(what: &str) -> Self {
        Self {
            // Whoever attests needs the directory as well and says what is wrong with it.
            run: RunDirectory::of_boot().ok().flatten(),
            what: what.to_owned(),
            noted: false,
        }
    }

    /// Says why. A record that cannot be written keeps nobody from waiting.
    pub fn note(&mut self, waiting: Waiting) {
        let Some(run) = &self.run else { return };
        let noted = run.update(|state| {
            state.record_waiting(&self.what, waiting);
            Ok::<_, StateError>(())
        });
        match noted {
            Ok(()) => self.noted = true,
            Err(error) => log::warn!("{error}"),
        }
    }
}

impl Drop for WaitRecord {
    fn drop(&mut self) {
        let (Some(run), true) = (&self.run, self.noted) else {
            return;
        };
        let us = std::process::id();
        let taken = run.update(|state| {
            let ours = |waiting: &Waiting| waiting.pid == us;
            if state.waiting.get(&self.what).is_some_and(ours) {
                state.waiting.remove(&self.what);
            }
            Ok::<_, StateError>(())
        });
        if let Err(error) = taken {
            log::warn!("{error}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! When to ask again: full jitter between nothing and a ceiling that doubles from 1 s to 60 s; after a refusal that somebody
//! may lift, from 5 to 25 s first, then each time twice as long, up to a pause of one to five minutes.
//!
//! Jitter because a rack that powers on together must not ask together. What kind of error may be retried
//! is the error's own business ([`Persistence`]); how long is the caller's ([`Patience`]).

use super::error::KbsError;
use kbs_protocol::{Blame as _, Persistence};
use rand_core::RngCore as _;
use std::time::{Duration, Instant};

/// How long to keep trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// One round over all servers.
    Once,
    /// Temporary errors until the time is up. A caller with a deadline wants an answer, so a refusal that
    /// only an administrator can lift ends it at once.
    For(Duration),
    /// Temporary errors for ever, and slowly also what an administrator may yet approve.
    Forever,
}

impl From<Option<Duration>> for Patience {
    /// From a deadline of the configuration, where none means for ever.
    fn from(deadline: Option<Duration>) -> Self {
        deadline.map_or(Self::Forever, Self::For)
    }
}

/// What a waiting program can tell its user.
#[derive(Debug, Clone, Copy)]
pub struct Wait<'w> {
    /// Why it waits.
    pub error: &'w KbsError,
    /// How long until the next try.
    pub next: Duration,
    /// How long it has been trying.
    pub since: Duration,
    /// How often it has tried.
    pub tries: u32,
}

/// Time and chance, so that a test can own both.
pub trait Pace {
    /// The time.
    fn now(&self) -> Instant;
    /// Waits.
    fn sleep(&mut self, duration: Duration);
    /// 32 random bits. They need to differ between machines and nothing more.
    fn random(&mut self) -> u32;
}

/// The machine's own time and chance.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemPace;

impl Pace for SystemPace {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&mut self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn random(&mut self) -> u32 {
        let mut bytes = [0; 4];
        // Without random numbers the node waits the middle of the range, like everybody else.
        match rand_core::OsRng.try_fill_bytes(&mut bytes) {
            Ok(()) => u32::from_le_bytes(bytes),
            Err(_) => u32::MAX / 2,
        }
    }
}

/// Tries until it works, until trying is pointless, or until patience ends. The attempt is told when the
/// time is up, so that it can limit its own waiting.
///
/// # Errors
/// The error itself when it was the first and only one; otherwise [`KbsError::GaveUp`] with the last one
/// and what came before.
pub(super) fn retry<T>(
    patience: Patience,
    pace: &mut dyn Pace,
    on_wait: &mut dyn FnMut(Wait<'_>),
    mut attempt: impl FnMut(Option<Instant>) -> Result<T, KbsError>,
) -> Result<T, KbsError> {
    let begin = pace.now();
    let until = match patience {
        Patience::For(time) => begin.checked_add(time),
        Patience::Once | Patience::Forever => None,
    };
    let mut tries: u32 = 0;
    let mut others: Vec<(String, u32)> = Vec::new();
    loop {
        let error = match attempt(until) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        tries = tries.saturating_add(1);
        let now = pace.now();
        let since = now.saturating_duration_since(begin);
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(now));
        let room = left.saturating_sub(LAST_TRY);
        let again = match error.persistence() {
            Persistence::Temporary => patience != Patience::Once && !room.is_zero(),
            Persistence::UntilApproved => patience == Patience::Forever,
            Persistence::Permanent => false,
        };
        if !again {
            return Err(give_up(error, tries, since, others));
        }
        let next = pause(&error, tries, pace).min(room);
        on_wait(Wait {
            error: &error,
            next,
            since,
            tries,
        });
        remember(&mut others, error.to_string());
        pace.sleep(next);
    }
}

/// The time until the next try.
fn pause(error: &KbsError, tries: u32, pace: &mut dyn Pace) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    let grown = |first: Duration| first.saturating_mul(1_u32 << doublings);
    let (at_least, spread) = match error.persistence() {
        Persistence::UntilApproved => {
            let at_least = grown(FIRST_SLOW).min(SLOW);
            (at_least, at_least.saturating_mul(SLOW_SPREAD))
        }
        _ => (
            error.retry_after().unwrap_or_default(),
            grown(FIRST).min(LONGEST),
        ),
    };
    // A part of the spread, in steps of 2^-32: multiplication first, so that nothing is rounded away.
    let nanoseconds = spread.as_nanos().saturating_mul(pace.random().into()) >> 32;
    at_least.saturating_add(Duration::from_nanos(
        u64::try_from(nanoseconds).unwrap_or(u64::MAX),
    ))
}

fn give_up(
    error: KbsError,
    tries: u32,
    after: Duration,
    mut others: Vec<(String, u32)>,
) -> KbsError {
    if tries <= 1 {
        return error;
    }
    let last = error.to_string();
    others.retain(|(sentence, _)| *sentence != last);
    KbsError::GaveUp {
        after,
        tries,
        last: Box::new(error),
        others,
    }
}

/// Counts sentences; a flood of ever new ones keeps the first few.
fn remember(others: &mut Vec<(String, u32)>, sentence: String) {
    if let Some((_, times)) = others.iter_mut().find(|(known, _)| *known == sentence) {
        *times = times.saturating_add(1);
    } else if others.len() < REMEMBERED {
        others.push((sentence, 1));
    }
}

/// What the last try must have left: with less it would end on the deadline, and the message would blame
/// the network for what the server did.
const LAST_TRY: Duration = Duration::from_secs(1);
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// Somebody may be about to approve, and a KBS whose attestation service is just starting refuses too: soon at first.
const FIRST_SLOW: Duration = Duration::from_secs(5);
/// Else approval is a human's work: between one and five minutes.
const SLOW: Duration = Duration::from_secs(60);
/// How often the shortest pause fits into the spread above it.
const SLOW_SPREAD: u32 = 4;
const REMEMBERED: usize = 8;

#[cfg(test)]
mod tests;

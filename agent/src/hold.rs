// SPDX-License-Identifier: Apache-2.0

//! Holds back a Clevis pin that would ask for what was refused a moment ago.
//!
//! `clevis-luks-askpass` starts the pin anew every few seconds as long as its volume is shut, and each start is a
//! whole attestation. So what one start has learnt is kept for the next in the state of the boot, by token, which is
//! by volume. The first one is not held back, nor one that follows upon a server that was away: within each start
//! the pin has a patience of its own for those. `pin decrypt` calls this.

use crate::clock;
use crate::report;
use crate::state::{Reason, Refused, RunDirectory, State, StateError, WaitRecord, Waiting};
use clevis_pin::Token;
use kbs_protocol::encoding::hex;
use kbs_protocol::{Blame, Persistence};
use rand_core::{OsRng, RngCore as _};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// The memory of one token.
pub struct Hold {
    run: RunDirectory,
    id: String,
    path: String,
}

impl Hold {
    /// What this boot knows of a token. `None` outside a boot, where a person decides when to ask, and for a token
    /// that is none: nobody is asked for that.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn of(token: &[u8]) -> Result<Option<Self>, StateError> {
        let (Ok(read), Some(run)) = (Token::parse(token), RunDirectory::of_boot()?) else {
            return Ok(None);
        };
        let digest = Sha256::digest(token);
        Ok(Some(Self {
            run,
            id: hex::encode(digest.get(..ID_LENGTH).unwrap_or_default()),
            path: read.header().path.clone(),
        }))
    }

    /// Waits until it is time to ask, and takes the turn: another process that comes meanwhile waits for the next.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn wait(&self) -> Result<(), StateError> {
        let begin = clock::since_boot();
        let mut record = None;
        while let Some((left, refused)) = self.run.update(|state| {
            let turn = take_turn(state, &self.id, clock::since_boot(), random());
            Ok::<_, StateError>(turn)
        })? {
            let (_, record) = record.get_or_insert_with(|| {
                let splash = report::held_back(&refused.reason.why, left);
                (splash, WaitRecord::of(&self.path))
            });
            record.note(Waiting::new(begin, left, refused.times, refused.reason));
            // In small steps: a volume that another process has opened meanwhile is not waited for.
            std::thread::sleep(left.min(STEP));
        }
        Ok(())
    }

    /// Notes how it went.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn note(&self, failure: Option<&dyn Blame>) -> Result<(), StateError> {
        self.run.update(|state| {
            note(state, &self.id, failure, clock::since_boot(), random());
            Ok(())
        })
    }
}

/// How long to wait still, and why. `None`: it is our turn, and the next one is a pause away.
fn take_turn(
    state: &mut State,
    id: &str,
    now: Duration,
    random: u32,
) -> Option<(Duration, Refused)> {
    let refused = state.refused.get_mut(id)?;
    let until = Duration::from_millis(refused.until_ms);
    // A time further away than any pause is none that was written here.
    let left = until.saturating_sub(now).min(LONGEST);
    if left.is_zero() {
        refused.until_ms = millis(now.saturating_add(pause(refused.times, random)));
        return None;
    }
    Some((left, refused.clone()))
}

fn note(state: &mut State, id: &str, failure: Option<&dyn Blame>, now: Duration, random: u32) {
    let Some(error) = failure else {
        state.refused.remove(id);
        return;
    };
    if error.persistence() == Persistence::Temporary {
        // It was not refused again, and has been waited for already.
        if let Some(refused) = state.refused.get_mut(id) {
            refused.until_ms = millis(now);
        }
        return;
    }
    let before = state.refused.get(id).map_or(0, |refused| refused.times);
    let times = before.saturating_add(1);
    let refused = Refused {
        times,
        until_ms: millis(now.saturating_add(pause(times, random))),
        reason: Reason::of(error),
    };
    state.record_refused(id, refused);
}

/// Between a half and the whole of a ceiling that doubles: nodes that were refused together do not come back together.
fn pause(times: u32, random: u32) -> Duration {
    let doublings = times.saturating_sub(1).min(16);
    let ceiling = FIRST
        .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
        .min(LONGEST);
    let half = ceiling.checked_div(2).unwrap_or_default();
    // A part of it, in steps of 2^-32.
    let part = half.as_nanos().saturating_mul(random.into()) >> 32;
    half.saturating_add(Duration::from_nanos(
        u64::try_from(part).unwrap_or(u64::MAX),
    ))
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without random numbers the node waits the middle of the range.
    match OsRng.try_fill_bytes(&mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes),
        Err(_) => u32::MAX / 2,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// As long as `clevis-luks-askpass` takes to come back by itself: one refusal costs nothing.
const FIRST: Duration = Duration::from_secs(5);
/// What an administrator who has just approved the node waits at most.
const LONGEST: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_secs(1);
/// Bytes of a token's digest.
const ID_LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::{FIRST, LONGEST, note, pause, take_turn};
    use crate::state::State;
    use kbs_protocol::{Blame, Owner, Persistence};
    use std::time::Duration;

    #[derive(Debug, thiserror::Error)]
    #[error("no")]
    struct Refusal(Persistence);

    impl Blame for Refusal {
        fn owner(&self) -> Owner {
            Owner::Policy
        }

        fn persistence(&self) -> Persistence {
            self.0
        }

        fn advice(&self) -> String {
            "approve it".to_owned()
        }
    }

    const NO: Refusal = Refusal(Persistence::UntilApproved);
    const AWAY: Refusal = Refusal(Persistence::Temporary);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds).saturating_add(Duration::from_secs(1000))
    }

    /// Seconds until it is the turn of `id`.
    fn left(state: &State, id: &str, now: Duration) -> Option<u64> {
        take_turn(&mut state.clone(), id, now, u32::MAX).map(|(left, _)| left.as_secs())
    }

    #[test]
    fn who_was_never_refused_does_not_wait() {
        let mut state = State::default();
        assert_eq!(left(&state, "a", at(0)), None);
        note(&mut state, "a", Some(&AWAY), at(0), 0);
        assert_eq!(left(&state, "a", at(0)), None);
        note(&mut state, "a", Some(&NO), at(0), 0);
        assert_eq!(left(&state, "b", at(0)), None, "another volume");
    }

    #[test]
    fn each_refusal_doubles_the_pause_up_to_a_limit() {
        let mut state = State::default();
        let mut now = at(0);
        for ceiling in [5, 10, 20, 40, 80, 120, 120] {
            note(&mut state, "a", Some(&NO), now, u32::MAX);
            let waits = left(&state, "a", now).unwrap();
            assert_eq!(waits, ceiling - 1, "just below the ceiling");
            now += Duration::from_secs(ceiling);
            assert_eq!(take_turn(&mut state, "a", now, 0), None);
        }
        let refused = &state.refused["a"];
        assert_eq!((refused.times, refused.reason.exit_code), (7, 14));
        for times in 0..40 {
            assert!(pause(times, 0) >= FIRST / 2 && pause(times, u32::MAX) <= LONGEST);
        }
    }

    #[test]
    fn of_two_that_wait_one_takes_the_turn() {
        let mut state = State::default();
        note(&mut state, "a", Some(&NO), at(0), 0);
        assert_eq!(take_turn(&mut state, "a", at(60), 0), None);
        assert!(take_turn(&mut state, "a", at(60), 0).is_some());
    }

    #[test]
    fn a_server_that_was_away_is_asked_as_soon_as_somebody_asks() {
        let mut state = State::default();
        (0..9).for_each(|_| note(&mut state, "a", Some(&NO), at(0), 0));
        assert_eq!(take_turn(&mut state, "a", at(200), 0), None);
        note(&mut state, "a", Some(&AWAY), at(201), 0);
        assert_eq!(left(&state, "a", at(201)), None);
    }

    #[test]
    fn success_is_forgotten_like_all_before_it() {
        let mut state = State::default();
        (0..9).for_each(|_| note(&mut state, "a", Some(&NO), at(0), 0));
        note(&mut state, "a", None, at(1), 0);
        assert_eq!(left(&state, "a", at(1)), None);
        assert_eq!(state, State::default());
    }

    #[test]
    fn a_time_that_nobody_wrote_holds_nobody_for_ever() {
        let mut state = State::default();
        note(&mut state, "a", Some(&NO), at(0), 0);
        state.refused.get_mut("a").unwrap().until_ms = u64::MAX;
        assert_eq!(left(&state, "a", at(0)), Some(LONGEST.as_secs()));
    }
}

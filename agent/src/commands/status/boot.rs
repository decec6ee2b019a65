// SPDX-License-Identifier: Apache-2.0

//! What this boot has done, and what stands still: the state of the boot, for a person and for a script.

use crate::clock;
use crate::state::{Phase, Reason, RunDirectory, State, StateError, Waiting};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The state of a boot at one moment.
pub(super) struct Boot {
    state: State,
    now: Duration,
}

impl Boot {
    /// `None` where the agent has done nothing in this boot.
    pub(super) fn read() -> Result<Option<Self>, StateError> {
        let Some(run) = RunDirectory::existing()? else {
            return Ok(None);
        };
        let mut state = run.read()?;
        // Who was killed while waiting could not say that it waits no more.
        state.waiting.retain(|_, waiting| lives(waiting));
        Ok(Some(Self {
            state,
            now: clock::since_boot(),
        }))
    }

    /// The exit code of the party that has to act: for what has waited longest, else for what was refused.
    pub(super) fn exit_code(&self) -> Option<u8> {
        let waiting = self.state.waiting.values();
        let longest = waiting.min_by_key(|waiting| waiting.since_ms);
        let refused = self.state.refused.values().next();
        let reason = longest
            .map(|waiting| &waiting.reason)
            .or(refused.map(|refused| &refused.reason));
        reason.map(|reason| reason.exit_code)
    }

    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![(
            "disk secrets",
            match self.state.phase {
                Phase::Open => "can be fetched, until the boot is sealed",
                Phase::Sealed => "sealed: none before the next boot",
            }
            .to_owned(),
        )];
        if let Some(attested) = &self.state.attested {
            let answer = match attested.server.as_str() {
                "" => "no server has answered".to_owned(),
                server => format!("{server} says {}", attested.verdict),
            };
            rows.push((
                "attested",
                format!("{}: {answer}", self.ago(attested.at_ms)),
            ));
        }
        for (name, volume) in &self.state.volumes {
            let source = volume.source.display();
            rows.push((
                "volume",
                format!(
                    "{name} on {source}, open as it was judged, key {}",
                    volume.vk_id
                ),
            ));
        }
        for (name, answered) in &self.state.answered {
            // Confirmed, it is among the volumes.
            if !self.state.volumes.contains_key(name) {
                let source = answered.source.display();
                let text = format!("{name} on {source}: systemd-cryptsetup has its passphrase");
                rows.push(("volume", text));
            }
        }
        for extend in &self.state.extends {
            rows.push(("measured", format!("{}: {}", extend.register, extend.event)));
        }
        for (what, waiting) in &self.state.waiting {
            rows.push((
                "waits",
                format!(
                    "for {what}, for {} s: {}",
                    seconds(
                        self.now
                            .saturating_sub(Duration::from_millis(waiting.since_ms))
                    ),
                    waiting.reason.why
                ),
            ));
            act(&mut rows, &waiting.reason);
            rows.push((
                "next",
                format!(
                    "try {} {}",
                    waiting.tries.saturating_add(1),
                    self.when(waiting.next_ms)
                ),
            ));
        }
        for refused in self.state.refused.values() {
            let why = &refused.reason.why;
            rows.push((
                "refused",
                format!("{} times in a row: {why}", refused.times),
            ));
            act(&mut rows, &refused.reason);
            let when = self.when(refused.until_ms);
            rows.push(("next", format!("asked again {when}, when Clevis asks")));
        }
        rows
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "now_ms": u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX),
            "state": self.state,
        })
    }

    fn ago(&self, at_ms: u64) -> String {
        let ago = self.now.saturating_sub(Duration::from_millis(at_ms));
        format!("{} s ago", seconds(ago))
    }

    fn when(&self, at_ms: u64) -> String {
        let left = Duration::from_millis(at_ms).saturating_sub(self.now);
        match left.is_zero() {
            true => "now".to_owned(),
            false => format!("in {} s", seconds(left)),
        }
    }
}

fn act(rows: &mut Vec<(&'static str, String)>, reason: &Reason) {
    rows.push(("to act", format!("{}: {}", reason.owner, reason.advice)));
}

/// Begun seconds count: "0 s" would say that it is over.
fn seconds(time: Duration) -> u64 {
    time.as_millis()
        .div_ceil(1000)
        .try_into()
        .unwrap_or(u64::MAX)
}

/// Whether the process that wrote this still runs. A younger process may have got its number.
fn lives(waiting: &Waiting) -> bool {
    let stat = Path::new("/proc")
        .join(waiting.pid.to_string())
        .join("stat");
    let started = fs::read_to_string(stat)
        .ok()
        .and_then(|text| started_ms(&text));
    started.is_some_and(|started| started <= waiting.since_ms.saturating_add(TICK_MS))
}

/// `starttime` of proc_pid_stat(5), in milliseconds since the kernel started. The name of the program comes before it, in
/// parentheses, and may hold anything.
fn started_ms(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields
        .split_ascii_whitespace()
        .nth(START_FIELD)?
        .parse()
        .ok()?;
    ticks.checked_mul(TICK_MS)
}

/// Field 22, and the first one after the name is field 3.
const START_FIELD: usize = 19;
/// The kernel tells times to programs in hundredths of a second (USER_HZ), on every architecture with a TEE or an
/// UEFI.
const TICK_MS: u64 = 10;

#[cfg(test)]
mod tests {
    use super::{Boot, lives, started_ms};
    use crate::clock;
    use crate::state::{Phase, Reason, Refused, State, Waiting};
    use std::time::Duration;

    fn reason(exit_code: u8) -> Reason {
        Reason {
            why: "no".to_owned(),
            owner: "policy".to_owned(),
            exit_code,
            advice: "approve it".to_owned(),
        }
    }

    fn waiting(since_ms: u64, exit_code: u8) -> Waiting {
        Waiting {
            pid: std::process::id(),
            since_ms,
            next_ms: 101_500,
            tries: 3,
            reason: reason(exit_code),
        }
    }

    fn text(state: State) -> String {
        let now = Duration::from_secs(100);
        let rows = Boot { state, now }.rows();
        let lines = rows
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"));
        lines.collect()
    }

    #[test]
    fn who_waits_is_shown_with_the_next_step() {
        let mut state = State::default();
        assert_eq!(
            text(state.clone()),
            "disk secrets: can be fetched, until the boot is sealed\n"
        );
        state.record_waiting("default/n/root", waiting(40_000, 14));
        assert_eq!(
            text(state.clone()).lines().skip(1).collect::<Vec<_>>(),
            [
                "waits: for default/n/root, for 60 s: no",
                "to act: policy: approve it",
                "next: try 4 in 2 s",
            ]
        );
        state.waiting.clear();
        state.phase = Phase::Sealed;
        let refused = Refused {
            times: 2,
            until_ms: 99_000,
            reason: reason(14),
        };
        state.record_refused("0a", refused);
        assert_eq!(
            text(state).lines().collect::<Vec<_>>(),
            [
                "disk secrets: sealed: none before the next boot",
                "refused: 2 times in a row: no",
                "to act: policy: approve it",
                "next: asked again now, when Clevis asks",
            ]
        );
    }

    #[test]
    fn the_exit_code_is_that_of_who_holds_it_up_longest() {
        let code = |state: &State| {
            let now = Duration::ZERO;
            let state = state.clone();
            Boot { state, now }.exit_code()
        };
        let mut state = State::default();
        assert_eq!(code(&state), None);
        let refused = Refused {
            times: 1,
            until_ms: 0,
            reason: reason(14),
        };
        state.record_refused("0a", refused);
        assert_eq!(code(&state), Some(14));
        state.record_waiting("b", waiting(7, 12));
        state.record_waiting("a", waiting(8, 13));
        assert_eq!(code(&state), Some(12));
    }

    #[test]
    fn a_killed_process_waits_no_more() {
        let now = u64::try_from(clock::since_boot().as_millis()).unwrap();
        assert!(lives(&waiting(now, 14)));
        assert!(!lives(&waiting(0, 14)), "another process with its number");
        let mut gone = waiting(now, 14);
        gone.pid = u32::MAX;
        assert!(!lives(&gone));
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 1 0 0 0 3 1 0 0 20 0 1 0 4567 1 1";
        assert_eq!(started_ms(stat), Some(45_670));
        assert_eq!(started_ms("7 (a"), None);
    }
}

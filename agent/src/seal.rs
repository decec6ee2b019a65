// SPDX-License-Identifier: Apache-2.0

//! The seal: shuts the door behind the last fetch. `trustee-agent seal` runs it on every way out of the initramfs.
//!
//! A KBS gives a disk's secret to a node whose registers still have the values they have inside the initramfs: PCR 11
//! of a TPM, RTMR 3 of a TD. The seal moves each that this node shows, and nothing but a reset of the machine moves them
//! back. What is booted can then attest, and read what is meant for running nodes, but not fetch the disk's secret.
//!
//! The registers decide, not our memory: a recorded seal that a register does not show is no seal.

use crate::config::{Config, Seal};
use crate::evidence::rtmr::Rtmr3;
use crate::evidence::tpm_pcr::{self, Event, Pcr, extended};
use crate::measure::{EventType, MeasureError, Registers};
use crate::state::{Phase, State, StateError};
use kbs_protocol::Tee;
use kbs_protocol::encoding::hex;
pub use kbs_protocol::seal::{LEAVE, SYSTEMD_LEAVE};
use std::path::Path;

/// How the door was shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// By this call.
    Now,
    /// By an earlier one; the register shows it.
    Before,
    /// By systemd, which has ended its phase.
    BySystemd,
    /// Not at all: the configuration asks for none.
    Not,
}

/// The registers to move: those that this node shows to a KBS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doors<'c> {
    /// PCR 11, and how.
    pub pcr11: Option<Seal>,
    /// RTMR 3, below this root.
    pub rtmr3: Option<&'c Path>,
}

impl<'c> Doors<'c> {
    /// Those of this configuration; none if it asks for no seal.
    pub fn of(config: &'c Config) -> Self {
        let (how, sources) = (config.boot.seal, &config.evidence);
        let wanted = how != Seal::None;
        Self {
            pcr11: (wanted && sources.shows_pcrs()).then_some(how),
            rtmr3: (wanted && sources.all().any(|tee| tee == Tee::Tdx))
                .then_some(sources.root.as_path()),
        }
    }
}

/// Moves each register that has not moved. Calling it again changes nothing.
///
/// A damaged state does not keep the registers from moving, but it is an error: whoever called stops the boot.
///
/// # Errors
/// [`MeasureError`]: then a door may be open, and the machine must not go on.
pub fn seal(doors: Doors<'_>, registers: &Registers<'_>) -> Result<Sealed, MeasureError> {
    if doors.pcr11.is_none() && doors.rtmr3.is_none() {
        return Ok(Sealed::Not);
    }
    let _lock = registers.run.attestation_lock()?;
    let state = match registers.run.read() {
        Ok(state) => state,
        Err(error) => {
            shut_blindly(doors, registers)?;
            return Err(error.into());
        }
    };
    // Both are tried, whatever becomes of one.
    let pcr11 = doors.pcr11.map(|how| seal_pcr11(how, &state, registers));
    let rtmr3 = doors.rtmr3.map(|root| seal_rtmr3(root, &state, registers));
    let done = [pcr11, rtmr3].into_iter().flatten();
    let done = done.collect::<Result<Vec<_>, _>>()?;
    registers.run.update(|state| {
        state.phase = Phase::Sealed;
        Ok::<_, StateError>(())
    })?;
    let first = |how| done.contains(&how).then_some(how);
    Ok(first(Sealed::Now)
        .or(first(Sealed::BySystemd))
        .unwrap_or(Sealed::Before))
}

fn seal_pcr11(how: Seal, state: &State, registers: &Registers<'_>) -> Result<Sealed, MeasureError> {
    let now = tpm_pcr::read(registers.tcti, Pcr::Eleven)?;
    match decide(how, &now, state) {
        Step::Extend(words) => {
            registers.extend(Pcr::Eleven, Event::Words(words), EventType::Phase)?;
            Ok(Sealed::Now)
        }
        Step::Nothing(done) => Ok(done),
    }
}

fn seal_rtmr3(
    root: &Path,
    state: &State,
    registers: &Registers<'_>,
) -> Result<Sealed, MeasureError> {
    let register = Rtmr3::find(root)?;
    let now = hex::encode(register.value()?);
    if state.shows(Rtmr3::NAME, LEAVE, &now) {
        return Ok(Sealed::Before);
    }
    registers.extend_rtmr3(&register, LEAVE)?;
    Ok(Sealed::Now)
}

/// Without a memory, each register moves once more than it may have to.
fn shut_blindly(doors: Doors<'_>, registers: &Registers<'_>) -> Result<(), MeasureError> {
    let pcr11 = doors
        .pcr11
        .map(|_| tpm_pcr::extend(registers.tcti, Pcr::Eleven, Event::Words(LEAVE)));
    let rtmr3 = doors
        .rtmr3
        .map(|root| Rtmr3::find(root)?.extend_by(LEAVE).map(drop));
    pcr11.transpose()?;
    rtmr3.transpose()?;
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Extend(&'static str),
    Nothing(Sealed),
}

/// What is left to do when PCR 11 has the value `now`.
fn decide(how: Seal, now: &[u8; 32], state: &State) -> Step {
    let shown = |words| state.shows(Pcr::Eleven.as_str(), words, &hex::encode(now));
    if shown(LEAVE) || shown(SYSTEMD_LEAVE) {
        return Step::Nothing(Sealed::Before);
    }
    if how == Seal::Pcr11 {
        return Step::Extend(LEAVE);
    }
    // The value with which this boot attested is the one that a disk's secret is given for.
    let attested = state
        .attested
        .as_ref()
        .and_then(|attested| attested.pcr11.as_deref())
        .and_then(|value| <[u8; 32]>::try_from(hex::decode(value)?).ok());
    match attested {
        Some(inside) if *now == extended(&inside, &Event::Words(SYSTEMD_LEAVE).sha256()) => {
            Step::Nothing(Sealed::BySystemd)
        }
        // On the way into an emergency shell systemd ends no phase: say its word, so that the value is a known one.
        Some(inside) if *now == inside => Step::Extend(SYSTEMD_LEAVE),
        _ => Step::Extend(LEAVE),
    }
}

#[cfg(test)]
mod tests {
    use super::{LEAVE, SYSTEMD_LEAVE, Sealed, Step, decide};
    use crate::config::Seal;
    use crate::evidence::tpm_pcr::{Event, extended};
    use crate::state::{Attested, Extend, State};
    use kbs_protocol::encoding::hex;

    fn after(value: [u8; 32], words: &str) -> [u8; 32] {
        extended(&value, &Event::Words(words).sha256())
    }

    fn recorded(words: &str, value: [u8; 32]) -> State {
        let mut state = State::default();
        state.record_extend(Extend {
            register: "pcr11".to_owned(),
            event: words.to_owned(),
            before: hex::encode([0; 32]),
            after: hex::encode(value),
        });
        state
    }

    fn attested(value: [u8; 32]) -> State {
        let mut state = State::default();
        state.attested = Some(Attested {
            at_ms: 1,
            server: "s".to_owned(),
            verdict: "affirming".to_owned(),
            pcr11: Some(hex::encode(value)),
        });
        state
    }

    #[test]
    fn the_register_decides_and_not_the_memory() {
        let sealed = after([0; 32], LEAVE);
        let state = recorded(LEAVE, sealed);
        let before = Step::Nothing(Sealed::Before);
        for how in [Seal::Pcr11, Seal::UkiPhases] {
            assert_eq!(decide(how, &sealed, &state), before);
            // A TPM that was reset behind our back shows zeros again.
            assert_eq!(decide(how, &[0; 32], &state), Step::Extend(LEAVE));
            assert_eq!(
                decide(how, &[0; 32], &State::default()),
                Step::Extend(LEAVE)
            );
        }
        // Other words, or another register, are no seal.
        let other = recorded("enter-initrd", sealed);
        assert_eq!(decide(Seal::Pcr11, &sealed, &other), Step::Extend(LEAVE));
        let mut other = recorded(LEAVE, sealed);
        other.extends[0].register = "pcr15".to_owned();
        assert_eq!(decide(Seal::Pcr11, &sealed, &other), Step::Extend(LEAVE));
    }

    #[test]
    fn on_a_unified_kernel_image_systemds_word_counts() {
        let inside = [7; 32];
        let how = Seal::UkiPhases;
        let left = after(inside, SYSTEMD_LEAVE);
        assert_eq!(
            decide(how, &left, &attested(inside)),
            Step::Nothing(Sealed::BySystemd)
        );
        assert_eq!(
            decide(how, &inside, &attested(inside)),
            Step::Extend(SYSTEMD_LEAVE)
        );
        assert_eq!(
            decide(how, &[9; 32], &attested(inside)),
            Step::Extend(LEAVE)
        );
        assert_eq!(decide(how, &left, &State::default()), Step::Extend(LEAVE));
        // With GRUB nobody ends a phase.
        assert_eq!(
            decide(Seal::Pcr11, &left, &attested(inside)),
            Step::Extend(LEAVE)
        );
        // Said by us on the way into a shell, then by nobody.
        let state = recorded(SYSTEMD_LEAVE, left);
        assert_eq!(decide(how, &left, &state), Step::Nothing(Sealed::Before));
    }
}

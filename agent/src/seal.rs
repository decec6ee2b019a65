// SPDX-License-Identifier: Apache-2.0

//! The seal: shuts the door behind the last fetch. `trustee-agent seal` runs it on every way out of the initramfs.
//!
//! A KBS gives a disk's secret to a node whose PCR 11 still has the value it has inside the initramfs. The seal moves
//! that register, and nothing but a reset of the machine moves it back. What is booted can then attest, and read
//! what is meant for running nodes, but not fetch the disk's secret.
//!
//! The register decides, not our memory: a recorded seal that the register does not show is no seal.

use crate::config::Seal;
use crate::evidence::tpm_pcr::{self, Event, Pcr, extended};
use crate::measure::{EventType, MeasureError, Registers};
use crate::state::{Phase, State, StateError};
use kbs_protocol::encoding::hex;

/// What is measured when the node leaves its initramfs.
pub const LEAVE: &str = "trustee:leave-initrd";

/// What systemd measures there, on a unified kernel image (systemd-pcrphase.service(8)).
pub const SYSTEMD_LEAVE: &str = "leave-initrd";

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

/// Seals as `how` says. Calling it again changes nothing.
///
/// A damaged state does not keep the register from moving, but it is an error: whoever called stops the boot.
///
/// # Errors
/// [`MeasureError`]: then the door may be open, and the machine must not go on.
pub fn seal(how: Seal, registers: &Registers<'_>) -> Result<Sealed, MeasureError> {
    if how == Seal::None {
        return Ok(Sealed::Not);
    }
    let _lock = registers.run.attestation_lock()?;
    let state = match registers.run.read() {
        Ok(state) => state,
        Err(error) => {
            tpm_pcr::extend(registers.tcti, Pcr::Eleven, Event::Words(LEAVE))?;
            return Err(error.into());
        }
    };
    let now = tpm_pcr::read(registers.tcti, Pcr::Eleven)?;
    let done = match decide(how, &now, &state) {
        Step::Extend(words) => {
            registers.extend(Pcr::Eleven, Event::Words(words), EventType::Phase)?;
            Sealed::Now
        }
        Step::Nothing(done) => done,
    };
    registers.run.update(|state| {
        state.phase = Phase::Sealed;
        Ok::<_, StateError>(())
    })?;
    Ok(done)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Extend(&'static str),
    Nothing(Sealed),
}

/// What is left to do when PCR 11 has the value `now`.
fn decide(how: Seal, now: &[u8; 32], state: &State) -> Step {
    let shown = |words| {
        state.extends.iter().any(|e| {
            e.register == Pcr::Eleven.as_str() && e.event == words && e.after == hex::encode(now)
        })
    };
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

// SPDX-License-Identifier: Apache-2.0

//! Faults on demand: everything that can go wrong between a node and its KBS, switched on by
//! `--fault NAME[=ARGUMENT][*TIMES]` or at run time through [`crate::Server::faults`].
//!
//! A fault without `*TIMES` stays until it is cleared. STEP is `auth`, `attest`, `resource`, `admin` or
//! `any`. The list, with examples, is [`FAULT_HELP`].

mod spelling;

pub use spelling::FAULT_HELP;
pub(crate) use spelling::parse_duration;

use crate::wire_error::WireError;
use anyhow::Context as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A part of the protocol at which a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `POST /auth`.
    Auth,
    /// `POST /attest`.
    Attest,
    /// `GET /resource/…`.
    Resource,
    /// Everything else.
    Admin,
    /// Any request.
    Any,
}

impl Step {
    /// The step that a request belongs to.
    pub(crate) fn of(method: &str, path: &str) -> Self {
        let rest = path.strip_prefix("/kbs/v0/").unwrap_or_default();
        match (method, rest.split('/').next()) {
            ("POST", Some("auth")) => Self::Auth,
            ("POST", Some("attest")) => Self::Attest,
            ("GET", Some("resource")) => Self::Resource,
            _ => Self::Admin,
        }
    }

    fn covers(self, step: Self) -> bool {
        self == Self::Any || self == step
    }
}

/// One fault. The meaning of each stands in [`FAULT_HELP`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fault {
    Error(Step, WireError),
    Status(Step, u16),
    DropBefore(Step),
    DropMidBody(Step),
    Delay(Step, Duration),
    HugeBody(Step, u64),
    ExpireSession(Step),
    WrongNonce,
    Nonce(String),
    Session(String),
    ProtocolVersion(String),
    NeverOverwrite,
    SwapResource(String),
    CorruptTag,
    HeaderOrder,
}

/// The faults in force. Shared by the server and whoever holds its handle.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<(Fault, Option<u32>)>>);

impl Faults {
    /// Switches a fault on until [`Faults::clear`].
    pub fn set(&self, fault: Fault) {
        self.with(|active| active.push((fault, None)));
    }

    /// Switches a fault on for the next `times` requests that it concerns.
    pub fn set_times(&self, fault: Fault, times: u32) {
        if times > 0 {
            self.with(|active| active.push((fault, Some(times))));
        }
    }

    /// Switches a fault on as the command line spells it.
    ///
    /// # Errors
    /// When the spelling is wrong; the message says what was expected.
    pub fn set_text(&self, text: &str) -> anyhow::Result<()> {
        let set = || {
            match text.rsplit_once('*') {
                Some((fault, times)) => {
                    let times = times.parse().context("after * comes a number of times")?;
                    self.set_times(fault.parse()?, times);
                }
                None => self.set(text.parse()?),
            }
            anyhow::Ok(())
        };
        set().with_context(|| format!("the fault {text:?} is none of those in `lab-kbs --help`"))
    }

    /// Switches everything off.
    pub fn clear(&self) {
        self.with(Vec::clear);
    }

    pub(crate) fn delay(&self, step: Step) -> Option<Duration> {
        self.take(|fault| match fault {
            Fault::Delay(at, duration) if at.covers(step) => Some(*duration),
            _ => None,
        })
    }

    /// The fault that replaces or cuts the answer to a request.
    pub(crate) fn interruption(&self, step: Step) -> Option<Fault> {
        self.take(|fault| match fault {
            Fault::Error(at, _)
            | Fault::Status(at, _)
            | Fault::DropBefore(at)
            | Fault::DropMidBody(at)
            | Fault::HugeBody(at, _)
                if at.covers(step) =>
            {
                Some(fault.clone())
            }
            _ => None,
        })
    }

    pub(crate) fn session_expired(&self, step: Step) -> bool {
        let expired = |fault: &Fault| match fault {
            Fault::ExpireSession(at) if at.covers(step) => Some(()),
            _ => None,
        };
        self.take(expired).is_some()
    }

    pub(crate) fn fixed_nonce(&self) -> Option<String> {
        self.take(|fault| match fault {
            Fault::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        })
    }

    pub(crate) fn fixed_session(&self) -> Option<String> {
        self.take(|fault| match fault {
            Fault::Session(id) => Some(id.clone()),
            _ => None,
        })
    }

    pub(crate) fn protocol_version(&self) -> Option<String> {
        self.take(|fault| match fault {
            Fault::ProtocolVersion(version) => Some(version.clone()),
            _ => None,
        })
    }

    pub(crate) fn swapped_resource(&self) -> Option<String> {
        self.take(|fault| match fault {
            Fault::SwapResource(path) => Some(path.clone()),
            _ => None,
        })
    }

    pub(crate) fn wrong_nonce(&self) -> bool {
        self.is(&Fault::WrongNonce)
    }

    pub(crate) fn never_overwrite(&self) -> bool {
        self.is(&Fault::NeverOverwrite)
    }

    pub(crate) fn corrupt_tag(&self) -> bool {
        self.is(&Fault::CorruptTag)
    }

    pub(crate) fn header_order(&self) -> bool {
        self.is(&Fault::HeaderOrder)
    }

    fn is(&self, wanted: &Fault) -> bool {
        self.take(|fault| (fault == wanted).then_some(())).is_some()
    }

    /// The first fault that `pick` wants; it counts as used once.
    fn take<T>(&self, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.with(|active| {
            let (at, picked) = active
                .iter()
                .enumerate()
                .find_map(|(at, (fault, _))| Some((at, pick(fault)?)))?;
            if let Some((_, Some(left))) = active.get_mut(at) {
                *left = left.saturating_sub(1);
            }
            active.retain(|(_, left)| *left != Some(0));
            Some(picked)
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Vec<(Fault, Option<u32>)>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Faults, Step};

    #[test]
    fn counted_faults_run_out_and_others_stay() {
        let faults = Faults::default();
        faults.set_text("corrupt-tag*2").unwrap();
        assert_eq!(
            [
                faults.corrupt_tag(),
                faults.corrupt_tag(),
                faults.corrupt_tag()
            ],
            [true, true, false]
        );
        faults.set_text("corrupt-tag").unwrap();
        assert_eq!([faults.corrupt_tag(), faults.corrupt_tag()], [true, true]);
        faults.clear();
        assert!(!faults.corrupt_tag());
        assert!(faults.set_text("corrupt-tag*x").is_err());
    }

    #[test]
    fn a_fault_strikes_its_own_step_only() {
        let faults = Faults::default();
        faults.set_text("drop-before=attest").unwrap();
        assert_eq!(faults.interruption(Step::Auth), None);
        assert_eq!(
            faults.interruption(Step::Attest),
            Some(Fault::DropBefore(Step::Attest))
        );
        faults.set_text("delay=any:1ms").unwrap();
        assert!(faults.delay(Step::Admin).is_some());
    }

    #[test]
    fn steps_of_requests() {
        assert_eq!(Step::of("POST", "/kbs/v0/auth"), Step::Auth);
        assert_eq!(Step::of("POST", "/kbs/v0/attest"), Step::Attest);
        assert_eq!(Step::of("GET", "/kbs/v0/resource/a/b/c"), Step::Resource);
        assert_eq!(Step::of("POST", "/kbs/v0/resource/a/b/c"), Step::Admin);
        assert_eq!(Step::of("GET", "/metrics"), Step::Admin);
    }
}

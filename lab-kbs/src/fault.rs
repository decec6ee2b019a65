// SPDX-License-Identifier: Apache-2.0

//! Faults on demand: everything that can go wrong between a node and its KBS, switched on by
//! `--fault NAME[=ARGUMENT][*TIMES]` or at run time through [`crate::Server::faults`].
//!
//! A fault without `*TIMES` stays until it is cleared. STEP is `auth`, `attest`, `resource`, `admin` or
//! `any`. The list, with examples, is [`FAULT_HELP`].

use crate::wire_error::WireError;
use anyhow::{Context as _, bail};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What `lab-kbs serve --help` says about faults.
pub const FAULT_HELP: &str = "\
  error=STEP:NAME       answer with this refusal of Trustee (names: see below)
  status=STEP:CODE      answer with this HTTP status and a body that is not JSON
  drop-before=STEP      close the connection without an answer
  drop-mid-body=STEP    close the connection in the middle of the answer
  delay=STEP:DURATION   wait first (500ms, 2s, 1m)
  huge-body=STEP:BYTES  answer 200 with this many blanks
  expire-session=STEP   treat every session as expired
  wrong-nonce           challenge with a nonce that the server will not accept
  nonce=BASE64          challenge with this nonce
  session=HEX           name the session so
  protocol-version=V    insist on this protocol version
  never-overwrite       keep the first value of every key (the LocalJson storage before 0.21)
  swap-resource=PATH    release this resource instead of the one asked for
  corrupt-tag           release a JWE whose authentication tag is wrong
  header-order          release a JWE with another member order in its protected header
";

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

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text {
            "auth" => Self::Auth,
            "attest" => Self::Attest,
            "resource" => Self::Resource,
            "admin" => Self::Admin,
            "any" => Self::Any,
            _ => bail!("the step is auth, attest, resource, admin or any, not {text:?}"),
        })
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

impl FromStr for Fault {
    type Err = anyhow::Error;

    /// `NAME[=ARGUMENT]`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, argument) = text.split_once('=').unwrap_or((text, ""));
        let step = || argument.parse::<Step>();
        let parts = || {
            let (step, rest) = argument
                .split_once(':')
                .with_context(|| format!("{name} wants STEP:VALUE, not {argument:?}"))?;
            anyhow::Ok((step.parse::<Step>()?, rest))
        };
        let owned = || {
            anyhow::ensure!(!argument.is_empty(), "{name} wants a value");
            Ok(argument.to_owned())
        };
        let plain = |fault: Self| {
            anyhow::ensure!(argument.is_empty(), "{name} takes no value");
            Ok(fault)
        };
        Ok(match name {
            "error" => {
                let (step, error) = parts()?;
                let error = WireError::by_name(error)
                    .with_context(|| format!("there is no refusal named {error:?}"))?;
                Self::Error(step, error)
            }
            "status" => {
                let (step, code) = parts()?;
                let code = code.parse().ok().filter(|code| (200..600).contains(code));
                Self::Status(
                    step,
                    code.context("the status is a number from 200 to 599")?,
                )
            }
            "drop-before" => Self::DropBefore(step()?),
            "drop-mid-body" => Self::DropMidBody(step()?),
            "delay" => {
                let (step, duration) = parts()?;
                Self::Delay(step, parse_duration(duration)?)
            }
            "huge-body" => {
                let (step, bytes) = parts()?;
                Self::HugeBody(
                    step,
                    bytes.parse().context("the length is a number of bytes")?,
                )
            }
            "expire-session" => Self::ExpireSession(step()?),
            "wrong-nonce" => plain(Self::WrongNonce)?,
            "nonce" => Self::Nonce(owned()?),
            "session" => Self::Session(owned()?),
            "protocol-version" => Self::ProtocolVersion(owned()?),
            "never-overwrite" => plain(Self::NeverOverwrite)?,
            "swap-resource" => Self::SwapResource(owned()?),
            "corrupt-tag" => plain(Self::CorruptTag)?,
            "header-order" => plain(Self::HeaderOrder)?,
            _ => bail!("there is no fault named {name:?}"),
        })
    }
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
        match text.rsplit_once('*') {
            Some((fault, times)) => {
                let times = times.parse().context("after * comes a number of times")?;
                self.set_times(fault.parse()?, times);
            }
            None => self.set(text.parse()?),
        }
        Ok(())
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

/// An integer with `ms`, `s` or `m`.
pub(crate) fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let number: u64 = digits
        .parse()
        .with_context(|| format!("{text:?} is not a duration"))?;
    match text.strip_prefix(digits) {
        Some("ms") => Ok(Duration::from_millis(number)),
        Some("s") => Ok(Duration::from_secs(number)),
        Some("m") => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => bail!("{text:?} is not a duration such as 500ms, 2s or 1m"),
    }
}

#[cfg(test)]
mod tests {
    use super::{FAULT_HELP, Fault, Faults, Step, parse_duration};
    use crate::wire_error::WireError;
    use std::time::Duration;

    #[test]
    fn spellings() {
        for (text, fault) in [
            (
                "error=attest:policy-deny",
                Fault::Error(Step::Attest, WireError::PolicyDeny),
            ),
            ("status=any:500", Fault::Status(Step::Any, 500)),
            (
                "delay=auth:2s",
                Fault::Delay(Step::Auth, Duration::from_secs(2)),
            ),
            ("huge-body=resource:10", Fault::HugeBody(Step::Resource, 10)),
            ("nonce=AA+/==", Fault::Nonce("AA+/==".into())),
            ("corrupt-tag", Fault::CorruptTag),
        ] {
            assert_eq!(text.parse::<Fault>().unwrap(), fault, "{text}");
        }
        for bad in [
            "",
            "nonsense",
            "error=attest",
            "error=attest:nonsense",
            "error=nowhere:attest",
            "status=any:99",
            "status=any:x",
            "delay=auth:2",
            "delay=auth:s",
            "huge-body=any:-1",
            "nonce=",
            "corrupt-tag=1",
            "drop-before",
            "drop-before=nowhere",
        ] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_help_names_every_fault() {
        for name in FAULT_HELP
            .lines()
            .filter_map(|line| line.split([' ', '=']).find(|w| !w.is_empty()))
        {
            let error = name
                .parse::<Fault>()
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(!error.contains("no fault named"), "{name}");
        }
        assert_eq!(FAULT_HELP.lines().count(), 15);
    }

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

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("1m").unwrap(), Duration::from_secs(60));
        for bad in ["", "1", "s", "1h", "-1s", "1.5s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}

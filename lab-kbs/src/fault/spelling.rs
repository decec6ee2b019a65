// SPDX-License-Identifier: Apache-2.0

//! How faults are written on the command line, and the help that lists them.

use super::{Fault, Step};
use crate::wire_error::WireError;
use anyhow::{Context as _, bail};
use std::str::FromStr;
use std::time::Duration;

/// What `lab-kbs serve --help` says about faults.
pub const FAULT_HELP: &str = "\
\x20 error=STEP:NAME       answer with this refusal of Trustee (names: see below)
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
    use super::{FAULT_HELP, parse_duration};
    use crate::fault::{Fault, Step};
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
    fn durations() {
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("1m").unwrap(), Duration::from_secs(60));
        for bad in ["", "1", "s", "1h", "-1s", "1.5s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}

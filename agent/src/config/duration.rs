// SPDX-License-Identifier: Apache-2.0

//! Durations in `agent.toml`: an integer with its unit, `ms`, `s`, `m` or `h`. Only `config` reads this.

use super::{ConfigError, Problem};
use std::time::Duration;

/// Any duration up to a day.
pub(super) fn parse(key: &'static str, text: &str) -> Result<Duration, ConfigError> {
    read(text)
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| wrong(key, text, "expected an integer with its unit, at most 24h"))
}

/// A duration that must not be zero.
pub(super) fn positive(key: &'static str, text: &str) -> Result<Duration, ConfigError> {
    match parse(key, text)? {
        Duration::ZERO => Err(wrong(
            key,
            text,
            "expected more than nothing: no answer is that fast",
        )),
        duration => Ok(duration),
    }
}

/// A deadline, of which zero means none.
pub(super) fn deadline(key: &'static str, text: &str) -> Result<Option<Duration>, ConfigError> {
    Ok(Some(parse(key, text)?).filter(|duration| !duration.is_zero()))
}

fn read(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let seconds = match text.get(digits.len()..)? {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

fn wrong(key: &'static str, text: &str, what: &str) -> ConfigError {
    ConfigError::value(
        key,
        text,
        Problem::new(what, "write \"500ms\", \"2s\", \"10m\" or \"1h\""),
    )
}

const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::{deadline, parse, positive};
    use std::time::Duration;

    #[test]
    fn readings() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("500ms", 500),
            ("2s", 2_000),
            ("10m", 600_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(
                parse("k", text).unwrap(),
                Duration::from_millis(milliseconds),
                "{text}"
            );
        }
        let too_big = format!("{}m", u64::MAX);
        for text in [
            "", "s", "5", "-1s", "+1s", "1.5s", "1 s", "1S", "1d", "25h", "1s1", "1ms1s", &too_big,
        ] {
            assert!(parse("k", text).is_err(), "{text}");
        }
    }

    #[test]
    fn zero_is_a_deadline_of_none_and_no_time_limit() {
        assert_eq!(deadline("k", "0s").unwrap(), None);
        assert_eq!(deadline("k", "1s").unwrap(), Some(Duration::from_secs(1)));
        assert!(positive("k", "0ms").is_err());
    }
}

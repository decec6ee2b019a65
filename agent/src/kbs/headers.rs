// SPDX-License-Identifier: Apache-2.0

//! The four response headers that matter to us, read without trust. Only `http` calls this.

use kbs_protocol::message::COOKIE_NAME;
use reqwest::header::{HeaderMap, HeaderName, SET_COOKIE};
use std::time::{Duration, SystemTime};

/// The session cookie, as `name=value`. A value that could not stand in a header is none.
pub(super) fn session_cookie(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(SET_COOKIE)
        .iter()
        .filter_map(|value| {
            value
                .to_str()
                .ok()?
                .split(';')
                .next()?
                .trim()
                .split_once('=')
        })
        .find(|(name, value)| {
            *name == COOKIE_NAME
                && (1..=COOKIE_LIMIT).contains(&value.len())
                && value
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b'"' | b'\\'))
        })
        .map(|(name, value)| format!("{name}={value}"))
}

/// RFC 9110 section 10.2.3: seconds, or a date; bounded, because a server's mistake must not stop a node.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let asked = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value)
            .ok()?
            .duration_since(now)
            .ok()?,
    };
    Some(asked.min(LONGEST_RETRY_AFTER))
}

/// `later - earlier` in whole seconds, negative when the names are wrong.
pub(super) fn seconds_between(earlier: SystemTime, later: SystemTime) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match later.duration_since(earlier) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => seconds(behind.duration()).saturating_neg(),
    }
}

pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(ToOwned::to_owned)
}

const COOKIE_LIMIT: usize = 256;
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use super::{retry_after, seconds_between, session_cookie};
    use reqwest::header::{HeaderMap, HeaderValue, SET_COOKIE};
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn the_session_cookie_among_others() {
        let cookie = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(SET_COOKIE, HeaderValue::from_str(line).unwrap());
            }
            session_cookie(&headers)
        };
        let good = "kbs-session-id=0a1b; Expires=Wed, 21 Oct 2099 07:28:00 GMT";
        assert_eq!(cookie(&[good]).as_deref(), Some("kbs-session-id=0a1b"));
        assert_eq!(
            cookie(&["sticky=1; Path=/", good]).as_deref(),
            Some("kbs-session-id=0a1b")
        );
        let long = format!("kbs-session-id={}", "a".repeat(257));
        for bad in [
            "",
            "kbs-session-id",
            "kbs-session-id=",
            "other=1",
            "KBS-SESSION-ID=1",
            "kbs-session-id=a b",
            "kbs-session-id=a,b",
            "kbs-session-id=\"a\"",
            &long,
        ] {
            assert_eq!(cookie(&[bad]), None, "{bad}");
        }
    }

    #[test]
    fn retry_after_in_seconds_and_as_a_date_but_never_for_ever() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let asked = |value| retry_after(value, now).map(|d| d.as_secs());
        assert_eq!(asked("120"), Some(120));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10));
        assert_eq!(asked("4000000000"), Some(600));
        for nothing in ["", "-1", "soon", "Sun, 06 Nov 1994 08:49:27 GMT"] {
            assert_eq!(asked(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn skew_has_a_sign() {
        let (a, b) = (UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(90));
        assert_eq!((seconds_between(a, b), seconds_between(b, a)), (90, -90));
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The wall clock, in the two spellings the protocol uses. Called by sessions and tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// An HTTP date (IMF-fixdate, RFC 9110 section 5.6.7).
pub(crate) fn http_date(unix_seconds: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_secs(unix_seconds)) {
        // The formatter knows years up to 9999 and panics beyond.
        Some(time) if unix_seconds < LAST_HTTP_SECOND => httpdate::fmt_http_date(time),
        _ => httpdate::fmt_http_date(UNIX_EPOCH),
    }
}

/// 9999-12-31T00:00:00Z.
const LAST_HTTP_SECOND: u64 = 253_402_214_400;

#[cfg(test)]
mod tests {
    use super::http_date;

    #[test]
    fn dates_have_the_form_of_the_cookie() {
        assert_eq!(http_date(1_795_415_355), "Mon, 23 Nov 2026 06:29:15 GMT");
        assert_eq!(
            http_date(u64::MAX),
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "no panic"
        );
    }
}

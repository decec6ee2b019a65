// SPDX-License-Identifier: Apache-2.0

//! How often one address may ask: a bucket of tokens for each, refilled at a steady rate.

use kbs_protocol::enroll::{Refusal, RefusalKind};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, SystemTime};

/// Where a request comes from, as coarse as somebody who changes addresses needs it: an IPv4 address, or
/// the /64 network of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The buckets. At most [`MOST_SOURCES`]: then those that are full again, and with them nothing known, are
/// forgotten, and if none is, newcomers wait.
#[derive(Debug)]
pub struct Limiter {
    each_minute: u32,
    buckets: HashMap<Source, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// In units of 1/60000 request, so that a millisecond at one request a minute counts.
    level: u64,
    at: SystemTime,
}

impl Limiter {
    /// So many requests a minute from each address, at once or spread.
    pub fn new(each_minute: u32) -> Self {
        Self {
            each_minute,
            buckets: HashMap::new(),
        }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// [`RefusalKind::TooManyRequests`], or [`RefusalKind::Busy`] when too many addresses are active.
    pub fn admit(&mut self, source: Source, now: SystemTime) -> Result<(), Refusal> {
        let most = u64::from(self.each_minute).saturating_mul(REQUEST);
        if !self.buckets.contains_key(&source) && self.buckets.len() >= MOST_SOURCES {
            let each_minute = self.each_minute;
            self.buckets
                .retain(|_, bucket| bucket.refilled(each_minute, now).level < most);
            if self.buckets.len() >= MOST_SOURCES {
                return Err(Refusal::new(
                    RefusalKind::Busy,
                    "too many addresses ask at once",
                ));
            }
        }
        let full = Bucket {
            level: most,
            at: now,
        };
        let bucket = self.buckets.entry(source).or_insert(full);
        *bucket = bucket.refilled(self.each_minute, now);
        match bucket.level.checked_sub(REQUEST) {
            Some(left) => {
                bucket.level = left;
                Ok(())
            }
            None => Err(Refusal::new(
                RefusalKind::TooManyRequests,
                format!("at most {} a minute from {source}", self.each_minute),
            )),
        }
    }
}

impl Bucket {
    /// A clock that was set back gives nothing and takes nothing.
    fn refilled(self, each_minute: u32, now: SystemTime) -> Self {
        let passed = now.duration_since(self.at).unwrap_or(Duration::ZERO);
        let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let most = u64::from(each_minute).saturating_mul(REQUEST);
        let gained = passed.saturating_mul(each_minute.into());
        Self {
            level: self.level.saturating_add(gained).min(most),
            at: now,
        }
    }
}

/// Milliseconds of a minute: what one request costs when each millisecond earns `each_minute`.
const REQUEST: u64 = 60_000;
/// About 1 MiB of buckets.
const MOST_SOURCES: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::{Limiter, MOST_SOURCES, Source};
    use kbs_protocol::enroll::RefusalKind;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::time::{Duration, SystemTime};

    fn source(number: u32) -> Source {
        IpAddr::V4(Ipv4Addr::from(number)).into()
    }

    #[test]
    fn each_address_has_its_own_minute() {
        let mut limiter = Limiter::new(3);
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for _ in 0..3 {
            limiter.admit(source(1), begin).unwrap();
        }
        let refusal = limiter.admit(source(1), begin).unwrap_err();
        assert_eq!(refusal.error, RefusalKind::TooManyRequests);
        limiter.admit(source(2), begin).unwrap();

        let almost = begin + Duration::from_millis(19_999);
        assert!(limiter.admit(source(1), almost).is_err());
        limiter
            .admit(source(1), begin + Duration::from_secs(20))
            .unwrap();
        assert!(
            limiter
                .admit(source(1), begin + Duration::from_secs(20))
                .is_err()
        );
        // A year later the bucket holds a minute's worth, not a year's.
        let year = begin + Duration::from_secs(31_536_000);
        for _ in 0..3 {
            limiter.admit(source(1), year).unwrap();
        }
        assert!(limiter.admit(source(1), year).is_err());
        // The clock goes back: nothing breaks, and time starts to count from there.
        assert!(limiter.admit(source(1), begin).is_err());
        limiter
            .admit(source(1), begin + Duration::from_secs(20))
            .unwrap();
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_idle() {
        let mut limiter = Limiter::new(1);
        let now = SystemTime::UNIX_EPOCH;
        for number in 0..u32::try_from(MOST_SOURCES).unwrap() {
            limiter.admit(source(number), now).unwrap();
        }
        let refusal = limiter.admit(source(u32::MAX), now).unwrap_err();
        assert_eq!(refusal.error, RefusalKind::Busy);
        limiter
            .admit(source(u32::MAX), now + Duration::from_secs(61))
            .unwrap();
        assert_eq!(limiter.buckets.len(), 1);
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(
            Source::from(IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped())),
            of("127.0.0.1")
        );
        assert_ne!(
            Source::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            of("127.0.0.1")
        );
    }
}

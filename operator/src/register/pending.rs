// SPDX-License-Identifier: Apache-2.0

//! Enrolments between their two requests: few, short-lived, each good for one answer.

use super::config::Limits;
use super::keys::EkDigest;
use super::limit::Source;
use kbs_protocol::Secret;
use kbs_protocol::enroll::{Refusal, RefusalKind};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// What has to be remembered while the node's TPM works.
pub struct Enrolment {
    /// What the TPM will find in the credential.
    pub secret: Secret,
    /// The endorsement key that the credential was made for.
    pub ek_sha256: EkDigest,
    /// DER SubjectPublicKeyInfo of the attestation key whose name is in the credential.
    pub ak_spki: Vec<u8>,
    /// What the machine calls itself.
    pub product: Option<String>,
}

/// The table. When it is full, newcomers wait: throwing out the oldest would let whoever floods the table
/// throw out everybody.
pub struct Pending {
    most: usize,
    most_of_one: usize,
    time: Duration,
    entries: HashMap<String, Entry>,
}

struct Entry {
    source: Source,
    begun: SystemTime,
    enrolment: Enrolment,
}

impl Pending {
    /// An empty table of the configured size.
    pub fn new(limits: &Limits) -> Self {
        Self {
            most: limits.pending,
            most_of_one: limits.pending_per_address,
            time: limits.pending_time,
            entries: HashMap::new(),
        }
    }

    /// Remembers an enrolment under an id that nobody guesses.
    ///
    /// # Errors
    /// [`RefusalKind::TooManyRequests`] when this address has its share already, [`RefusalKind::Busy`] when
    /// the table is full.
    pub fn insert(
        &mut self,
        id: String,
        source: Source,
        enrolment: Enrolment,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let time = self.time;
        self.entries.retain(|_, entry| entry.is_alive(time, now));
        let of_this = self
            .entries
            .values()
            .filter(|entry| entry.source == source)
            .count();
        if of_this >= self.most_of_one {
            let detail = format!("{of_this} enrolments from {source} are unfinished");
            return Err(Refusal::new(RefusalKind::TooManyRequests, detail));
        }
        if self.entries.len() >= self.most {
            let detail = format!("{} enrolments are unfinished", self.entries.len());
            return Err(Refusal::new(RefusalKind::Busy, detail));
        }
        let entry = Entry {
            source,
            begun: now,
            enrolment,
        };
        self.entries.insert(id, entry);
        Ok(())
    }

    /// Takes the enrolment out, if it is there and young enough. There is no second answer.
    pub fn take(&mut self, id: &str, now: SystemTime) -> Option<Enrolment> {
        let entry = self.entries.remove(id)?;
        entry.is_alive(self.time, now).then_some(entry.enrolment)
    }
}

impl Entry {
    /// An entry from the future comes from a clock that was set back; its time is over.
    fn is_alive(&self, time: Duration, now: SystemTime) -> bool {
        now.duration_since(self.begun).is_ok_and(|age| age <= time)
    }
}

#[cfg(test)]
mod tests {
    use super::{Enrolment, Pending};
    use crate::register::config::Limits;
    use crate::register::limit::Source;
    use kbs_protocol::Secret;
    use kbs_protocol::enroll::RefusalKind;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, SystemTime};

    fn enrolment() -> Enrolment {
        Enrolment {
            secret: Secret::new(vec![1]),
            ek_sha256: [0; 32],
            ak_spki: Vec::new(),
            product: None,
        }
    }

    fn source(last: u8) -> Source {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)).into()
    }

    fn table() -> Pending {
        Pending::new(&Limits {
            pending: 3,
            pending_per_address: 2,
            pending_time: Duration::from_secs(60),
            ..Limits::default()
        })
    }

    #[test]
    fn the_table_is_bounded_for_all_and_for_each() {
        let (mut table, now) = (table(), SystemTime::UNIX_EPOCH);
        let mut insert = |id: &str, from, now| {
            table
                .insert(id.to_owned(), source(from), enrolment(), now)
                .map_err(|refusal| refusal.error)
        };
        insert("a", 1, now).unwrap();
        insert("b", 1, now).unwrap();
        assert_eq!(insert("c", 1, now), Err(RefusalKind::TooManyRequests));
        insert("d", 2, now).unwrap();
        assert_eq!(insert("e", 3, now), Err(RefusalKind::Busy));
        // The old ones make room.
        insert("f", 3, now + Duration::from_secs(61)).unwrap();
    }

    #[test]
    fn an_enrolment_is_answered_once_and_in_time() {
        let (mut table, now) = (table(), SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        for id in ["used", "late", "early"] {
            let source = source(u8::try_from(id.len()).unwrap());
            table
                .insert(id.to_owned(), source, enrolment(), now)
                .unwrap();
        }
        assert!(table.take("other", now).is_none());
        assert!(table.take("used", now + Duration::from_secs(60)).is_some());
        assert!(table.take("used", now).is_none());
        assert!(table.take("late", now + Duration::from_secs(61)).is_none());
        assert!(table.take("late", now).is_none(), "gone for good");
        assert!(table.take("early", now - Duration::from_secs(1)).is_none());
    }
}

// SPDX-License-Identifier: Apache-2.0

//! How many machines stand how, without counting them anew after each change.

use crate::controllers::api::Phase;
use std::collections::BTreeMap;

/// The phase of each machine that was judged, and how many there are of each.
#[derive(Debug, Default)]
pub(super) struct Phases {
    of: BTreeMap<String, Phase>,
    counts: BTreeMap<Phase, u64>,
}

impl Phases {
    pub(super) fn set(&mut self, name: &str, phase: Phase) {
        self.forget(name);
        self.of.insert(name.to_owned(), phase);
        let count = self.counts.entry(phase).or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Some(phase) = self.of.remove(name) {
            let count = self.counts.entry(phase).or_default();
            *count = count.saturating_sub(1);
        }
    }

    pub(super) fn count(&self, phase: Phase) -> u64 {
        self.counts.get(&phase).copied().unwrap_or_default()
    }

    /// Machines that get their secrets when they attest.
    pub(super) fn served(&self) -> u64 {
        let served = Phase::ALL.into_iter().filter(|phase| phase.is_served());
        served.map(|phase| self.count(phase)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Phases;
    use crate::controllers::api::Phase;

    #[test]
    fn counts_follow_each_change() {
        let mut phases = Phases::default();
        phases.set("a", Phase::Registered);
        phases.set("b", Phase::Served);
        phases.set("a", Phase::Rotating);
        phases.set("a", Phase::Rotating);
        assert_eq!(phases.served(), 2);
        assert_eq!(phases.count(Phase::Registered), 0);
        phases.forget("a");
        phases.forget("a");
        assert_eq!(phases.served(), 1);
        phases.set("b", Phase::Refused);
        assert_eq!((phases.served(), phases.count(Phase::Refused)), (0, 1));
    }
}

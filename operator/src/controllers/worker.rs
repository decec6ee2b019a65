// SPDX-License-Identifier: Apache-2.0

//! The one thread that writes. It takes in what was seen, however much that is, and then makes a round: plan
//! the part that can have changed, carry it out, say how things stand. A round that fails is made again, later
//! and later; what it left undone is not forgotten.

mod carry_out;
mod intake;
mod phases;
mod report;
mod round;
mod seen;

use super::deploy::{Deployer, Objects};
use super::images::{Again, Scanner};
use super::inventory::{Dirty, Inventory};
use super::keeper::Keeper;
use super::metrics::Metrics;
use super::record::Record;
use super::status::Writer;
use super::watch::Seen;
use super::{Error, Settings, log};
use kbs_protocol::Blame as _;
use kube::Client;
use phases::Phases;
use seen::Pictures;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// All that a round needs.
pub struct Worker {
    settings: Settings,
    metrics: Metrics,
    client: Client,
    namespace: String,
    runtime: Handle,
    held: Arc<AtomicBool>,
    writer: Writer,
    deployer: Deployer,
    scanner: Scanner,
    /// What the scanner has not been told yet.
    again: Option<Again>,
    keeper: Keeper,
    record: Option<(String, Record)>,
    inventory: Inventory,
    dirty: Dirty,
    /// Kinds of which everything was listed once.
    listed: BTreeSet<&'static str>,
    leading: bool,
    phases: Phases,
    pictures: Pictures,
    failures: u32,
    next_try: Instant,
    next_probe: Instant,
    next_refresh: Instant,
    next_resync: Instant,
}

/// What a round does because its time has come.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// Ask the KBS whose it is.
    probe: bool,
    /// Write policies again, compare values.
    refresh: bool,
    /// Plan and report everything, as if it had just changed.
    resync: bool,
}

impl Worker {
    /// For one namespace.
    pub fn new(
        settings: &Settings,
        metrics: Metrics,
        (client, namespace, runtime): (&Client, &str, &Handle),
        objects: Objects,
        held: Arc<AtomicBool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            settings: settings.clone(),
            metrics,
            writer: Writer::new(client, namespace, &settings.identity, runtime),
            deployer: Deployer::new(client, namespace, runtime, objects),
            scanner: Scanner::start(settings, client, namespace, runtime, Arc::clone(&held)),
            again: None,
            keeper: Keeper::new(client, namespace, runtime, settings.kbs_address),
            client: client.clone(),
            namespace: namespace.to_owned(),
            runtime: runtime.clone(),
            held,
            record: None,
            inventory: Inventory::default(),
            dirty: Dirty::default(),
            listed: BTreeSet::new(),
            leading: false,
            phases: Phases::default(),
            pictures: Pictures::default(),
            failures: 0,
            next_try: now,
            next_probe: now,
            next_refresh: now,
            next_resync: later(now, settings.resync),
        }
    }

    /// Works until somebody says stop.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Blind`].
    pub fn run(mut self, seen: &Receiver<Seen>) -> Result<(), Error> {
        loop {
            let first = seen.recv_timeout(self.wait());
            let mut next = match first {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Blind),
            };
            while let Some(event) = next {
                match event {
                    Seen::Stop => return Ok(()),
                    Seen::LeaseLost(why) => return Err(Error::LeaseLost(why)),
                    other => self.take_in(other),
                }
                next = seen.try_recv().ok();
            }
            if self.may_work()
                && let Some(again) = self.again.take()
            {
                self.scanner.order(&self.inventory, again);
            }
            if self.may_work() && Instant::now() >= self.next_try {
                self.attempt();
            }
        }
    }

    /// Before everything was listed, whatever is not known yet would be taken for deleted.
    fn may_work(&self) -> bool {
        self.leading && self.listed.len() == KINDS
    }

    /// Until something is due. What is seen ends it earlier.
    fn wait(&self) -> Duration {
        let timers = [self.next_probe, self.next_refresh, self.next_resync];
        let due = match (self.dirty.is_empty(), timers.into_iter().min()) {
            (true, Some(first)) => first.max(self.next_try),
            _ => self.next_try,
        };
        let wait = due.saturating_duration_since(Instant::now());
        match self.may_work() {
            true => wait.clamp(Duration::from_millis(1), LONGEST_WAIT),
            false => LONGEST_WAIT,
        }
    }

    /// One round, and what follows from its end.
    fn attempt(&mut self) {
        let now = Instant::now();
        let due = Due {
            probe: now >= self.next_probe,
            refresh: now >= self.next_refresh,
            resync: now >= self.next_resync,
        };
        if self.dirty.is_empty() && !due.probe && !due.refresh && !due.resync {
            return;
        }
        // What is seen from now on waits in the channel, for the round after this one.
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.all |= due.resync;
        let ended = self.round(&mut dirty, due);
        let after = Instant::now();
        let result = match &ended {
            Ok(()) => Ok(()),
            Err(error) => Err(error.owner()),
        };
        self.metrics
            .round(after.saturating_duration_since(now), result);
        if let Err(error) = ended {
            self.report_waiting(&dirty, &error);
            self.dirty.merge(dirty);
            // Whatever was half done is looked at again, whole.
            self.dirty.all = true;
            self.keeper.disconnect();
            self.record = None;
            self.failures = self.failures.saturating_add(1);
            let shift = self.failures.min(LONGEST_SHIFT);
            self.next_try = later(after, SHORTEST.saturating_mul(1 << shift));
            log(format_args!("{error}; {}", error.advice()));
            self.report_failure(&error);
        } else {
            self.failures = 0;
        }
        if due.probe {
            self.next_probe = later(after, self.settings.probe);
        }
        if due.refresh {
            self.next_refresh = later(after, self.settings.refresh);
        }
        if due.resync {
            self.look_through(Again::Settled);
            self.next_resync = later(after, self.settings.resync);
        }
    }
}

/// A time that the clock cannot hold is now.
fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

/// Cluster, image, machine, key.
const KINDS: usize = 4;
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(250);
/// 250 ms, doubled so often: 8 s. A KBS that comes back is looked after within ten.
const LONGEST_SHIFT: u32 = 5;

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! What a monitoring system can ask a running operator (`run --metrics ADDRESS`), as Prometheus' text format. The
//! alerts and the dashboard of `operator/deploy/monitoring` name these and no others.
//!
//! Every label has a few values that are written down here: none names a machine, an image, a path or a key. So
//! the answer is equally long in every cluster, and nothing that somebody wrote into an object gets into it.

mod serve;

pub use serve::{ListenError, Listener};

use super::api::Phase;
use kbs_protocol::Owner;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The figures of one operator; its copies are the same figures.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Figures>>);

/// What is counted. All zero in the beginning.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Whether this operator holds the lease.
    pub leading: bool,
    /// Machines, by [`Phase`] in its order.
    pub machines: [u64; Phase::ALL.len()],
    /// Images that approve something, and those that approve nothing.
    pub images: [u64; 2],
    /// Whether the KBS answered when it was asked last.
    pub kbs_up: bool,
    /// Changes of the KBS that it confirmed.
    pub kbs_writes: u64,
    /// How often it had lost its storage.
    pub storage_lost: u64,
    /// Values in it that somebody else had changed.
    pub foreign_changes: u64,
    /// Rounds that did what was due.
    pub rounds: u64,
    /// Rounds that failed, by who has to act, in the order of [`Owner::ALL`].
    pub failures: [u64; Owner::ALL.len()],
    /// How long all rounds took together.
    pub busy: Duration,
    /// When the last round did what was due.
    pub last_round: Option<SystemTime>,
    /// How often a watch had to begin again.
    pub watch_failures: u64,
}

impl Metrics {
    /// Changes some.
    pub fn note(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A round has ended.
    pub fn round(&self, took: Duration, ended: Result<(), Owner>) {
        self.note(|figures| {
            figures.busy = figures.busy.saturating_add(took);
            match ended {
                Ok(()) => {
                    figures.rounds = figures.rounds.saturating_add(1);
                    figures.last_round = Some(SystemTime::now());
                }
                Err(owner) => {
                    let counts = Owner::ALL.iter().zip(&mut figures.failures);
                    for (_, count) in counts.filter(|(known, _)| **known == owner) {
                        *count = count.saturating_add(1);
                    }
                }
            }
        });
    }

    /// The answer to `GET /metrics`.
    pub fn text(&self) -> String {
        let figures = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut page = Page(String::new());
        let one = |value: bool| u64::from(value).to_string();
        let version = env!("CARGO_PKG_VERSION");
        page.family(
            "sheepfold_build_info",
            "gauge",
            "Always 1; which version this is.",
        );
        page.sample("sheepfold_build_info", &[("version", version)], "1");
        page.plain(
            "sheepfold_leading",
            "gauge",
            "1 while this operator holds the lease.",
            &one(figures.leading),
        );
        page.family(
            "sheepfold_machines",
            "gauge",
            "Machines by phase, as their status says.",
        );
        for (phase, count) in Phase::ALL.iter().zip(figures.machines) {
            let phase = format!("{phase:?}");
            page.sample(
                "sheepfold_machines",
                &[("phase", &phase)],
                &count.to_string(),
            );
        }
        page.family(
            "sheepfold_images",
            "gauge",
            "ApprovedImages that approve something, and those that do not.",
        );
        for (state, count) in ["committed", "unusable"].iter().zip(figures.images) {
            page.sample("sheepfold_images", &[("state", state)], &count.to_string());
        }
        page.plain(
            "sheepfold_kbs_up",
            "gauge",
            "1 if the KBS answered when it was asked last.",
            &one(figures.kbs_up),
        );
        page.plain(
            "sheepfold_kbs_writes_total",
            "counter",
            "Changes that the KBS confirmed.",
            &figures.kbs_writes.to_string(),
        );
        page.plain(
            "sheepfold_kbs_storage_lost_total",
            "counter",
            "How often the KBS had lost its storage.",
            &figures.storage_lost.to_string(),
        );
        page.plain(
            "sheepfold_kbs_foreign_changes_total",
            "counter",
            "Values of the KBS that somebody else had changed.",
            &figures.foreign_changes.to_string(),
        );
        page.family(
            "sheepfold_rounds_total",
            "counter",
            "Rounds by result: done, or who has to act.",
        );
        page.sample(
            "sheepfold_rounds_total",
            &[("result", "done")],
            &figures.rounds.to_string(),
        );
        for (owner, count) in Owner::ALL.iter().zip(figures.failures) {
            page.sample(
                "sheepfold_rounds_total",
                &[("result", owner.as_str())],
                &count.to_string(),
            );
        }
        let seconds = figures.busy.as_secs_f64().to_string();
        page.plain(
            "sheepfold_busy_seconds_total",
            "counter",
            "Time spent in rounds.",
            &seconds,
        );
        let last = figures
            .last_round
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let last = last.unwrap_or_default().as_secs().to_string();
        page.plain(
            "sheepfold_last_round_timestamp_seconds",
            "gauge",
            "When a round last did what was due.",
            &last,
        );
        page.plain(
            "sheepfold_watch_failures_total",
            "counter",
            "How often a watch had to begin again.",
            &figures.watch_failures.to_string(),
        );
        let memory = resident().to_string();
        page.plain(
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            &memory,
        );
        page.0
    }
}

/// The format, version 0.0.4: `# HELP`, `# TYPE`, then samples.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn plain(&mut self, name: &str, kind: &str, help: &str, value: &str) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// As proc(5) tells it; 0 where it does not.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default().saturating_mul(1024)
}

#[cfg(test)]
mod tests;

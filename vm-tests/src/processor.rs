// SPDX-License-Identifier: Apache-2.0
//! What a process has had of the processors, and how long it stood in line for them. On a machine that also does something
//! else the first is what can be compared, and seconds on a clock are not.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// In seconds, user and system together.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// Of the process itself.
    pub own: f64,
    /// Of its children that have ended and were waited for, and of theirs.
    pub children: f64,
}

impl Account {
    /// The kernel's account of a process that was not waited for yet.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(process: u32) -> Result<Self> {
        let file = format!("/proc/{process}/stat");
        let stat = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let each = u32::try_from(rustix::param::clock_ticks_per_second())?;
        Self::parse(&stat, each).with_context(|| format!("not understood: {stat}"))
    }

    /// proc_pid_stat(5): fields 14 to 17, counted from behind the name, which may have anything in it.
    pub fn parse(stat: &str, ticks: u32) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / f64::from(ticks));
        let [user, system, of_children, system_of_children] =
            [seconds()?, seconds()?, seconds()?, seconds()?];
        Some(Self {
            own: user + system,
            children: of_children + system_of_children,
        })
    }
}

/// A clock that stands still while a machine's emulator stands in line for a processor: with it a limit says something of the
/// machine, however busy the host is.
#[derive(Debug)]
pub struct Clock {
    began: Instant,
    emulator: Option<u32>,
    in_line: Duration,
}

impl Clock {
    /// Starts one for this process; an ordinary one for none.
    pub fn of(emulator: Option<u32>) -> Self {
        Self {
            began: Instant::now(),
            emulator,
            in_line: in_line(emulator),
        }
    }

    /// The time since it was started.
    pub fn elapsed(&self) -> Duration {
        let in_line = in_line(self.emulator).saturating_sub(self.in_line);
        self.began.elapsed().saturating_sub(in_line)
    }
}

/// For how long that thread of the process stood in line which did so longest. Nothing for a process that has ended.
fn in_line(process: Option<u32>) -> Duration {
    let Some(process) = process else {
        return Duration::ZERO;
    };
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    let nanoseconds = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| {
            let stat = fs::read_to_string(thread.path().join("schedstat"));
            stood(&stat.ok()?)
        });
    Duration::from_nanos(nanoseconds.max().unwrap_or_default())
}

/// In nanoseconds: the second field of `/proc/PID/schedstat` (Documentation/scheduler/sched-stats.rst).
pub fn stood(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(1)?.parse().ok()
}

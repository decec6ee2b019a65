// SPDX-License-Identifier: Apache-2.0
//! What a process has had of the processors. On a machine that also does something else this is what can be compared, and
//! seconds on a clock are not.

use std::fs;

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

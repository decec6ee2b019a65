// SPDX-License-Identifier: Apache-2.0
//! Runs one program and reads what the kernel accounted for it: time, memory, processor.
//!
//! The kernel sums up the children of a process. To see one program alone, this program starts a copy of
//! itself (`--measure PROGRAM ARGUMENT...`) that has exactly one child and reports on it.

use std::env;
use std::ffi::OsString;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use sheepfold_tests::process::Run;

/// One run of one program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Start to end.
    pub wall_micros: u64,
    /// User and system time of the program and of what it waited for.
    pub cpu_micros: u64,
    /// Peak resident memory of the largest process among them.
    pub peak_kib: u64,
}

/// Runs `program` with `input` on standard input `runs` times. It must succeed; what it prints is dropped,
/// because it is a secret.
pub(crate) fn samples(program: impl Fn() -> Result<Run>, runs: usize) -> Result<Vec<Sample>> {
    (0..runs)
        .map(|_| {
            let own = env::current_exe().context("cannot find this program")?;
            let output = program()?
                .wrapped(&[own.into_os_string(), MODE.into()])?
                .success()?;
            serde_json::from_slice(&output.stdout).context("no measurement came back")
        })
        .collect()
}

/// The median of one figure.
pub(crate) fn median(samples: &[Sample], figure: fn(&Sample) -> u64) -> u64 {
    let mut figures: Vec<u64> = samples.iter().map(figure).collect();
    figures.sort_unstable();
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// If this process was started to measure, does so and says how it should end.
pub(crate) fn child_mode() -> Option<ExitCode> {
    let mut args = env::args_os().skip(1);
    if args.next()? != MODE {
        return None;
    }
    Some(match report(&args.collect::<Vec<_>>()) {
        Ok(sample) => {
            println!("{sample}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

fn report(argv: &[OsString]) -> Result<String> {
    let (program, arguments) = argv.split_first().context("nothing to measure")?;
    let started = Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let wall = started.elapsed();
    ensure!(status.success(), "the measured program failed: {status}");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or_default()
    };
    let sample = Sample {
        wall_micros: duration_micros(wall),
        cpu_micros: micros(usage.user_time()) + micros(usage.system_time()),
        peak_kib: u64::try_from(usage.max_rss()).unwrap_or_default(),
    };
    Ok(serde_json::to_string(&sample)?)
}

fn duration_micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

const MODE: &str = "--measure";

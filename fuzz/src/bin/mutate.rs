// SPDX-License-Identifier: Apache-2.0

//! Runs targets without libFuzzer, on any toolchain: their seeds, then mutated seeds, the same in every run.
//!
//! ```text
//! mutate --cases 1000000 [TARGET ...]    so many mutated cases for each target
//! mutate --seconds 60 [TARGET ...]       so long in all
//! mutate --file FILE TARGET              one input, such as one that an earlier run left behind
//! ```
//!
//! Ends with status 1 at the first property that does not hold, and leaves the input behind.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "its output is a table, a panic its report"
)]

use sheepfold_fuzz::mutate::{Random, mutated};
use sheepfold_fuzz::{TARGETS, Target};
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long to go on with one target.
#[derive(Clone, Copy)]
enum Length {
    Cases(u64),
    Time(Duration),
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut length = Length::Cases(10_000);
    let mut seconds = None;
    let mut file = None;
    let mut targets = Vec::new();
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| usage(&arg));
        match arg.as_str() {
            "--cases" => length = Length::Cases(value().parse().unwrap_or_else(|_| usage(&arg))),
            "--seconds" => seconds = Some(value().parse::<u32>().unwrap_or_else(|_| usage(&arg))),
            "--file" => file = Some(value()),
            name => targets.push(Target::find(name).unwrap_or_else(|| usage(name))),
        }
    }
    if let Some(file) = file {
        let [target] = targets.as_slice() else {
            usage("--file")
        };
        let accepted = (target.accepts)(&std::fs::read(file).unwrap());
        println!("{}", if accepted { "accepted" } else { "refused" });
        return ExitCode::SUCCESS;
    }
    if targets.is_empty() {
        targets.extend(TARGETS);
    }
    if let Some(seconds) = seconds {
        let count = u32::try_from(targets.len()).unwrap();
        let all = Duration::from_secs(u64::from(seconds));
        length = Length::Time(all.checked_div(count).unwrap_or(all));
    }
    println!("| target | seeds | mutated | accepted | seconds |\n|---|---|---|---|---|");
    let mut cases = 0_u64;
    for target in targets {
        match run(target, length) {
            Ok(ran) => cases = cases.saturating_add(ran),
            Err(input) => {
                let file = format!("crash-{}", target.name);
                std::fs::write(&file, input).unwrap();
                eprintln!(
                    "mutate: the property of {} does not hold for {file}",
                    target.name
                );
                return ExitCode::FAILURE;
            }
        }
    }
    println!("\n{cases} cases; peak memory {} KiB", peak_memory());
    match peak_memory() < MEMORY_LIMIT {
        true => ExitCode::SUCCESS,
        false => {
            eprintln!("mutate: more than {MEMORY_LIMIT} KiB");
            ExitCode::FAILURE
        }
    }
}

fn usage(what: &str) -> ! {
    eprintln!("mutate: {what}? --cases N | --seconds N | --file FILE, then names of targets");
    std::process::exit(2)
}

/// Prints a line of the table; the input, if a property does not hold for it.
fn run(target: &Target, length: Length) -> Result<u64, Vec<u8>> {
    let seeds = target.seeds();
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    let holds = |input: Vec<u8>| catch_unwind(|| (target.accepts)(&input)).map_err(|_| input);
    for seed in &seeds {
        holds(seed.clone())?;
    }
    let started = Instant::now();
    let mut random = Random::new(1);
    let (mut cases, mut accepted) = (0_u64, 0_u64);
    while match length {
        Length::Cases(most) => cases < most,
        Length::Time(most) => started.elapsed() < most,
    } {
        let taken = holds(mutated(&seeds, &mut random))?;
        accepted = accepted.saturating_add(u64::from(taken));
        cases = cases.saturating_add(1);
    }
    println!(
        "| {} | {} | {cases} | {accepted} | {:.1} |",
        target.name,
        seeds.len(),
        started.elapsed().as_secs_f64()
    );
    Ok(cases)
}

/// The most memory that this process had at once, KiB (proc(5), `VmHWM`).
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or(u64::MAX)
}

/// An initramfs has more, and nothing that a stranger sends may take it.
const MEMORY_LIMIT: u64 = 64 * 1024;

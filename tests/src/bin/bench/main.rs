// SPDX-License-Identifier: Apache-2.0
//! `make bench`: measures what the agent costs a node and rewrites the table of `docs/performance.md`.
//!
//! Sizes and counts (bytes, TPM commands, connections, round trips) are budgets: exceeding one makes the
//! program fail. Times are reported and never judged, since they belong to the machine.

#![allow(
    clippy::print_stdout,
    reason = "its output is a table on standard output"
)]
#![allow(clippy::arithmetic_side_effects)]

mod footprint;
mod images;
mod measure;
mod report;
mod run;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use lexopt::Arg::{Long, Short};
use lexopt::ValueExt as _;
use sheepfold_tests::document::write_table;

fn main() -> ExitCode {
    // First, so that this program's own memory stays out of the child's figures.
    if let Some(code) = measure::child_mode() {
        return code;
    }
    match arguments()
        .and_then(|arguments| arguments.map_or(Ok(true), |arguments| bench(&arguments)))
    {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints, writes; false if a budget is exceeded.
fn bench(arguments: &Arguments) -> Result<bool> {
    let footprint = footprint::of(&arguments.dist, &arguments.agent)?;
    let ours = run::ours(&arguments.agent, arguments.runs)?;
    let peer = arguments
        .peer
        .as_deref()
        .map(|dir| run::peer(dir, arguments.runs))
        .transpose()?;
    let peer_footprint = arguments
        .peer
        .as_deref()
        .map(footprint::of_peer)
        .transpose()?;

    let report = report::Report {
        runs: arguments.runs,
        footprint: &footprint,
        ours: &ours,
        peer: peer.as_ref(),
        peer_footprint: peer_footprint.as_ref(),
    };
    let (mut text, mut broken) = report.render();
    if let Some([refvals, layout]) = &arguments.images {
        // Seconds each, and steady: fewer runs tell as much.
        let (table, over) = images::measured(refvals, layout, arguments.runs.min(3))?.render();
        text.push_str(&format!("\n{table}"));
        broken.extend(over);
    }
    if let Some(file) = &arguments.operator {
        let table =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        text.push_str(&format!("\n{}\n", table.trim_end()));
    }
    println!("{text}");
    if arguments.write {
        write_table("docs/performance.md", "bench", &text)?;
        println!("wrote docs/performance.md");
    }
    for budget in &broken {
        eprintln!("bench: over budget: {budget}");
    }
    Ok(broken.is_empty())
}

struct Arguments {
    /// The agent as an initramfs carries it.
    dist: PathBuf,
    /// The same, able to speak to a software TPM.
    agent: PathBuf,
    /// A directory with other programs for the same job.
    peer: Option<PathBuf>,
    /// Tables about the operator, made by its own program, to stand below ours.
    operator: Option<PathBuf>,
    /// The program `refvals`, and an image layout for it.
    images: Option<[PathBuf; 2]>,
    runs: usize,
    write: bool,
}

/// Reads the command line; `None` after `--help`.
fn arguments() -> Result<Option<Arguments>> {
    let (mut dist, mut agent, mut peer, mut operator) = (None, None, None, None);
    let (mut refvals, mut layout) = (None, None);
    let (mut runs, mut write) = (11, true);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("dist") => dist = Some(PathBuf::from(parser.value()?)),
            Long("agent") => agent = Some(std::path::absolute(parser.value()?)?),
            Long("peer") => peer = Some(std::path::absolute(parser.value()?)?),
            Long("operator") => operator = Some(PathBuf::from(parser.value()?)),
            Long("refvals") => refvals = Some(std::path::absolute(parser.value()?)?),
            Long("layout") => layout = Some(std::path::absolute(parser.value()?)?),
            Long("runs") => runs = parser.value()?.parse()?,
            Long("no-write") => write = false,
            Long("help") | Short('h') => {
                println!("{USAGE}");
                return Ok(None);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(Arguments {
        dist: dist.context("--dist is missing; `make bench` gives it")?,
        agent: agent.context("--agent is missing; `make bench` gives it")?,
        peer,
        operator,
        images: refvals
            .zip(layout)
            .map(|(refvals, layout)| [refvals, layout]),
        runs: std::cmp::max(runs, 1),
        write,
    }))
}

const USAGE: &str = "\
Usage: bench --dist FILE --agent FILE [--peer DIR] [--operator FILE] [--refvals FILE --layout DIR] [--runs N]
             [--no-write]

  --dist FILE   the agent as an initramfs carries it (size, libraries)
  --agent FILE  the agent with software TPM support (time, memory, round trips)
  --peer DIR    also measure trustee-attester and clevis-pin-trustee in DIR
  --operator FILE  tables about the operator, to stand below
  --refvals FILE, --layout DIR  also measure how this program looks through this image
  --runs N      medians of N runs (default 11)
  --no-write    leave docs/performance.md alone";

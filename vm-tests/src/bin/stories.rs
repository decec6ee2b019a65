// SPDX-License-Identifier: Apache-2.0
//! `make vm-test`: runs stories side by side, each as the test program that cargo builds of `tests/STORY.rs`, and ends with a
//! table. A machine keeps one processor of the host busy, but not while it waits for a KBS or for somebody to read its console:
//! so one story more runs at a time than there are processors.

#![allow(
    clippy::print_stdout,
    reason = "its output is what the stories say, and a table"
)]
#![allow(clippy::arithmetic_side_effects)]

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::Value;
use sheepfold_tests::node_root::Suite;
use sheepfold_tests::paths;
use sheepfold_vm_tests::accelerator::Accelerator;
use sheepfold_vm_tests::machine::PROCESSORS;
use sheepfold_vm_tests::{processor, site, trees};

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("stories: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A file of `tests/`.
struct Story {
    name: String,
    text: String,
}

/// How one ended.
struct Outcome {
    name: String,
    passed: bool,
    /// From start to end.
    wall: f64,
    /// What it and its machines had of the processors.
    busy: f64,
}

impl Outcome {
    fn row(&self) -> String {
        let result = if self.passed { "ok" } else { "FAILED" };
        format!("{:10.0} {:14.0}  {result}", self.wall, self.busy)
    }
}

/// Runs the stories of these names, all if there are none; false if one failed.
fn run(names: Vec<String>) -> Result<bool> {
    let stories = chosen(&names)?;
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let lanes = match std::env::var("SHEEPFOLD_JOBS") {
        Ok(said) => said.parse().ok().filter(|lanes| *lanes > 0),
        Err(_) => Some(processors + 1),
    };
    let lanes = lanes.context("SHEEPFOLD_JOBS must be a number from 1")?;
    let lanes = lanes.min(stories.len());
    let each = (processors / lanes).max(1);
    let programs = build(&stories)?;
    prepare(&stories)?;
    println!(
        "{} stories, {lanes} at a time, machines of {each} processors",
        stories.len()
    );

    let began = Instant::now();
    let width = stories.iter().map(|story| story.name.len()).max();
    let width = width.unwrap_or_default();
    let queue: Mutex<VecDeque<(String, PathBuf)>> = Mutex::new(programs.into());
    let outcomes = Mutex::new(Vec::new());
    let lane = || -> Result<()> {
        loop {
            let next = lock(&queue).pop_front();
            let Some((name, program)) = next else {
                return Ok(());
            };
            let outcome = tell(&name, &program, each, width)?;
            println!("{name:width$} | {}", outcome.row());
            lock(&outcomes).push(outcome);
        }
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        for lane in lanes {
            lane.join()
                .unwrap_or_else(|_| bail!("a lane has panicked"))?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(report(&outcomes, width, began.elapsed().as_secs_f64()))
}

/// The stories to run, the longest first, so that no lane is left alone with one at the end: first boots, on which a root is
/// formatted and filled, then those with most boots, and those in which an agent was refused, as it asks again after minutes.
fn chosen(names: &[String]) -> Result<Vec<Story>> {
    let dir = trees::here().join("tests");
    let mut known = Vec::new();
    for entry in fs::read_dir(&dir)? {
        let path = entry?.path();
        let name = path.file_stem().context("a story has a name")?;
        known.push(Story {
            name: name.to_string_lossy().into_owned(),
            text: fs::read_to_string(&path)?,
        });
    }
    for name in names {
        ensure!(
            known.iter().any(|story| story.name == *name),
            "there is no story {name}; there are {}",
            known
                .iter()
                .map(|story| story.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    known.retain(|story| names.is_empty() || names.contains(&story.name));
    known.sort_by_key(|story| {
        let count = |word: &str| story.text.matches(word).count();
        let length = 2 * count("&CONFIG)") + count("power_on") + 2 * count("disapprove");
        (usize::MAX - length, story.name.clone())
    });
    Ok(known)
}

/// Has cargo build them; the programs in the same order.
fn build(stories: &[Story]) -> Result<Vec<(String, PathBuf)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The whole workspace: with -p the features of the dependencies are others, and they are built again.
    let mut command = Command::new(cargo);
    command
        .args(["test", "--locked", "--workspace", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(paths::workspace());
    for story in stories {
        command.args(["--test", &story.name]);
    }
    let built = command.stderr(std::process::Stdio::inherit()).output();
    let built = built.context("cannot run cargo")?;
    ensure!(built.status.success(), "cargo cannot build the stories");
    let text = String::from_utf8(built.stdout)?;
    let messages: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let dir = trees::here().join("tests");
    let program = |story: &Story| {
        // Other crates have tests of the same name.
        let source = dir.join(format!("{}.rs", story.name));
        let of_story = |message: &&Value| {
            let said = message.pointer("/target/src_path").and_then(Value::as_str);
            said.is_some_and(|said| Path::new(said) == source)
        };
        let program = messages
            .iter()
            .find(of_story)
            .and_then(|message| message.get("executable"));
        let program = program.and_then(Value::as_str);
        let program =
            program.with_context(|| format!("cargo has built no program of {}", story.name))?;
        Ok((story.name.clone(), program.into()))
    };
    stories.iter().map(program).collect()
}

/// What stories share and would wait for each other to make, and whatever takes the network, which they do not have.
fn prepare(stories: &[Story]) -> Result<()> {
    fs::create_dir_all(site::stories()?)?;
    trees::toolbox()?;
    trees::guest(Suite::Trixie)?;
    if stories
        .iter()
        .any(|story| story.text.contains("Suite::Bookworm"))
    {
        trees::guest(Suite::Bookworm)?;
    }
    Accelerator::here()?;
    Ok(())
}

/// Runs one story, with a loopback device of its own: each has its KBS at the same port, as that is in the initramfs, so
/// that stories share images. Whatever it has started ends with it, however it ends. What it says comes out with its name
/// before each line.
fn tell(name: &str, program: &Path, processors: usize, width: usize) -> Result<Outcome> {
    let began = Instant::now();
    let (said, output) = std::io::pipe()?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc", "sh", "-euc", INSIDE, "sh"])
        .arg(program)
        .args(["--include-ignored", "--nocapture", "--test-threads=1"])
        .env(PROCESSORS, processors.to_string())
        .current_dir(trees::here())
        .stdin(std::process::Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut child = command.spawn().context("cannot start a story")?;
    // It holds the other end of the pipe.
    drop(command);
    for line in BufReader::new(said).split(b'\n') {
        let line = line?;
        if !line.is_empty() {
            let line = format!("{name:width$} | {}\n", String::from_utf8_lossy(&line));
            std::io::stdout().write_all(line.as_bytes())?;
        }
    }
    // Its account goes with it, so it is read before.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.context("a story without a process id")?;
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )?;
    let account = processor::Account::of(child.id())?;
    Ok(Outcome {
        name: name.to_owned(),
        passed: child.wait()?.success(),
        wall: began.elapsed().as_secs_f64(),
        busy: account.own + account.children,
    })
}

/// The table; true if all have passed.
fn report(outcomes: &[Outcome], width: usize, wall: f64) -> bool {
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    println!("\n{:width$}    seconds  of processors", "story");
    for outcome in outcomes {
        println!("{:width$} {}", outcome.name, outcome.row());
    }
    let busy: f64 = outcomes.iter().map(|outcome| outcome.busy).sum();
    println!("{:width$} {wall:10.0} {busy:14.0}", "all");
    let result = if failed == 0 { "ok" } else { "FAILED" };
    // As the test runner says it, for whoever counts.
    println!(
        "test result: {result}. {} passed; {failed} failed",
        outcomes.len() - failed
    );
    failed == 0
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shell stays: somebody must wait for orphans.
const INSIDE: &str = r#"
ip link set lo up
"$@"
exit "$?"
"#;

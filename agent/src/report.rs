// SPDX-License-Identifier: Apache-2.0

//! How results and errors look: text for people on standard error, one JSON object for programs on
//! standard output. Secrets never pass through here.

use crate::clock;
use crate::console;
use crate::error::Error;
use crate::exit;
use crate::explain::Explanation;
use crate::kbs::Wait;
use crate::notify;
use crate::splash::Splash;
use crate::state::{Reason, WaitRecord, Waiting};
use kbs_protocol::{Blame, Persistence};
use rustix::io::{Errno, write};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// Prints an error as sentence, causes, party and next step, and gives its exit code.
pub fn failure(error: &dyn Blame, json: bool) -> ExitCode {
    if json {
        // The exit code tells of a failure already: one to write about it changes nothing.
        let _ = print_json(&json!({ "ok": false, "error": error_json(error) }));
    }
    eprintln!("trustee-agent: {error}");
    for cause in causes(error) {
        eprintln!("  because: {cause}");
    }
    eprintln!(
        "  to act:  {} ({})",
        error.owner(),
        outlook(error.persistence())
    );
    eprintln!("  next:    {}", error.advice());
    exit::status(error.owner())
}

/// Prints a result: for a program, or for a person. Standard output is left to programs and secrets.
///
/// # Errors
/// [`Error::Io`] when standard output does not take it.
pub fn success(facts: &Value, text: &str, json: bool) -> Result<ExitCode, Error> {
    if json {
        print_json(facts)?;
    } else {
        eprint!("{text}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints why something came or did not; the exit code names the party that has to act, if one has.
///
/// # Errors
/// [`Error::Io`] when standard output does not take it.
pub fn explanation(explanation: &Explanation<'_>, json: bool) -> Result<ExitCode, Error> {
    let done = success(&explanation.to_json(), &explanation.to_text(), json)?;
    Ok(explanation.owner().map_or(done, exit::status))
}

/// A callback that tells a waiting person why, since when, and what comes next: at each new reason, and
/// otherwise at most twice a minute, because a console is read at three in the morning.
/// The state of the boot says the same at any time; `what` is the path that is waited for.
pub fn waiting(what: &str) -> impl FnMut(Wait<'_>) {
    let mut record = WaitRecord::of(what);
    let mut last: Option<(String, Duration)> = None;
    let mut splash = Splash::default();
    move |wait: Wait<'_>| {
        let since = clock::since_boot().saturating_sub(wait.since);
        let cause = Reason::of(wait.error);
        record.note(Waiting::new(since, wait.next, wait.tries, cause));
        let reason = wait.error.to_string();
        let silent = last.as_ref().is_some_and(|(said, at)| {
            *said == reason && wait.since.saturating_sub(*at) < QUIET_PERIOD
        });
        if silent {
            return;
        }
        let line = format!(
            "waiting for {} s: {reason}; trying again in {:.1} s (try {})",
            wait.since.as_secs(),
            wait.next.as_secs_f32(),
            wait.tries.saturating_add(1),
        );
        notify::status(&line);
        console::say(&line);
        splash.show(&line);
        last = Some((reason, wait.since));
    }
}

/// Tells that a refusal of a moment ago is not asked about again at once. What is returned keeps it on the splash.
pub fn held_back(why: &str, left: Duration) -> Splash {
    let line = format!(
        "refused before: {why}; asking again in {:.0} s",
        left.as_secs_f32().ceil()
    );
    notify::status(&line);
    console::say(&line);
    let mut splash = Splash::default();
    splash.show(&line);
    splash
}

/// An error as a member of a JSON object.
pub fn error_json(error: &dyn Blame) -> Value {
    json!({
        "message": error.to_string(),
        "because": causes(error),
        "owner": error.owner().as_str(),
        "permanent": error.persistence() == Persistence::Permanent,
        "advice": error.advice(),
        "exit_code": exit::code(error.owner()),
    })
}

/// Writes to standard output, all of it: half a token that looks like success locks a disk for good. Past the
/// standard library's buffer, which is not wiped.
///
/// # Errors
/// [`Error::Io`]: the disk is full, or the reader has gone away.
pub fn write_stdout(mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        match write(std::io::stdout(), bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::Io {
                    action: "write to standard output",
                    error: errno.into(),
                });
            }
        }
    }
    Ok(())
}

fn print_json(value: &Value) -> Result<(), Error> {
    write_stdout(format!("{value}\n").as_bytes())
}

/// The chain below an error, without sentences that the one above already contains.
fn causes(error: &dyn Blame) -> Vec<String> {
    let mut said = error.to_string();
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let sentence = cause.to_string();
        if !said.contains(&sentence) {
            causes.push(sentence.clone());
        }
        said = sentence;
        next = cause.source();
    }
    causes
}

fn outlook(persistence: Persistence) -> &'static str {
    match persistence {
        Persistence::Temporary => "may pass by itself",
        Persistence::UntilApproved => "stays until somebody approves",
        Persistence::Permanent => "stays until somebody mends it",
    }
}

/// How long the same reason is not repeated.
const QUIET_PERIOD: Duration = Duration::from_secs(30);

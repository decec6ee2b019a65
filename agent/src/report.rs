// SPDX-License-Identifier: Apache-2.0

//! How results and errors look: text for people on standard error, one JSON object for programs on
//! standard output. Secrets never pass through here.

use crate::exit;
use crate::kbs::Wait;
use kbs_protocol::{Blame, Persistence};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// Prints an error as sentence, causes, party and next step, and gives its exit code.
pub fn failure(error: &dyn Blame, json: bool) -> ExitCode {
    if json {
        print_json(&json!({ "ok": false, "error": error_json(error) }));
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
pub fn success(facts: &Value, text: &str, json: bool) -> ExitCode {
    if json {
        print_json(facts);
    } else {
        eprint!("{text}");
    }
    ExitCode::SUCCESS
}

/// A callback that tells a waiting person why, since when, and what comes next: at each new reason, and
/// otherwise at most twice a minute, because a console is read at three in the morning.
pub fn waiting() -> impl FnMut(Wait<'_>) {
    let mut last: Option<(String, Duration)> = None;
    move |wait: Wait<'_>| {
        let reason = wait.error.to_string();
        let silent = last.as_ref().is_some_and(|(said, at)| {
            *said == reason && wait.since.saturating_sub(*at) < QUIET_PERIOD
        });
        if silent {
            return;
        }
        eprintln!(
            "trustee-agent: waiting for {} s: {reason}; trying again in {:.1} s (try {})",
            wait.since.as_secs(),
            wait.next.as_secs_f32(),
            wait.tries.saturating_add(1),
        );
        last = Some((reason, wait.since));
    }
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

/// Writes to standard output. A reader that has gone away is no error worth a message.
pub fn write_stdout(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

fn print_json(value: &Value) {
    write_stdout(format!("{value}\n").as_bytes());
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

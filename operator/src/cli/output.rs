// SPDX-License-Identifier: Apache-2.0

//! Progress and errors, for a person who watches, a log, and a program.

use indicatif::{ProgressBar, ProgressStyle};
use kbs_protocol::{Blame, Persistence};
use serde_json::json;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

/// A bar where somebody watches, a line now and then where not.
pub(super) struct Progress {
    verb: &'static str,
    bar: Option<ProgressBar>,
    watched: bool,
    /// When a log hears of it again.
    next: usize,
}

impl Progress {
    pub(super) fn new(verb: &'static str) -> Self {
        Self {
            verb,
            bar: None,
            watched: std::io::stderr().is_terminal(),
            next: PLAIN_STEP,
        }
    }

    /// Learns how many are done, of how many.
    pub(super) fn callback(&mut self) -> impl FnMut(usize, usize) {
        |done, all| match self.watched {
            true => self.draw(done, all),
            false if all > FEW && (done == all || done >= self.next) => {
                self.next = done.saturating_add(PLAIN_STEP);
                eprintln!("sheepfold-operator: {} {done} of {all}", self.verb);
            }
            false => {}
        }
    }

    fn draw(&mut self, done: usize, all: usize) {
        if all <= FEW {
            return;
        }
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(count(all));
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len}, {eta} left");
            style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
        });
        bar.set_position(count(done));
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints an error as sentence, party and next step, and gives its exit code.
pub(super) fn failure(error: &dyn Blame, json: bool) -> ExitCode {
    let code = error.owner().exit_code();
    if json {
        let error = json!({
            "message": error.to_string(),
            "owner": error.owner().as_str(),
            "permanent": error.persistence() == Persistence::Permanent,
            "advice": error.advice(),
            "exit_code": code,
        });
        say(&format!("{}\n", json!({"ok": false, "error": error})));
    }
    let outlook = match error.persistence() {
        Persistence::Temporary => "may pass by itself",
        Persistence::UntilApproved => "stays until somebody approves",
        Persistence::Permanent => "stays until somebody mends it",
    };
    eprintln!("sheepfold-operator: {error}");
    eprintln!("  to act:  {} ({outlook})", error.owner());
    eprintln!("  next:    {}", error.advice());
    ExitCode::from(code)
}

/// Writes to standard output. A reader that has gone away is no error worth a message.
pub(super) fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

/// Up to this many writes are told one by one.
pub(super) const FEW: usize = 24;
/// How often a log hears of a long run.
const PLAIN_STEP: usize = 1000;

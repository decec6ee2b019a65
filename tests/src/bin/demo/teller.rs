// SPDX-License-Identifier: Apache-2.0
//! Prints the demo's story: numbered steps, commands, results and times. Colours only on a terminal.

#![allow(clippy::arithmetic_side_effects)]

use std::io::{IsTerminal as _, stdout};
use std::time::{Duration, Instant};

/// The story so far.
pub(crate) struct Teller {
    colours: bool,
    number: u32,
    begun: Instant,
    step_begun: Instant,
}

impl Teller {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            colours,
            number: 0,
            begun: now,
            step_begun: now,
        }
    }

    pub(crate) fn title(&self, text: &str) {
        println!("{}", self.paint(BOLD, text));
    }

    pub(crate) fn note(&self, text: &str) {
        println!("{text}");
    }

    pub(crate) fn step(&mut self, text: &str) {
        self.number += 1;
        self.step_begun = Instant::now();
        println!(
            "\n{}",
            self.paint(BOLD, &format!("{:2}. {text}", self.number))
        );
    }

    pub(crate) fn command(&self, text: &str) {
        println!("    {}", self.paint(DIM, &format!("$ {text}")));
    }

    pub(crate) fn fact(&self, what: &str, value: &str) {
        println!("    {what}: {value}");
    }

    /// What a program said, indented.
    pub(crate) fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("    {} {line}", self.paint(DIM, "|"));
        }
    }

    pub(crate) fn done(&self) {
        println!(
            "    {} {}",
            self.paint(GREEN, "ok"),
            seconds(self.step_begun.elapsed())
        );
    }

    pub(crate) fn end(&self) {
        let time = seconds(self.begun.elapsed());
        let text = format!(
            "Done: {} steps in {time}. The disk opened twice and stayed shut once; the second node got nothing of the first.",
            self.number
        );
        println!("\n{}", self.paint(BOLD, &text));
        println!("Next: make test, make bench, docs/");
    }

    pub(crate) fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours {
            format!("{colour}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RESET: &str = "\x1b[0m";

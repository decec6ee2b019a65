// SPDX-License-Identifier: Apache-2.0

//! One function a subcommand, and the one place that chooses between them.

mod answer;
mod attest;
mod doctor;
mod enroll;
mod explain;
mod fetch;
mod fetch_config;
mod generator;
mod guard;
mod pin;
mod rebind;
mod record;
mod record_boot;
mod recovery;
mod seal;
mod status;
mod unlock;
mod verify_binding;

use crate::cli::{self, Command, Invocation};
use crate::console;
use crate::error::Error;
use crate::exit;
use crate::report;
use kbs_protocol::Blame as _;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the program: reads the command line, does what it says, prints what came of it.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    log::set_logger(&StderrLog)
        .map(|()| log::set_max_level(log::LevelFilter::Warn))
        .unwrap_or(());
    match cli::parse(args) {
        Ok(invocation) => dispatch(invocation),
        Err(error) => {
            eprintln!("trustee-agent: {error}");
            ExitCode::from(exit::USAGE)
        }
    }
}

fn dispatch(
    Invocation {
        command,
        config,
        json,
    }: Invocation,
) -> ExitCode {
    // What a unit of the initramfs has to say, a person reads on the console.
    let on_console = matches!(
        command,
        Command::Unlock(_)
            | Command::Answer(_)
            | Command::VerifyBinding
            | Command::Guard
            | Command::RecordBoot
            | Command::FetchConfig { .. }
    );
    let outcome = match command {
        Command::Attest => attest::run(&config, json),
        Command::Fetch { resource } => fetch::run(&config, &resource, json),
        Command::FetchConfig { root } => fetch_config::run(&config, &root, json),
        Command::Enroll => enroll::run(&config, json),
        Command::Unlock(options) => unlock::run(&config, &options, json),
        Command::Answer(options) => answer::run(&config, &options, json),
        Command::Rebind(options) => rebind::run(&config, &options, json),
        Command::Recovery(options) => recovery::run(&config, &options, json),
        Command::VerifyBinding => verify_binding::run(&config, json),
        Command::Status => status::run(&config, json),
        Command::Explain { volume } => explain::run(&config, &volume, json),
        Command::ExplainToken => explain::token(json),
        Command::Doctor => doctor::run(&config, json),
        Command::Guard => guard::run(&config, json),
        Command::RecordBoot => record_boot::run(&config, json),
        Command::Seal { or_poweroff } => return seal::run(&config, or_poweroff, json),
        Command::Generator { normal } => return generator::run(&config, &normal),
        Command::Pin(pin) => return pin::run(pin, config),
        Command::Print(text) => report::write_stdout(text.as_bytes()).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error: Error| {
        if on_console {
            console::kernel_log(&format!("{error}; {}", error.advice()));
        }
        report::failure(&error, json)
    })
}

/// Warnings go to standard error, where the journal looks, and to whoever stands before a machine that boots.
struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // The TPM binding repeats every response code as an error of its own; our sentence follows anyway.
        metadata.level() <= log::Level::Warn && metadata.target().starts_with("trustee_agent")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let sentence = format!("warning: {}", record.args());
            eprintln!("trustee-agent: {sentence}");
            console::kernel_log(&sentence);
        }
    }

    fn flush(&self) {}
}

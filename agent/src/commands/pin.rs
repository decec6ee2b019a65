// SPDX-License-Identifier: Apache-2.0

//! The Clevis pin on the command line: what Clevis feeds us and what it may see.
//!
//! Standard output carries the token or the plaintext and nothing else, without a newline: `sss` stores the
//! bytes as they are. Exit codes are 0, 1 and 2 only.

use crate::cli::Pin;
use crate::error::Error;
use crate::exit;
use crate::hold::Hold;
use crate::report;
use crate::source::KbsSource;
use clevis_pin::{Config, Fault, command, jwe};
use kbs_protocol::Blame;
use std::ffi::OsStr;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;
use zeroize::Zeroizing;

pub(super) fn run(pin: Pin, config: PathBuf) -> ExitCode {
    let mut source = KbsSource::new(config);
    let done = match pin {
        Pin::Summary => report::write_stdout(format!("{}\n", command::SUMMARY).as_bytes()),
        Pin::Usage(text) => return usage(text),
        Pin::Encrypt { .. } if std::io::stdin().is_terminal() => {
            return usage(command::ENCRYPT_USAGE);
        }
        Pin::Decrypt if std::io::stdin().is_terminal() => return usage(command::DECRYPT_USAGE),
        Pin::Encrypt { config } => encrypt(&config, &mut source),
        Pin::Decrypt => decrypt(&mut source),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::failure(&error, false);
            ExitCode::from(exit::PIN_FAILURE)
        }
    }
}

fn encrypt(config: &OsStr, source: &mut KbsSource) -> Result<(), Error> {
    let config = config
        .to_str()
        .ok_or_else(|| Fault::Config("it is not UTF-8".to_owned()))?;
    let config = Config::parse(config)?;
    for name in &config.unknown {
        log::warn!(
            "the pin configuration's member {name} means nothing to this pin and is ignored"
        );
    }
    let plaintext = read_stdin("read the plaintext from standard input", jwe::MAX_PLAINTEXT)?;
    let token = clevis_pin::encrypt(&config, &plaintext, source)?;
    report::write_stdout(token.as_bytes())?;
    if std::io::stdout().is_terminal() {
        report::write_stdout(b"\n")?;
    }
    Ok(())
}

fn decrypt(source: &mut KbsSource) -> Result<(), Error> {
    let token = read_stdin("read the token from standard input", jwe::MAX_TOKEN)?;
    // Whoever calls the pin calls it again at once.
    let hold = Hold::of(&token)?;
    hold.as_ref().map_or(Ok(()), Hold::wait)?;
    let outcome = clevis_pin::decrypt(&token, source).map_err(Error::from);
    if let Some(hold) = hold {
        match &outcome {
            Err(error) if costs_nothing(error) => {}
            outcome => hold.note(outcome.as_ref().err().map(blame))?,
        }
    }
    report::write_stdout(outcome?.expose())
}

fn blame(error: &Error) -> &dyn Blame {
    error
}

/// Whether no server was asked: what this machine refuses by itself it may refuse as often as it is asked.
fn costs_nothing(error: &Error) -> bool {
    matches!(
        error,
        Error::Config(_) | Error::Evidence(_) | Error::State(_) | Error::Trust(_)
    )
}

/// Reads to the end, at most one byte past the limit: the parser then says "too large" itself. The buffer
/// is allocated once, so that growing it leaves no copies behind.
fn read_stdin(action: &'static str, limit: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    let room = limit.saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room.saturating_add(READ_SLACK)));
    std::io::stdin()
        .lock()
        .take(room.try_into().unwrap_or(u64::MAX))
        .read_to_end(&mut bytes)
        .map_err(|error| Error::Io { action, error })?;
    Ok(bytes)
}

fn usage(text: &str) -> ExitCode {
    eprint!("{text}");
    ExitCode::from(exit::USAGE)
}

/// `read_to_end` wants spare room to see the end of the input without growing the buffer.
const READ_SLACK: usize = 64;

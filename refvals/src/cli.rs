// SPDX-License-Identifier: Apache-2.0

//! The command line of `refvals`: what it takes, and the order of things. How answers look is in `output` and
//! `table`.

mod arguments;
mod output;
mod table;

use crate::{Error, platform};
use arguments::{Bank, Format, OneImage, OnePlatform, Path, Pcrs};
use clap::{Parser, Subcommand};
use measured_boot::combine::Tuple;
use measured_boot::predict::{Prediction, candidates};
use output::{failure, say, write_or_say};
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// From bootable images and platforms to the PCR values that machines will show.
///
/// An IMAGE is host/repository@sha256:… in a registry, an OCI layout or an uncompressed archive of one, any other
/// directory (a mounted image, an ESP), or a document that `refvals image` wrote.
/// A PLATFORM is profile:NAME, a file of firmware's flash (OVMF_VARS…), a directory of efivarfs, an event log, or
/// a document that `refvals platform` wrote.
///
/// Exit codes: 0 done, 1 the answer is no, 2 usage, 10 configuration, 11 machine, 12 network, 13 server, 14 policy,
/// 15 data.
#[derive(Debug, Parser)]
#[command(name = "refvals", version)]
struct Invocation {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look through an image: which programs it boots, who signed them, what they measure.
    Image {
        #[command(flatten)]
        image: OneImage,
        /// Where the document goes; default: standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Read the variables of a platform that measurements depend on.
    Platform {
        /// The platform.
        #[arg(value_name = "PLATFORM", required_unless_present = "list")]
        source: Option<String>,
        /// How to call it.
        #[arg(long)]
        name: Option<String>,
        /// Name the profiles that come along, and leave.
        #[arg(long)]
        list: bool,
        /// Where the document goes; default: standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Predict the PCRs of one boot.
    Predict {
        #[command(flatten)]
        image: OneImage,
        #[command(flatten)]
        platform: OnePlatform,
        #[command(flatten)]
        path: Path,
        #[command(flatten)]
        bank: Bank,
        #[command(flatten)]
        pcrs: Pcrs,
        #[command(flatten)]
        format: Format,
    },
}

/// Runs the command line; the arguments begin with the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let invocation = match Invocation::try_parse_from(args) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Help is no error: clap knows, and chooses the stream.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    match execute(invocation.command) {
        Ok(code) => code,
        Err(error) => failure(&error),
    }
}

fn execute(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Image { image, output } => {
            let facts = image.load()?;
            write_or_say(output.as_deref(), &pretty(&json!(facts)))?;
        }
        Command::Platform { list: true, .. } => {
            platform::profiles::names().for_each(|name| say(&format!("profile:{name}\n")));
        }
        Command::Platform {
            source,
            name,
            output,
            ..
        } => {
            let facts = platform::load(&source.unwrap_or_default(), name.as_deref())?;
            write_or_say(output.as_deref(), &pretty(&json!(facts)))?;
        }
        Command::Predict {
            image,
            platform,
            path,
            bank,
            pcrs,
            format,
        } => {
            let image = image.load()?;
            let platform = platform.load()?;
            let path = path.along(&image)?;
            let predictions = candidates(&image, &platform, &path)?;
            let boots = boots(&predictions, bank.get())?;
            say(&table::boots(
                &boots,
                &pcrs,
                format.get(),
                || json!({"image": image.name, "platform": platform.platform, "path": path, "bank": bank.get()}),
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Each prediction as a tuple, with what is uncertain about it.
fn boots(
    predictions: &[Prediction],
    bank: measured_boot::bank::Bank,
) -> Result<Vec<(Tuple, Vec<String>)>, Error> {
    let mut boots = Vec::new();
    for prediction in predictions {
        boots.push((Tuple::of(prediction, bank)?, prediction.unobserved.clone()));
    }
    Ok(boots)
}

fn pretty(json: &serde_json::Value) -> String {
    format!("{json:#}\n")
}

const USAGE: u8 = 2;

#[cfg(test)]
mod tests {
    use super::Invocation;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Invocation::command().debug_assert();
    }
}

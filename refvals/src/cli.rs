// SPDX-License-Identifier: Apache-2.0

//! The command line of `refvals`: what it takes, and the order of things. How answers look is in `output` and
//! `table`.

mod arguments;
mod output;
mod preflight;
mod table;

use crate::{Error, explain, label, platform};
use arguments::{Bank, Format, How, OneImage, OnePlatform, Path, Pcrs};
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use measured_boot::combine::{Approved, Boot, Combination, Rollout, Tuple, combine};
use measured_boot::eventlog::EventLog;
use measured_boot::predict::{Prediction, candidates};
use output::{failure, say, write_or_say};
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// From bootable images and platforms to the PCR values that machines will show.
///
/// An IMAGE is host/repository@sha256:… in a registry, containers-storage:NAME, an OCI layout or an archive as podman and
/// docker save it (PATH[:NAME]), any other directory (a mounted image, an ESP), or a document that `refvals image` wrote.
/// A PLATFORM is profile:NAME, a file of firmware's flash (OVMF_VARS…), a directory of efivarfs, an event log, or
/// a document that `refvals platform` wrote.
///
/// Exit codes: 0 done, 1 the answer is no, 2 usage, 3 there is no answer, 10 configuration, 11 machine, 12 network, 13 server, 14 policy,
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
    /// The boots that machines may show while they go from one image to the next: whole tuples, never lists per PCR.
    Combine {
        /// The images, in the order of the updates; each may be rolled back.
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
        #[command(flatten)]
        how: How,
        /// A platform; several, separated by commas, are one platform whose variables change in this order.
        #[arg(long, value_name = "PLATFORM[,PLATFORM…]", required = true)]
        platform: Vec<String>,
        /// Accept also the moment in which a new shim lies beside the old boot loader.
        #[arg(long)]
        partial_esp: bool,
        #[command(flatten)]
        path: Path,
        #[command(flatten)]
        bank: Bank,
        #[command(flatten)]
        pcrs: Pcrs,
        #[command(flatten)]
        format: Format,
    },
    /// Hold a machine's event log against a prediction, and name the first difference.
    Explain {
        #[command(flatten)]
        image: OneImage,
        #[command(flatten)]
        platform: OnePlatform,
        #[command(flatten)]
        path: Path,
        #[command(flatten)]
        bank: Bank,
        /// The log, as /sys/kernel/security/tpm0/binary_bios_measurements has it.
        #[arg(long, value_name = "FILE")]
        event_log: PathBuf,
        /// Write a page too that shows prediction beside reality.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// On a running node: will it unlock after the next reboot? Exit code 0 yes, 1 no, 3 nobody can say.
    Preflight(preflight::Arguments),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
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
            let mut boots = boots(&predictions, bank.get())?;
            let says = label::check(&image, &path, std::slice::from_ref(&platform), bank.get())?;
            for (_, remarks) in &mut boots {
                remarks.extend(says.clone());
            }
            say(&table::boots(
                &boots,
                &pcrs,
                format.get(),
                || json!({"image": image.name, "platform": platform.platform, "path": path, "bank": bank.get()}),
            ));
        }
        Command::Combine {
            images,
            how,
            platform,
            partial_esp,
            path,
            bank,
            pcrs,
            format,
        } => {
            let rollout = rollout(&images, &how, &platform, partial_esp, &path, &bank)?;
            let reachable = combine(&rollout)?;
            let says = labels(&rollout)?;
            let boots: Vec<(Tuple, Vec<String>)> = reachable
                .boots
                .iter()
                .map(|(tuple, boot)| (tuple.clone(), remarks(boot)))
                .collect();
            say(&table::boots(&boots, &pcrs, format.get(), || {
                json!({"images": images, "platforms": platform, "bank": bank.get(), "deadEnds": reachable.dead_ends,
                    "labels": says})
            }));
            for sentence in says {
                eprintln!("refvals: {sentence}");
            }
            for (combination, why) in &reachable.dead_ends {
                eprintln!("refvals: {} does not start: {why}", parts(combination));
            }
        }
        Command::Explain {
            image,
            platform,
            path,
            bank,
            event_log,
            html,
        } => {
            let image = image.load()?;
            let platform = platform.load()?;
            let path = path.along(&image)?;
            let bytes = std::fs::read(&event_log).map_err(Error::io("read", &event_log))?;
            let log = EventLog::parse(&bytes)?;
            let predictions = candidates(&image, &platform, &path)?;
            let (prediction, explanation) = explain::closest(&log, &predictions, bank.get())?;
            if let Some(html) = html {
                let title = format!("{} on {}", image.name, platform.platform);
                let page = explain::page(&log, prediction, &explanation, &title)?;
                write_or_say(Some(&html), &page)?;
            }
            say(&format!("{explanation}\n"));
            if !explanation.agrees() {
                return Ok(ExitCode::from(NO));
            }
        }
        Command::Preflight(arguments) => return preflight::run(&arguments),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Invocation::command(), "refvals", &mut script);
            say(&String::from_utf8_lossy(&script));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Images in a row of updates, and platforms, some of which become others.
fn rollout(
    images: &[String],
    how: &How,
    platforms: &[String],
    partial_esp: bool,
    path: &Path,
    bank: &Bank,
) -> Result<Rollout, Error> {
    let mut approved = Vec::new();
    for image in images {
        let facts = how.load(image)?;
        let path = path.along(&facts)?;
        approved.push(Approved { facts, path });
    }
    let (all, changes) = platform::load_rows(platforms)?;
    Ok(Rollout {
        updates: (1..approved.len())
            .map(|next| (next.saturating_sub(1), next))
            .collect(),
        images: approved,
        platforms: all,
        platform_updates: changes,
        bank: bank.get(),
        phases: Vec::new(),
        partial_esp,
    })
}

/// What the images' labels say that their boots do not show.
fn labels(rollout: &Rollout) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for Approved { facts, path } in &rollout.images {
        let says = label::check(facts, path, &rollout.platforms, rollout.bank)?;
        all.extend(says.iter().map(|says| format!("{}: {says}", facts.name)));
    }
    Ok(all)
}

fn remarks(boot: &Boot) -> Vec<String> {
    let unobserved = boot
        .unobserved
        .iter()
        .map(|what| format!("nobody has seen yet: {what}"));
    [parts(&boot.combination)]
        .into_iter()
        .chain(unobserved)
        .collect()
}

fn parts(combination: &Combination) -> String {
    let Combination {
        shim,
        boot_loader,
        deployment,
        platform,
        ..
    } = combination;
    match (shim == deployment, boot_loader == deployment) {
        (true, true) => format!("{deployment} on {platform}"),
        (_, _) if shim == boot_loader => {
            format!("{deployment} behind the boot loader of {shim} on {platform}")
        }
        _ => format!(
            "{deployment} behind shim of {shim} and the boot loader of {boot_loader} on {platform}"
        ),
    }
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
/// The answer is no.
const NO: u8 = 1;

#[cfg(test)]
mod tests {
    use super::Invocation;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Invocation::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_the_manual_and_in_the_guide() {
        let manual = include_str!("../man/refvals.1");
        let guide = include_str!("../../docs/reference-values.md");
        let command = Invocation::command();
        let names: Vec<&str> = command
            .get_subcommands()
            .map(|one| one.get_name())
            .collect();
        assert_eq!(names.len(), 7);
        for name in names {
            assert!(
                manual.contains(&format!(".It Cm {name} ")),
                "refvals.1 lacks {name}"
            );
            assert!(
                guide.contains(&format!("refvals {name}")),
                "the guide lacks {name}"
            );
        }
    }
}

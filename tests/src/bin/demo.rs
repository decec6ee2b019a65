// SPDX-License-Identifier: Apache-2.0
//! `make demo`: the main job on real parts, told step by step to somebody who has never seen it.
//!
//! A software TPM stands for the machine, a laboratory KBS for the server, a file for the disk. Clevis,
//! cryptsetup, TLS, the TPM commands and the agent are the real ones.

#![allow(
    clippy::print_stdout,
    reason = "its whole output is a story on standard output"
)]
#![allow(clippy::arithmetic_side_effects)]

use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lexopt::Arg::{Long, Short};
use sheepfold_tests::administrator::Stored;
use sheepfold_tests::luks::Volume;
use sheepfold_tests::process::Captured;
use sheepfold_tests::scan::Scanner;
use sheepfold_tests::world::World;

fn main() -> ExitCode {
    let outcome = arguments().and_then(|arguments| match arguments {
        Some(arguments) => story(&arguments),
        None => Ok(()),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The whole demo, from a machine nobody knows to a disk that opens again.
fn story(arguments: &Arguments) -> Result<()> {
    let mut tell = Teller::new();
    tell.title("A node proves what it booted, and only then gets the key of its disk.");
    tell.note("Everything runs on this machine, in one temporary directory, without root.");

    tell.step("A machine with a TPM, and a key server (KBS) that has never heard of it");
    let mut world = World::new()?;
    if arguments.keep {
        println!("   keeping {}", world.keep().display());
    }
    tell.fact("software TPM", &world.tpm.tcti());
    tell.fact("laboratory KBS", world.lab.url());
    tell.done();

    tell.step("The node makes its attestation key inside the TPM");
    tell.command("trustee-agent attest");
    world.run(world.agent(["attest"]))?;
    let node = world.node()?;
    tell.fact("node id, derived from that key", &node.id.to_string());
    tell.done();

    tell.step("The administrator approves the node and stores a secret for its disk");
    tell.command("lab-kbs admin set-reference-value …; lab-kbs admin set-resource …");
    world.enrol(&node)?;
    let stored = world.store_secret(&node)?;
    tell.fact("approved", "this key, with PCR 4, 7 and 14 as they are now");
    tell.fact("secret stored under", &stored.path.to_string());
    tell.done();

    tell.step("A LUKS2 volume is bound to the KBS with stock Clevis");
    let volume = Volume::format(&world.node_dir(), "disk.img")?;
    let disk = volume
        .path
        .to_str()
        .context("a directory name that is not text")?
        .to_owned();
    let key_file = volume
        .key_file
        .to_str()
        .context("a directory name that is not text")?
        .to_owned();
    tell.command("clevis luks bind -d disk.img trustee '{}'");
    world
        .run(world.clevis([
            "luks", "bind", "-f", "-k", &key_file, "-d", &disk, "trustee", "{}",
        ]))?
        .success()?;
    tell.done();

    tell.step("The node unlocks it: quote, attest, fetch, decrypt");
    unlock(&mut tell, &world, &volume)?;
    tell.done();

    // From here on a refusal is expected: ask for a few seconds, not for minutes.
    world.settings.overall = "3s";
    world.configure()?;

    tell.step("Somebody changes what the node boots");
    tell.command("tpm2_pcrextend 4:sha256=5a5a…");
    world.tamper(4)?;
    tell.done();

    tell.step("The KBS now refuses, and the disk stays shut");
    tell.command("clevis luks pass -d disk.img -s 1");
    let refused = world.run(world.clevis(["luks", "pass", "-d", &disk, "-s", "1"]))?;
    ensure!(
        refused.code != Some(0),
        "the volume opened after its boot was changed"
    );
    ensure!(
        refused.stdout.is_empty(),
        "a refusal must print nothing on standard output"
    );
    tell.quote(&refused.err());
    tell.done();

    tell.step("The node says why");
    tell.command("trustee-agent explain");
    let explained = world.run(world.agent(["explain"]))?;
    ensure!(
        explained.err().contains(&node.id.to_string()),
        "the explanation does not name the node: {explained}"
    );
    tell.quote(&explained.err());
    tell.done();

    tell.step("The node boots what was approved, and unlocks again");
    world.tpm.restart()?;
    unlock(&mut tell, &world, &volume)?;
    tell.done();

    tell.step("Did any program print or store the secret on the way?");
    search(&world, &stored)?;
    tell.fact("found", "nowhere but inside the KBS");
    tell.done();

    tell.end();
    Ok(())
}

/// Gets the passphrase as a boot would, and tries it on the volume.
fn unlock(tell: &mut Teller, world: &World, volume: &Volume) -> Result<()> {
    let disk = volume
        .path
        .to_str()
        .context("a directory name that is not text")?;
    tell.command("clevis luks pass -d disk.img -s 1 | cryptsetup open --test-passphrase disk.img");
    // Not through the journal: its output is the passphrase, for its caller only.
    let passphrase = world
        .clevis(["luks", "pass", "-d", disk, "-s", "1"])
        .success()?;
    volume
        .test_passphrase(&passphrase.stdout, Some(1))?
        .success()?;
    tell.fact(
        "the volume opens",
        &format!("{} ms", passphrase.elapsed.as_millis()),
    );
    Ok(())
}

/// Searches everything written so far, and every file of the node, for the stored key.
fn search(world: &World, stored: &Stored) -> Result<()> {
    let mut scanner = Scanner::new();
    scanner.add("the volume's key", stored.key.expose())?;
    let mut leaks = scanner.directory(world.dir(), &[world.lab.dir()])?;
    for Captured {
        argv,
        stdout,
        stderr,
        ..
    } in world.journal()
    {
        for arg in argv {
            leaks.extend(scanner.bytes("an argument", arg.as_encoded_bytes()));
        }
        leaks.extend(scanner.bytes("a standard output", &stdout));
        leaks.extend(scanner.bytes("a standard error", &stderr));
    }
    if let Some(leak) = leaks.first() {
        bail!("{} was found in {}", leak.form, leak.place);
    }
    Ok(())
}

struct Arguments {
    keep: bool,
}

/// Reads the command line; `None` after `--help`.
fn arguments() -> Result<Option<Arguments>> {
    let mut arguments = Arguments { keep: false };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("keep") => arguments.keep = true,
            Long("help") | Short('h') => {
                println!(
                    "Usage: demo [--keep]\n\n  --keep  leave the work directory for a look around"
                );
                return Ok(None);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(arguments))
}

/// Prints the story: numbered steps, commands, results and times. Colours only on a terminal.
struct Teller {
    colours: bool,
    number: u32,
    begun: Instant,
    step_begun: Instant,
}

impl Teller {
    fn new() -> Self {
        let now = Instant::now();
        let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            colours,
            number: 0,
            begun: now,
            step_begun: now,
        }
    }

    fn title(&self, text: &str) {
        println!("{}", self.paint(BOLD, text));
    }

    fn note(&self, text: &str) {
        println!("{text}");
    }

    fn step(&mut self, text: &str) {
        self.number += 1;
        self.step_begun = Instant::now();
        println!(
            "\n{}",
            self.paint(BOLD, &format!("{:2}. {text}", self.number))
        );
    }

    fn command(&self, text: &str) {
        println!("    {}", self.paint(DIM, &format!("$ {text}")));
    }

    fn fact(&self, what: &str, value: &str) {
        println!("    {what}: {value}");
    }

    /// What a program said, indented.
    fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("    {} {line}", self.paint(DIM, "|"));
        }
    }

    fn done(&self) {
        println!(
            "    {} {}",
            self.paint(GREEN, "ok"),
            seconds(self.step_begun.elapsed())
        );
    }

    fn end(&self) {
        let time = seconds(self.begun.elapsed());
        let text = format!(
            "Done: {} steps in {time}. The disk opened twice and stayed shut once.",
            self.number
        );
        println!("\n{}", self.paint(BOLD, &text));
        println!("Next: make test, make bench, docs/");
    }

    fn paint(&self, colour: &str, text: &str) -> String {
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

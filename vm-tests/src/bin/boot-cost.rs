// SPDX-License-Identifier: Apache-2.0
//! `make bench-boot`: what the agent costs a first boot and a reboot, beside Clevis with its pin `tpm2` and beside no encryption
//! at all; the same machine, kernel, dracut and file system each time. Rewrites a table of `docs/performance.md`.
//!
//! What is counted is what the emulator has used of the processors, from switching on until the system answers: seconds on
//! the clock depend on what else the host does. The kinds take turns, so that a change of the host's pace meets all of them, as
//! many at a time as there are processors.

#![allow(
    clippy::print_stdout,
    reason = "its output is a table on standard output"
)]
#![allow(clippy::arithmetic_side_effects)]

use std::fmt::Write as _;
use std::fs;
use std::num::NonZero;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sheepfold_tests::document::write_table;
use sheepfold_vm_tests::accelerator::Accelerator;
use sheepfold_vm_tests::chain::{self, Chain, command_line, unencrypted_command_line};
use sheepfold_vm_tests::disk;
use sheepfold_vm_tests::image::{Image, Recipe};
use sheepfold_vm_tests::machine::Machine;
use sheepfold_vm_tests::node::{Binding, Node};
use sheepfold_vm_tests::probe::Place;
use sheepfold_vm_tests::say::say;
use sheepfold_vm_tests::site::Site;
use sheepfold_vm_tests::stage::{CONFIG, Stage, ignition};

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("boot-cost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How the root is encrypted and who opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unencrypted,
    Tpm2,
    Clevis,
    Native,
}

/// One kind with all that it boots from.
struct Subject {
    kind: Kind,
    node: Node,
    reboot: (Image, Chain),
    first: (Image, Chain),
    seconds: Seconds,
}

/// Processor seconds of each boot.
#[derive(Default)]
struct Seconds {
    reboot: Vec<f64>,
    first: Vec<f64>,
}

fn measure() -> Result<()> {
    let mut site = Site::open("boot_cost")?;
    let mut subjects = Vec::new();
    for kind in Kind::ALL {
        let (subject, same) = Subject::new(site, kind)?;
        site = same;
        subjects.push(subject);
    }
    for round in 1..=ROUNDS {
        side_by_side(&mut subjects, &|subject| subject.reboot(round))?;
        side_by_side(&mut subjects, &|subject| subject.first_boot(round))?;
        let table = table(&subjects, round)?;
        println!("{table}");
        write_table("docs/performance.md", "boot", &table)?;
    }
    for subject in &subjects {
        fs::remove_file(subject.node.dir().join(SET_UP))?;
    }
    Ok(())
}

/// Does it to each subject, in as many lanes as there are processors.
fn side_by_side(
    subjects: &mut [Subject],
    what: &(impl Fn(&mut Subject) -> Result<()> + Sync),
) -> Result<()> {
    let lanes = thread::available_parallelism().map_or(1, NonZero::get);
    let each = subjects.len().div_ceil(lanes);
    thread::scope(|scope| {
        let lanes: Vec<_> = subjects
            .chunks_mut(each)
            .map(|lane| scope.spawn(|| lane.iter_mut().try_for_each(what)))
            .collect();
        for lane in lanes {
            lane.join()
                .unwrap_or_else(|_| bail!("a lane has panicked"))?;
        }
        Ok(())
    })
}

impl Kind {
    const ALL: [Self; 4] = [Self::Unencrypted, Self::Tpm2, Self::Clevis, Self::Native];

    fn name(self) -> &'static str {
        match self {
            Self::Unencrypted => "no encryption",
            Self::Tpm2 => "Clevis, pin `tpm2`",
            Self::Clevis => "Clevis, pin `trustee`",
            Self::Native => "the agent alone (`native`)",
        }
    }

    /// The images: of every boot, and of the first one.
    fn recipes(self, site: &Site) -> [Recipe; 2] {
        let ours = [Recipe::node(site), Recipe::with_ignition(site)];
        match self {
            Self::Unencrypted => ours.map(Recipe::unencrypted),
            Self::Tpm2 => ours.map(Recipe::stock),
            Self::Clevis => ours,
            Self::Native => [Recipe::native(site), Recipe::native_with_ignition(site)],
        }
    }

    fn command_line(self) -> String {
        match self {
            Self::Unencrypted => unencrypted_command_line(),
            // Its key comes without the network.
            Self::Tpm2 => {
                let line = command_line();
                let words = line.split_whitespace();
                let words = words.filter(|word| !word.starts_with("rd.luks.options="));
                words.collect::<Vec<_>>().join(" ")
            }
            Self::Clevis | Self::Native => command_line(),
        }
    }

    /// What Ignition is told.
    fn config(self) -> Result<String> {
        let mut config: Value = serde_json::from_str(&ignition()?)?;
        let storage = config.get_mut("storage").and_then(Value::as_object_mut);
        let storage = storage.context("a config without storage")?;
        match self {
            Self::Clevis | Self::Native => {}
            Self::Tpm2 => {
                let volume = storage.get_mut("luks").and_then(|luks| luks.get_mut(0));
                let volume = volume.and_then(Value::as_object_mut);
                let volume = volume.context("a config without a volume")?;
                volume.insert("clevis".to_owned(), json!({ "tpm2": true }));
            }
            Self::Unencrypted => {
                drop(storage.remove("luks"));
                let root = storage
                    .get_mut("filesystems")
                    .and_then(|all| all.get_mut(0));
                let root = root.and_then(Value::as_object_mut);
                let root = root.context("a config without a file system")?;
                root.insert("device".to_owned(), "/dev/disk/by-partlabel/root".into());
            }
        }
        Ok(config.to_string())
    }
}

impl Subject {
    /// Builds its images, and its machine with a root as it is after the first boot.
    fn new(site: Site, kind: Kind) -> Result<(Self, Site)> {
        say(&format!("{kind:?}"));
        let dir = site.dir().join(format!("{kind:?}"));
        let built = |recipe: &Recipe, name: &str| -> Result<_> {
            let image = recipe.build(&site)?;
            let dir = dir.join(name);
            let chain = Chain::build(&dir, chain::Kind::ShimGrub, &image, &kind.command_line())?;
            Ok((image, chain))
        };
        let [reboot, first] = kind.recipes(&site);
        let first = built(&first, "first")?;
        let (image, chain) = built(&reboot, "reboot")?;
        let mut stage = Stage { site, image, chain };
        let name = format!("{kind:?}").to_lowercase();
        let binding = match kind {
            Kind::Tpm2 => Binding::Tpm2,
            // As this Debian's Ignition binds it.
            Kind::Unencrypted | Kind::Clevis | Kind::Native => Binding::Wrapped,
        };
        let node = stage.encrypted_node(&name, binding)?;
        if kind == Kind::Unencrypted {
            disk::plain(node.dir(), &stage.image)?;
            disk::assemble(node.dir(), &stage.chain)?;
        }
        // The disk of first boots lies in the same place.
        fs::rename(node.disk(), node.dir().join(SET_UP))?;
        fs::write(node.dir().join("config.ign"), kind.config()?)?;
        let subject = Self {
            kind,
            node,
            reboot: (stage.image, stage.chain),
            first,
            seconds: Seconds::default(),
        };
        Ok((subject, stage.site))
    }

    fn reboot(&mut self, round: usize) -> Result<()> {
        fs::rename(self.node.dir().join(SET_UP), self.node.disk())?;
        let boot = format!("reboot-{round}");
        let machine = Machine::power_on(&self.node, &self.reboot.1, &boot)?;
        self.seconds.reboot.push(until_the_system(machine)?);
        fs::rename(self.node.disk(), self.node.dir().join(SET_UP))?;
        Ok(())
    }

    fn first_boot(&mut self, round: usize) -> Result<()> {
        let (image, chain) = &self.first;
        disk::unencrypted(self.node.dir(), image, chain)?;
        let boot = format!("first-{round}");
        let machine = Machine::power_on_with(&self.node, chain, &boot, &CONFIG)?;
        self.seconds.first.push(until_the_system(machine)?);
        fs::remove_file(self.node.disk())?;
        Ok(())
    }
}

fn until_the_system(mut machine: Machine) -> Result<f64> {
    machine.reach(Place::System)?;
    let seconds = machine.processor_seconds()?;
    say(&format!("{seconds:.1} s of processor"));
    machine.power_off()?;
    Ok(seconds)
}

/// The figures, and what the agent adds to both of the others.
fn table(subjects: &[Subject], rounds: usize) -> Result<String> {
    let mut figures = Vec::new();
    for subject in subjects {
        let bytes = fs::metadata(&subject.reboot.0.initramfs)?.len();
        let mib = f64::from(u32::try_from(bytes)?) / 1024.0 / 1024.0;
        figures.push((subject, mib));
    }
    let mut text = format!(
        "Made by `make bench-boot`: {rounds} boots of each kind in turns, {}, one emulated processor; least and most of them.\n\n\
         | | initramfs | reboot, until the system answers | first boot |\n|---|---:|---:|---:|\n",
        Accelerator::here()?
    );
    for (subject, mib) in &figures {
        let range = |seconds: &[f64]| {
            let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
            let most = seconds.iter().copied().fold(0.0, f64::max);
            format!("{least:.1}–{most:.1} s")
        };
        let [reboot, first] =
            [&subject.seconds.reboot, &subject.seconds.first].map(|all| range(all));
        writeln!(
            text,
            "| {} | {mib:.2} MiB | {reboot} | {first} |",
            subject.kind.name()
        )?;
    }
    text.push_str("\n| what it adds, by the means | initramfs | reboot | first boot |\n|---|---:|---:|---:|\n");
    let ours = figures
        .iter()
        .filter(|(subject, _)| matches!(subject.kind, Kind::Clevis | Kind::Native));
    for (subject, mib) in ours {
        let others = figures
            .iter()
            .filter(|(other, _)| matches!(other.kind, Kind::Unencrypted | Kind::Tpm2));
        for (other, less) in others {
            let reboot = mean(&subject.seconds.reboot) - mean(&other.seconds.reboot);
            let first = mean(&subject.seconds.first) - mean(&other.seconds.first);
            writeln!(
                text,
                "| {}, beside {} | {:+.2} MiB | {reboot:+.1} s | {first:+.1} s |",
                subject.kind.name(),
                other.kind.name(),
                mib - less
            )?;
        }
    }
    Ok(text)
}

fn mean(seconds: &[f64]) -> f64 {
    let number: f64 = seconds.iter().map(|_| 1.0).sum();
    seconds.iter().sum::<f64>() / number
}

const ROUNDS: usize = 2;
/// The disk of a machine that is past its first boot.
const SET_UP: &str = "set-up.raw";

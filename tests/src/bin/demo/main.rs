// SPDX-License-Identifier: Apache-2.0
//! `make demo`: the main job on real parts, told step by step to somebody who has never seen it.
//!
//! A software TPM stands for the machine, a laboratory KBS for the server, a file for the disk. Clevis,
//! cryptsetup, TLS, the TPM commands and the agent are the real ones.

#![allow(
    clippy::print_stdout,
    reason = "its whole output is a story on standard output"
)]
mod teller;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use kbs_protocol::Secret;
use kbs_protocol::resource_secret::ResourceSecret;
use lexopt::Arg::{Long, Short};
use sheepfold_tests::cluster::Cluster;
use sheepfold_tests::luks::Volume;
use sheepfold_tests::paths;
use sheepfold_tests::process::{Captured, Run};
use sheepfold_tests::registrar::Registrar;
use sheepfold_tests::scan::Scanner;
use sheepfold_tests::swtpm::{Authority, SoftTpm};
use sheepfold_tests::world::{Node, World};
use teller::Teller;

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

/// The whole demo, from a machine nobody knows to a disk that opens again, and a second node that gets nothing.
fn story(arguments: &Arguments) -> Result<()> {
    let mut tell = Teller::new();
    tell.title("A node proves what it booted, and only then gets the key of its disk.");
    tell.note("Everything runs on this machine, in one temporary directory, without root.");

    tell.step(
        "A machine with a TPM; a key server (KBS) and a registrar that have never heard of it",
    );
    let (mut world, registrar, maker) = World::with_registrar()?;
    if arguments.keep {
        println!("   keeping {}", world.keep().display());
    }
    tell.fact("software TPM", &world.tpm.tcti());
    tell.fact("laboratory KBS", world.lab.url());
    tell.fact("registrar", registrar.url());
    tell.done();

    tell.step("The node enrols: its attestation key lives in a TPM whose maker is known");
    tell.command("trustee-agent enroll");
    world.run(world.agent(["enroll"]))?.success()?;
    let node = world.node()?;
    tell.fact("node id, derived from that key", &node.id.to_string());
    tell.done();

    tell.step("The administrator approves the boot and the node, and makes it a secret");
    let cluster = Cluster::new(&world.dir().join("cluster"), &world.lab)?;
    cluster.approve("image", &world.tpm.read_pcrs()?)?;
    cluster.add("node-1", &registrar.record_file(&node.id.to_string())?)?;
    tell.command("sheepfold-operator provision cluster/");
    let provisioned = world.run(cluster.provision(&[])?)?.success()?;
    tell.quote(&provisioned.err());
    let stored = secret_of(&world)?;
    tell.fact("for this node alone", &format!("default/{}/root", node.id));
    tell.done();

    tell.step("A LUKS2 volume is bound to the KBS with stock Clevis");
    let volume = Volume::format(&world.node_dir(), "disk.img")?;
    let disk = volume
        .path
        .to_str()
        .context("a directory name that is not text")?
        .to_owned();
    tell.command("clevis luks bind -d disk.img trustee '{}'");
    world.run(world.bind(&volume, "trustee", "{}"))?.success()?;
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

    tell.step("A second node, same image, same make of TPM, asks for the first node's secret");
    second_node(&mut tell, &world, &maker, &registrar, &cluster, &node)?;
    tell.done();

    tell.step("Did any program print or store the secret on the way?");
    search(&world, &stored)?;
    tell.fact("found", "nowhere but inside the KBS");
    tell.done();

    tell.end();
    Ok(())
}

/// Enrols and provisions another machine; it gets its own secret and not the first one's.
fn second_node(
    tell: &mut Teller,
    world: &World,
    maker: &Authority,
    registrar: &Registrar,
    cluster: &Cluster,
    first: &Node,
) -> Result<()> {
    let tpm = SoftTpm::certified(maker)?;
    let file = world.dir().join("node-2.toml");
    let mut settings = world.settings.clone();
    settings.tcti = tpm.tcti();
    fs::write(&file, settings.to_toml())?;
    let agent = |args: &[&str]| -> Result<Run> {
        let run = Run::new(paths::binary("trustee-agent")?).arg("--config");
        Ok(run.arg(&file).args(args.iter().copied()))
    };
    tell.command("trustee-agent enroll; sheepfold-operator provision cluster/");
    let enrolled = world.run(agent(&["enroll", "--json"])?)?.success()?;
    let facts: serde_json::Value = serde_json::from_slice(&enrolled.stdout)?;
    let id = facts.get("node_id").and_then(|id| id.as_str());
    let id = id.context("no node id")?;
    cluster.add("node-2", &registrar.record_file(id)?)?;
    world.run(cluster.provision(&[])?)?.success()?;
    agent(&["fetch"])?.success()?;
    tell.fact("its own secret", "comes");

    let theirs = format!("default/{}/root", first.id);
    tell.command(&format!("trustee-agent fetch --path {theirs}"));
    let refused = world.run(agent(&["fetch", "--path", &theirs])?)?;
    ensure!(
        refused.code != Some(0) && refused.stdout.is_empty(),
        "the second node was given the first one's secret"
    );
    settings.path = theirs;
    fs::write(&file, settings.to_toml())?;
    let explained = world.run(agent(&["explain"])?)?;
    ensure!(
        explained.err().contains("another node"),
        "the explanation does not say whose path it is: {explained}"
    );
    tell.quote(&explained.err());
    Ok(())
}

/// The key that the operator made, as only its node gets it. Not through the journal: it is the secret.
fn secret_of(world: &World) -> Result<Secret> {
    let fetched = world.agent(["fetch"]).success()?;
    let secret = ResourceSecret::parse(&Secret::new(fetched.stdout.clone()))?;
    Ok(Secret::new(secret.key().to_vec()))
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
fn search(world: &World, key: &Secret) -> Result<()> {
    let mut scanner = Scanner::new();
    scanner.add("the volume's key", key.expose())?;
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

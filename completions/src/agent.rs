// SPDX-License-Identifier: Apache-2.0

//! The command line of `trustee-agent`.

use clap::{Arg, ArgAction, Command, ValueHint};

pub(crate) fn command() -> Command {
    Command::new("trustee-agent")
        .about("Proves to a Trustee KBS what this machine booted, and fetches its secret")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .arg(
            value("config", "FILE", "Trust anchors and timeouts")
                .value_hint(ValueHint::FilePath)
                .global(true),
        )
        .arg(flag("json", "Results and errors as one JSON object").global(true))
        .subcommands([
            Command::new("attest").about("Prove what booted, fetch nothing"),
            Command::new("fetch")
                .about("Write a secret to standard output")
                .arg(value("volume", "NAME", "The volume whose secret it is"))
                .arg(value("path", "PATH", "A path in the KBS")),
            Command::new("fetch-config")
                .about("Fetch this node's Ignition config, and put it where Ignition looks")
                .arg(value("root", "DIR", "Below this directory").value_hint(ValueHint::DirPath)),
            Command::new("enroll").about("Prove once that this node's key lives in its TPM"),
            Command::new("status").about("Show what this node is, and how far its boot"),
            Command::new("explain")
                .about("Say why the secret comes or does not")
                .arg(value("volume", "NAME", "The volume whose secret it is"))
                .arg(value("token", "-", "Read a token from standard input").value_parser(["-"])),
            Command::new("unlock")
                .about("Open volumes by the secrets of this node")
                .args(volumes())
                .arg(flag("test", "Stop before the volume becomes active"))
                .arg(flag("record", "Record the ids of the volume keys")),
            Command::new("answer")
                .about("Give systemd-cryptsetup the passphrase of a volume")
                .args(volumes()),
            Command::new("verify-binding").about("First boot: every open volume opens again"),
            Command::new("rebind")
                .about("Bind volumes to the present secret")
                .args(volumes()),
            Command::new("recovery")
                .about("Give volumes a key slot for the recovery passphrase")
                .args(volumes()),
            Command::new("doctor").about("Check everything between this node and its secret"),
            Command::new("guard")
                .about("Make sure that the root is a volume that the agent opened"),
            Command::new("record-boot")
                .about("Tell the registrar which volumes this boot has opened"),
            Command::new("seal")
                .about("No more disk secrets until the next boot")
                .arg(flag("or-poweroff", "If that fails, power off")),
            Command::new("pin")
                .about("The Clevis pin")
                .disable_help_subcommand(true)
                .subcommand_required(true)
                .subcommands([
                    Command::new("encrypt")
                        .about("Plaintext in, token out")
                        .arg(Arg::new("CONFIG").required(true)),
                    Command::new("decrypt").about("Token in, plaintext out"),
                ]),
        ])
}

fn volumes() -> [Arg; 2] {
    [
        value("name", "NAME", "The name of a volume").action(ArgAction::Append),
        value("device", "DEV", "The device of the only one").value_hint(ValueHint::AnyPath),
    ]
}

pub(crate) fn value(name: &'static str, of: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(of).help(help)
}

pub(crate) fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

// SPDX-License-Identifier: Apache-2.0

//! The command line of `lab-kbs`.

use crate::agent::{flag, value};
use clap::{Arg, ArgAction, Command, ValueHint};

pub(crate) fn command() -> Command {
    let directory = || {
        value("dir", "DIR", "Keys and state of the server")
            .value_hint(ValueHint::DirPath)
            .required(true)
    };
    let files = |name, help| value(name, "PEM", help).value_hint(ValueHint::FilePath);
    Command::new("lab-kbs")
        .about("A small key broker service for laboratories")
        .disable_help_subcommand(true)
        .subcommands([
            Command::new("init")
                .about("Make keys and certificates")
                .arg(directory())
                .arg(
                    value("host", "NAME", "A name or address of the server")
                        .action(ArgAction::Append),
                )
                .arg(value(
                    "tls-not-after",
                    "DAYS",
                    "How long the certificate is valid",
                )),
            Command::new("serve")
                .about("Serve until told to stop")
                .arg(directory())
                .arg(value("listen", "ADDRESS:PORT", "Where"))
                .arg(
                    value(
                        "dialect",
                        "RELEASE",
                        "Which release of Trustee to sound like",
                    )
                    .value_parser(["0.20", "0.21", "main"]),
                )
                .arg(
                    value("policy", "POLICY", "Until others are uploaded")
                        .value_parser(["strict", "stock"]),
                )
                .arg(value("session-ttl", "TIME", "How long a session lives"))
                .arg(value("token-lifetime", "TIME", "How long a token is valid"))
                .arg(
                    value("admin-acl", "ROLE=REGEX", "Who may call what").action(ArgAction::Append),
                )
                .arg(flag("insecure-http", "No TLS"))
                .arg(flag(
                    "insecure-header-jwk",
                    "Believe the key that a token brings",
                ))
                .arg(files("amd-root", "An ARK and an ASK").action(ArgAction::Append))
                .arg(files("intel-root", "In place of Intel's root"))
                .arg(
                    value("tdx-collateral", "JSON", "Collateral of a platform")
                        .value_hint(ValueHint::FilePath)
                        .action(ArgAction::Append),
                )
                .arg(value("fault", "FAULT", "Something to do wrong").action(ArgAction::Append))
                .arg(flag("quiet", "No line for each request")),
            Command::new("admin")
                .about("Administer a KBS")
                .disable_help_subcommand(true)
                .subcommand_required(true)
                .arg(directory())
                .arg(
                    value("url", "URL", "The KBS")
                        .value_hint(ValueHint::Url)
                        .required(true),
                )
                .arg(value("role", "ROLE", "In the administrator's token"))
                .subcommands([
                    Command::new("set-resource").arg(word("PATH")),
                    Command::new("delete-resource").arg(word("PATH")),
                    Command::new("set-resource-policy"),
                    Command::new("set-attestation-policy").arg(Arg::new("ID")),
                    Command::new("set-reference-value").args([word("NAME"), word("JSON")]),
                    Command::new("get-reference-value").arg(word("NAME")),
                    Command::new("allow-node")
                        .arg(value("ak-public", "BASE64", "The attestation key"))
                        .arg(value("boot-tuple", "JSON", "The boot to trust")),
                ]),
        ])
}

fn word(name: &'static str) -> Arg {
    Arg::new(name).required(true)
}

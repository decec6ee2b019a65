// SPDX-License-Identifier: Apache-2.0

//! The command line: `init`, `serve`, `admin`. Called by `main`.

use crate::admin_client::AdminClient;
use crate::fault::{FAULT_HELP, parse_duration};
use crate::keys::{self, InitOptions};
use crate::options::{Options, PolicySet};
use crate::server::Server;
use crate::wire_error::WireError;
use anyhow::{Context as _, bail};
use lexopt::prelude::{Long, Short, Value, ValueExt as _};
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs a command. Exit codes: 0 done, 1 failed, 2 wrong usage.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(lexopt::Parser::from_iter(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let usage = error.downcast_ref::<lexopt::Error>().is_some();
            let message = if usage {
                format!("{error}; try `lab-kbs --help`")
            } else {
                format!("{error:#}")
            };
            let _ = writeln!(std::io::stderr(), "lab-kbs: {message}");
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn run(mut parser: lexopt::Parser) -> anyhow::Result<()> {
    match parser.next()? {
        Some(Value(command)) => match command.string()?.as_str() {
            "init" => init(parser),
            "serve" => serve(parser),
            "admin" => admin(parser),
            other => usage(format!("there is no command {other:?}")),
        },
        Some(Long("help") | Short('h')) => help(),
        Some(other) => Err(other.unexpected().into()),
        None => usage("a command is missing".to_owned()),
    }
}

fn init(mut parser: lexopt::Parser) -> anyhow::Result<()> {
    let mut dir = None;
    let mut options = InitOptions::default();
    let mut hosts = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("dir") => dir = Some(PathBuf::from(parser.value()?)),
            Long("host") => hosts.push(parser.value()?.string()?),
            Long("tls-not-after") => options.tls_not_after_days = parser.value()?.parse()?,
            Long("help") => return help(),
            other => return Err(other.unexpected().into()),
        }
    }
    if !hosts.is_empty() {
        options.hosts = hosts;
    }
    keys::init(&required(dir, "--dir")?, &options)
}

fn serve(mut parser: lexopt::Parser) -> anyhow::Result<()> {
    let mut dir = None;
    let mut options = Options::new("");
    let mut acls = Vec::new();
    options.log = true;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("dir") => dir = Some(PathBuf::from(parser.value()?)),
            Long("listen") => options.listen = parser.value()?.parse()?,
            Long("dialect") => options.dialect = parser.value()?.parse()?,
            Long("policy") => options.policies = parser.value()?.parse_with(policy_set)?,
            Long("session-ttl") => {
                options.session_ttl = parser.value()?.parse_with(parse_duration)?
            }
            Long("token-lifetime") => {
                options.token_lifetime = parser.value()?.parse_with(parse_duration)?;
            }
            Long("admin-acl") => acls.push(parser.value()?.parse()?),
            Long("amd-root") => options.amd_roots.push(PathBuf::from(parser.value()?)),
            Long("intel-root") => options.intel_root = Some(PathBuf::from(parser.value()?)),
            Long("tdx-collateral") => options.tdx_collateral.push(PathBuf::from(parser.value()?)),
            Long("fault") => options.faults.push(parser.value()?.string()?),
            Long("insecure-http") => options.insecure_http = true,
            Long("insecure-header-jwk") => options.insecure_header_jwk = true,
            Long("quiet") => options.log = false,
            Long("help") => return help(),
            other => return Err(other.unexpected().into()),
        }
    }
    options.dir = required(dir, "--dir")?;
    if !acls.is_empty() {
        options.acls = acls;
    }
    let server = Server::start(options)?;
    say(&format!("listening on {}", server.url()))?;
    wait_for_signal()?;
    server.stop();
    Ok(())
}

fn admin(mut parser: lexopt::Parser) -> anyhow::Result<()> {
    let (mut dir, mut url, mut role) = (None, None, None);
    let (mut ak_public, mut boot_tuple) = (None, None);
    let mut words: Vec<String> = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("dir") => dir = Some(PathBuf::from(parser.value()?)),
            Long("url") => url = Some(parser.value()?.string()?),
            Long("role") => role = Some(parser.value()?.string()?),
            Long("ak-public") => ak_public = Some(parser.value()?.string()?),
            Long("boot-tuple") => {
                boot_tuple = Some(
                    parser
                        .value()?
                        .parse_with(|text| serde_json::from_str(text))?,
                )
            }
            Value(word) => words.push(word.string()?),
            Long("help") => return help(),
            other => return Err(other.unexpected().into()),
        }
    }
    let mut client = AdminClient::open(&required(dir, "--dir")?, &required(url, "--url")?)?;
    if let Some(role) = role {
        client = client.with_role(&role);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["set-resource", path] => client.set_resource(path, stdin()?),
        ["delete-resource", path] => client.delete_resource(path),
        ["set-resource-policy"] => client.set_resource_policy(&stdin_text()?),
        ["set-attestation-policy"] => {
            client.set_attestation_policy(crate::handshake::POLICY_ID, &stdin_text()?)
        }
        ["set-attestation-policy", id] => client.set_attestation_policy(id, &stdin_text()?),
        ["set-reference-value", name, json] => {
            client.set_reference_value(name, &serde_json::from_str(json).context("not JSON")?)
        }
        ["get-reference-value", name] => match client.reference_value(name)? {
            Some(value) => say(&value.to_string()),
            None => bail!("there is no reference value {name}"),
        },
        ["allow-node"] => {
            let node = client.allow_node(&required(ak_public, "--ak-public")?, boot_tuple)?;
            say(&node.to_string())
        }
        _ => usage(format!("there is no admin command {:?}", words.join(" "))),
    }
}

fn policy_set(text: &str) -> anyhow::Result<PolicySet> {
    match text {
        "strict" => Ok(PolicySet::Strict),
        "stock" => Ok(PolicySet::Stock),
        _ => bail!("the policy is strict or stock, not {text:?}"),
    }
}

fn wait_for_signal() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => {}
            result = tokio::signal::ctrl_c() => result?,
        }
        Ok(())
    })
}

fn required<T>(value: Option<T>, name: &str) -> anyhow::Result<T> {
    match value {
        Some(value) => Ok(value),
        None => usage(format!("{name} is missing")),
    }
}

fn usage<T>(message: String) -> anyhow::Result<T> {
    Err(lexopt::Error::Custom(message.into()).into())
}

fn stdin() -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .context("cannot read stdin")?;
    Ok(bytes)
}

fn stdin_text() -> anyhow::Result<String> {
    String::from_utf8(stdin()?).context("a policy is UTF-8 text")
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn help() -> anyhow::Result<()> {
    let names: Vec<_> = WireError::catalogue()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    say(&format!(
        "{HELP}\nFaults (--fault NAME[=ARGUMENT][*TIMES]; STEP is auth, attest, resource, admin, any):\n{FAULT_HELP}\nRefusals: {}",
        names.join(" ")
    ))
}

const HELP: &str = "\
lab-kbs: a small key broker service that speaks the protocol of Trustee, for tests, demos and
laboratories. Not for production: production is Trustee.

  lab-kbs init --dir DIR [--host NAME]... [--tls-not-after DAYS]
      Make CA, TLS certificate, administrator's key and token signer; what exists is kept.
      Default hosts: localhost, 127.0.0.1, ::1. Negative DAYS make an expired certificate.

  lab-kbs serve --dir DIR [--listen ADDRESS:PORT] [--dialect 0.20|0.21|main] [--policy strict|stock]
      [--session-ttl 5m] [--token-lifetime 5m] [--admin-acl ROLE=REGEX]... [--insecure-http]
      [--insecure-header-jwk] [--amd-root PEM]... [--intel-root PEM] [--tdx-collateral JSON]...
      [--fault FAULT]... [--quiet]
      Print `listening on URL` and serve until SIGTERM or Ctrl-C. State is DIR/state.json. SEV-SNP is verified
      against AMD's roots and those of --amd-root (an ARK, then an ASK); a report without certificates needs
      DIR/kds-store/vcek/<chip id>/vcek.der. TDX is verified against Intel's root, or --intel-root instead, and
      needs the collateral of its platform.

  lab-kbs admin --dir DIR --url URL [--role ROLE] COMMAND      (also against Trustee, with its admin.key)
      set-resource PATH < BYTES             delete-resource PATH
      set-resource-policy < REGO            set-attestation-policy [ID] < REGO
      set-reference-value NAME JSON         get-reference-value NAME
      allow-node --ak-public BASE64 [--boot-tuple {\"pcr04\":HEX,...}]      prints the node id

Policies until others are uploaded: `strict` trusts a node only if its attestation key is registered in
node_ak_<shard> and its PCRs match one tuple of boot_tuples, and gives it only resources whose second
path segment is its node id. `stock` does what an unconfigured Trustee does: it gives any resource to
anybody with a TPM quote, trusted or not.
";

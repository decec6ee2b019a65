// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent fetch`: one resource, on standard output and nowhere else.

use crate::error::Error;
use crate::exit;
use crate::kbs::{Client, Patience};
use crate::node::Node;
use crate::trust::Target;
use crate::{report, trust};
use kbs_protocol::Secret;
use kbs_protocol::encoding::b64;
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::resource_secret::ResourceSecret;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use zeroize::Zeroizing;

pub(super) fn run(config: &Path, path: Option<&str>, json: bool) -> Result<ExitCode, Error> {
    if rustix::termios::isatty(std::io::stdout()) {
        eprintln!("trustee-agent: a secret is not printed on a terminal: redirect standard output");
        return Ok(ExitCode::from(exit::USAGE));
    }
    let mut node = Node::open(config)?;
    let mut target = trust::configured(&node.config, &node.id)?;
    if let Some(template) = path {
        target = Target {
            path: ResourcePath::expand(template, &node.id)?,
            ..target
        };
    }
    let client = Client::new(&target, &node.config.timeouts)?;
    let patience = Patience::from(node.config.timeouts.fetch);
    let fetched = client.fetch(&mut node, &target.path, patience, &mut report::waiting())?;
    check_owner(&fetched.secret, &node, &target.path)?;
    if json {
        print_json(
            &fetched.secret,
            &target.path,
            &node,
            &fetched.server.to_string(),
        );
    } else {
        report::write_stdout(fetched.secret.expose());
    }
    Ok(ExitCode::SUCCESS)
}

/// Any resource may be fetched; one that names its node and path must name these.
fn check_owner(content: &Secret, node: &Node, path: &ResourcePath) -> Result<(), Error> {
    match ResourceSecret::parse(content) {
        Ok(secret) => Ok(secret.check(&node.id, path, false)?),
        Err(_) => Ok(()),
    }
}

fn print_json(secret: &Secret, path: &ResourcePath, node: &Node, server: &str) {
    // The member with the secret is written by hand so that no copy of it stays behind in a JSON value.
    let facts = json!({ "ok": true, "path": path.as_str(), "node_id": node.id.to_string(), "server": server });
    let facts = facts.to_string();
    let resource = Zeroizing::new(b64::encode(secret.expose()));
    let head = facts.strip_suffix('}').unwrap_or(&facts);
    report::write_stdout(head.as_bytes());
    report::write_stdout(br#","resource_base64":""#);
    report::write_stdout(resource.as_bytes());
    report::write_stdout(b"\"}\n");
}

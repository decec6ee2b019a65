// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent fetch`: one resource, on standard output and nowhere else.

use crate::cli::Resource;
use crate::config::Binding;
use crate::error::Error;
use crate::exit;
use crate::kbs::{Client, Patience};
use crate::node::Node;
use crate::trust::Target;
use crate::{report, trust};
use kbs_protocol::encoding::b64;
use kbs_protocol::resource::{ResourcePath, Volume};
use kbs_protocol::resource_secret::ResourceSecret;
use kbs_protocol::{NodeId, Secret};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use zeroize::Zeroizing;

pub(super) fn run(config: &Path, resource: &Resource, json: bool) -> Result<ExitCode, Error> {
    if rustix::termios::isatty(std::io::stdout()) {
        eprintln!("trustee-agent: a secret is not printed on a terminal: redirect standard output");
        return Ok(ExitCode::from(exit::USAGE));
    }
    let mut node = Node::open(config)?;
    let target = match resource {
        Resource::Volume(volume) => trust::configured(&node.config, &node.id, volume)?,
        Resource::Path(path) => Target {
            path: ResourcePath::expand(path, &node.id)?,
            ..trust::configured(&node.config, &node.id, &Volume::default())?
        },
    };
    let client = Client::new(&target, &node.config.timeouts)?;
    let patience = Patience::from(node.config.timeouts.fetch);
    let mut waiting = report::waiting(target.path.as_str());
    let fetched = client.fetch(&mut node, &target.path, patience, &mut waiting)?;
    drop(waiting);
    node.answered(&fetched.server.to_string(), &fetched.token)?;
    // Only what `kbs.path` names has to be a volume's secret; `--path` may name anything.
    let of_volume = matches!(resource, Resource::Volume(_));
    let required = of_volume && node.config.binding == Binding::Required;
    check_owner(&fetched.secret, &node.id, &target.path, required)?;
    if json {
        let server = fetched.server.to_string();
        print_json(&fetched.secret, &target.path, &node.id, &server)?;
    } else {
        report::write_stdout(fetched.secret.expose())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A resource that names its node and path must name these; if `required`, it must name them.
fn check_owner(
    content: &Secret,
    node: &NodeId,
    path: &ResourcePath,
    required: bool,
) -> Result<(), Error> {
    match ResourceSecret::parse(content) {
        Ok(secret) => Ok(secret.check(node, path, required)?),
        Err(error) if required => Err(error.into()),
        Err(_) => Ok(()),
    }
}

fn print_json(
    secret: &Secret,
    path: &ResourcePath,
    node: &NodeId,
    server: &str,
) -> Result<(), Error> {
    // The member with the secret is written by hand so that no copy of it stays behind in a JSON value.
    let facts =
        json!({ "ok": true, "path": path.as_str(), "node_id": node.to_string(), "server": server });
    let facts = facts.to_string();
    let resource = Zeroizing::new(b64::encode(secret.expose()));
    let head = facts.strip_suffix('}').unwrap_or(&facts);
    report::write_stdout(head.as_bytes())?;
    report::write_stdout(br#","resource_base64":""#)?;
    report::write_stdout(resource.as_bytes())?;
    report::write_stdout(b"\"}\n")
}

#[cfg(test)]
mod tests {
    use super::check_owner;
    use kbs_protocol::resource_secret::ResourceSecret;
    use kbs_protocol::{NodeId, Secret};

    #[test]
    fn any_resource_may_be_fetched_but_nobody_elses_secret() {
        let (node, other) = (NodeId::from_spki_der(b"a"), NodeId::from_spki_der(b"b"));
        let path = "default/a/root".parse().unwrap();
        let bound = || {
            let secret = ResourceSecret::generate(&node, &path).unwrap();
            secret.to_json().unwrap()
        };
        let text = |text: &str| Secret::new(text.as_bytes().to_vec());
        let unbound = || text(r#"{"key_type":"oct","key":"0123456789abcdef0123456789abcdef"}"#);
        let ok = |secret, node, required| check_owner(&secret, node, &path, required).is_ok();
        assert!(ok(bound(), &node, false) && ok(bound(), &node, true));
        assert!(!ok(bound(), &other, false));
        assert!(ok(unbound(), &node, false) && !ok(unbound(), &node, true));
        assert!(ok(text("anything"), &node, false) && !ok(text("anything"), &node, true));
    }
}

// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent fetch-config`: the node's Ignition config, out of an attestation, to where Ignition looks. The
//! first boot of a node waits for it (`trustee-config.service`).

use crate::config::{Config, ConfigError, Problem};
use crate::error::Error;
use crate::ignition::{IgnitionError, Places};
use crate::kbs::{Client, Patience};
use crate::node::Node;
use crate::trust::Target;
use crate::{report, trust};
use kbs_protocol::resource::Volume;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(config: &Path, root: &Path, json: bool) -> Result<ExitCode, Error> {
    let Some(wanted) = Config::load(config)?.ignition else {
        let what = "this node takes no Ignition config out of an attestation";
        let cure = "add [ignition] with path = \"default/{node}/ignition\" to agent.toml";
        return Err(ConfigError::value("ignition.path", "", Problem::new(what, cure)).into());
    };
    let places = Places::below(root);
    places.refuse_overrides()?;

    let mut node = Node::open(config)?;
    let target = Target {
        path: wanted.path(&node.id)?,
        ..trust::configured(&node.config, &node.id, &Volume::default())?
    };
    let client = Client::new(&target, &node.config.timeouts)?;
    let patience = Patience::from(node.config.timeouts.config);
    let mut waiting = report::waiting(target.path.as_str());
    let fetched = client.fetch(&mut node, &target.path, patience, &mut waiting)?;
    drop(waiting);

    ignition_config::check(&fetched.secret).map_err(IgnitionError::from)?;
    let files = places.put(&fetched.secret)?;
    let files: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let (server, bytes) = (fetched.server.to_string(), fetched.secret.len());
    let facts = json!({
        "ok": true,
        "path": target.path.as_str(),
        "node_id": node.id.to_string(),
        "server": server,
        "bytes": bytes,
        "files": files,
    });
    let text = format!(
        "Ignition config of {bytes} bytes from {}/{}\nwritten to {}\n",
        server,
        target.path,
        files.join(" and ")
    );
    report::success(&facts, &text, json)
}

// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent attest`: prove what booted and show what the server thinks of it.

use crate::error::Error;
use crate::explain::{Explanation, Outcome};
use crate::kbs::{Client, Patience};
use crate::node::Node;
use crate::{report, trust};
use kbs_protocol::ear::Ear;
use kbs_protocol::resource::Volume;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(config: &Path, json: bool) -> Result<ExitCode, Error> {
    let mut node = Node::open(config)?;
    let target = trust::configured(&node.config, &node.id, &Volume::default())?;
    let client = Client::new(&target, &node.config.timeouts)?;
    let patience = Patience::from(node.config.timeouts.fetch);
    let attestation =
        client.attest(&mut node, patience, &mut report::waiting("the attestation"))?;
    let server = attestation.server.to_string();
    let explanation = Explanation {
        outcome: Outcome::Attested,
        path: None,
        server: Some(&server),
        node: Some(node.id.to_string()),
        ear: Some(Ear::read(attestation.token.as_str())?),
    };
    report::explanation(&explanation, json)
}

// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent explain`: ask for the secret, throw it away, and say why it came or did not.

use crate::error::Error;
use crate::explain::{Explanation, Outcome};
use crate::kbs::{Client, Patience};
use crate::node::Node;
use crate::source::read_secret;
use crate::{report, trust};
use kbs_protocol::ear::Ear;
use kbs_protocol::resource::Volume;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(config: &Path, volume: &Volume, json: bool) -> Result<ExitCode, Error> {
    let mut node = Node::open(config)?;
    let target = trust::configured(&node.config, &node.id, volume)?;
    let client = Client::new(&target, &node.config.timeouts)?;
    let result = client.fetch(
        &mut node,
        &target.path,
        Patience::Once,
        &mut report::waiting(target.path.as_str()),
    );

    // What came may still be nothing that opens a disk: the pin would say no, so this says why.
    let unusable = result.as_ref().ok().and_then(|fetched| {
        read_secret(&fetched.secret, &node.config, &node.id, &target.path).err()
    });
    // A token that cannot be read explains nothing; the refusal still stands.
    let ear = |token: &crate::kbs::Token| Ear::read(token.as_str()).ok();
    let (outcome, server, ear) = match &result {
        Ok(fetched) => (
            match &unusable {
                Some(error) => Outcome::Refused(error),
                None => Outcome::Released,
            },
            Some(fetched.server.to_string()),
            ear(&fetched.token),
        ),
        Err(error) => (
            Outcome::Refused(error),
            error.server().map(ToString::to_string),
            error.token().and_then(ear),
        ),
    };
    let explanation = Explanation {
        outcome,
        path: Some(target.path.as_str()),
        server: server.as_deref(),
        node: Some(node.id.to_string()),
        ear,
    };
    report::explanation(&explanation, json)
}

/// Explains a token from standard input, such as one found in a server's log.
pub(super) fn token(json: bool) -> Result<ExitCode, Error> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(TOKEN_LIMIT)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::Io {
            action: "read the token from standard input",
            error,
        })?;
    let text = String::from_utf8_lossy(&bytes);
    let ear = Ear::read(text.trim()).map_err(Error::NoToken)?;
    let explanation = Explanation {
        outcome: Outcome::TokenOnly,
        path: None,
        server: None,
        node: None,
        ear: Some(ear),
    };
    report::explanation(&explanation, json)
}

/// A token of TDX with its event log is under 1 MiB.
const TOKEN_LIMIT: u64 = 4 * 1024 * 1024;

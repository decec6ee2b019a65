// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent explain`: ask for the secret, throw it away, and say why it came or did not.

use crate::error::Error;
use crate::exit;
use crate::explain::{Explanation, Outcome};
use crate::kbs::{Client, Patience};
use crate::node::Node;
use crate::{report, trust};
use kbs_protocol::Blame as _;
use kbs_protocol::ear::Ear;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(config: &Path, json: bool) -> Result<ExitCode, Error> {
    let mut node = Node::open(config)?;
    let target = trust::configured(&node.config, &node.id)?;
    let client = Client::new(&target, &node.config.timeouts)?;
    let result = client.fetch(
        &mut node,
        &target.path,
        Patience::Once,
        &mut report::waiting(),
    );

    // A token that cannot be read explains nothing; the refusal still stands.
    let ear = |token: &crate::kbs::Token| Ear::read(token.as_str()).ok();
    let (outcome, server, ear) = match &result {
        Ok(fetched) => (
            Outcome::Released,
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
    report::success(&explanation.to_json(), &explanation.to_text(), json)?;
    Ok(match &result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => exit::status(error.owner()),
    })
}

/// Explains a token from standard input, such as one found in a server's log.
pub(super) fn token(json: bool) -> Result<ExitCode, Error> {
    let mut text = String::new();
    std::io::stdin()
        .take(TOKEN_LIMIT)
        .read_to_string(&mut text)
        .map_err(|error| Error::Io {
            action: "read the token from standard input",
            error,
        })?;
    let explanation = Explanation {
        outcome: Outcome::TokenOnly,
        path: None,
        server: None,
        node: None,
        ear: Some(Ear::read(text.trim())?),
    };
    report::success(&explanation.to_json(), &explanation.to_text(), json)
}

/// A token of TDX with its event log is under 1 MiB.
const TOKEN_LIMIT: u64 = 4 * 1024 * 1024;

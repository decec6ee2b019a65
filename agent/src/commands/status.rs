// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent status`: what this node is and whom it trusts. Asks the TPM, asks no server, changes
//! nothing.

use crate::config::Config;
use crate::error::Error;
use crate::evidence::EvidenceError;
use crate::evidence::tpm_status::{AkState, TpmReport, inspect};
use crate::report;
use kbs_protocol::encoding::hex;
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(path: &Path, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(path)?;
    let tpm = inspect(&config.tpm.tcti, config.tpm.ak_handle).map_err(EvidenceError::from)?;
    let facts = json!({
        "ok": true,
        "config": path.display().to_string(),
        "config_digest": hex::encode(config.pinned_digest()),
        "servers": config.kbs.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ca_sha256": config.kbs.anchors.ca_digests(),
        "spki_sha256": config.kbs.anchors.spki_digests(),
        "path": config.kbs.path.as_str(),
        "trust": config.mode.as_str(),
        "binding": config.binding.as_str(),
        "tpm": tpm,
    });
    report::success(&facts, &text(path, &config, &tpm), json)
}

fn text(path: &Path, config: &Config, tpm: &TpmReport) -> String {
    let mut rows: Vec<(&str, String)> = match &tpm.ak {
        AkState::Ok {
            node_id,
            spki_sha256,
            ..
        } => {
            vec![
                ("node id", node_id.clone()),
                ("AK SHA-256", spki_sha256.clone()),
            ]
        }
        AkState::Absent => vec![(
            "node id",
            "none yet: the first attestation makes the key".to_owned(),
        )],
        AkState::Weak { why, advice } => vec![
            ("node id", format!("none: {why}")),
            ("next", advice.clone()),
        ],
    };
    let mut row = |name, value: String| {
        if !value.is_empty() {
            rows.push((name, value));
        }
    };
    row(
        "TPM",
        format!(
            "{} firmware {} at {}",
            tpm.manufacturer, tpm.firmware, config.tpm.tcti
        ),
    );
    row("PCR banks", tpm.banks.join(", "));
    if tpm.lockout {
        row("lockout", "yes; the attestation key is exempt".to_owned());
    }
    row("configuration", path.display().to_string());
    for server in &config.kbs.servers {
        row("server", server.to_string());
    }
    for digest in config.kbs.anchors.ca_digests() {
        row("CA SHA-256", digest);
    }
    for digest in config.kbs.anchors.spki_digests() {
        row("key SHA-256", digest);
    }
    row("path", config.kbs.path.to_string());
    row("trust", config.mode.as_str().to_owned());
    row("secret binding", config.binding.as_str().to_owned());
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<16} {value}");
        text
    })
}

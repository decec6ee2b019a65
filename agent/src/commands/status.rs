// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent status`: what this node is, whom it trusts, which volumes are bound, and how far its boot is. Asks
//! the TPM and looks at the processor's interface, asks no server, changes nothing.

mod bindings;
mod boot;

use crate::config::Config;
use crate::error::Error;
use crate::evidence::tpm_status::{AkState, TpmReport, inspect};
use crate::evidence::{self, EvidenceError};
use crate::state::next_boot;
use crate::{exit, report};
use bindings::Binding;
use boot::Boot;
use kbs_protocol::encoding::hex;
use kbs_protocol::{Blame as _, Tee};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(path: &Path, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(path)?;
    let tpm = match config.evidence.has_tpm() {
        true => Some(inspect(&config.tpm.tcti, config.tpm.ak_handle).map_err(EvidenceError::from)?),
        false => None,
    };
    let sources = sources(&config);
    let missing = sources
        .iter()
        .find_map(|source| source.found.as_ref().err());
    let next_boot = next_boot();
    let bindings = bindings::all(&config);
    let boot = Boot::read()?;
    let facts = json!({
        "ok": missing.is_none(),
        "config": path.display().to_string(),
        "config_digest": hex::encode(config.pinned_digest()),
        "servers": config.kbs.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ca_sha256": config.kbs.anchors.ca_digests(),
        "spki_sha256": config.kbs.anchors.spki_digests(),
        "path": config.kbs.path.as_str(),
        "trust": config.mode.as_str(),
        "binding": config.binding.as_str(),
        "evidence": sources.iter().map(Source::json).collect::<Vec<_>>(),
        "tpm": tpm,
        "bindings": bindings.iter().map(Binding::json).collect::<Vec<_>>(),
        "boot": boot.as_ref().map(Boot::json),
        "next_boot": next_boot.as_ref().map(|(answer, _)| answer),
    });
    let mut rows = identity(&config, tpm.as_ref());
    rows.extend(trust(path, &config, &tpm, &sources));
    rows.extend(bindings.iter().map(|binding| ("binding", binding.text())));
    rows.extend(boot.iter().flat_map(Boot::rows));
    rows.extend(next_boot.map(|(_, sentence)| ("next boot", sentence.to_string())));
    let done = report::success(&facts, &text(&rows), json)?;
    // A script that asks before it reboots a node learns who has to act: without its evidence nothing else helps it.
    let code = missing.map(|error| exit::code(error.owner()));
    Ok(code
        .or_else(|| boot.and_then(|boot| boot.exit_code()))
        .map_or(done, ExitCode::from))
}

/// A configured source of evidence.
struct Source {
    tee: Tee,
    /// It is named in the request, and signs over the others.
    is_primary: bool,
    /// What it offers, or what of it is missing.
    found: Result<String, EvidenceError>,
}

/// Each configured source. Of a TPM there is more to tell, below.
fn sources(config: &Config) -> Vec<Source> {
    let found = |tee| match tee {
        Tee::Tpm => Ok("TPM quotes".to_owned()),
        other => evidence::attester(other, &config.evidence, &config.tpm, None)?.detect(),
    };
    let source = |tee| Source {
        tee,
        is_primary: tee == config.evidence.primary,
        found: found(tee),
    };
    config.evidence.all().map(source).collect()
}

impl Source {
    fn role(&self) -> &'static str {
        match self.is_primary {
            true => "primary",
            false => "additional",
        }
    }

    fn json(&self) -> Value {
        match &self.found {
            Ok(what) => json!({ "tee": self.tee, "role": self.role(), "what": what }),
            Err(error) => json!({
                "tee": self.tee, "role": self.role(), "missing": error.to_string(), "advice": error.advice(),
            }),
        }
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let (tee, role) = (self.tee, self.role());
        match &self.found {
            Ok(what) => vec![("evidence", format!("{tee} ({role}): {what}"))],
            Err(error) => vec![
                ("evidence", format!("{tee} ({role}) is missing: {error}")),
                ("to act", error.owner().to_string()),
                ("next", error.advice()),
            ],
        }
    }
}

/// Who the node is: by its TPM's key, or by the init-data it was started with.
fn identity(config: &Config, tpm: Option<&TpmReport>) -> Vec<(&'static str, String)> {
    match tpm.map(|tpm| &tpm.ak) {
        Some(AkState::Ok {
            node_id,
            spki_sha256,
            ..
        }) => {
            vec![
                ("node id", node_id.clone()),
                ("AK SHA-256", spki_sha256.clone()),
            ]
        }
        Some(AkState::Absent) => vec![(
            "node id",
            "none yet: the first attestation makes the key".to_owned(),
        )],
        Some(AkState::Weak { why, advice }) => vec![
            ("node id", format!("none: {why}")),
            ("next", advice.clone()),
        ],
        None => vec![(
            "node id",
            match config.assigned_id() {
                Some(id) => format!("{id}, assigned by init-data"),
                None => "none: no TPM accompanies this source, and no init-data assigns a uuid"
                    .to_owned(),
            },
        )],
    }
}

fn trust(
    path: &Path,
    config: &Config,
    tpm: &Option<TpmReport>,
    sources: &[Source],
) -> Vec<(&'static str, String)> {
    let mut rows: Vec<_> = sources.iter().flat_map(Source::rows).collect();
    let mut row = |name, value: String| {
        if !value.is_empty() {
            rows.push((name, value));
        }
    };
    if let Some(tpm) = tpm {
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
    rows
}

fn text(rows: &[(&str, String)]) -> String {
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<16} {value}");
        text
    })
}

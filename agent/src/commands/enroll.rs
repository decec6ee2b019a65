// SPDX-License-Identifier: Apache-2.0

//! `trustee-agent enroll`: proves to the registrar that this node's key lives in a TPM that it knows, and
//! prints the node id. Doing it twice changes nothing.

use crate::config::{Config, ConfigError, Enroll, Problem};
use crate::error::Error;
use crate::evidence::{EvidenceError, TpmEnroller};
use crate::kbs::{Patience, Registrar};
use crate::{exit, report};
use kbs_protocol::Blame as _;
use kbs_protocol::encoding::{b64, hex};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(path: &Path, json: bool) -> Result<ExitCode, Error> {
    let config = Config::load(path)?;
    let enroll = registrar(&config)?;
    let mut tpm = TpmEnroller::open(&config.tpm.tcti, config.tpm.ak_handle, product())
        .map_err(EvidenceError::from)?;
    let node = tpm.node_id();
    let ek_sha256 = hex::encode(tpm.ek_sha256().map_err(EvidenceError::from)?);
    let mut facts = json!({
        "node_id": node.to_string(),
        "ak_public": b64::encode(tpm.ak_spki_der()),
        "ek_sha256": ek_sha256,
        "ek_certificate": tpm.has_certificate(),
        "registrar": enroll.registrar.as_str(),
    });
    let certificate = match tpm.has_certificate() {
        true => "with a certificate",
        false => "without a certificate",
    };
    let text = format!("node id          {node}\nEK SHA-256       {ek_sha256} ({certificate})\n");
    // Shown before anything can fail: an administrator who has to list the TPM needs it then.
    if !json {
        eprint!("{text}");
    }
    let registrar = Registrar::new(enroll, &config.timeouts)?;
    let patience = Patience::from(config.timeouts.fetch);
    match registrar.enrol(&mut tpm, patience, &mut report::waiting("the enrolment")) {
        Ok(outcome) => {
            set(&mut facts, "ok", json!(true));
            set(&mut facts, "state", json!(outcome.state));
            let text = format!(
                "state            {} by {}\n",
                outcome.state.as_str(),
                enroll.registrar
            );
            report::success(&facts, &text, json)
        }
        Err(error) => {
            if json {
                set(&mut facts, "ok", json!(false));
                if let Some(outcome) = error.held() {
                    set(&mut facts, "state", json!(outcome.state));
                }
                set(&mut facts, "error", report::error_json(&error));
                report::success(&facts, "", true)?;
            }
            report::failure(&error, false);
            Ok(exit::status(error.owner()))
        }
    }
}

/// The registrar of this configuration.
///
/// # Errors
/// It names none.
pub(super) fn registrar(config: &Config) -> Result<&Enroll, ConfigError> {
    config.enroll.as_ref().ok_or_else(|| {
        let what = "this node has no registrar";
        let cure = "add [enroll] with registrar = \"https://…\" to agent.toml";
        ConfigError::value("enroll.registrar", "", Problem::new(what, cure))
    })
}

fn set(facts: &mut Value, name: &str, value: Value) {
    if let Some(members) = facts.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

/// What the firmware calls this machine. A claim, for people; machines without DMI have none.
fn product() -> Option<String> {
    let text = std::fs::read_to_string("/sys/class/dmi/id/product_name").ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

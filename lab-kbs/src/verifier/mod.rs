// SPDX-License-Identifier: Apache-2.0

//! From evidence to claims, in the words of Trustee's verifiers. Hardware evidence is verified strictly, against
//! the [`roots`] this server started with; `sample` proves nothing and is left to the policies. Called by the
//! handshake.

mod azure;
mod roots;
mod snp;
mod tdx;

pub(crate) use roots::Roots;

use crate::dialect::Dialect;
use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::Tee;
use kbs_protocol::encoding::hex::encode as hex;
use kbs_protocol::evidence::{SampleEvidence, TpmEvidence};
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::verify;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

/// What verified evidence says, in the words the policies know.
#[derive(Debug)]
pub(crate) struct Claims {
    pub(crate) tee: Tee,
    /// The object under the TEE's name.
    pub(crate) claims: Value,
    pub(crate) report_data: String,
    /// What the platform says about init-data, in the platform's own spelling.
    pub(crate) init_data: Option<String>,
}

/// Verifies one piece of evidence against the runtime data it must commit to.
pub(crate) fn verify(
    tee: Tee,
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
    roots: &Roots,
    dialect: Dialect,
) -> anyhow::Result<Claims> {
    match tee {
        Tee::Tpm => tpm(evidence, digest, init_data),
        Tee::Snp => snp::verify(evidence, digest, init_data, roots, dialect),
        Tee::Tdx => tdx::verify(evidence, digest, init_data, roots),
        Tee::AzSnpVtpm => azure::verify_snp(evidence, digest, init_data, roots),
        Tee::AzTdxVtpm => azure::verify_tdx(evidence, digest, init_data, roots),
        Tee::Sample => sample(evidence, digest, init_data),
    }
}

fn tpm(
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
) -> anyhow::Result<Claims> {
    let evidence =
        TpmEvidence::deserialize(evidence).context("the TPM evidence has another form")?;
    let report_data = digest.report_data(Tee::Tpm);
    let quote = verify::tpm_quote(&evidence, &report_data)?;
    let init_data = Some(check_pcr8(&quote.pcrs, init_data)?);
    let mut claims = pcr_claims(&quote.pcrs);
    claims.insert("ak_public".to_owned(), json!(evidence.ak_public));
    Ok(Claims {
        tee: Tee::Tpm,
        claims: claims.into(),
        report_data: hex(report_data),
        init_data,
    })
}

/// PCR 8, which carries init-data where some was sent.
fn check_pcr8(pcrs: &[[u8; 32]], init_data: Option<&InitDataToml>) -> anyhow::Result<String> {
    let pcr8 = pcrs.get(8).context("the quote has no PCR 8")?;
    if let Some(init_data) = init_data {
        let expected = init_data.expected_pcr8()?;
        ensure!(
            *pcr8 == expected,
            "PCR 8 is {}, the init-data needs {}",
            hex(pcr8),
            hex(expected)
        );
    }
    Ok(hex(pcr8))
}

fn pcr_claims(pcrs: &[[u8; 32]]) -> Map<String, Value> {
    let pcrs = pcrs.iter().enumerate();
    pcrs.map(|(number, value)| (format!("pcr{number:02}"), json!(hex(value))))
        .collect()
}

fn sample(
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
) -> anyhow::Result<Claims> {
    let evidence =
        SampleEvidence::deserialize(evidence).context("the sample evidence has another form")?;
    let report_data = STANDARD
        .decode(&evidence.report_data)
        .context("report_data is not base64")?;
    ensure!(
        report_data == digest.as_bytes(),
        "report_data belongs to another session or key"
    );
    let claims = json!({
        "svn": evidence.svn,
        "launch_digest": "abcde",
        "platform_version": { "major": 1, "minor": 4 },
        "debug": false,
    });
    let init_data = init_data.map(|init_data| STANDARD.encode(init_data.digest()));
    Ok(Claims {
        tee: Tee::Sample,
        claims,
        report_data: evidence.report_data,
        init_data,
    })
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! Azure's confidential machines: the processor vouches for the paravisor's JSON, the JSON for the vTPM's key, the
//! key for the PCRs. Only evidence of version 2 is accepted: in older versions the report is bound to no session.

use super::roots::Roots;
use super::{Claims, hex, snp, tdx};
use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::Tee;
use kbs_protocol::encoding::b64u_padded;
use kbs_protocol::evidence::{
    AZ_EVIDENCE_VERSION, AzSnpVtpmEvidence, AzTdxVtpmEvidence, AzTpmQuote, HclKind, HclReport,
    SnpReport,
};
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::verify;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use sev::firmware::host::{CertTableEntry, CertType};

pub(super) fn verify_snp(
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
    roots: &Roots,
) -> anyhow::Result<Claims> {
    let evidence =
        AzSnpVtpmEvidence::deserialize(evidence).context("the Azure evidence has another form")?;
    let (hcl, pcrs) = paravisor(
        evidence.version,
        &evidence.hcl_report,
        &evidence.tpm_quote,
        HclKind::Snp,
        digest,
    )?;
    let report = *SnpReport::parse(&hcl.hardware_report)?.fields();
    let vcek = b64u_padded::decode(&evidence.vcek).context("the VCEK is not base64url")?;
    snp::believe(
        &report,
        &[CertTableEntry::new(CertType::VCEK, vcek)],
        None,
        roots,
    )?;
    ensure!(
        report.vmpl == 0,
        "the report was asked for at VMPL {}",
        report.vmpl
    );
    ensure!(
        report.report_data.starts_with(&hcl.variable_data_sha256()),
        "the processor signed other paravisor data"
    );
    let mut claims = Map::new();
    for (name, value) in snp::facts(&report) {
        // Text here, numbers and truth values in the plain report.
        claims.insert(name, json!(value.to_string()));
    }
    claims.insert(
        "measurement".to_owned(),
        json!(STANDARD.encode(report.measurement)),
    );
    finish(Tee::AzSnpVtpm, claims, &pcrs, digest, init_data)
}

pub(super) fn verify_tdx(
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
    roots: &Roots,
) -> anyhow::Result<Claims> {
    let evidence =
        AzTdxVtpmEvidence::deserialize(evidence).context("the Azure evidence has another form")?;
    let (hcl, pcrs) = paravisor(
        evidence.version,
        &evidence.hcl_report,
        &evidence.tpm_quote,
        HclKind::Tdx,
        digest,
    )?;
    let quote = b64u_padded::decode(&evidence.td_quote).context("the quote is not base64url")?;
    let verified = tdx::believe(&quote, roots)?;
    ensure!(
        verified
            .body
            .report_data
            .starts_with(&hcl.variable_data_sha256()),
        "the processor signed other paravisor data"
    );
    finish(Tee::AzTdxVtpm, verified.claims(), &pcrs, digest, init_data)
}

/// The paravisor's report and the PCRs that its TPM quoted; nothing of it is believed before the processor's
/// signature over the JSON is.
fn paravisor(
    version: u32,
    report: &str,
    quote: &AzTpmQuote,
    kind: HclKind,
    digest: &RuntimeDigest,
) -> anyhow::Result<(HclReport, Vec<[u8; 32]>)> {
    ensure!(
        version == AZ_EVIDENCE_VERSION,
        "evidence version {version}: only version 2 binds the paravisor's report to the session"
    );
    let bytes = b64u_padded::decode(report).context("the paravisor's report is not base64url")?;
    let hcl = HclReport::parse(&bytes)?;
    ensure!(
        hcl.kind == kind,
        "the paravisor's report is of another processor"
    );
    let quote = verify::az_tpm_quote(quote, &hcl.ak, digest.as_bytes())?;
    let bound = hcl.user_data.as_ref();
    ensure!(
        bound.is_some_and(|data| data.starts_with(digest.as_bytes())),
        "the paravisor's user-data belongs to another session or key"
    );
    Ok((hcl, quote.pcrs))
}

fn finish(
    tee: Tee,
    mut claims: Map<String, Value>,
    pcrs: &[[u8; 32]],
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
) -> anyhow::Result<Claims> {
    let pcr8 = super::check_pcr8(pcrs, init_data)?;
    claims.insert("tpm".to_owned(), super::pcr_claims(pcrs).into());
    Ok(Claims {
        tee,
        claims: claims.into(),
        report_data: hex(digest.as_bytes()),
        init_data: Some(pcr8),
    })
}

// SPDX-License-Identifier: Apache-2.0

//! SEV-SNP: is this report by a processor of AMD's, and what does it say (AMD 56860 and 57230)? The order is that
//! of Trustee's verifier; unlike it, certificates out of their time are refused.

use super::roots::{Amd, Roots};
use super::{Claims, hex};
use crate::clock::unix_now;
use crate::dialect::Dialect;
use anyhow::{Context as _, bail, ensure};
use kbs_protocol::Tee;
use kbs_protocol::evidence::SnpEvidence;
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::runtime_data::RuntimeDigest;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use sev::Generation;
use sev::certs::snp::{Certificate, Verifiable as _};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::{CertTableEntry, CertType};
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub(super) fn verify(
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
    roots: &Roots,
    dialect: Dialect,
) -> anyhow::Result<Claims> {
    let SnpEvidence {
        attestation_report: report,
        cert_chain,
    } = SnpEvidence::deserialize(evidence).context("the SNP evidence has another form")?;
    let generation = generation(&report)?;
    let chain = match &cert_chain {
        Some(chain) => chain.clone(),
        None => vec![CertTableEntry::new(
            CertType::VCEK,
            stored_vcek(&report, roots)?,
        )],
    };
    believe(&report, &chain, Some(generation), roots)?;
    ensure!(
        report.vmpl == 0,
        "the report was asked for at VMPL {}",
        report.vmpl
    );
    let report_data = digest.report_data(Tee::Snp);
    ensure!(
        report.report_data[..] == report_data,
        "REPORT_DATA belongs to another session or key"
    );
    if let Some(init_data) = init_data {
        let expected: [u8; 32] = init_data.launch_register();
        ensure!(
            report.host_data == expected,
            "HOST_DATA is {}, the init-data needs {}",
            hex(report.host_data),
            hex(expected)
        );
    }
    let mut claims = facts(&report);
    claims.insert("measurement".to_owned(), json!(hex(report.measurement)));
    if dialect == Dialect::Main {
        claims.insert("chip_id".to_owned(), json!(hex(report.chip_id)));
    }
    Ok(Claims {
        tee: Tee::Snp,
        claims: claims.into(),
        report_data: hex(report_data),
        init_data: Some(hex(report.host_data)),
    })
}

/// What policy and firmware say, in the names that both kinds of SNP evidence use.
pub(super) fn facts(report: &AttestationReport) -> Map<String, Value> {
    let (policy, platform, tcb) = (&report.policy, &report.plat_info, &report.reported_tcb);
    let facts = [
        ("policy_abi_major", json!(policy.abi_major())),
        ("policy_abi_minor", json!(policy.abi_minor())),
        ("policy_smt_allowed", json!(policy.smt_allowed())),
        ("policy_migrate_ma", json!(policy.migrate_ma_allowed())),
        ("policy_debug_allowed", json!(policy.debug_allowed())),
        (
            "policy_single_socket",
            json!(policy.single_socket_required()),
        ),
        ("reported_tcb_bootloader", json!(tcb.bootloader)),
        ("reported_tcb_tee", json!(tcb.tee)),
        ("reported_tcb_snp", json!(tcb.snp)),
        ("reported_tcb_microcode", json!(tcb.microcode)),
        ("platform_tsme_enabled", json!(platform.tsme_enabled())),
        ("platform_smt_enabled", json!(platform.smt_enabled())),
    ];
    facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Certificates, signature, and that the certificate is for this chip with this firmware.
pub(super) fn believe(
    report: &AttestationReport,
    chain: &[CertTableEntry],
    generation: Option<Generation>,
    roots: &Roots,
) -> anyhow::Result<()> {
    let vek = chain
        .iter()
        .find(|entry| matches!(entry.cert_type, CertType::VCEK | CertType::VLEK))
        .context("the certificates must include a VCEK or VLEK")?;
    let certificate =
        Certificate::from_der(&vek.data).context("the VCEK or VLEK is no certificate")?;
    vouched(&certificate, chain, generation, roots)?;
    (&certificate, report)
        .verify()
        .context("the report is not signed by its VCEK or VLEK")?;
    matches(report, vek)
}

/// Some root vouches for the key: by its own intermediate key or by one that came along.
fn vouched(
    vek: &Certificate,
    chain: &[CertTableEntry],
    generation: Option<Generation>,
    roots: &Roots,
) -> anyhow::Result<()> {
    let of = |kind: &CertType| {
        let entry = chain.iter().find(|entry| entry.cert_type == *kind);
        entry
            .map(|entry| Certificate::from_der(&entry.data))
            .transpose()
    };
    let supplied = of(&CertType::ASK).context("the ASK is no certificate")?;
    let ark = of(&CertType::ARK).context("the ARK is no certificate")?;
    let signed_by = |root: &Amd| -> anyhow::Result<Certificate> {
        (&root.ark, &root.ark).verify()?;
        if let Some(ark) = &ark {
            (&root.ark, ark)
                .verify()
                .context("the ARK that came along is another")?;
        }
        let ask = supplied.as_ref().unwrap_or(&root.ask);
        (&root.ark, ask).verify()?;
        (ask, vek).verify()?;
        Ok(ask.clone())
    };
    let mut why = None;
    for root in roots.amd(generation) {
        match signed_by(root) {
            Ok(ask) => return [&root.ark, &ask, vek].into_iter().try_for_each(in_time),
            Err(error) => why = Some(error),
        }
    }
    match why {
        Some(error) => Err(error.context("no root vouches for the VCEK or VLEK")),
        None => bail!("there is no root for this generation"),
    }
}

fn in_time(certificate: &Certificate) -> anyhow::Result<()> {
    let der = certificate.to_der()?;
    let (_, parsed) = X509Certificate::from_der(&der)?;
    let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    ensure!(
        validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp(),
        "the certificate of {} is valid from {} to {}",
        parsed.subject(),
        validity.not_before,
        validity.not_after
    );
    Ok(())
}

/// The certificate's extensions against the report (57230, section 3).
fn matches(report: &AttestationReport, vek: &CertTableEntry) -> anyhow::Result<()> {
    let (_, certificate) = X509Certificate::from_der(&vek.data)?;
    let extension = |oid: &str| {
        let found = certificate
            .extensions()
            .iter()
            .find(|extension| extension.oid.to_id_string() == oid);
        found.map(|extension| extension.value)
    };
    let tcb = &report.reported_tcb;
    let mut parts = vec![
        ("boot loader", OID_BOOTLOADER, tcb.bootloader),
        ("TEE", OID_TEE, tcb.tee),
        ("SNP firmware", OID_SNP, tcb.snp),
        ("microcode", OID_MICROCODE, tcb.microcode),
    ];
    parts.extend(tcb.fmc.map(|fmc| ("FMC", OID_FMC, fmc)));
    for (name, oid, reported) in parts {
        let value =
            extension(oid).with_context(|| format!("the certificate names no {name} version"))?;
        // DER INTEGER of one byte, with a zero in front from 128 on.
        let certified = match value {
            [2, 1, number] | [2, 2, 0, number] => *number,
            _ => bail!("the certificate's {name} version is no small number"),
        };
        ensure!(
            certified == reported,
            "the certificate is for {name} version {certified}, the report says {reported}"
        );
    }
    if vek.cert_type == CertType::VCEK {
        let id = extension(OID_HWID).context("the certificate names no chip")?;
        // Bare in older certificates, an OCTET STRING in newer ones; Turin's chips have ids of 8 bytes.
        let id = id
            .strip_prefix(&[4, 64])
            .filter(|id| id.len() == 64)
            .unwrap_or(id);
        let chip = report.chip_id.get(..id.len()).unwrap_or_default();
        let rest = report.chip_id.get(id.len()..).unwrap_or_default();
        ensure!(
            matches!(id.len(), 8 | 64) && chip == id && rest.iter().all(|byte| *byte == 0),
            "the certificate is for another chip"
        );
    }
    Ok(())
}

fn generation(report: &AttestationReport) -> anyhow::Result<Generation> {
    match report.version {
        3..=5 => {}
        0..=2 => bail!("report version {}: the firmware is too old", report.version),
        later => bail!("report version {later} is not known"),
    }
    let family = report
        .cpuid_fam_id
        .context("the report names no processor family")?;
    let model = report
        .cpuid_mod_id
        .context("the report names no processor model")?;
    match Generation::identify_cpu(family, model)? {
        known @ (Generation::Milan | Generation::Genoa | Generation::Turin) => Ok(known),
        _ => bail!("processor family {family:#x} model {model:#x} is not known"),
    }
}

/// For a report that came alone: what an administrator put beside the server, under the chip's id.
fn stored_vcek(report: &AttestationReport, roots: &Roots) -> anyhow::Result<Vec<u8>> {
    ensure!(
        report.chip_id != [0; 64],
        "the report hides its chip, and no certificates came with it"
    );
    let length = if report.reported_tcb.fmc.is_some() {
        8
    } else {
        64
    };
    let id = hex(report.chip_id.get(..length).unwrap_or_default());
    let path = roots.vcek_store.join("vcek").join(id).join("vcek.der");
    std::fs::read(&path)
        .with_context(|| format!("no certificates came, and {} does not read", path.display()))
}

const OID_BOOTLOADER: &str = "1.3.6.1.4.1.3704.1.3.1";
const OID_TEE: &str = "1.3.6.1.4.1.3704.1.3.2";
const OID_SNP: &str = "1.3.6.1.4.1.3704.1.3.3";
const OID_MICROCODE: &str = "1.3.6.1.4.1.3704.1.3.8";
const OID_FMC: &str = "1.3.6.1.4.1.3704.1.3.9";
const OID_HWID: &str = "1.3.6.1.4.1.3704.1.4";

// SPDX-License-Identifier: Apache-2.0

//! Evidence of real machines against AMD's and Intel's own roots. The recordings are test data of published crates
//! (`sev`, Apache-2.0; `dcap-qvl`, MIT), read from where cargo keeps the sources of the versions in Cargo.lock, what
//! lies in `recorded/` beside this file, and in `tee/` below `SHEEPFOLD_FIXTURES`.

use super::roots;
use crate::verifier::{hex, snp, tdx};
use kbs_protocol::encoding::b64u_padded;
use kbs_protocol::evidence::{AzSnpVtpmEvidence, HclKind, HclReport, SnpReport};
use kbs_protocol::verify;
use serde_json::Value;
use sev::Generation;
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::{CertTableEntry, CertType};
use std::path::PathBuf;

/// The sources of a crate that this workspace depends on.
fn sources(name: &str) -> PathBuf {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages
        .iter()
        .find(|package| package["name"] == name)
        .unwrap();
    let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
    manifest.parent().unwrap().to_owned()
}

#[test]
fn a_milan_report_and_certificates_of_two_generations() {
    let data = sources("sev").join("tests/certs_data");
    let read = |name: &str| std::fs::read(data.join(name)).unwrap();
    let (report, raw, vcek) = milan();
    let roots = roots(&[], None, &[]);
    let chain = [CertTableEntry::new(CertType::VCEK, vcek)];
    // Version 2 does not name its processor; the server refuses it for its age, not for its signature.
    assert_eq!(report.version, 2);
    snp::believe(&report, &chain, None, &roots).unwrap();
    snp::believe(&report, &chain, Some(Generation::Milan), &roots).unwrap();
    assert!(snp::believe(&report, &chain, Some(Generation::Genoa), &roots).is_err());
    let turin = [CertTableEntry::new(CertType::VCEK, read("vcek_turin.der"))];
    let other = snp::believe(&report, &turin, Some(Generation::Turin), &roots).unwrap_err();
    // The chain holds up to AMD's Turin root; only the report is not this chip's.
    assert!(format!("{other:#}").contains("not signed by"), "{other:#}");
    let mut altered = report;
    altered.measurement[0] ^= 1;
    assert!(snp::believe(&altered, &chain, None, &roots).is_err());

    assert_eq!(serde_json::to_string(&report).unwrap(), spelled(&raw));
}

/// A recorded report of each generation: AMD's own root vouches for it, and its JSON is the table of the
/// specification, byte for byte. `tee/snp/NAME.bin` with `NAME.vcek.der` beside it, below the recordings, adds others.
#[test]
fn reports_of_each_generation_are_spelled_as_the_specification_has_it() {
    let roots = roots(&[], None, &[]);
    for one in recorded_reports() {
        let Recorded {
            name,
            made_for,
            raw,
            vcek,
        } = one;
        let report = *SnpReport::parse(&raw).unwrap().fields();
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            spelled(&raw),
            "{name}"
        );
        let chain = [CertTableEntry::new(CertType::VCEK, vcek)];
        // Since version 3 a report names its processor; the older ones take it from who signed their key.
        let family = report.cpuid_fam_id.zip(report.cpuid_mod_id);
        let named = family.map(|(family, model)| Generation::identify_cpu(family, model).unwrap());
        if let (Some(named), Some(made_for)) = (named, made_for) {
            assert_eq!(named.titlecase(), made_for.titlecase(), "{name}");
        }
        let generation = made_for.or(named);
        snp::believe(&report, &chain, generation, &roots).unwrap();
        for other in [Generation::Milan, Generation::Genoa, Generation::Turin] {
            if generation.is_some_and(|generation| generation.titlecase() != other.titlecase()) {
                assert!(snp::believe(&report, &chain, Some(other), &roots).is_err());
            }
        }
        let mut altered = report;
        altered.measurement[47] ^= 1;
        assert!(snp::believe(&altered, &chain, generation, &roots).is_err());
    }
}

/// What the paravisor of two real machines says of itself: each part where the format has it, and the processor's
/// report bound to the part that holds the vTPM's key.
#[test]
fn hcl_reports_of_real_machines() {
    for (name, kind, user_data) in [
        ("azure-snp.hcl", HclKind::Snp, None),
        ("azure-tdx.hcl", HclKind::Tdx, Some(64)),
    ] {
        let hcl = HclReport::parse(&recorded(name)).unwrap();
        assert_eq!(hcl.kind, kind, "{name}");
        assert_eq!(hcl.user_data.as_ref().map(Vec::len), user_data, "{name}");
        assert_eq!((hcl.ak.n.len(), &hcl.ak.e[..]), (256, &[1, 0, 1][..]));
        // An SNP report has its data at 0x50, a TDREPORT at 0x80.
        let at = if kind == HclKind::Snp { 0x50 } else { 0x80 };
        let data = &hcl.hardware_report[at..at + 64];
        assert_eq!(data[..32], hcl.variable_data_sha256(), "{name}");
        assert_eq!(data[32..], [0; 32], "{name}");
    }
    let hcl = HclReport::parse(&recorded("azure-snp.hcl")).unwrap();
    let report = *SnpReport::parse(&hcl.hardware_report).unwrap().fields();
    assert_eq!(
        serde_json::to_string(&report).unwrap(),
        spelled(&hcl.hardware_report)
    );
}

/// Azure's evidence of a real machine, `tee/azure/NAME.json` below the recordings: each link of it holds, and the
/// processor's report is AMD's.
#[test]
fn azures_evidence_of_a_real_machine() {
    let found = files("tee/azure", "json");
    if found.is_empty() {
        eprintln!("SKIPPED: no recorded evidence in tee/azure below SHEEPFOLD_FIXTURES");
    }
    let roots = roots(&[], None, &[]);
    for path in found {
        let text = std::fs::read(&path).unwrap();
        let evidence: AzSnpVtpmEvidence = serde_json::from_slice(&text).unwrap();
        let hcl = HclReport::parse(&b64u_padded::decode(&evidence.hcl_report).unwrap()).unwrap();
        let digest = hcl.user_data.clone().unwrap()[..48].to_vec();
        let quote = verify::az_tpm_quote(&evidence.tpm_quote, &hcl.ak, &digest).unwrap();
        assert_eq!(quote.pcrs.len(), 24);
        assert!(verify::az_tpm_quote(&evidence.tpm_quote, &hcl.ak, &[0; 48]).is_err());
        let report = *SnpReport::parse(&hcl.hardware_report).unwrap().fields();
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            spelled(&hcl.hardware_report)
        );
        assert!(report.report_data.starts_with(&hcl.variable_data_sha256()));
        let vcek = b64u_padded::decode(&evidence.vcek).unwrap();
        let chain = [CertTableEntry::new(CertType::VCEK, vcek)];
        snp::believe(&report, &chain, None, &roots).unwrap();
    }
}

/// The table of the specification, member for member from the raw report.
fn spelled(raw: &[u8]) -> String {
    let number = |at: usize, size: usize| {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&raw[at..at + size]);
        u64::from_le_bytes(bytes)
    };
    let version = number(0, 4);
    // Turin counts the parts of its TCB otherwise.
    let turin = version > 2 && raw[0x188] == 0x1a;
    let bytes = |at: usize, size: usize| serde_json::to_string(&raw[at..at + size]).unwrap();
    let tcb = |at: usize| {
        let [fmc, bootloader, tee, snp] = if turin { [0, 1, 2, 3] } else { [9, 0, 1, 6] };
        let fmc = if turin {
            raw[at + fmc].to_string()
        } else {
            "null".to_owned()
        };
        format!(
            r#"{{"fmc":{fmc},"bootloader":{},"tee":{},"snp":{},"microcode":{}}}"#,
            raw[at + bootloader],
            raw[at + tee],
            raw[at + snp],
            raw[at + 7]
        )
    };
    let cpu = |at: usize| {
        if version > 2 {
            raw[at].to_string()
        } else {
            "null".to_owned()
        }
    };
    let firmware = |at: usize| {
        format!(
            r#"{{"major":{},"minor":{},"build":{}}}"#,
            raw[at + 2],
            raw[at + 1],
            raw[at]
        )
    };
    let mitigations = |at: usize| match version {
        5.. => number(at, 8).to_string(),
        _ => "null".to_owned(),
    };
    let members = [
        ("version", version.to_string()),
        ("guest_svn", number(4, 4).to_string()),
        ("policy", number(8, 8).to_string()),
        ("family_id", bytes(0x10, 16)),
        ("image_id", bytes(0x20, 16)),
        ("vmpl", number(0x30, 4).to_string()),
        ("sig_algo", number(0x34, 4).to_string()),
        ("current_tcb", tcb(0x38)),
        ("plat_info", number(0x40, 8).to_string()),
        ("key_info", number(0x48, 4).to_string()),
        ("report_data", bytes(0x50, 64)),
        ("measurement", bytes(0x90, 48)),
        ("host_data", bytes(0xc0, 32)),
        ("id_key_digest", bytes(0xe0, 48)),
        ("author_key_digest", bytes(0x110, 48)),
        ("report_id", bytes(0x140, 32)),
        ("report_id_ma", bytes(0x160, 32)),
        ("reported_tcb", tcb(0x180)),
        ("cpuid_fam_id", cpu(0x188)),
        ("cpuid_mod_id", cpu(0x189)),
        ("cpuid_step", cpu(0x18a)),
        ("chip_id", bytes(0x1a0, 64)),
        ("committed_tcb", tcb(0x1e0)),
        ("current", firmware(0x1e8)),
        ("committed", firmware(0x1ec)),
        ("launch_tcb", tcb(0x1f0)),
        ("launch_mit_vector", mitigations(0x1f8)),
        ("current_mit_vector", mitigations(0x200)),
        (
            "signature",
            format!(r#"{{"r":{},"s":{}}}"#, bytes(0x2a0, 72), bytes(0x2e8, 72)),
        ),
    ];
    let members = members.map(|(name, value)| format!("{name:?}:{value}"));
    format!("{{{}}}", members.join(","))
}

/// Files of the recordings with this ending.
fn files(below: &str, ending: &str) -> Vec<PathBuf> {
    let root = std::env::var_os("SHEEPFOLD_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures"),
        PathBuf::from,
    );
    let found = std::fs::read_dir(root.join(below)).into_iter().flatten();
    let found = found.map(|entry| entry.unwrap().path());
    found
        .filter(|path| path.extension().is_some_and(|e| e == ending))
        .collect()
}

/// One of the recordings beside this file; their README says where each comes from.
fn recorded(name: &str) -> Vec<u8> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/verifier/tests/recorded");
    std::fs::read(beside.join(name)).unwrap()
}

/// A report that somebody recorded.
struct Recorded {
    name: String,
    /// The processor that made it, where that is known.
    made_for: Option<Generation>,
    raw: Vec<u8>,
    /// The certificate of the key that signed it, DER.
    vcek: Vec<u8>,
}

fn recorded_reports() -> Vec<Recorded> {
    let (_, raw, vcek) = milan();
    let mut reports = vec![Recorded {
        name: "milan".to_owned(),
        made_for: Some(Generation::Milan),
        raw,
        vcek,
    }];
    for (name, generation) in [("genoa", Generation::Genoa), ("turin", Generation::Turin)] {
        reports.push(Recorded {
            name: name.to_owned(),
            made_for: Some(generation),
            raw: recorded(&format!("{name}.bin")),
            vcek: recorded(&format!("{name}.vcek.der")),
        });
    }
    reports.extend(files("tee/snp", "bin").into_iter().map(|path| Recorded {
        name: path.display().to_string(),
        made_for: None,
        raw: std::fs::read(&path).unwrap(),
        vcek: std::fs::read(path.with_extension("vcek.der")).unwrap(),
    }));
    reports
}

/// The report of a real Milan, raw too, and the certificate of its key.
pub(super) fn milan() -> (AttestationReport, Vec<u8>, Vec<u8>) {
    let data = sources("sev").join("tests/certs_data");
    let read = |name: &str| std::fs::read(data.join(name)).unwrap();
    let text = String::from_utf8(read("report_milan.hex")).unwrap();
    let raw = kbs_protocol::encoding::hex::decode(text.trim()).unwrap();
    let report = *SnpReport::parse(&raw).unwrap().fields();
    (report, raw, read("vcek_milan.der"))
}

/// The claims of real TDs, as they were while their collateral was fresh.
pub(super) fn intel_quotes() -> Vec<(&'static str, Value)> {
    let samples = sources("dcap-qvl").join("sample");
    let claims = |(name, collateral): (&'static str, &str)| {
        let quote = std::fs::read(samples.join(name)).unwrap();
        let text = std::fs::read_to_string(samples.join(collateral)).unwrap();
        let collateral: Value = serde_json::from_str(&text).unwrap();
        let info: Value = serde_json::from_str(collateral["tcb_info"].as_str().unwrap()).unwrap();
        let roots = roots(&[], None, &[collateral]);
        let at = seconds(info["issueDate"].as_str().unwrap()) + 7 * 86_400;
        (
            name,
            tdx::believe_at(&quote, &roots, at).unwrap().claims().into(),
        )
    };
    [
        ("tdx_quote", "tdx_quote_collateral.json"),
        ("tdx_quote_td15ex", "tdx_quote_td15ex_collateral.json"),
    ]
    .map(claims)
    .into()
}

#[test]
fn quotes_of_real_machines() {
    let samples = sources("dcap-qvl").join("sample");
    for (name, collateral, version, known) in [
        ("tdx_quote", "tdx_quote_collateral.json", "0400", true),
        (
            "tdx_quote_td15ex",
            "tdx_quote_td15ex_collateral.json",
            "0500",
            true,
        ),
        // Its platform meets no level at all.
        (
            "tdx_quote_outdated",
            "tdx_quote_outdated_collateral.json",
            "0400",
            false,
        ),
    ] {
        let quote = std::fs::read(samples.join(name)).unwrap();
        let text = std::fs::read_to_string(samples.join(collateral)).unwrap();
        let collateral: Value = serde_json::from_str(&text).unwrap();
        let info: Value = serde_json::from_str(collateral["tcb_info"].as_str().unwrap()).unwrap();
        let roots = roots(&[], None, &[collateral]);
        let at = seconds(info["issueDate"].as_str().unwrap()) + 7 * 86_400;
        let verified = tdx::believe_at(&quote, &roots, at);
        if !known {
            let why = format!("{:#}", verified.err().unwrap());
            assert!(why.contains("No matching TCB level"), "{name}: {why}");
            continue;
        }
        let verified = verified.unwrap();
        let claims = verified.claims();
        assert_eq!(claims["quote"]["header"]["version"], version, "{name}");
        // The claims are the quote's bytes, in their order.
        let head = hex(&quote[..48]);
        let header = &claims["quote"]["header"];
        let spelled: String = [
            "version",
            "att_key_type",
            "tee_type",
            "reserved",
            "vendor_id",
            "user_data",
        ]
        .map(|member| header[member].as_str().unwrap())
        .concat();
        assert_eq!(spelled, head, "{name}");
        let body: String = [
            "tcb_svn",
            "mr_seam",
            "mrsigner_seam",
            "seam_attributes",
            "td_attributes",
            "xfam",
            "mr_td",
            "mr_config_id",
            "mr_owner",
            "mr_owner_config",
            "rtmr_0",
            "rtmr_1",
            "rtmr_2",
            "rtmr_3",
            "report_data",
        ]
        .map(|member| claims["quote"]["body"][member].as_str().unwrap())
        .concat();
        let at = if version == "0400" { 48 } else { 54 };
        assert_eq!(body, hex(&quote[at..][..584]), "{name}");
        // Years later the collateral has run out.
        assert!(tdx::believe_at(&quote, &roots, super::now() + 3650 * 86_400).is_err());
        let mut altered = quote.clone();
        altered[200] ^= 1;
        assert!(tdx::believe_at(&altered, &roots, 0).is_err());
    }
}

/// Seconds since 1970 of `2025-06-19T10:16:03Z`, to the day.
fn seconds(date: &str) -> u64 {
    let part = |range: std::ops::Range<usize>| date[range].parse::<u64>().unwrap();
    let (year, month, day) = (part(0..4), part(5..7), part(8..10));
    // Days from civil, Howard Hinnant's formula.
    let (year, month) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    days * 86_400
}

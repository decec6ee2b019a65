// SPDX-License-Identifier: Apache-2.0

//! Evidence of real machines against AMD's and Intel's own roots. The recordings are test data of published crates
//! (`sev`, Apache-2.0; `dcap-qvl`, MIT), read from where cargo keeps the sources of the versions in Cargo.lock.

use super::roots;
use crate::verifier::{hex, snp, tdx};
use kbs_protocol::evidence::SnpReport;
use serde_json::Value;
use sev::Generation;
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
    let text = String::from_utf8(read("report_milan.hex")).unwrap();
    let raw = kbs_protocol::encoding::hex::decode(text.trim()).unwrap();
    let report = *SnpReport::parse(&raw).unwrap().fields();
    let roots = roots(&[], None, &[]);
    let chain = [CertTableEntry::new(CertType::VCEK, read("vcek_milan.der"))];
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

    // The JSON that goes over the wire carries each byte that was signed.
    let json = serde_json::to_value(report).unwrap();
    for (member, offset, length) in [
        ("family_id", 0x10, 16),
        ("image_id", 0x20, 16),
        ("report_data", 0x50, 64),
        ("measurement", 0x90, 48),
        ("host_data", 0xc0, 32),
        ("id_key_digest", 0xe0, 48),
        ("author_key_digest", 0x110, 48),
        ("report_id", 0x140, 32),
        ("report_id_ma", 0x160, 32),
        ("chip_id", 0x1a0, 64),
    ] {
        let expected: Vec<Value> = raw[offset..][..length]
            .iter()
            .map(|byte| (*byte).into())
            .collect();
        assert_eq!(json[member], Value::Array(expected), "{member}");
    }
    for (member, offset) in [
        ("version", 0),
        ("guest_svn", 4),
        ("vmpl", 0x30),
        ("sig_algo", 0x34),
        ("key_info", 0x48),
    ] {
        let number = u32::from_le_bytes(raw[offset..][..4].try_into().unwrap());
        assert_eq!(json[member], number, "{member}");
    }
    for (member, offset) in [
        ("current_tcb", 0x38),
        ("reported_tcb", 0x180),
        ("committed_tcb", 0x1e0),
        ("launch_tcb", 0x1f0),
    ] {
        let tcb = &raw[offset..][..8];
        for (part, byte) in [("bootloader", 0), ("tee", 1), ("snp", 6), ("microcode", 7)] {
            assert_eq!(json[member][part], tcb[byte], "{member}.{part}");
        }
        assert_eq!(json[member]["fmc"], Value::Null);
    }
    for (half, offset) in [("r", 0x2a0), ("s", 0x2e8)] {
        let expected: Vec<Value> = raw[offset..][..72]
            .iter()
            .map(|byte| (*byte).into())
            .collect();
        assert_eq!(json["signature"][half], Value::Array(expected));
    }
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

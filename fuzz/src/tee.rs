// SPDX-License-Identifier: Apache-2.0

//! What processors and hypervisors hand to the guest: written by a host that may lie.

use kbs_protocol::encoding::hex;
use kbs_protocol::evidence::{CertTable, HclReport, SNP_REPORT_SIZE, SnpReport, TdQuote};
use sha2::{Digest as _, Sha256};

/// What crosses the wire as fields is what the processor signed: a report that is accepted has the one size, and the
/// fields that policies look at are those of the bytes.
pub fn snp_report(bytes: &[u8]) -> bool {
    let Ok(report) = SnpReport::parse(bytes) else {
        return false;
    };
    assert_eq!(bytes.len(), SNP_REPORT_SIZE);
    // AMD SEV-SNP Firmware ABI, table ATTESTATION_REPORT.
    let fields = report.fields();
    assert_eq!(fields.report_data[..], bytes[0x50..0x90]);
    assert_eq!(fields.measurement[..], bytes[0x90..0xc0]);
    assert_eq!(fields.host_data[..], bytes[0xc0..0xe0]);
    assert_eq!(fields.chip_id[..], bytes[0x1a0..0x1e0]);
    assert_eq!(fields.vmpl.to_le_bytes()[..], bytes[0x30..0x34]);
    true
}

/// No certificate comes from outside the table.
pub fn snp_cert_table(bytes: &[u8]) -> bool {
    let Ok(table) = CertTable::parse(bytes) else {
        return false;
    };
    for entry in table.into_chain().into_iter().flatten() {
        let data = entry.data();
        assert!(!data.is_empty() && data.len() <= bytes.len());
        assert!(bytes.windows(data.len()).any(|window| window == data));
    }
    true
}

/// The registers are those of the body, wherever the version puts it.
pub fn tdx_quote(bytes: &[u8]) -> bool {
    let Ok(quote) = TdQuote::parse(bytes) else {
        return false;
    };
    assert!(matches!(quote.version, 4 | 5));
    let body = if quote.version == 4 { 48 } else { 54 };
    // Intel TDX DCAP Quoting Library, TD Quote Body.
    assert_eq!(quote.mr_config_id[..], bytes[body + 184..body + 232]);
    assert_eq!(quote.report_data[..], bytes[body + 520..body + 584]);
    assert_eq!(quote.rtmrs.concat(), bytes[body + 328..body + 520]);
    true
}

/// The JSON that names the key is what the hash in the processor's report covers.
pub fn hcl_report(bytes: &[u8]) -> bool {
    let Ok(report) = HclReport::parse(bytes) else {
        return false;
    };
    assert_eq!(report.hardware_report[..], bytes[32..32 + 1184]);
    let data = &report.variable_data;
    assert_eq!(data[..], bytes[1236..1236 + data.len()]);
    assert_eq!(report.variable_data_sha256()[..], Sha256::digest(data)[..]);
    // Members that nobody reads are skipped without a look at what is in their texts.
    let json: Option<serde_json::Value> = serde_json::from_slice(data).ok();
    if let (Some(user_data), Some(json)) = (&report.user_data, json) {
        let text = json["user-data"].as_str().unwrap();
        assert_eq!(hex::encode(user_data), text.to_lowercase());
    }
    true
}

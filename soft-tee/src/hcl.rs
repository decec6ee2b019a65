// SPDX-License-Identifier: Apache-2.0

//! Azure's paravisor made of software: lays out its report over a JSON text with the vTPM's key and the guest's user
//! data, and has a processor made of software sign over that.

use crate::snp::Chip;
use crate::tdx::{Platform, Td};
use crate::tpm::hex;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sha2::{Digest as _, Sha256};

/// The five numbers before the JSON, and what else a test may want to have wrong. Public members, as in [`Td`].
#[derive(Debug, Clone)]
pub struct Layout {
    /// 2 for SNP, 4 for TDX.
    pub report_type: u32,
    /// 1 for SHA-256.
    pub hash_type: u32,
    /// The JSON, byte for byte.
    pub variable_data: Vec<u8>,
}

impl Layout {
    /// The report as it lies in the NV index, padded to its size.
    pub fn report(&self, hardware: &[u8]) -> Vec<u8> {
        let length = u32::try_from(self.variable_data.len()).unwrap();
        let mut report = b"HCLA".to_vec();
        for number in [2, 0, 2, 0, 0, 0, 0] {
            report.extend(u32::to_le_bytes(number));
        }
        report.extend(hardware);
        report.resize(HEADER + HARDWARE, 0);
        for number in [length + 20, 1, self.report_type, self.hash_type, length] {
            report.extend(number.to_le_bytes());
        }
        report.extend(&self.variable_data);
        report.resize(report.len().max(SIZE), 0);
        report
    }

    /// What the processor signs: SHA-256 of the JSON, and zeros.
    pub fn report_data(&self) -> [u8; 64] {
        let mut data = [0; 64];
        data[..32].copy_from_slice(&Sha256::digest(&self.variable_data));
        data
    }
}

/// The JSON: the vTPM's attestation key (big-endian numbers), and the 64 bytes of user data if the guest wrote any.
pub fn variable_data(n: &[u8], e: &[u8], user_data: Option<&[u8]>) -> Vec<u8> {
    let mut json = json!({
        "keys": [{
            "kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA",
            "e": URL_SAFE_NO_PAD.encode(e), "n": URL_SAFE_NO_PAD.encode(n),
        }],
        "vm-configuration": {"secure-boot": true, "tpm-enabled": true, "vmUniqueId": "none"},
    });
    if let Some(user_data) = user_data {
        json["user-data"] = Value::String(hex(user_data).to_uppercase());
    }
    json.to_string().into_bytes()
}

/// The paravisor's report on an AMD processor.
pub fn snp(
    chip: &Chip,
    variable_data: Vec<u8>,
    change: impl FnOnce(&mut AttestationReport),
) -> Vec<u8> {
    let layout = Layout {
        report_type: 2,
        hash_type: 1,
        variable_data,
    };
    layout.report(&chip.report_with(layout.report_data(), change))
}

/// The paravisor's report on an Intel processor, with a TD report that says nothing but what it is about; the quote is
/// made of it by [`td_quote`].
pub fn tdx(variable_data: Vec<u8>) -> Vec<u8> {
    let layout = Layout {
        report_type: 4,
        hash_type: 1,
        variable_data,
    };
    layout.report(&td_report(&layout.report_data()))
}

/// TDREPORT_STRUCT (Intel TDX Module ABI): REPORTDATA stands at 128, in REPORTMACSTRUCT.
pub fn td_report(report_data: &[u8; 64]) -> Vec<u8> {
    let mut report = vec![0; TD_REPORT];
    report[0] = 0x81;
    report[128..192].copy_from_slice(report_data);
    report
}

/// What the metadata service makes of a TD report.
pub fn td_quote(platform: &Platform, td_report: &[u8], td: &Td) -> Vec<u8> {
    let report_data = td_report[128..192].try_into().unwrap();
    platform.quote(&Td {
        report_data,
        ..td.clone()
    })
}

const HEADER: usize = 32;
const HARDWARE: usize = 1184;
const TD_REPORT: usize = 1024;
/// The real index has 2600 bytes; software TPMs allow no more than this.
const SIZE: usize = 2048;

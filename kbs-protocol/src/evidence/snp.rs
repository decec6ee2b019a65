// SPDX-License-Identifier: Apache-2.0

//! SEV-SNP evidence: the attestation report (AMD SEV-SNP Firmware ABI, 56860) as JSON, and the certificates
//! that the host handed out with it.
//!
//! The report crosses the wire as an object with one member for each field, not as bytes; a verifier puts the
//! bytes together again before it checks the signature. The crate `sev` knows both forms.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::{CertTableEntry, CertType};
use sev::parser::ByteParser as _;

/// The evidence of `snp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnpEvidence {
    /// The report, one member for each field; byte strings are arrays of numbers.
    pub attestation_report: AttestationReport,
    /// What the host knows about the signing key, DER; `null` where it handed out nothing. A KBS refuses an
    /// empty list.
    pub cert_chain: Option<Vec<CertTableEntry>>,
}

/// A report that has been read from the bytes the firmware signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnpReport(AttestationReport);

/// The certificates behind a report, as the hypervisor lays them out (GHCB specification, 56421, section on
/// SNP extended guest requests): entries of GUID, offset and length, a zero entry, then the certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertTable(Vec<CertTableEntry>);

impl SnpReport {
    /// Reads a report.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or [`Error::Malformed`] when it is not [`SNP_REPORT_SIZE`] bytes of a version
    /// and processor that the wire form covers, or carries bytes that the wire form would lose: the signature
    /// would not hold at the other end.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Error::check_size(REPORT, bytes, SNP_REPORT_SIZE)?;
        if bytes.len() < SNP_REPORT_SIZE {
            let length = bytes.len();
            return Err(Error::malformed(
                REPORT,
                format!("it has {length} bytes, expected {SNP_REPORT_SIZE}"),
            ));
        }
        let report = AttestationReport::from_bytes(bytes)
            .map_err(|error| Error::malformed(REPORT, error.to_string()))?;
        let signed = |bytes: &[u8]| bytes.get(..SIGNED).map(<[u8]>::to_vec);
        match report.to_bytes() {
            Ok(again) if signed(&again) == signed(bytes) => Ok(Self(report)),
            _ => Err(Error::malformed(
                REPORT,
                "it uses fields that the KBS protocol cannot carry",
            )),
        }
    }

    /// The fields.
    pub fn fields(&self) -> &AttestationReport {
        &self.0
    }
}

impl CertTable {
    /// Reads a table. The hypervisor wrote it: offsets are checked, entries without a certificate are left
    /// out, and nothing is said about what the certificates are worth.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or [`Error::Malformed`] when the table does not end or a certificate lies outside.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Error::check_size(TABLE, bytes, TABLE_LIMIT)?;
        let mut entries = Vec::new();
        let mut total = 0_usize;
        for entry in bytes.chunks(ENTRY) {
            let Ok(entry) = <&[u8; ENTRY]>::try_from(entry) else {
                break;
            };
            let (guid, place) = entry.split_at(16);
            let (offset, length) = place.split_at(4);
            let guid = sev_guid(guid)?;
            if guid == CertType::Empty {
                return Ok(Self(entries));
            }
            let (offset, length) = (little_endian(offset), little_endian(length));
            let end = offset.saturating_add(length);
            let data = bytes
                .get(offset..end)
                .ok_or_else(|| Error::malformed(TABLE, "a certificate lies outside of it"))?;
            // Entries for the same bytes would make a large list of a small table.
            total = total.saturating_add(length);
            if total > bytes.len() {
                return Err(Error::malformed(TABLE, "its certificates overlap"));
            }
            if !data.is_empty() {
                entries.push(CertTableEntry::new(guid, data.to_vec()));
            }
        }
        match bytes.is_empty() {
            true => Ok(Self(entries)),
            false => Err(Error::malformed(TABLE, "it has no last entry")),
        }
    }

    /// The form of the evidence: nothing rather than an empty list.
    pub fn into_chain(self) -> Option<Vec<CertTableEntry>> {
        Some(self.0).filter(|entries| !entries.is_empty())
    }
}

fn sev_guid(bytes: &[u8]) -> Result<CertType, Error> {
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    let known = [
        CertType::Empty,
        CertType::ARK,
        CertType::ASK,
        CertType::VCEK,
        CertType::VLEK,
        CertType::CRL,
    ];
    match known.into_iter().find(|kind| kind.to_string() == text) {
        Some(kind) => Ok(kind),
        None => serde_json::from_value(serde_json::json!({ "OTHER": text }))
            .map_err(|_| Error::malformed(TABLE, "an entry has no GUID")),
    }
}

fn little_endian(bytes: &[u8]) -> usize {
    let value = <[u8; 4]>::try_from(bytes).map_or(u32::MAX, u32::from_le_bytes);
    usize::try_from(value).unwrap_or(usize::MAX)
}

const REPORT: &str = "the SEV-SNP report";
const TABLE: &str = "the host's certificate table";
/// Every version of the report has this size, in bytes.
pub const SNP_REPORT_SIZE: usize = 1184;
/// What the signature covers.
const SIGNED: usize = 0x2a0;
/// GUID, offset, length.
const ENTRY: usize = 24;
/// Six certificates of 2 KiB and a revocation list fit many times.
const TABLE_LIMIT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::{CertTable, SIGNED, SNP_REPORT_SIZE, SnpEvidence, SnpReport};
    use serde_json::{Value, json};
    use sev::firmware::host::{CertTableEntry, CertType};
    use sev::parser::ByteParser as _;

    /// Field by field, each byte string filled with its own number, as the firmware lays it out.
    fn raw(version: u8, family: u8, model: u8) -> Vec<u8> {
        let mut bytes = vec![0; SNP_REPORT_SIZE];
        let mut put = |offset: usize, content: &[u8]| {
            bytes[offset..][..content.len()].copy_from_slice(content);
        };
        put(0x00, &[version]);
        put(0x04, &[2]);
        put(0x08, &0x0003_001f_u64.to_le_bytes());
        put(0x10, &[0x10; 16]);
        put(0x20, &[0x20; 16]);
        put(0x34, &[1]);
        put(0x38, &[1, 2, 3, 4, 0, 0, 0, 8]);
        put(0x40, &[3]);
        put(0x48, &[4]);
        put(0x50, &[0x50; 64]);
        put(0x90, &[0x90; 48]);
        put(0xc0, &[0xc0; 32]);
        put(0xe0, &[0xe0; 48]);
        put(0x110, &[0x11; 48]);
        put(0x140, &[0x14; 32]);
        put(0x160, &[0x16; 32]);
        put(0x180, &[1, 2, 3, 4, 0, 0, 0, 8]);
        if version > 2 {
            put(0x188, &[family, model, 1]);
        }
        put(0x1a0, &[0x1a; 64]);
        put(0x1e0, &[1, 2, 3, 4, 0, 0, 0, 8]);
        put(0x1e8, &[21, 55, 1]);
        put(0x1ec, &[22, 55, 1]);
        put(0x1f0, &[1, 2, 3, 4, 0, 0, 0, 8]);
        if version >= 5 {
            put(0x1f8, &[0xf8, 1, 0, 0, 0, 0, 0, 0]);
            put(0x200, &[0, 2, 0, 0, 0, 0, 0, 0]);
        }
        put(0x2a0, &[0xa0; 72]);
        put(0x2e8, &[0xe8; 72]);
        bytes
    }

    /// The members of the specification's table, in its order.
    fn expected(version: u8, cpu: [Value; 3], tcb: &str, mitigations: [Value; 2]) -> String {
        let bytes = |byte: u8, count: usize| json!(vec![byte; count]).to_string();
        let [family, model, step] = cpu;
        let [launch, current] = mitigations;
        [
            format!(r#"{{"version":{version},"guest_svn":2,"policy":196639"#),
            format!(
                r#""family_id":{},"image_id":{}"#,
                bytes(0x10, 16),
                bytes(0x20, 16)
            ),
            format!(r#""vmpl":0,"sig_algo":1,"current_tcb":{tcb},"plat_info":3,"key_info":4"#),
            format!(
                r#""report_data":{},"measurement":{}"#,
                bytes(0x50, 64),
                bytes(0x90, 48)
            ),
            format!(
                r#""host_data":{},"id_key_digest":{}"#,
                bytes(0xc0, 32),
                bytes(0xe0, 48)
            ),
            format!(
                r#""author_key_digest":{},"report_id":{}"#,
                bytes(0x11, 48),
                bytes(0x14, 32)
            ),
            format!(r#""report_id_ma":{},"reported_tcb":{tcb}"#, bytes(0x16, 32)),
            format!(r#""cpuid_fam_id":{family},"cpuid_mod_id":{model},"cpuid_step":{step}"#),
            format!(r#""chip_id":{},"committed_tcb":{tcb}"#, bytes(0x1a, 64)),
            r#""current":{"major":1,"minor":55,"build":21}"#.to_owned(),
            r#""committed":{"major":1,"minor":55,"build":22}"#.to_owned(),
            format!(
                r#""launch_tcb":{tcb},"launch_mit_vector":{launch},"current_mit_vector":{current}"#
            ),
            format!(
                r#""signature":{{"r":{},"s":{}}}}}"#,
                bytes(0xa0, 72),
                bytes(0xe8, 72)
            ),
        ]
        .join(",")
    }

    #[test]
    fn each_version_and_processor_is_written_as_the_specification_has_it() {
        let early = r#"{"fmc":null,"bootloader":1,"tee":2,"snp":0,"microcode":8}"#;
        let turin = r#"{"fmc":1,"bootloader":2,"tee":3,"snp":4,"microcode":8}"#;
        let none = || [Value::Null, Value::Null, Value::Null];
        let cpu = |family: u8, model: u8| [json!(family), json!(model), json!(1)];
        for (version, family, model, tcb, mitigations) in [
            (2, 0, 0, early, [Value::Null, Value::Null]),
            (3, 0x19, 0x01, early, [Value::Null, Value::Null]),
            (3, 0x19, 0x11, early, [Value::Null, Value::Null]),
            (4, 0x1a, 0x02, turin, [Value::Null, Value::Null]),
            (5, 0x19, 0xa0, early, [json!(504), json!(512)]),
            (5, 0x1a, 0x11, turin, [json!(504), json!(512)]),
        ] {
            let mut bytes = raw(version, family, model);
            if tcb == early {
                // Reserved before Turin.
                for tcb in [0x38, 0x180, 0x1e0, 0x1f0] {
                    bytes[tcb + 2..tcb + 4].fill(0);
                }
            }
            let report = SnpReport::parse(&bytes).unwrap();
            let ids = if version == 2 {
                none()
            } else {
                cpu(family, model)
            };
            assert_eq!(
                serde_json::to_string(report.fields()).unwrap(),
                expected(version, ids, tcb, mitigations),
                "version {version}"
            );
        }
    }

    #[test]
    fn evidence_is_report_and_chain() {
        let report = SnpReport::parse(&raw(5, 0x1a, 0x02)).unwrap();
        let mut evidence = SnpEvidence {
            attestation_report: *report.fields(),
            cert_chain: None,
        };
        assert_eq!(json!(evidence)["cert_chain"], Value::Null);
        evidence.cert_chain = Some(vec![CertTableEntry::new(CertType::VCEK, vec![48, 130, 5])]);
        assert_eq!(
            json!(evidence)["cert_chain"],
            json!([{ "cert_type": "VCEK", "data": [48, 130, 5] }])
        );
    }

    #[test]
    fn what_the_wire_cannot_carry_is_refused() {
        let good = raw(5, 0x1a, 0x02);
        for (why, change) in [
            ("a reserved byte", (0x4c, 1)),
            ("a later field", (0x210, 1)),
            ("an unknown family", (0x188, 0x1b)),
            ("an unknown model", (0x189, 0xff)),
            ("version 0", (0, 0)),
        ] {
            let mut bad = good.clone();
            bad[change.0] = change.1;
            assert!(SnpReport::parse(&bad).is_err(), "{why}");
        }
        // All else arrives as it was signed.
        for (at, bit) in (0..SIGNED).flat_map(|at| [(at, 1), (at, 0x80)]) {
            let mut other = good.clone();
            other[at] ^= bit;
            if let Ok(report) = SnpReport::parse(&other) {
                let again = report.fields().to_bytes().unwrap();
                let is_same = again[..SIGNED] == other[..SIGNED];
                assert!(is_same, "byte {at:#x}");
            }
        }
        let too_short = SnpReport::parse(&good[1..]).unwrap_err().to_string();
        assert!(too_short.contains("1183 bytes"), "{too_short}");
        assert!(SnpReport::parse(&[&good[..], &[0]].concat()).is_err());
        assert!(SnpReport::parse(&[]).is_err());
    }

    fn table(entries: &[(&str, u32, u32)], content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (guid, offset, length) in entries {
            bytes.extend(crate::encoding::hex::decode(&guid.replace('-', "")).unwrap());
            bytes.extend(offset.to_le_bytes());
            bytes.extend(length.to_le_bytes());
        }
        [&bytes, content].concat()
    }

    const VCEK: &str = "63da758d-e664-4564-adc5-f4b93be8accd";
    const VLEK: &str = "a8074bc2-a25a-483e-aae6-39c045a0b8a1";
    const OTHER: &str = "0b0b0b0b-0000-4000-8000-000000000001";
    const END: &str = "00000000-0000-0000-0000-000000000000";

    #[test]
    fn certificate_tables() {
        let entries = [(VCEK, 96, 3), (OTHER, 99, 1), (VLEK, 0, 0), (END, 0, 0)];
        let chain = CertTable::parse(&table(&entries, b"\x30\x01\x02\x07"))
            .unwrap()
            .into_chain();
        assert_eq!(
            json!(chain),
            json!([
                { "cert_type": "VCEK", "data": [0x30, 1, 2] },
                { "cert_type": { "OTHER": OTHER }, "data": [7] },
            ])
        );
        for nothing in [&[][..], &table(&[(END, 0, 0)], b"")] {
            assert_eq!(CertTable::parse(nothing).unwrap().into_chain(), None);
        }
    }

    #[test]
    fn a_table_that_points_elsewhere_is_refused() {
        for entry in [
            (VCEK, 48, 2),
            (VCEK, u32::MAX, 1),
            (VCEK, 1, u32::MAX),
            (VCEK, 49, 1),
        ] {
            let bytes = table(&[entry, (END, 0, 0)], &[1]);
            assert!(CertTable::parse(&bytes).is_err(), "{entry:?}");
        }
        // Three entries for the same bytes would be more than the table.
        let thrice = [(VCEK, 0, 60), (VLEK, 0, 60), (OTHER, 0, 60), (END, 0, 0)];
        let overlapping = CertTable::parse(&table(&thrice, &[])).unwrap_err();
        assert!(overlapping.to_string().contains("overlap"), "{overlapping}");
        assert!(CertTable::parse(&table(&[(VCEK, 0, 1)], &[])).is_err());
        assert!(CertTable::parse(&[0; 23]).is_err());
        assert!(CertTable::parse(&vec![0; 64 * 1024 + 1]).is_err());
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The seeds that no other test keeps as files: structures laid out field by field, and what a software TPM said.
//! The program `corpus` writes them below `corpus/`.

use kbs_protocol::encoding::{b64, b64u};
use kbs_protocol::evidence::TpmEvidence;
use kbs_protocol::message::RuntimeData;
use kbs_protocol::tee_key::TeeKey;
use measured_boot::uefi::{SignatureList, VariableData, guid};
use serde_json::json;

/// A file of the corpus.
#[derive(Debug)]
pub struct Seed {
    /// The target.
    pub target: &'static str,
    /// The file.
    pub name: &'static str,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// All of them.
pub fn seeds() -> Vec<Seed> {
    let seed = |target, name, bytes: &[u8]| Seed {
        target,
        name,
        bytes: bytes.to_vec(),
    };
    vec![
        seed(
            "tpm_evidence",
            "swtpm.json",
            include_bytes!("../vectors/evidence.json"),
        ),
        seed("tpm_quote", "whole", QUOTE),
        seed(
            "tpm_quote",
            "part",
            include_bytes!("../vectors/part.tpms_attest"),
        ),
        seed(
            "tpm_quote",
            "two-banks",
            include_bytes!("../vectors/banks.tpms_attest"),
        ),
        seed("tpm_public", "ak", AK),
        seed("tpm_public", "ek-rsa", EK_RSA),
        seed(
            "tpm_public",
            "ek-ecc",
            include_bytes!("../vectors/ek-ecc.tpm2b_public"),
        ),
        seed(
            "volume_record",
            "swtpm.json",
            include_bytes!("../vectors/volumes.json"),
        ),
        seed(
            "luks2_header",
            "bound.json",
            include_bytes!("../vectors/luks2.json"),
        ),
        seed("snp_report", "milan", &snp_report(3, 0x19, 0x01)),
        seed("snp_report", "turin", &snp_report(5, 0x1a, 0x02)),
        seed("snp_cert_table", "two", &cert_table()),
        seed("tdx_quote", "v4", &tdx_quote(4, &[])),
        seed("tdx_quote", "v5", &tdx_quote(5, &[3, 0, 0x88, 2, 0, 0])),
        seed("hcl_report", "snp", &hcl_report()),
        seed("attestation", "tpm.json", attestation().as_bytes()),
        seed("ear", "affirming", ear().as_bytes()),
        seed("enrolment", "begin.json", begin().as_bytes()),
        seed("enrolment", "challenge.json", CHALLENGE.as_bytes()),
        seed("enrolment", "finish.json", FINISH.as_bytes()),
        seed("enrolment", "outcome.json", OUTCOME.as_bytes()),
        seed("event_log", "agile", &agile_log()),
        seed("event_log", "sha1", &sha1_log()),
        seed("pe", "unsigned", &pe(&[])),
        seed("pe", "signature-of-another", &pe(PKCS7)),
        seed("layer", "plain", &layer()),
        seed("flash", "one-variable", &flash()),
        seed("uefi_variable", "db", &variable()),
        seed("signature_lists", "two", &signature_lists()),
        seed("pkcs7", "uki-snakeoil", PKCS7),
    ]
}

/// TPMS_ATTEST over the whole SHA-256 bank.
pub const QUOTE: &[u8] = include_bytes!("../vectors/quote.tpms_attest");
/// TPM2B_PUBLIC of the agent's attestation key.
pub const AK: &[u8] = include_bytes!("../vectors/ak.tpm2b_public");
const EK_RSA: &[u8] = include_bytes!("../vectors/ek-rsa.tpm2b_public");
/// The signature of a unified kernel image, by Debian's snake-oil key.
const PKCS7: &[u8] = include_bytes!("../vectors/uki-snakeoil.p7");

/// AMD SEV-SNP Firmware ABI, ATTESTATION_REPORT: each byte string filled with a number of its own.
pub fn snp_report(version: u8, family: u8, model: u8) -> Vec<u8> {
    let mut bytes = vec![0; 1184];
    let tcb: &[u8] = &[1, 2, 3, 4, 0, 0, 0, 8];
    let fields: [(usize, &[u8]); 24] = [
        (0x00, &[version]),
        (0x04, &[2]),
        (0x08, &[0x1f, 0, 3]),
        (0x10, &[0x10; 16]),
        (0x20, &[0x20; 16]),
        (0x34, &[1]),
        (0x38, tcb),
        (0x40, &[3]),
        (0x50, &[0x50; 64]),
        (0x90, &[0x90; 48]),
        (0xc0, &[0xc0; 32]),
        (0xe0, &[0xe0; 48]),
        (0x110, &[0x11; 48]),
        (0x140, &[0x14; 32]),
        (0x160, &[0x16; 32]),
        (0x180, tcb),
        (0x188, &[family, model, 1]),
        (0x1a0, &[0x1a; 64]),
        (0x1e0, tcb),
        (0x1e8, &[21, 55, 1]),
        (0x1ec, &[22, 55, 1]),
        (0x1f0, tcb),
        (0x2a0, &[0xa0; 72]),
        (0x2e8, &[0xe8; 72]),
    ];
    for (offset, content) in fields {
        bytes[offset..offset + content.len()].copy_from_slice(content);
    }
    bytes
}

/// GHCB specification, SNP extended guest request: GUID, offset, length; a zero entry; the certificates.
pub fn cert_table() -> Vec<u8> {
    let vcek: [u8; 16] = [
        0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac,
        0xcd,
    ];
    let mut table = Vec::new();
    for (guid, offset, length) in [(vcek, 72_u32, 20_u32), ([7; 16], 92, 8), ([0; 16], 0, 0)] {
        table.extend(guid);
        table.extend(offset.to_le_bytes());
        table.extend(length.to_le_bytes());
    }
    table.extend([0x30; 28]);
    table
}

/// Intel TDX DCAP Quoting Library: header, body type and size in version 5, TD quote body.
pub fn tdx_quote(version: u8, body_type: &[u8]) -> Vec<u8> {
    let mut quote = vec![0; 48];
    quote[0] = version;
    quote[4] = 0x81;
    quote.extend(body_type);
    let mut body = vec![0; 584];
    body[184..232].fill(0x18);
    for (register, byte) in body[328..520].chunks_mut(48).zip(1_u8..) {
        register.fill(byte);
    }
    body[520..].fill(0x52);
    quote.extend(body);
    quote.extend([0xee; 64]);
    quote
}

/// Header, hardware report, then type, hash and JSON with the key.
pub fn hcl_report() -> Vec<u8> {
    let json = json!({
        "keys": [{ "kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": b64u::encode([0xab; 32]) }],
        "user-data": "AB".repeat(48),
    })
    .to_string();
    let length = u32::try_from(json.len()).unwrap();
    let mut report = vec![0; 32];
    report.extend(snp_report(3, 0x19, 0x01));
    for number in [length + 20, 1, 2, 1, length] {
        report.extend(number.to_le_bytes());
    }
    report.extend(json.bytes());
    report.resize(report.len() + 32, 0);
    report
}

fn attestation() -> String {
    let scalar = b64u::decode_array("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X5fCE9-E9LI").unwrap();
    let data = RuntimeData {
        nonce: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".to_owned(),
        tee_pubkey: TeeKey::from_scalar(&scalar).unwrap().public(),
    };
    let evidence: TpmEvidence = crate::tpm::RECORDED.clone();
    let init_data = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"node\" = \"n1\"\n";
    json!({
        "init-data": { "format": "toml", "body": init_data },
        "runtime-data": data,
        "tee-evidence": { "primary_evidence": evidence, "additional_evidence": "" },
    })
    .to_string()
}

fn ear() -> String {
    let evidence = json!({ "tpm": { "ak_public": "MIIB", "pcr04": "00", "pcr14": "AB" }, "init_data_claims": null });
    let payload = json!({
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iat": 1_790_000_000, "exp": 1_790_000_300,
        "submods": { "cpu0": {
            "ear.status": "affirming",
            "ear.trustworthiness-vector": { "executables": 3, "hardware": 2, "configuration": 0 },
            "ear.appraisal-policy-id": "default",
            "sheepfold.node": "e3b0c442-98fc-8c14-9afb-f4c8996fb924",
            "ear.veraison.annotated-evidence": evidence,
        }},
    });
    format!(
        "eyJhbGciOiJFUzI1NiJ9.{}.c2lnbmF0dXJl",
        b64u::encode(payload.to_string())
    )
}

fn begin() -> String {
    json!({
        "ek_public": b64::encode(EK_RSA),
        "ek_certificate": b64::encode(b"not read here"),
        "ek_chain": [b64::encode(b"nor this")],
        "ak_public": b64::encode(AK),
        "product": "box",
        "agent": "trustee-agent 0.1.0",
    })
    .to_string()
}

const CHALLENGE: &str =
    r#"{"enrolment":"000102","credential_blob":"AAECAw==","secret":"BAUGBw=="}"#;
const FINISH: &str = r#"{"enrolment":"000102","activated":"AAECAwQFBgc="}"#;
const OUTCOME: &str =
    r#"{"node_id":"e3b0c442-98fc-8c14-9afb-f4c8996fb924","state":"held","reason":"another key"}"#;

/// TCG PC Client Platform Firmware Profile, 10.4.5.1: the first entry says which banks follow.
pub fn agile_log() -> Vec<u8> {
    let mut specification = b"Spec ID Event03\0".to_vec();
    specification.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    specification.extend(2_u32.to_le_bytes());
    for (algorithm, size) in [(0x0b_u16, 32_u16), (0x0c, 48)] {
        specification.extend(algorithm.to_le_bytes());
        specification.extend(size.to_le_bytes());
    }
    specification.push(0);
    let mut log = sha1_event(0, 3, &specification);
    for (pcr, kind, data) in [
        (0_u32, 8_u32, &b"1.0\0"[..]),
        (7, 0x8000_0001, &variable()),
        (4, 4, &[0; 4]),
        (4, 0x8000_0003, &[0x11; 40]),
        (8, 13, b"grub_cmd: boot\0"),
    ] {
        log.extend(pcr.to_le_bytes());
        log.extend(kind.to_le_bytes());
        log.extend(2_u32.to_le_bytes());
        log.extend([&[0x0b, 0][..], &[0xaa; 32], &[0x0c, 0], &[0xcc; 48]].concat());
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(data);
    }
    log.extend([0; 64]);
    log
}

/// The older form: TCG_PCR_EVENT.
fn sha1_log() -> Vec<u8> {
    [sha1_event(0, 8, b"1.0\0"), sha1_event(4, 4, &[0; 4])].concat()
}

fn sha1_event(pcr: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut event = pcr.to_le_bytes().to_vec();
    event.extend(kind.to_le_bytes());
    event.extend([0; 20]);
    event.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    event.extend(data);
    event
}

/// PE32+ with two sections and, unless it is empty, a signature in the certificate table (Microsoft PE Format).
fn pe(signature: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 512];
    let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(&mut file, 0, b"MZ");
    put(&mut file, 0x3c, &64_u32.to_le_bytes());
    put(&mut file, 64, b"PE\0\0\x64\x86\x02\0");
    // Size of the optional header, its magic, size of headers, checksum, number of data directories.
    put(&mut file, 84, &240_u16.to_le_bytes());
    put(&mut file, 88, &0x20b_u16.to_le_bytes());
    put(&mut file, 148, &512_u32.to_le_bytes());
    put(&mut file, 152, b"CHCK");
    put(&mut file, 196, &16_u32.to_le_bytes());
    let sections = [
        (".linux", &b"kernel"[..]),
        (".sbat", b"sbat,1,x\ngrub,3,y\n"),
    ];
    for (index, (name, content)) in sections.into_iter().enumerate() {
        let header = 328 + 40 * index;
        let place = u32::try_from(file.len()).unwrap();
        put(&mut file, header, name.as_bytes());
        put(
            &mut file,
            header + 8,
            &u32::try_from(content.len()).unwrap().to_le_bytes(),
        );
        put(&mut file, header + 16, &512_u32.to_le_bytes());
        put(&mut file, header + 20, &place.to_le_bytes());
        file.extend(content);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    if signature.is_empty() {
        return file;
    }
    let at = u32::try_from(file.len()).unwrap();
    let length = u32::try_from(signature.len() + 8).unwrap();
    file.extend(length.to_le_bytes());
    file.extend([0, 2, 2, 0]);
    file.extend(signature);
    file.resize(file.len().next_multiple_of(8), 0);
    put(&mut file, 232, &at.to_le_bytes());
    put(&mut file, 236, &length.next_multiple_of(8).to_le_bytes());
    file
}

/// A tar archive (POSIX.1-1988 ustar): a program, a hard link and a symbolic link to it, a whiteout, a long name (PAX).
fn layer() -> Vec<u8> {
    let mut archive = Vec::new();
    let mut entry = |path: &str, kind: u8, link: &str, content: &[u8]| {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, path.as_bytes());
        put(100, b"0000644\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(header);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    };
    entry("repo/objects/aa/bb.file", b'0', "", &pe(&[]));
    entry(
        "usr/lib/modules/6.1/vmlinuz",
        b'1',
        "repo/objects/aa/bb.file",
        b"",
    );
    entry("boot", b'2', "usr/lib/modules/6.1", b"");
    entry("etc/.wh.old", b'0', "", b"");
    entry("pax", b'x', "", b"27 path=usr/lib/os-release\n");
    entry("short", b'0', "", b"ID=test\nNAME=test\n");
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// A firmware volume with an authenticated variable store of EDK II (VariableFormat.h), and one variable in it.
fn flash() -> Vec<u8> {
    let name: Vec<u8> = "PK\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut volume = vec![0; 16];
    volume.extend([
        0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f,
        0x50,
    ]);
    volume.extend(8192_u64.to_le_bytes());
    volume.extend(b"_FVH");
    volume.extend([0; 4]);
    volume.extend(72_u16.to_le_bytes());
    volume.resize(72, 0);
    let words = volume.as_chunks::<2>().0.iter();
    let sum = words.fold(0_u16, |sum, word| {
        sum.wrapping_add(u16::from_le_bytes(*word))
    });
    volume[50..52].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    volume.extend([
        0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77,
        0x92,
    ]);
    volume.extend(4096_u32.to_le_bytes());
    volume.extend([0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
    // Start, state (added), attributes, then counters and times of signed updates.
    volume.extend([0xaa, 0x55, 0x3f, 0, 7, 0, 0, 0]);
    volume.resize(volume.len() + 28, 0);
    volume.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
    volume.extend(4_u32.to_le_bytes());
    volume.extend([
        0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b,
        0x8c,
    ]);
    volume.extend(name);
    volume.extend([1, 2, 3, 4]);
    volume.resize(8192, 0xff);
    volume
}

fn variable() -> Vec<u8> {
    VariableData::new(guid::IMAGE_SECURITY, "db", signature_lists()).to_bytes()
}

fn signature_lists() -> Vec<u8> {
    let list = |byte| SignatureList::sha256(guid::GLOBAL, &[byte; 32]).to_bytes();
    [list(1), list(2)].concat()
}

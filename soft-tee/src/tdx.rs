// SPDX-License-Identifier: Apache-2.0

//! An Intel platform made of software: signs quotes of version 4 and 5 the way a quoting enclave does, and
//! brings the collateral that Intel's service would give for it (Intel TDX DCAP Quoting Library API, appendix
//! A; SGX PCK Certificate and CRL Profile; PCS API v4).

use crate::tpm::hex;
use crate::x509::{self, Issuer, Subject};
use const_oid::ObjectIdentifier;
use p256::ecdsa::signature::Signer as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A platform: its PCK certificate, its quoting enclave's key, and the roots above them.
pub struct Platform {
    root: Issuer,
    tcb_signer: Issuer,
    pck: p256::ecdsa::SigningKey,
    attestation: p256::ecdsa::SigningKey,
    /// The root's certificate, DER.
    pub root_der: Vec<u8>,
    chain_pem: String,
    collateral: Value,
    now: u64,
}

/// What a TD's quote says, field by field. Public members: a test changes what it is about.
#[derive(Debug, Clone)]
pub struct Td {
    /// 4, or 5 with a body type.
    pub version: u16,
    /// Body of version 5: 2 for TDX 1.0, 3 for 1.5.
    pub body_type: u16,
    /// Security versions of the TDX module.
    pub tee_tcb_svn: [u8; 16],
    /// ATTRIBUTES of the TD; bit 0 is debug.
    pub td_attributes: [u8; 8],
    /// Extended features.
    pub xfam: [u8; 8],
    /// Measurement of the initial contents.
    pub mr_td: [u8; 48],
    /// What the host attached.
    pub mr_config_id: [u8; 48],
    /// Runtime registers.
    pub rtmrs: [[u8; 48]; 4],
    /// What the guest asked for.
    pub report_data: [u8; 64],
    /// TEE type in the header; 0x81 for TDX.
    pub tee_type: u32,
}

impl Default for Td {
    fn default() -> Self {
        Self {
            version: 4,
            body_type: 2,
            tee_tcb_svn: [3; 16],
            td_attributes: [0, 0, 0, 0x10, 0, 0, 0, 0],
            xfam: [0xe7, 0x18, 6, 0, 0, 0, 0, 0],
            mr_td: [0x7d; 48],
            mr_config_id: [0; 48],
            rtmrs: [[0x10; 48], [0x11; 48], [0x12; 48], [0; 48]],
            report_data: [0; 64],
            tee_type: 0x81,
        }
    }
}

impl Td {
    /// The part of the quote that the enclave signs.
    pub fn signed(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(2_u16.to_le_bytes());
        bytes.extend(self.tee_type.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(QE_VENDOR);
        bytes.extend([0; 20]);
        if self.version >= 5 {
            let size: u32 = if self.body_type == 2 { 584 } else { 648 };
            bytes.extend(self.body_type.to_le_bytes());
            bytes.extend(size.to_le_bytes());
        }
        bytes.extend(self.tee_tcb_svn);
        // MRSEAM, its signer (Intel itself: zeros), SEAMATTRIBUTES.
        bytes.extend([0x5e; 48]);
        bytes.extend([0; 48]);
        bytes.extend([0; 8]);
        bytes.extend(self.td_attributes);
        bytes.extend(self.xfam);
        bytes.extend(self.mr_td);
        bytes.extend(self.mr_config_id);
        // MROWNER, MROWNERCONFIG.
        bytes.extend([0; 96]);
        bytes.extend(self.rtmrs.concat());
        bytes.extend(self.report_data);
        if self.version >= 5 && self.body_type == 3 {
            bytes.extend(self.tee_tcb_svn);
            bytes.extend([0; 48]);
        }
        bytes
    }
}

/// What a test may have wrong with the platform.
#[derive(Debug, Clone)]
pub struct Make {
    /// Seconds since 1970; certificates and collateral are valid around it.
    pub now: u64,
    /// State of the platform's TCB level, such as `UpToDate`.
    pub tcb_status: &'static str,
    /// Security version that the level asks of each component; the platform has 5.
    pub needs_svn: u8,
    /// Whether the PCK authority has revoked the PCK certificate.
    pub revoked: bool,
    /// How long ago the collateral ran out, in seconds; 0 if it is fresh.
    pub expired_for: u64,
}

impl Make {
    /// Everything right.
    pub fn at(now: u64) -> Self {
        Self {
            now,
            tcb_status: "UpToDate",
            needs_svn: 5,
            revoked: false,
            expired_for: 0,
        }
    }
}

impl Platform {
    /// An up-to-date platform.
    pub fn new(now: u64) -> Self {
        Self::make(&Make::at(now))
    }

    /// A platform with something wrong.
    pub fn make(make: &Make) -> Self {
        let now = make.now;
        let validity = (now - 3650 * DAY, now + 3650 * DAY);
        let (root, ca, tcb_signer) = (Issuer::p256(), Issuer::p256(), Issuer::p256());
        let key = || p256::ecdsa::SigningKey::random(&mut rand_core::OsRng);
        let (pck, attestation) = (key(), key());
        let certify = |issuer: &Issuer, by, name, spki, is_authority, extensions| {
            let subject = Subject {
                name,
                spki,
                is_authority,
                validity,
                extensions,
            };
            x509::certificate(issuer, by, subject)
        };
        let root_der = certify(&root, ROOT, ROOT, root.spki(), true, Vec::new());
        let ca_der = certify(&root, ROOT, CA, ca.spki(), true, Vec::new());
        let tcb_der = certify(
            &root,
            ROOT,
            TCB_SIGNER,
            tcb_signer.spki(),
            false,
            Vec::new(),
        );
        let pck_spki = Issuer::P256(pck.clone()).spki();
        let sgx = (ObjectIdentifier::new_unwrap(SGX), sgx_extension());
        let pck_der = certify(
            &ca,
            CA,
            "Software PCK Certificate",
            pck_spki,
            false,
            vec![sgx],
        );
        let crl_time = (now - DAY, now + 30 * DAY);

        let mut platform = Self {
            root,
            tcb_signer,
            pck,
            attestation,
            chain_pem: x509::pem(&[&pck_der, &ca_der, &root_der]),
            root_der,
            collateral: Value::Null,
            now,
        };
        let signers = x509::pem(&[&tcb_der, &platform.root_der]);
        let tcb_info = tcb_info(make).to_string();
        let qe_identity = qe_identity(make).to_string();
        platform.collateral = json!({
            "pck_crl_issuer_chain": x509::pem(&[&ca_der, &platform.root_der]),
            "root_ca_crl": hex(&x509::revocation_list(&platform.root, ROOT, crl_time, false)),
            "pck_crl": hex(&x509::revocation_list(&ca, CA, crl_time, make.revoked)),
            "tcb_info_issuer_chain": signers,
            "tcb_info_signature": hex(&platform.sign_collateral(&tcb_info)),
            "tcb_info": tcb_info,
            "qe_identity_issuer_chain": signers,
            "qe_identity_signature": hex(&platform.sign_collateral(&qe_identity)),
            "qe_identity": qe_identity,
        });
        platform
    }

    /// The collateral, in the form that `lab-kbs` reads from a file.
    pub fn collateral(&self) -> &Value {
        &self.collateral
    }

    /// The root's certificate, PEM.
    pub fn root_pem(&self) -> String {
        x509::pem(&[&self.root_der])
    }

    /// When this platform was made, in seconds since 1970.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The quote of a TD.
    pub fn quote(&self, td: &Td) -> Vec<u8> {
        self.quote_signed(td.signed())
    }

    /// A quote over these bytes, whatever they say.
    pub fn quote_signed(&self, signed: Vec<u8>) -> Vec<u8> {
        let signature: p256::ecdsa::Signature = self.attestation.sign(&signed);
        let point = self.attestation.verifying_key().to_encoded_point(false);
        let attestation_key = &point.as_bytes()[1..];
        let qe_auth = [0xaa; 32];
        let mut qe_report = qe_report();
        let binding = Sha256::new()
            .chain_update(attestation_key)
            .chain_update(qe_auth);
        qe_report[320..352].copy_from_slice(&binding.finalize());
        let qe_signature: p256::ecdsa::Signature = self.pck.sign(&qe_report);

        let mut qe = qe_report.to_vec();
        qe.extend(qe_signature.to_bytes());
        qe.extend(32_u16.to_le_bytes());
        qe.extend(qe_auth);
        // Certification data: a PCK chain.
        qe.extend(5_u16.to_le_bytes());
        qe.extend(u32::try_from(self.chain_pem.len()).unwrap().to_le_bytes());
        qe.extend(self.chain_pem.as_bytes());

        let mut auth = signature.to_bytes().to_vec();
        auth.extend(attestation_key);
        // Certification data: a report of the quoting enclave.
        auth.extend(6_u16.to_le_bytes());
        auth.extend(u32::try_from(qe.len()).unwrap().to_le_bytes());
        auth.extend(qe);

        let mut quote = signed;
        quote.extend(u32::try_from(auth.len()).unwrap().to_le_bytes());
        quote.extend(auth);
        quote
    }

    fn sign_collateral(&self, text: &str) -> Vec<u8> {
        let Issuer::P256(key) = &self.tcb_signer else {
            return Vec::new();
        };
        let signature: p256::ecdsa::Signature = key.sign(text.as_bytes());
        signature.to_bytes().to_vec()
    }
}

/// An event log (TCG crypto-agile form, SHA-384) and the values of RTMR 0 to 3 that it leads to. Each event is
/// a register's index in the log (1 to 4) and what was measured.
pub fn event_log(events: &[(u32, &[u8])]) -> (Vec<u8>, [[u8; 48]; 4]) {
    let mut spec_id = b"Spec ID Event03\0".to_vec();
    spec_id.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0]);
    let mut log = [&[1, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20]].concat();
    log.extend(u32::try_from(spec_id.len()).unwrap().to_le_bytes());
    log.extend(spec_id);
    let mut rtmrs = [[0; 48]; 4];
    for (index, data) in events {
        let digest = sha2::Sha384::digest(data);
        let register = &mut rtmrs[usize::try_from(*index).unwrap() - 1];
        *register = sha2::Sha384::new()
            .chain_update(*register)
            .chain_update(digest)
            .finalize()
            .into();
        log.extend(index.to_le_bytes());
        // EV_IPL: the digest is over the event.
        log.extend(0xd_u32.to_le_bytes());
        log.extend([1, 0, 0, 0, 0x0c, 0]);
        log.extend(digest);
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(*data);
    }
    (log, rtmrs)
}

fn qe_report() -> [u8; 384] {
    let mut report = [0; 384];
    report[48..64].copy_from_slice(&QE_ATTRIBUTES);
    report[128..160].fill(QE_SIGNER);
    report[256..258].copy_from_slice(&2_u16.to_le_bytes());
    report[258..260].copy_from_slice(&4_u16.to_le_bytes());
    report
}

fn tcb_info(make: &Make) -> Value {
    let components = |svn: u8| json!(vec![json!({ "svn": svn }); 16]);
    let (issued, next) = window(make);
    let zeros = "0".repeat(96);
    json!({
        "id": "TDX", "version": 3, "issueDate": issued, "nextUpdate": next,
        "fmspc": hex(&FMSPC), "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 17,
        "tdxModule": { "mrsigner": zeros, "attributes": "0".repeat(16), "attributesMask": "F".repeat(16) },
        "tdxModuleIdentities": [{
            "id": "TDX_03", "mrsigner": zeros, "attributes": "0".repeat(16), "attributesMask": "F".repeat(16),
            "tcbLevels": [{ "tcb": { "isvsvn": 3 }, "tcbDate": issued, "tcbStatus": "UpToDate" }],
        }],
        "tcbLevels": [
            {
                "tcb": { "sgxtcbcomponents": components(make.needs_svn), "pcesvn": 11, "tdxtcbcomponents": components(3) },
                "tcbDate": issued, "tcbStatus": make.tcb_status, "advisoryIDs": [],
            },
            {
                "tcb": { "sgxtcbcomponents": components(1), "pcesvn": 1, "tdxtcbcomponents": components(1) },
                "tcbDate": "2020-01-01T00:00:00Z", "tcbStatus": "OutOfDate", "advisoryIDs": ["SOFT-SA-00001"],
            },
        ],
    })
}

fn qe_identity(make: &Make) -> Value {
    let (issued, next) = window(make);
    json!({
        "id": "TD_QE", "version": 2, "issueDate": issued, "nextUpdate": next, "tcbEvaluationDataNumber": 17,
        "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
        "attributes": hex(&QE_ATTRIBUTES), "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": hex(&[QE_SIGNER; 32]), "isvprodid": 2,
        "tcbLevels": [{ "tcb": { "isvsvn": 4 }, "tcbDate": issued, "tcbStatus": "UpToDate" }],
    })
}

/// Issue date and next update.
fn window(make: &Make) -> (String, String) {
    let text = |seconds: u64| {
        let time = der::DateTime::from_unix_duration(std::time::Duration::from_secs(seconds));
        time.unwrap().to_string()
    };
    match make.expired_for {
        0 => (text(make.now - DAY), text(make.now + 30 * DAY)),
        ago => (text(make.now - ago - 30 * DAY), text(make.now - ago)),
    }
}

/// The SGX extension of a PCK certificate (Intel SGX PCK Certificate and CRL Profile, 1.3.5).
fn sgx_extension() -> Vec<u8> {
    let tcb: Vec<Vec<u8>> = (1..=16)
        .map(|n| entry(&format!("{SGX}.2.{n}"), &x509::integer(5)))
        .chain([
            entry(&format!("{SGX}.2.17"), &x509::integer(11)),
            entry(&format!("{SGX}.2.18"), &tlv(4, &[5; 16])),
        ])
        .collect();
    let flag = |n: u8, value: u8| entry(&format!("{SGX}.7.{n}"), &tlv(1, &[value]));
    let configuration = [flag(1, 0xff), flag(2, 0), flag(3, 0xff)].concat();
    let entries = [
        entry(&format!("{SGX}.1"), &tlv(4, &[0x99; 16])),
        entry(&format!("{SGX}.2"), &tlv(0x30, &tcb.concat())),
        entry(&format!("{SGX}.3"), &tlv(4, &[0; 2])),
        entry(&format!("{SGX}.4"), &tlv(4, &FMSPC)),
        entry(&format!("{SGX}.5"), &tlv(10, &[1])),
        entry(&format!("{SGX}.6"), &tlv(4, &[0x66; 16])),
        entry(&format!("{SGX}.7"), &tlv(0x30, &configuration)),
    ];
    tlv(0x30, &entries.concat())
}

fn entry(oid: &str, value: &[u8]) -> Vec<u8> {
    let oid = ObjectIdentifier::new_unwrap(oid);
    tlv(0x30, &[&tlv(6, oid.as_bytes()), value].concat())
}

/// Tag, length, value (X.690), up to 65535 bytes.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..=127 => vec![tag, low],
        128..=255 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head, value].concat()
}

const ROOT: &str = "Software SGX Root CA";
const CA: &str = "Software SGX PCK Platform CA";
const TCB_SIGNER: &str = "Software SGX TCB Signing";
const SGX: &str = "1.2.840.113741.1.13.1";
const FMSPC: [u8; 6] = [0x50, 0xf7, 0x7e, 0, 0, 0];
const QE_SIGNER: u8 = 0xdc;
const QE_ATTRIBUTES: [u8; 16] = [0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const QE_VENDOR: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];
const DAY: u64 = 86_400;

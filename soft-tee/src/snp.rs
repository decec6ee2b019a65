// SPDX-License-Identifier: Apache-2.0

//! An AMD processor made of software: signs attestation reports of every version and processor, and brings the
//! certificates of its key (AMD 56860 for the report, 57230 for the certificates).

use crate::x509::{self, Issuer, Subject};
use const_oid::ObjectIdentifier;
use p384::ecdsa::signature::Signer as _;
use p384::pkcs8::EncodePublicKey as _;
pub use sev::firmware::guest::AttestationReport;
use sev::firmware::guest::Version;
use sev::firmware::host::{CertTableEntry, CertType, TcbVersion};
use sev::parser::ByteParser as _;
use std::collections::BTreeMap;

/// The roots above any number of chips: ARK and ASK.
pub struct Authority {
    ark: Issuer,
    ask: Issuer,
    /// The ARK's certificate, DER, signed by itself.
    pub ark_der: Vec<u8>,
    /// The ASK's certificate, DER.
    pub ask_der: Vec<u8>,
    validity: (u64, u64),
}

/// What the certificate of a chip says about it: values (DER, but for the chip's id) by object identifier.
pub type Extensions = BTreeMap<&'static str, Vec<u8>>;

/// A generation of processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Family 0x19, model 0x01.
    Milan,
    /// Family 0x19, model 0x11.
    Genoa,
    /// Family 0x1a, model 0x02.
    Turin,
}

/// One processor with its key.
pub struct Chip {
    key: p384::ecdsa::SigningKey,
    /// The certificate of its key, DER.
    pub vek_der: Vec<u8>,
    /// VCEK, or VLEK for a key that the cloud's operator was given.
    pub kind: CertType,
    /// A report with everything in its place but what the guest asks for.
    pub template: AttestationReport,
}

impl Authority {
    /// Fresh roots that are valid now.
    pub fn new(now: u64) -> Self {
        Self::valid((now - DAY, now + 3650 * DAY))
    }

    /// Fresh roots with a validity of the caller's choice, in seconds since 1970.
    pub fn valid(validity: (u64, u64)) -> Self {
        let (ark, ask) = (Issuer::rsa(), Issuer::rsa());
        let authority = |name, spki| Subject {
            name,
            spki,
            is_authority: true,
            validity,
            extensions: Vec::new(),
        };
        let ark_der = x509::certificate(&ark, ARK, authority(ARK, ark.spki()));
        let ask_der = x509::certificate(&ark, ARK, authority(ASK, ask.spki()));
        Self {
            ark,
            ask,
            ark_der,
            ask_der,
            validity,
        }
    }

    /// ARK and ASK, PEM.
    pub fn pem(&self) -> String {
        x509::pem(&[&self.ark_der, &self.ask_der])
    }

    /// A chip with a certificate for its own id.
    pub fn chip(&self, generation: Generation) -> Chip {
        self.chip_with(generation, CertType::VCEK, self.validity)
    }

    /// A chip with other firmware (boot loader, TEE, SNP, microcode) and a certificate for it.
    pub fn chip_at(&self, generation: Generation, tcb: (u8, u8, u8, u8)) -> Chip {
        let mut template = template(generation);
        let (bootloader, tee, snp, microcode) = tcb;
        let fmc = template.reported_tcb.fmc;
        template.reported_tcb = TcbVersion::new(fmc, bootloader, tee, snp, microcode);
        let same = |_: &mut Extensions| {};
        self.certify(template, generation, CertType::VCEK, self.validity, same)
    }

    /// A chip whose certificate says something else about it, or nothing.
    pub fn chip_certified(
        &self,
        generation: Generation,
        change: impl FnOnce(&mut Extensions),
    ) -> Chip {
        let template = template(generation);
        self.certify(template, generation, CertType::VCEK, self.validity, change)
    }

    /// A chip whose certificate is of another kind or time.
    pub fn chip_with(&self, generation: Generation, kind: CertType, validity: (u64, u64)) -> Chip {
        self.certify(template(generation), generation, kind, validity, |_| {})
    }

    fn certify(
        &self,
        template: AttestationReport,
        generation: Generation,
        kind: CertType,
        validity: (u64, u64),
        change: impl FnOnce(&mut Extensions),
    ) -> Chip {
        let key = p384::ecdsa::SigningKey::random(&mut rand_core::OsRng);
        let spki = key.verifying_key().to_public_key_der().unwrap().to_vec();
        let tcb = template.reported_tcb;
        let mut extensions = Extensions::from([
            ("1.3.6.1.4.1.3704.1.1", x509::integer(1)),
            (
                "1.3.6.1.4.1.3704.1.3.1",
                x509::integer(tcb.bootloader.into()),
            ),
            ("1.3.6.1.4.1.3704.1.3.2", x509::integer(tcb.tee.into())),
            ("1.3.6.1.4.1.3704.1.3.3", x509::integer(tcb.snp.into())),
            (
                "1.3.6.1.4.1.3704.1.3.8",
                x509::integer(tcb.microcode.into()),
            ),
        ]);
        if let Some(fmc) = tcb.fmc {
            extensions.insert("1.3.6.1.4.1.3704.1.3.9", x509::integer(fmc.into()));
        }
        if kind == CertType::VCEK {
            // Raw, as the processor's own certificates have it; 8 bytes since Turin.
            let length = if generation == Generation::Turin {
                8
            } else {
                64
            };
            extensions.insert("1.3.6.1.4.1.3704.1.4", template.chip_id[..length].to_vec());
        }
        change(&mut extensions);
        let subject = Subject {
            name: "SEV-VCEK",
            spki,
            is_authority: false,
            validity,
            extensions: extensions
                .into_iter()
                .map(|(oid, value)| (ObjectIdentifier::new_unwrap(oid), value))
                .collect(),
        };
        Chip {
            key,
            vek_der: x509::certificate(&self.ask, ASK, subject),
            kind,
            template,
        }
    }

    /// The certificate table that a host hands to its guest (GHCB, 56421).
    pub fn table(&self, chip: &Chip) -> Vec<u8> {
        let entries = [
            CertTableEntry::new(CertType::ARK, self.ark_der.clone()),
            CertTableEntry::new(CertType::ASK, self.ask_der.clone()),
            CertTableEntry::new(chip.kind.clone(), chip.vek_der.clone()),
        ];
        CertTableEntry::cert_table_to_vec_bytes(&entries).unwrap()
    }

    /// Whether somebody needs the ARK to sign again; keeps it from being dropped unused.
    pub fn sign_ask_again(&self) -> Vec<u8> {
        let subject = Subject {
            name: ASK,
            spki: self.ask.spki(),
            is_authority: true,
            validity: self.validity,
            extensions: Vec::new(),
        };
        x509::certificate(&self.ark, ARK, subject)
    }
}

impl Chip {
    /// The certificate of its key, PEM.
    pub fn vek_pem(&self) -> String {
        x509::pem(&[&self.vek_der])
    }

    /// The report over this data, signed.
    pub fn report(&self, report_data: [u8; 64]) -> Vec<u8> {
        self.report_with(report_data, |_| {})
    }

    /// The same, after a change to the report: what the firmware of another guest would sign.
    pub fn report_with(
        &self,
        report_data: [u8; 64],
        change: impl FnOnce(&mut AttestationReport),
    ) -> Vec<u8> {
        let mut report = self.template;
        report.report_data = report_data;
        change(&mut report);
        let mut bytes = report.to_bytes().unwrap().to_vec();
        self.sign(&mut bytes);
        bytes
    }

    /// Signs the first 0x2a0 bytes, little-endian halves after them.
    pub fn sign(&self, report: &mut [u8]) {
        let signature: p384::ecdsa::Signature = self.key.sign(&report[..0x2a0]);
        let (r, s) = signature.split_bytes();
        for (at, half) in [(0x2a0, r), (0x2e8, s)] {
            for (to, from) in report[at..at + 72].iter_mut().zip(half.iter().rev()) {
                *to = *from;
            }
        }
    }
}

/// An ordinary guest on an up-to-date chip.
fn template(generation: Generation) -> AttestationReport {
    let (family, model, version, fmc) = match generation {
        Generation::Milan => (0x19, 0x01, 3, None),
        Generation::Genoa => (0x19, 0x11, 4, None),
        Generation::Turin => (0x1a, 0x02, 5, Some(1)),
    };
    let tcb = TcbVersion::new(fmc, 4, 0, 24, 219);
    let mut chip_id = [0; 64];
    let length = if generation == Generation::Turin {
        8
    } else {
        64
    };
    rand_core::RngCore::fill_bytes(&mut rand_core::OsRng, &mut chip_id[..length]);
    AttestationReport {
        version,
        policy: 0x3_001f.into(),
        sig_algo: 1,
        current_tcb: tcb,
        plat_info: 1.into(),
        measurement: [0xab; 48],
        report_id: [0x1d; 32],
        report_id_ma: [0xff; 32],
        reported_tcb: tcb,
        cpuid_fam_id: Some(family),
        cpuid_mod_id: Some(model),
        cpuid_step: Some(1),
        chip_id,
        committed_tcb: tcb,
        current: Version::new(1, 55, 40),
        committed: Version::new(1, 55, 40),
        launch_tcb: tcb,
        launch_mit_vector: (version >= 5).then_some(0),
        current_mit_vector: (version >= 5).then_some(0),
        ..AttestationReport::default()
    }
}

const ARK: &str = "ARK-Software";
const ASK: &str = "SEV-Software";
const DAY: u64 = 86_400;

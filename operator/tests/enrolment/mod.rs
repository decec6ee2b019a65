// SPDX-License-Identifier: Apache-2.0

//! What the attack table needs: software TPMs with and without certificates, makers of TPMs good and bad,
//! a registrar in this process, and its audit log.

#![allow(
    dead_code,
    clippy::arithmetic_side_effects,
    reason = "each test program uses its own part"
)]

use kbs_protocol::Secret;
use kbs_protocol::encoding::{b64, hex};
use kbs_protocol::enroll::{BeginWire, Challenge, Finish, Outcome, Refusal};
use kbs_protocol::tpm::public::{PublicArea, PublicKey};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm,
};
use sheepfold_operator::register::Registrar;
use sheepfold_operator::register::audit::Audit;
use sheepfold_operator::register::certificate::Roots;
use sheepfold_operator::register::config::Limits;
use sheepfold_operator::register::files::FileRegistry;
use sheepfold_operator::register::identity::Identity;
use sheepfold_operator::register::limit::Source;
use sheepfold_tests::swtpm::{Authority, SoftTpm};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use trustee_agent::evidence::{DEFAULT_AK_HANDLE, Meaning, TpmEnroller, TpmError};

/// Says so, loudly, where software TPMs cannot be made.
pub(crate) fn can_run() -> bool {
    let missing = SoftTpm::missing().or_else(Authority::missing);
    if let Some(program) = missing {
        eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
    }
    missing.is_none()
}

/// The maker that the registrar believes; one for all tests of a program, its keys take a second.
pub(crate) fn maker() -> &'static Authority {
    static MAKER: OnceLock<Authority> = OnceLock::new();
    MAKER.get_or_init(|| {
        let maker = Authority::new().unwrap();
        // Its certificates come into being with its first TPM.
        drop(SoftTpm::certified(&maker).unwrap());
        maker
    })
}

/// Its rule: the root in the configuration, the certificate below it beside it.
pub(crate) fn by_certificate(maker: &Authority) -> Identity {
    Identity::EkCertificate {
        roots: Roots::parse(&maker.root().unwrap(), &maker.intermediate().unwrap()).unwrap(),
        also_listed: BTreeSet::new(),
    }
}

pub(crate) fn enroller(tpm: &SoftTpm) -> TpmEnroller {
    TpmEnroller::open(&tpm.tcti(), DEFAULT_AK_HANDLE, Some("test box".to_owned())).unwrap()
}

/// A registrar in this process.
pub(crate) struct World {
    pub(crate) registrar: Arc<Registrar>,
    pub(crate) now: SystemTime,
    pub(crate) source: Source,
    audit: Log,
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new(identity: Identity) -> Self {
        Self::with_limits(identity, &Limits::default())
    }

    pub(crate) fn with_limits(identity: Identity, limits: &Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let audit = Log::default();
        let registry = FileRegistry::open(&dir.path().join("registry"), limits.machines).unwrap();
        let registrar = Registrar::new(
            identity,
            Box::new(registry),
            Audit::to(audit.clone()),
            limits,
        );
        Self {
            registrar: Arc::new(registrar),
            now: SystemTime::now(),
            source: source(1),
            audit,
            dir,
        }
    }

    pub(crate) fn begin(&self, wire: &BeginWire) -> Result<Challenge, Refusal> {
        let body = serde_json::to_vec(wire).unwrap();
        let answer = self.registrar.begin(self.source, &body, self.now)?;
        Ok(Challenge::parse(&answer).unwrap())
    }

    pub(crate) fn finish(&self, enrolment: &str, activated: &Secret) -> Result<Outcome, Refusal> {
        let finish = Finish {
            enrolment: enrolment.to_owned(),
            activated: Secret::new(activated.expose().to_vec()),
        };
        let answer = self
            .registrar
            .finish(self.source, &finish.to_json(), self.now)?;
        Ok(Outcome::parse(&answer).unwrap())
    }

    /// As an honest node does it.
    pub(crate) fn enrol(&self, node: &mut TpmEnroller) -> Result<Outcome, Refusal> {
        let challenge = self.begin(&node.begin().unwrap())?;
        let secret = node.activate(&challenge).unwrap();
        self.finish(&challenge.enrolment, &secret)
    }

    pub(crate) fn registry(&self) -> FileRegistry {
        FileRegistry::open(&self.dir.path().join("registry"), 1000).unwrap()
    }

    /// The lines of the audit log.
    pub(crate) fn audit(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.audit.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Everything on the audit log.
    pub(crate) fn audit_text(&self) -> String {
        String::from_utf8(self.audit.0.lock().unwrap().clone()).unwrap()
    }
}

pub(crate) fn source(last: u8) -> Source {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)).into()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// TPM2B_PUBLIC on the wire, read.
pub(crate) fn area(wire: &str) -> PublicArea {
    PublicArea::parse_sized(&b64::decode(wire).unwrap()).unwrap()
}

/// The same with other attributes.
pub(crate) fn with_attributes(wire: &str, change: impl Fn(u32) -> u32) -> String {
    let mut bytes = b64::decode(wire).unwrap();
    // TPM2B size 2, type 2, nameAlg 2, then the attributes.
    let attributes = u32::from_be_bytes(bytes[6..10].try_into().unwrap());
    bytes[6..10].copy_from_slice(&change(attributes).to_be_bytes());
    b64::encode(bytes)
}

/// The TPM refused because the credential was made for other keys, and for no other reason.
pub(crate) fn not_ours(error: &TpmError) -> bool {
    matches!(
        error,
        TpmError::Response {
            meaning: Meaning::NotOurs,
            ..
        }
    )
}

/// An authority of our own, to make the certificates that no factory makes.
pub(crate) struct Forge {
    params: CertificateParams,
    key: KeyPair,
}

impl Forge {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self {
            params,
            key: KeyPair::generate().unwrap(),
        }
    }

    pub(crate) fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::EkCertificate {
            roots: Roots::parse(&self.pem(), "").unwrap(),
            also_listed: BTreeSet::new(),
        }
    }

    /// A certificate for this endorsement key, as a maker would write it, but for `change`.
    pub(crate) fn certify(
        &self,
        ek: &PublicArea,
        change: impl Fn(&mut CertificateParams),
    ) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![match ek.key {
            PublicKey::Rsa { .. } => KeyUsagePurpose::KeyEncipherment,
            PublicKey::P256 { .. } => KeyUsagePurpose::KeyAgreement,
        }];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        let mut model =
            CustomExtension::from_oid_content(&[2, 5, 29, 17], hex::decode(MODEL).unwrap());
        model.set_criticality(true);
        params.custom_extensions = vec![model];
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        params
            .signed_by(&Certified::new(ek), &issuer)
            .unwrap()
            .der()
            .to_vec()
    }
}

/// The subject alternative name of a software TPM: directoryName with maker, model and version.
const MODEL: &str = "3046a444304231163014060567810502010c0b69643a30303030313031343110300e060567810502020c\
                     05737774706d31163014060567810502030c0b69643a3230313931303233";

/// Somebody else's public key in a certificate.
struct Certified {
    bits: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl Certified {
    fn new(ek: &PublicArea) -> Self {
        let spki = ek.spki_der().unwrap();
        // The BIT STRING ends the structure: RSAPublicKey of 270 bytes, or a point of 65.
        let (length, algorithm) = match ek.key {
            PublicKey::Rsa { .. } => (270, &rcgen::PKCS_RSA_SHA256),
            PublicKey::P256 { .. } => (65, &rcgen::PKCS_ECDSA_P256_SHA256),
        };
        Self {
            bits: spki[spki.len() - length..].to_vec(),
            algorithm,
        }
    }
}

impl PublicKeyData for Certified {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

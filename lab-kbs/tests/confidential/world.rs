// SPDX-License-Identifier: Apache-2.0

//! A KBS with the operator's policies, one approved machine, and the table in which wrong evidence is counted.

use crate::common::{Answer, Lab, SoftTpm, hex, open, token_parts};
use kbs_protocol::evidence::{CertTable, SnpEvidence, SnpReport};
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::message::RuntimeData;
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::tee_key::TeeKey;
use kbs_protocol::{Tee, encoding::b64};
use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::CertType;
use soft_tee::snp::{Authority, Chip, Generation};
use soft_tee::tdx::{Platform, Td, event_log};
use std::sync::LazyLock;

const ATTESTATION: &str = include_str!("../../../operator/src/policy/attestation.rego");
const RESOURCE: &str = include_str!("../../../operator/src/policy/resource.rego");

/// AMD's and Intel's place, for all machines of this file.
pub static AMD: LazyLock<Authority> = LazyLock::new(|| Authority::new(now()));
pub static INTEL: LazyLock<Platform> = LazyLock::new(|| Platform::new(now()));

pub fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// A kind of processor that the tables go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Snp(Generation),
    /// Version of the quote and type of its body.
    Tdx(u16, u16),
}

pub const KINDS: [Kind; 6] = [
    Kind::Snp(Generation::Milan),
    Kind::Snp(Generation::Genoa),
    Kind::Snp(Generation::Turin),
    Kind::Tdx(4, 2),
    Kind::Tdx(5, 2),
    Kind::Tdx(5, 3),
];

impl Kind {
    pub fn tee(self) -> Tee {
        match self {
            Self::Snp(_) => Tee::Snp,
            Self::Tdx(..) => Tee::Tdx,
        }
    }
}

/// What is wrong with the processor's part of the evidence. Everything here is signed as if it were true.
#[derive(Clone, Copy)]
pub struct Wrong {
    pub report: fn(&mut AttestationReport),
    pub td: fn(&mut Td),
}

pub const NOTHING: Wrong = Wrong {
    report: |_| {},
    td: |_| {},
};

/// The KBS, and the node that it knows.
pub struct World {
    pub kind: Kind,
    pub lab: Lab,
    pub chip: Chip,
    /// The register that the host filled at launch, as much of it as this kind has.
    pub launch_register: [u8; 48],
    /// The secret's place.
    pub path: String,
}

impl World {
    /// The node is named by its TPM's key.
    pub fn composite(kind: Kind) -> Self {
        let world = Self::new(kind, &format!("{}+tpm", kind.tee()), "ak");
        let admin = world.lab.admin();
        for number in [0, 1] {
            let tpm = SoftTpm::number(number);
            admin.allow_node(&tpm.ak_public(), None).unwrap();
            let path = format!("default/{}/root", tpm.node_id());
            admin.set_resource(&path, SECRET.to_vec()).unwrap();
        }
        let path = format!("default/{}/root", SoftTpm::number(0).node_id());
        Self { path, ..world }
    }

    /// The node is named by the init-data that the host started it with.
    pub fn with_init_data(kind: Kind) -> Self {
        let world = Self::new(kind, kind.tee().as_str(), "init-data");
        let admin = world.lab.admin();
        for uuid in [OURS, THEIRS] {
            let init_data = InitDataToml::parse(&init_data(uuid)).unwrap();
            let register = match kind {
                Kind::Snp(_) => hex(&init_data.launch_register::<32>()),
                Kind::Tdx(..) => hex(&init_data.launch_register::<48>()),
            };
            let shard = format!("node_init_{}", &register[..2]);
            let mut nodes = admin.reference_value(&shard).unwrap().unwrap_or(json!({}));
            nodes[register] = json!(uuid);
            admin.set_reference_value(&shard, &nodes).unwrap();
            let path = format!("default/{uuid}/root");
            admin.set_resource(&path, SECRET.to_vec()).unwrap();
        }
        let ours = InitDataToml::parse(&init_data(OURS)).unwrap();
        Self {
            path: format!("default/{OURS}/root"),
            launch_register: ours.launch_register(),
            ..world
        }
    }

    pub fn new(kind: Kind, evidence: &str, identity: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            let path = files.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let lab = Lab::with(|options| {
            options.amd_roots = vec![file("amd.pem", AMD.pem())];
            options.intel_root = Some(file("intel.pem", INTEL.root_pem()));
            options.tdx_collateral = vec![file("collateral.json", INTEL.collateral().to_string())];
        });
        let admin = lab.admin();
        admin
            .set_attestation_policy("default_cpu", ATTESTATION)
            .unwrap();
        admin.set_resource_policy(RESOURCE).unwrap();
        let rtmrs = events().1;
        for (name, value) in [
            (
                "sheepfold_options",
                json!({"evidence": [evidence], "identity": identity}),
            ),
            ("boot_tuples", json!([approved_boot()])),
            ("snp_measurements", json!(["ab".repeat(48)])),
            (
                "snp_tcb_floors",
                json!([{"bootloader": 4, "microcode": 219, "snp": 24, "tee": 0}]),
            ),
            ("tdx_tcb_status", json!(["UpToDate"])),
            (
                "tdx_launches",
                json!([{"mr_td": "7d".repeat(48), "rtmr_1": hex(&rtmrs[1]), "rtmr_2": hex(&rtmrs[2])}]),
            ),
        ] {
            admin.set_reference_value(name, &value).unwrap();
        }
        let generation = match kind {
            Kind::Snp(generation) => generation,
            Kind::Tdx(..) => Generation::Milan,
        };
        Self {
            kind,
            lab,
            chip: AMD.chip(generation),
            launch_register: [0; 48],
            path: String::new(),
        }
    }

    pub fn session(&self, tee: &str) -> Session {
        let (cookie, nonce) = self.lab.auth(tee);
        let key = TeeKey::generate().unwrap();
        let tee_pubkey = key.public();
        let runtime = RuntimeData { nonce, tee_pubkey };
        Session {
            cookie,
            runtime,
            key,
        }
    }

    /// The processor's evidence over a digest.
    pub fn processor(&self, digest: &RuntimeDigest, wrong: &Wrong) -> Value {
        let data = digest.report_data(self.kind.tee()).try_into().unwrap();
        match self.kind {
            Kind::Snp(_) => {
                let report = self.chip.report_with(data, |report| {
                    report.host_data = *self.launch_register.first_chunk().unwrap();
                    (wrong.report)(report);
                });
                snp_evidence(&AMD, &self.chip, &report)
            }
            Kind::Tdx(version, body_type) => {
                let (log, rtmrs) = events();
                let mut td = Td {
                    version,
                    body_type,
                    rtmrs,
                    report_data: data,
                    mr_config_id: self.launch_register,
                    ..Td::default()
                };
                (wrong.td)(&mut td);
                let log = (td.rtmrs == rtmrs).then(|| b64::encode(&log));
                json!({"quote": b64::encode(INTEL.quote(&td)), "cc_eventlog": log})
            }
        }
    }

    /// Good evidence of both sources.
    pub fn good(&self, session: &Session) -> Value {
        let additional = quote(&tpm(), &session.device());
        self.signed_over(session, &additional)
    }

    /// Good evidence of the processor, over this additional evidence.
    pub fn signed_over(&self, session: &Session, additional: &str) -> Value {
        let primary = self.processor(&session.primary(additional), &NOTHING);
        body(session, &primary, additional)
    }

    /// What the KBS made of it: `given`, or why not.
    pub fn outcome(&self, session: &Session, body: &Value) -> String {
        let attested = self.lab.try_send(
            "POST",
            "/kbs/v0/attest",
            &[("cookie", &session.cookie)],
            body.to_string(),
        );
        // The server's own word: it may have answered an oversize request and hung up before all of it was sent.
        let seen = self.lab.server.requests().pop().unwrap();
        assert_eq!(seen.path, "/kbs/v0/attest");
        match (seen.status, attested) {
            (200, Ok(attested)) => self.denial(session, &attested),
            (401, Ok(_)) => seen.cause.unwrap(),
            (status, _) => format!("status {status}"),
        }
    }

    fn denial(&self, session: &Session, attested: &Answer) -> String {
        let answer = self.lab.resource(&session.cookie, &self.path);
        if answer.status == 200 {
            assert_eq!(open(&answer, &session.key), SECRET);
            return "given".to_owned();
        }
        answer.is_refusal(401, "PolicyDeny", "Access denied by policy");
        let token = attested.json()["token"].as_str().unwrap().to_owned();
        let claims = token_parts(&token).1;
        let mut why = "denied:".to_owned();
        for (name, submod) in claims["submods"].as_object().unwrap() {
            let vector = submod["ear.trustworthiness-vector"].as_object().unwrap();
            for (claim, value) in vector {
                if value.as_i64().unwrap() > 31 {
                    why += &format!(" {name} {claim}={value}");
                }
            }
        }
        why
    }
}

/// One handshake.
pub struct Session {
    pub cookie: String,
    pub runtime: RuntimeData,
    pub key: TeeKey,
}

impl Session {
    pub fn primary(&self, additional: &str) -> RuntimeDigest {
        RuntimeDigest::primary(&self.runtime, additional).unwrap()
    }

    pub fn device(&self) -> RuntimeDigest {
        RuntimeDigest::device(&self.runtime).unwrap()
    }
}

/// Names each case that is not refused for the reason that it should be.
#[derive(Default)]
pub struct Table {
    refused: usize,
    wrong: Vec<String>,
}

impl Table {
    pub fn refuse(&mut self, name: &str, words: &str, outcome: &str) {
        self.refused += 1;
        if outcome == "given" || !outcome.contains(words) {
            self.wrong
                .push(format!("{name}: {outcome}, expected {words:?}"));
        }
    }

    pub fn end(self, at_least: usize) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        assert!(self.refused >= at_least, "only {} cases", self.refused);
        println!("{} cases refused", self.refused);
    }
}

/// The node's TPM.
pub fn tpm() -> SoftTpm {
    let mut tpm = SoftTpm::number(0);
    tpm.pcrs[11] = [0; 32];
    tpm
}

fn approved_boot() -> Value {
    tpm().boot_tuple()
}

/// A TPM's quote over a digest, as additional evidence.
pub fn quote(tpm: &SoftTpm, digest: &RuntimeDigest) -> String {
    json!({"tpm": tpm.evidence(&digest.report_data(Tee::Tpm))}).to_string()
}

pub fn body(session: &Session, primary: &Value, additional: &str) -> Value {
    json!({
        "init-data": null,
        "runtime-data": session.runtime,
        "tee-evidence": {"primary_evidence": primary, "additional_evidence": additional},
    })
}

pub fn snp_evidence(authority: &Authority, chip: &Chip, report: &[u8]) -> Value {
    let table = CertTable::parse(&authority.table(chip)).unwrap();
    json!(SnpEvidence {
        attestation_report: *SnpReport::parse(report).unwrap().fields(),
        cert_chain: table.into_chain(),
    })
}

pub fn chip_of(authority: &Authority, kind: Kind, validity: (u64, u64)) -> Chip {
    match kind {
        Kind::Snp(generation) => authority.chip_with(generation, CertType::VCEK, validity),
        Kind::Tdx(..) => unreachable!("an AMD chip"),
    }
}

/// What every TD of this file booted.
pub fn events() -> (Vec<u8>, [[u8; 48]; 4]) {
    event_log(&[(1, b"firmware"), (2, b"loader"), (3, b"kernel")])
}

pub fn init_data(uuid: &str) -> String {
    format!("version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\nuuid = {uuid:?}\n")
}

pub const OURS: &str = "7f1c0d66-6f0e-4b0e-9a53-0c1f5c5f7a01";
pub const THEIRS: &str = "7f1c0d66-6f0e-4b0e-9a53-0c1f5c5f7a02";
pub const SECRET: &[u8] = b"the secret of the disk";

// SPDX-License-Identifier: Apache-2.0

//! What the black-box tests share: a laboratory KBS, nodes made of RSA keys that attest as a TPM does, and a
//! directory to provision.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::Tee;
use kbs_protocol::jwe::ResourceJwe;
use kbs_protocol::message::{Challenge, RuntimeData};
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::tee_key::TeeKey;
use lab_kbs::keys::{self, InitOptions};
use lab_kbs::{Options, Server};
use serde_json::{Value, json};
use sheepfold_operator::provision::{self, Outcome, Run, Wishes};
use soft_tee::tpm::SoftTpm;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

/// A running laboratory and a directory that describes a cluster behind it.
pub struct Lab {
    pub dir: TempDir,
    pub server: Server,
    http: reqwest::blocking::Client,
}

impl Lab {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::of(&[], change)
    }

    /// With keys that somebody else made: files of the laboratory's directory, by name.
    pub fn of(files: &[(&str, Vec<u8>)], change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lab = dir.path().join("lab");
        std::fs::create_dir(&lab).unwrap();
        for (name, content) in files {
            std::fs::write(lab.join(name), content).unwrap();
        }
        keys::init(&lab, &InitOptions::default()).unwrap();
        let mut options = Options::new(&lab);
        // As a Trustee that nobody has told anything: every secret to everybody.
        options.policies = lab_kbs::PolicySet::Stock;
        change(&mut options);
        let server = Server::start(options).unwrap();
        let http = client(&lab);
        std::fs::create_dir(dir.path().join("cluster")).unwrap();
        let lab = Self { dir, server, http };
        lab.write("cluster.yaml", &lab.cluster(""));
        lab
    }

    /// Somebody else with the administrator's key.
    pub fn administrator(&self) -> sheepfold_operator::kbs_admin::AdminClient {
        self.open().connect().unwrap()
    }

    /// The server ends, its state is deleted, and another one begins at the same address.
    pub fn lose_storage(&mut self) {
        let lab = self.dir.path().join("lab");
        let address = self
            .server
            .url()
            .strip_prefix("https://")
            .unwrap()
            .to_owned();
        let mut options = Options::new(&lab);
        options.in_memory = true;
        self.server = Server::start(options.clone()).unwrap();
        std::fs::remove_file(lab.join("state.json")).unwrap();
        options.in_memory = false;
        options.listen = address.parse().unwrap();
        options.policies = lab_kbs::PolicySet::Stock;
        self.server = Server::start(options).unwrap();
    }

    /// The cluster's file, with further lines of its spec.
    pub fn cluster(&self, more: &str) -> String {
        object(
            "Cluster",
            "laboratory",
            &format!(
                "  kbs:\n    url: {}\n    laboratory: ../lab\n{more}",
                self.server.url()
            ),
        )
    }

    pub fn files(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.files().join(name), text).unwrap();
    }

    /// Writes an image whose boots all of these show, and a file for each machine.
    pub fn machines(&self, machines: &[(&str, &Tpm, &str)]) {
        let tuples = json!([Tpm::number(0).boot_tuple()]);
        let image = format!("  referenceValues:\n    bootTuples: {tuples}\n");
        self.write("image.yaml", &object("ApprovedImage", "image", &image));
        let all: Vec<String> = machines
            .iter()
            .map(|(name, tpm, state)| machine(name, &tpm.ak_public(), state))
            .collect();
        self.write("machines.yaml", &all.join("---\n"));
    }

    pub fn options(&self) -> provision::Options {
        provision::Options::default()
    }

    pub fn open(&self) -> Run {
        Run::open(&self.files(), &self.options()).unwrap()
    }

    pub fn provision(&self) -> Outcome {
        let mut run = self.open();
        let client = run.connect().unwrap();
        run.provision(&Wishes::default(), &client, &mut |_, _| {})
            .unwrap()
    }

    /// The program, as a person starts it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(sheepfold_tests::paths::binary("sheepfold-operator").unwrap())
            .args(arguments)
            .current_dir(self.files())
            .output()
            .unwrap()
    }

    /// What the server has stored.
    pub fn state(&self) -> Value {
        let bytes = std::fs::read(self.dir.path().join("lab/state.json")).unwrap_or_default();
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| json!({"resources": {}, "reference_values": {}}))
    }

    /// The same without what differs from run to run: handshakes, the probe, the contents of secrets.
    pub fn shape(&self) -> Value {
        let mut state = self.state();
        state["sessions"] = json!({});
        let values = state["reference_values"].as_object_mut().unwrap();
        values.remove("sheepfold_probe");
        values.remove("sheepfold_record");
        values.retain(|_, value| *value != json!({}) && *value != json!([]));
        let places: BTreeMap<String, usize> =
            self.resources()
                .iter()
                .fold(BTreeMap::new(), |mut all, (path, _)| {
                    let (volume, second) = match path.rsplit_once('/').unwrap().1.split_once('.') {
                        Some((volume, _)) => (volume, ".kept"),
                        None => (path.rsplit_once('/').unwrap().1, ""),
                    };
                    let place = format!("{}/{volume}{second}", path.rsplit_once('/').unwrap().0);
                    *all.entry(place).or_default() += 1;
                    all
                });
        state["resources"] = json!(places);
        state
    }

    pub fn resources(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let resources = state["resources"].as_object().unwrap();
        let decode = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
        resources
            .iter()
            .map(|(path, content)| (path.clone(), decode(content)))
            .collect()
    }

    /// A whole handshake, then one request; the secret if it is released.
    pub fn fetch(&self, tpm: &Tpm, path: &str) -> Option<Vec<u8>> {
        self.handshake(tpm).fetch(path)
    }

    pub fn handshake(&self, tpm: &Tpm) -> Session<'_> {
        let challenged = self.auth();
        let evidence = tpm.evidence(&challenged.digest().report_data(Tee::Tpm));
        challenged.attest(&evidence).unwrap()
    }

    /// The first step alone: a session is open and waits for evidence.
    pub fn auth(&self) -> Challenged<'_> {
        let request = json!({ "version": "0.4.0", "tee": "tpm", "extra-params": {} });
        let answer = self.post("/kbs/v0/auth", "", &request);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let nonce = Challenge::parse(&answer.bytes().unwrap()).unwrap().nonce;
        let key = TeeKey::generate().unwrap();
        let runtime_data = RuntimeData {
            nonce,
            tee_pubkey: key.public(),
        };
        Challenged {
            lab: self,
            cookie,
            runtime_data,
            key,
        }
    }

    fn post(&self, path: &str, cookie: &str, body: &Value) -> reqwest::blocking::Response {
        self.http
            .post(format!("{}{path}", self.server.url()))
            .header("cookie", cookie)
            .body(body.to_string())
            .send()
            .unwrap()
    }
}

/// A handshake after its first step.
pub struct Challenged<'a> {
    lab: &'a Lab,
    cookie: String,
    key: TeeKey,
    /// What the evidence must cover.
    pub runtime_data: RuntimeData,
}

impl<'a> Challenged<'a> {
    pub fn digest(&self) -> RuntimeDigest {
        RuntimeDigest::primary(&self.runtime_data, "").unwrap()
    }

    /// The second step; the server's reason, which it tells its log only, when it refuses.
    pub fn attest(self, evidence: &Value) -> Result<Session<'a>, String> {
        let body = json!({
            "init-data": null,
            "runtime-data": self.runtime_data,
            "tee-evidence": { "primary_evidence": evidence, "additional_evidence": "" },
        });
        let answer = self.lab.post("/kbs/v0/attest", &self.cookie, &body);
        if !answer.status().is_success() {
            let seen = self.lab.server.requests();
            return Err(seen.last().unwrap().cause.clone().unwrap());
        }
        Ok(Session {
            lab: self.lab,
            cookie: self.cookie,
            key: self.key,
        })
    }
}

pub struct Session<'a> {
    lab: &'a Lab,
    cookie: String,
    key: TeeKey,
}

impl Session<'_> {
    pub fn fetch(&self, path: &str) -> Option<Vec<u8>> {
        let url = format!("{}/kbs/v0/resource/{path}", self.lab.server.url());
        let request = self.lab.http.get(url).header("cookie", &self.cookie);
        let answer = request.send().unwrap();
        let released = answer.status().is_success();
        let body = answer.bytes().unwrap();
        if !released {
            return None;
        }
        let jwe = ResourceJwe::parse(&body).unwrap();
        Some(jwe.open(&self.key).unwrap().expose().to_vec())
    }
}

pub fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: trusted-execution-clusters.io/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n{spec}"
    )
}

pub fn machine(name: &str, ak: &str, state: &str) -> String {
    object(
        "Machine",
        name,
        &format!("  attestationKey: {ak}\n  state: {state}\n"),
    )
}

/// A client that believes the authority of this laboratory and nobody else.
pub fn client(lab: &Path) -> reqwest::blocking::Client {
    use rustls::pki_types::pem::PemObject as _;
    let ca = rustls::pki_types::CertificateDer::from_pem_file(lab.join("ca.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::blocking::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .build()
        .unwrap()
}

/// A TPM's attestation key in a machine before switch-root.
#[derive(Clone)]
pub struct Tpm(SoftTpm);

impl Tpm {
    /// One of three, the same for all tests of a file.
    pub fn number(index: usize) -> Self {
        Self::of(SoftTpm::number(index).ak)
    }

    /// With this key.
    pub fn of(ak: rsa::RsaPrivateKey) -> Self {
        let mut tpm = SoftTpm::number(0);
        tpm.ak = ak;
        // All zero but those of the boot.
        for (number, pcr) in tpm.pcrs.iter_mut().enumerate() {
            if ![4, 7, 14].contains(&number) {
                *pcr = [0; 32];
            }
        }
        Self(tpm)
    }

    /// In a machine that has booted what shows these PCRs.
    pub fn showing(self, boot_tuple: &Value) -> Self {
        Self(self.0.showing(boot_tuple))
    }

    pub fn ak_public(&self) -> String {
        self.0.ak_public()
    }

    pub fn node(&self) -> String {
        self.0.node_id().to_string()
    }

    pub fn root(&self) -> String {
        format!("default/{}/root", self.node())
    }

    pub fn boot_tuple(&self) -> Value {
        self.0.boot_tuple()
    }

    /// What it says of its volumes, each by its path and the id of its key, at a time of its clock.
    pub fn says_of_volumes(&self, node: &str, volumes: &[(&str, &str)], clock: u64) -> Value {
        let volumes = volumes.iter().map(|(path, vk_id)| {
            json!({"name": "root", "path": path, "luks_uuid": "0".repeat(36), "vk_id": vk_id})
        });
        let volumes: Vec<Value> = volumes.collect();
        let record = json!({"version": 1, "node": node, "volumes": volumes}).to_string();
        let extra_data = kbs_protocol::volume_record::VolumeRecord::extra_data(&record);
        json!({"evidence": self.evidence_at(&extra_data, clock, 2), "record": record})
    }

    /// A quote over this, as the TPM would give it.
    pub fn evidence(&self, extra_data: &[u8]) -> Value {
        self.0.evidence(extra_data)
    }

    /// The same, at a time of its clock and after so many resets.
    pub fn evidence_at(&self, extra_data: &[u8], clock: u64, resets: u32) -> Value {
        let mut tpm = self.0.clone();
        (tpm.clock, tpm.resets) = (clock, resets);
        tpm.evidence(extra_data)
    }
}

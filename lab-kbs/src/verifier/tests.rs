// SPDX-License-Identifier: Apache-2.0

//! Hardware evidence, good and bad: machines made of software under roots of their own, one thing wrong at a
//! time, and recorded evidence of real machines under AMD's and Intel's roots.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "in a test a panic is the report"
)]

mod azure;
mod recorded;
mod recorded_policy;
mod sample;
mod snp;
mod tdx;

use super::{Claims, Roots};
use crate::clock::unix_now;
use crate::dialect::Dialect;
use crate::options::Options;
use kbs_protocol::Tee;
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::message::RuntimeData;
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::tee_key::TeeKey;
use serde_json::Value;

const INIT_DATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\nuuid = \"7f1c0d66-6f0e-4b0e-9a53-0c1f5c5f7a01\"\n";

/// One handshake's digests, and another's.
struct Sessions {
    ours: RuntimeDigest,
    /// The digest of additional evidence, in the same handshake.
    device: RuntimeDigest,
    other: RuntimeDigest,
}

impl Sessions {
    fn new() -> Self {
        let data = |nonce: &str| RuntimeData {
            nonce: nonce.to_owned(),
            tee_pubkey: TeeKey::generate().unwrap().public(),
        };
        let (ours, other) = (data("ours"), data("theirs"));
        Self {
            device: RuntimeDigest::device(&ours).unwrap(),
            ours: RuntimeDigest::primary(&ours, "").unwrap(),
            other: RuntimeDigest::primary(&other, "").unwrap(),
        }
    }
}

fn report_data(digest: &RuntimeDigest) -> [u8; 64] {
    digest.report_data(Tee::Snp).try_into().unwrap()
}

fn init_data() -> InitDataToml {
    InitDataToml::parse(INIT_DATA).unwrap()
}

/// Roots from files, as the server reads them.
fn roots(amd: &[String], intel: Option<String>, collateral: &[Value]) -> Roots {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: String, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut options = Options::new(dir.path());
    options.amd_roots = (0..)
        .zip(amd)
        .map(|(n, pem)| file(format!("amd{n}.pem"), pem.clone()))
        .collect();
    options.intel_root = intel.map(|pem| file("intel.pem".to_owned(), pem));
    options.tdx_collateral = (0..)
        .zip(collateral)
        .map(|(n, json)| file(format!("collateral{n}.json"), json.to_string()))
        .collect();
    Roots::load(&options).unwrap()
}

/// Counts named cases, each of which must be refused for a reason that contains some words.
#[derive(Default)]
struct Table {
    refused: usize,
    wrong: Vec<String>,
}

impl Table {
    fn refuse(&mut self, name: &str, words: &str, outcome: anyhow::Result<Claims>) {
        self.refused = self.refused.saturating_add(1);
        match outcome {
            Ok(_) => self.wrong.push(format!("{name}: accepted")),
            Err(error) => {
                let why = format!("{error:#}");
                // Every text contains the empty one: a case says what it is refused for.
                if words.is_empty() || !why.contains(words) {
                    self.wrong
                        .push(format!("{name}: {why}, expected {words:?}"));
                }
            }
        }
    }

    fn end(self, at_least: usize) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        assert!(self.refused >= at_least, "only {} cases", self.refused);
    }
}

fn verify(
    tee: Tee,
    evidence: &Value,
    digest: &RuntimeDigest,
    init_data: Option<&InitDataToml>,
    roots: &Roots,
) -> anyhow::Result<Claims> {
    super::verify(tee, evidence, digest, init_data, roots, Dialect::Main)
}

fn now() -> u64 {
    unix_now()
}

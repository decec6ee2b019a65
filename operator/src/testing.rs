// SPDX-License-Identifier: Apache-2.0

//! Made-up clusters of any size, for tests and for `make bench`. The keys have the form of RSA-2048 keys and
//! nobody has their private halves.

use crate::model::{AkPublic, Boots, Desired, Machine, NodeName, SecretId, State};
use crate::plan::reference_values;
use crate::policy;
use crate::policy::engine::{AttestationPolicy, ReferenceValues, ResourcePolicy};
use kbs_protocol::encoding::hex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// Key number `n`.
///
/// # Panics
/// Never: the key is built in the form that is read.
pub fn ak(n: u32) -> AkPublic {
    let modulus = (0u32..8).flat_map(|block| {
        let mut part: [u8; 32] =
            Sha256::digest([n.to_be_bytes(), block.to_be_bytes()].concat()).into();
        // The highest bit makes it 2048 bits long.
        let [first, ..] = &mut part;
        *first |= 0x80;
        part
    });
    let der: Vec<u8> = SPKI_HEAD
        .iter()
        .copied()
        .chain(modulus)
        .chain([2, 3, 1, 0, 1])
        .collect();
    #[allow(
        clippy::unwrap_used,
        reason = "the form is fixed above, and a test reads it"
    )]
    AkPublic::from_spki_der(&der).unwrap()
}

/// The name that machine number `n` has by its key.
pub fn node(n: u32) -> NodeName {
    ak(n).node_id().into()
}

/// An approved machine with key number `n` and a secret for `root`.
pub fn machine(n: u32) -> Machine {
    Machine {
        ak: Some(ak(n)),
        init_data: None,
        state: State::Approved,
        secrets: "root"
            .parse()
            .map(|root| (root, SecretId(format!("{n}-1"))))
            .into_iter()
            .collect(),
        runtime: BTreeMap::new(),
    }
}

/// A cluster of `n` machines with TPMs, all of which may boot `boot_tuple(0)` and `boot_tuple(1)`.
pub fn cluster(n: u32) -> Desired {
    Desired {
        machines: (0..n).map(|n| (node(n), machine(n))).collect(),
        boots: Boots {
            tuples: (0..2)
                .filter_map(|n| serde_json::from_value(boot_tuple(n)).ok())
                .collect(),
            ..Boots::default()
        },
        ..Desired::default()
    }
}

/// The reference values of a cluster of `n` machines, as a KBS stores them.
pub fn sample_reference_values(n: u32) -> BTreeMap<String, Value> {
    let (values, _) = reference_values(&cluster(n));
    values
        .into_iter()
        .map(|(name, entries)| (name, entries.to_value()))
        .collect()
}

/// Both policies as a KBS with a cluster of `n` machines runs them, for a bench to time.
pub struct Evaluation {
    values: ReferenceValues,
    evidence: Value,
    node: String,
}

impl Evaluation {
    /// Of a cluster of `n` machines, for its last one.
    pub fn of(n: u32) -> Self {
        let last = n.saturating_sub(1);
        Self {
            values: sample_reference_values(n).iter().collect(),
            evidence: tpm_evidence(last, 0),
            node: node(last).to_string(),
        }
    }

    /// Evidence to verdict, token to yes: compiled anew, as a KBS does for each request.
    ///
    /// # Errors
    /// Whatever the policies meet.
    pub fn run(&self) -> Result<bool, policy::Error> {
        let appraisal = AttestationPolicy::compile(policy::ATTESTATION)?
            .appraise(&self.evidence, &self.values)?;
        let token = json!({"submods": {"cpu0": appraisal.submodule(&self.evidence)}});
        let path = ["default", &self.node, "root"];
        ResourcePolicy::compile(policy::RESOURCE)?.allows(&token, "resource", &path)
    }
}

/// Writes a directory for `provision`: a cluster behind the KBS at `url`, with the laboratory's keys in
/// `lab` beside it, one image, and `n` machines in files of a thousand.
///
/// # Errors
/// When the directory cannot be written.
pub fn directory(dir: &Path, url: &str, n: u32) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let kbs = format!("  kbs:\n    url: {url}\n    laboratory: ../lab\n");
    std::fs::write(dir.join("cluster.yaml"), file("Cluster", "scale", &kbs))?;
    let tuples = json!([boot_tuple(0), boot_tuple(1)]);
    let image = format!("  referenceValues:\n    bootTuples: {tuples}\n");
    std::fs::write(
        dir.join("image.yaml"),
        file("ApprovedImage", "image", &image),
    )?;
    let numbers: Vec<u32> = (0..n).collect();
    for (part, numbers) in numbers.chunks(1000).enumerate() {
        let machines: Vec<String> = numbers.iter().copied().map(machine_file).collect();
        std::fs::write(
            dir.join(format!("machines-{part:03}.yaml")),
            machines.concat(),
        )?;
    }
    Ok(())
}

/// Machine number `n` as a YAML document.
pub fn machine_file(n: u32) -> String {
    let spec = format!("  attestationKey: {}\n  state: approved\n", ak(n));
    file("Machine", &format!("machine-{n}"), &spec)
}

fn file(kind: &str, name: &str, spec: &str) -> String {
    let version = crate::provision::objects::API_VERSION;
    format!("---\napiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n{spec}")
}

/// What boot number `n` leaves in PCR 4, 7 and 14.
pub fn boot_tuple(n: u32) -> Value {
    json!({
        "pcr04": hex::encode(Sha256::digest(n.to_be_bytes())),
        "pcr07": "7".repeat(64),
        "pcr14": "e".repeat(64),
    })
}

/// The input of the attestation policy for machine `n` after boot `boot`, before the seal.
pub fn tpm_evidence(n: u32, boot: u32) -> Value {
    let mut claims = json!({"ak_public": ak(n)});
    if let Some(claims) = claims.as_object_mut() {
        claims.extend((0..24).map(|pcr| (format!("pcr{pcr:02}"), json!("0".repeat(64)))));
        claims.extend(boot_tuple(boot).as_object().cloned().unwrap_or_default());
    }
    json!({
        "tpm": claims,
        "init_data": "0".repeat(64),
        "init_data_claims": null,
        "report_data": "5".repeat(64),
        "runtime_data_claims": {"nonce": "bm9uY2U=", "tee-pubkey": {"kty": "EC"}, "additional-evidence": ""},
    })
}

/// The DER of an RSA-2048 SubjectPublicKeyInfo up to its modulus (RFC 3279 section 2.3.1).
const SPKI_HEAD: &[u8] = &[
    0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01,
    0x01, 0x05, 0x00, 0x03, 0x82, 0x01, 0x0f, 0x00, 0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01,
    0x00,
];

#[cfg(test)]
mod tests {
    use super::Evaluation;

    #[test]
    fn what_a_bench_times_is_a_yes() {
        for n in [1, 10, 1000] {
            assert_eq!(Evaluation::of(n).run(), Ok(true));
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! One target for each parser of foreign bytes. A target takes bytes, says whether they were accepted, and panics
//! when something that must always hold does not: what is read is written again alike, what is accepted satisfies
//! the rules, what was signed or sealed cannot be changed.
//!
//! libFuzzer calls them through the programs in `fuzz_targets/`; the runner `mutate` and the tests call them as
//! plain functions, on any toolchain.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is the report"
)]

pub mod boot;
pub mod corpus;
pub mod disk;
pub mod kbs;
pub mod malformed;
pub mod mutate;
pub mod node;
pub mod pin;
pub mod tee;
pub mod tpm;

use std::path::{Path, PathBuf};

/// A parser and what must hold of it.
#[derive(Clone, Copy)]
pub struct Target {
    /// The name of its libFuzzer program and of its directory in `corpus/`.
    pub name: &'static str,
    /// Whether these bytes are accepted. Panics when the property does not hold.
    pub accepts: fn(&[u8]) -> bool,
    /// Where more seeds are, from the root of the repository: vectors that other tests keep as files.
    pub vectors: &'static [&'static str],
}

macro_rules! targets {
    ($($room:ident :: $name:ident $([$($vectors:literal),*])?),* $(,)?) => {
        &[$(Target {
            name: stringify!($name),
            accepts: $room::$name,
            vectors: &[$($($vectors),*)?],
        }),*]
    };
}

/// All of them.
pub const TARGETS: &[Target] = targets![
    pin::pin_token["clevis-pin/tests/vectors/tokens"],
    pin::pin_header["clevis-pin/tests/vectors/headers"],
    pin::pin_config["clevis-pin/tests/vectors/configs"],
    disk::luks2_header,
    tpm::tpm_evidence,
    tpm::tpm_quote,
    tpm::tpm_public,
    tpm::volume_record,
    tee::snp_report,
    tee::snp_cert_table,
    tee::tdx_quote,
    tee::hcl_report,
    kbs::challenge["kbs-protocol/tests/vectors/challenge"],
    kbs::attestation,
    kbs::ear,
    kbs::init_data["kbs-protocol/tests/vectors/init-data"],
    kbs::resource_jwe["kbs-protocol/tests/vectors/resource"],
    kbs::resource_secret["kbs-protocol/tests/vectors/secret"],
    kbs::enrolment,
    node::agent_toml["agent/tests/config"],
    boot::event_log,
    boot::pe,
    boot::layer,
    boot::flash,
    boot::uefi_variable,
    boot::signature_lists,
    boot::pkcs7,
];

impl Target {
    /// The target of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Its directories of seeds.
    pub fn directories(&self) -> Vec<PathBuf> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name);
        let vectors = self.vectors.iter().map(|vectors| root().join(vectors));
        std::iter::once(own)
            .chain(vectors)
            .filter(|dir| dir.is_dir())
            .collect()
    }

    /// Its seeds, in the order of their names.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        let mut files: Vec<PathBuf> = self
            .directories()
            .iter()
            .flat_map(|dir| std::fs::read_dir(dir).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort_unstable();
        files
            .iter()
            .map(|file| std::fs::read(file).unwrap())
            .collect()
    }
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The vectors of a directory of the repository that are to be accepted.
fn good_vectors(dir: &str) -> impl Iterator<Item = Vec<u8>> {
    let files = std::fs::read_dir(root().join(dir))
        .unwrap()
        .map(|entry| entry.unwrap());
    files
        .filter(|file| file.file_name().to_str().unwrap().starts_with("ok-"))
        .map(|file| std::fs::read(file.path()).unwrap())
}

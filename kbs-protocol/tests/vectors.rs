// SPDX-License-Identifier: Apache-2.0

//! Every file below `vectors/` gets the verdict in its name, and every refusal names a party and a next
//! step without quoting what came.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "in a test a panic is the report"
)]

use kbs_protocol::encoding::b64u;
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::jwe::ResourceJwe;
use kbs_protocol::message::{AttestResponse, Challenge};
use kbs_protocol::resource_secret::ResourceSecret;
use kbs_protocol::tee_key::TeeKey;
use kbs_protocol::{Blame as _, Error, Owner, Secret};
use std::path::Path;

#[test]
fn challenges() {
    check("challenge", 22, Owner::Server, |bytes| {
        Challenge::parse(bytes).map(drop)
    });
}

#[test]
fn answers_to_the_attestation() {
    check("attest-response", 12, Owner::Server, |bytes| {
        AttestResponse::parse(bytes).map(drop)
    });
}

#[test]
fn resources() {
    let scalar = b64u::decode_array("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X5fCE9-E9LI").unwrap();
    let key = TeeKey::from_scalar(&scalar).unwrap();
    check("resource", 56, Owner::Server, |bytes| {
        ResourceJwe::parse(bytes)?.open(&key).map(drop)
    });

    let huge = vec![b' '; 2 * 1024 * 1024 + 1];
    assert!(matches!(
        ResourceJwe::parse(&huge),
        Err(Error::TooLarge { .. })
    ));
}

#[test]
fn secrets() {
    check("secret", 17, Owner::Data, |bytes| {
        ResourceSecret::parse(&Secret::new(bytes.to_vec())).map(drop)
    });
}

#[test]
fn init_data() {
    check("init-data", 11, Owner::Configuration, |bytes| {
        InitDataToml::parse(std::str::from_utf8(bytes).unwrap()).map(drop)
    });
}

/// Applies one parser to one folder. `at_least` keeps a lost folder from passing.
fn check(folder: &str, at_least: usize, owner: Owner, parse: impl Fn(&[u8]) -> Result<(), Error>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(folder);
    let mut seen = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let result = parse(&std::fs::read(&path).unwrap());
        let verdict = match &result {
            Ok(()) => "ok-",
            Err(Error::Malformed { .. }) => "malformed-",
            Err(Error::Algorithm { .. }) => "algorithm-",
            Err(Error::NotAuthentic { .. }) => "not-authentic-",
            Err(Error::TooLarge { .. }) => "too-large-",
            Err(other) => panic!("{folder}/{name}: {other}"),
        };
        assert!(
            name.starts_with(verdict),
            "{folder}/{name}: {verdict} {:?}",
            result.err()
        );
        if let Err(error) = result {
            assert_eq!(error.owner(), owner, "{folder}/{name}");
            assert!(!error.advice().is_empty(), "{folder}/{name}");
            assert!(
                !error.to_string().contains("0123456789abcdef"),
                "{folder}/{name} quotes a key"
            );
        }
        seen += 1;
    }
    assert!(seen >= at_least, "only {seen} files in {folder}");
}

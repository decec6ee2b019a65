// SPDX-License-Identifier: Apache-2.0

//! Every file under `tests/vectors` gets the verdict that its name begins with. A new case needs no code.

use std::fs;
use std::path::Path;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clevis_pin::{Config, Error, Fault, Header, decrypt};

use crate::common::{FixedSource, TEST_KEY, TEST_PLAINTEXT};

#[test]
fn tokens() {
    let mut table = Table::default();
    for (name, bytes) in files("tokens", "jwe") {
        table.check(&name, open(&bytes));
    }
    table.finish(10, 40);
}

#[test]
fn headers() {
    let mut table = Table::default();
    for (name, json) in files("headers", "json") {
        table.check(&name, open(&token_around(&json)));
        if let Ok(header) = Header::parse(&json) {
            let again = Header::parse(header.to_json().unwrap().as_bytes());
            assert_eq!(
                again.as_ref(),
                Ok(&header),
                "{name}: written and read again"
            );
        }
    }
    table.finish(10, 60);
}

#[test]
fn configurations() {
    let mut table = Table::default();
    for (name, bytes) in files("configs", "json") {
        table.check(
            &name,
            Config::parse(std::str::from_utf8(&bytes).unwrap()).map(drop),
        );
    }
    table.finish(10, 35);
}

/// All wrong verdicts, so that one run shows every one.
#[derive(Default)]
struct Table {
    accepted: Vec<String>,
    refused: Vec<String>,
    wrong: Vec<String>,
}

impl Table {
    fn check(&mut self, name: &str, found: Result<(), Fault>) {
        let expected = name.split('-').next().unwrap();
        let verdict = match &found {
            Ok(()) => "ok",
            Err(Fault::Config(_)) => "config",
            Err(Fault::TokenMalformed(_)) => "malformed",
            Err(Fault::TokenForeign(_)) => "foreign",
            Err(Fault::Algorithm(_)) => "algorithm",
            Err(Fault::KidMismatch { .. }) => "kid",
            Err(Fault::NotAuthentic) => "notauthentic",
            Err(_) => "something else",
        };
        if verdict != expected {
            self.wrong.push(format!("{name}: {verdict}: {found:?}"));
        }
        match found {
            Ok(()) => self.accepted.push(name.to_owned()),
            Err(fault) => {
                self.refused.push(name.to_owned());
                self.check_message(name, &fault.to_string());
            }
        }
    }

    /// A message is one short line without control characters, whatever the hostile bytes were.
    fn check_message(&mut self, name: &str, message: &str) {
        let short = message.chars().count() < 250;
        if !short || message.contains(char::is_control) || message.contains("test-only") {
            self.wrong
                .push(format!("{name}: unfit message: {message:?}"));
        }
    }

    /// The counts keep a moved folder from passing as "nothing wrong".
    fn finish(self, least_accepted: usize, least_refused: usize) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        assert!(
            self.accepted.len() >= least_accepted,
            "only {:?} accepted",
            self.accepted
        );
        assert!(
            self.refused.len() >= least_refused,
            "only {:?} refused",
            self.refused
        );
    }
}

fn open(token: &[u8]) -> Result<(), Fault> {
    match decrypt(token, &mut FixedSource::new()) {
        Ok(plaintext) => {
            assert_eq!(plaintext.expose(), TEST_PLAINTEXT);
            Ok(())
        }
        Err(Error::Fault(fault)) => Err(fault),
    }
}

/// A token that is right in everything but perhaps its header.
fn token_around(header: &[u8]) -> Vec<u8> {
    let protected = URL_SAFE_NO_PAD.encode(header);
    let payload = Payload {
        msg: TEST_PLAINTEXT,
        aad: protected.as_bytes(),
    };
    let sealed = Aes256Gcm::new(TEST_KEY.into())
        .encrypt(&[0; 12].into(), payload)
        .unwrap();
    let (ciphertext, tag) = sealed.split_at(TEST_PLAINTEXT.len());
    let b64u = |bytes| URL_SAFE_NO_PAD.encode(bytes);
    format!(
        "{protected}..{}.{}.{}",
        b64u(&[0; 12][..]),
        b64u(ciphertext),
        b64u(tag)
    )
    .into_bytes()
}

/// Name without ending, and content, of every file in one folder; another ending is an error.
fn files(folder: &str, ending: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            assert_eq!(path.extension().unwrap(), ending, "{}", path.display());
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

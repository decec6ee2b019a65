// SPDX-License-Identifier: Apache-2.0

//! A token is made and opened through the public API, and what the source is told on the way.

use std::fmt;

use clevis_pin::error::Subject;
use clevis_pin::jwe::{MAX_PLAINTEXT, MAX_TOKEN, seal};
use clevis_pin::{
    Binding, Cek, CompactJwe, Error, Fault, Fetched, Header, NumRetries, Purpose, SecretRequest,
    SecretSource, Server, decrypt, encrypt,
};

use crate::common::{FixedSource, TEST_PLAINTEXT, config, fault};

#[test]
fn what_goes_in_comes_out() {
    let mut source = FixedSource::new();
    let token = encrypt(&config("{}"), TEST_PLAINTEXT, &mut source).unwrap();
    assert!(token.is_ascii() && !token.ends_with('\n'));
    let plaintext = decrypt(token.as_bytes(), &mut source).unwrap();
    assert_eq!(plaintext.expose(), TEST_PLAINTEXT);
}

#[test]
fn the_token_says_what_the_source_decided_and_not_what_was_configured() {
    let config = config(
        r#"{"servers":[{"url":"https://elsewhere","cert":"x"}],"path":"default/{node}/root",
            "num_retries":"infinity","attestation_key":{"a":1},"initdata":"version = \"0.1.0\""}"#,
    );
    let token = encrypt(&config, b"x", &mut FixedSource::new()).unwrap();
    let header = CompactJwe::parse(token.as_bytes())
        .unwrap()
        .header()
        .clone();
    assert_eq!(header.servers.len(), 1);
    assert_eq!(header.servers[0].url, "https://kbs.example:8080");
    assert_eq!(
        header.path,
        "default/00000000-0000-8000-8000-000000000001/root"
    );
    assert_eq!(header.init_data.as_deref(), Some("version = \"0.1.0\""));
    assert_eq!(header.num_retries, Some(NumRetries::Infinity));
    assert_eq!(header.attestation_key.unwrap()["a"], 1);
    assert_eq!(header.trustee.unwrap().cfg, [0xcf; 32]);
}

#[test]
fn the_source_is_told_what_the_configuration_and_the_token_say() {
    struct Asserting;
    impl SecretSource for Asserting {
        type Error = Refusal;
        fn fetch(&mut self, request: &SecretRequest<'_>) -> Result<Fetched, Refusal> {
            let url = &request.servers[0].url;
            match request.purpose {
                Purpose::Encrypt => {
                    assert_eq!(url, "https://from-config");
                    assert_eq!(request.path, Some("default/{node}/root"));
                    assert_eq!(request.cfg, None);
                }
                Purpose::Decrypt => {
                    assert_eq!(url, "https://kbs.example:8080");
                    assert_eq!(
                        request.path,
                        Some("default/00000000-0000-8000-8000-000000000001/root")
                    );
                    assert_eq!(request.cfg, Some(&[0xcf; 32]));
                }
            }
            assert_eq!(request.init_data, Some("version = \"1\""));
            assert_eq!(request.num_retries, Some(NumRetries::Infinity));
            assert_eq!(request.attestation_key.unwrap()["a"], 1);
            Err(Refusal)
        }
    }
    let config = config(
        r#"{"servers":[{"url":"https://from-config","cert":""}],"path":"default/{node}/root",
            "initdata":"version = \"1\"","num_retries":"infinity","attestation_key":{"a":1}}"#,
    );
    let refused = encrypt(&config, b"x", &mut Asserting).unwrap_err();
    assert!(matches!(refused, Error::Source(Refusal)));
    let token = encrypt(&config, b"x", &mut FixedSource::new()).unwrap();
    let refused = decrypt(token.as_bytes(), &mut Asserting).err().unwrap();
    assert_eq!(refused.to_string(), "refused");
}

#[test]
fn another_key_is_told_apart_from_a_changed_token() {
    let mut source = FixedSource::new();
    let token = encrypt(&config("{}"), b"x", &mut source).unwrap();
    source.key = [7; 32];
    let said = fault(decrypt(token.as_bytes(), &mut source));
    assert!(matches!(said, Fault::KidMismatch { .. }), "{said}");
    assert!(said.to_string().contains("; asked for default/"), "{said}");
}

/// Here the source says something that our own reader refuses.
#[test]
fn a_token_that_could_not_be_opened_again_is_not_handed_out() {
    let mut source = FixedSource::new();
    source.path = String::new();
    let fault = fault(encrypt(&config("{}"), b"x", &mut source));
    assert!(matches!(fault, Fault::SelfCheck(_)), "{fault}");
    assert!(
        fault.to_string().contains("`clevis.path` is empty"),
        "{fault}"
    );
}

/// Ignition drops its key once the token is there: what opens it must be what the KBS gives the next time.
#[test]
fn a_key_that_the_source_does_not_give_again_locks_no_disk() {
    let mut source = FixedSource::new();
    source.next = vec![[7; 32]];
    assert_eq!(
        fault(encrypt(&config("{}"), b"x", &mut source)),
        Fault::TwoKeys
    );
    assert_eq!(source.asked.len(), 2);
    assert!(source.asked[1].contains("purpose: Decrypt"), "as at a boot");
}

#[test]
fn no_key_is_asked_for_when_the_token_is_refused_anyway() {
    let mut source = FixedSource::new();
    assert!(decrypt(b"no.token", &mut source).is_err());
    assert!(encrypt(&config("{}"), b"", &mut source).is_err());
    assert!(source.asked.is_empty());
}

#[test]
fn plaintexts_have_from_one_byte_to_the_limit() {
    let mut source = FixedSource::new();
    let config = config("{}");
    assert_eq!(
        fault(encrypt(&config, b"", &mut source)),
        Fault::NoPlaintext
    );
    for length in [1, MAX_PLAINTEXT] {
        let plaintext = vec![0; length];
        let token = encrypt(&config, &plaintext, &mut source).unwrap();
        assert_eq!(
            decrypt(token.as_bytes(), &mut source).unwrap().expose(),
            plaintext
        );
    }
    assert_eq!(
        fault(encrypt(&config, &vec![0; MAX_PLAINTEXT + 1], &mut source)),
        Fault::TooLarge {
            what: Subject::Plaintext,
            length: MAX_PLAINTEXT + 1,
            limit: MAX_PLAINTEXT
        }
    );
}

#[test]
fn an_oversize_token_is_refused_by_its_length() {
    let mut token = encrypt(&config("{}"), b"x", &mut FixedSource::new())
        .unwrap()
        .into_bytes();
    token.resize(MAX_TOKEN, b'\n');
    assert!(decrypt(&token, &mut FixedSource::new()).is_ok());
    token.push(b'\n');
    assert_eq!(
        fault(decrypt(&token, &mut FixedSource::new())),
        Fault::TooLarge {
            what: Subject::Token,
            length: MAX_TOKEN + 1,
            limit: MAX_TOKEN
        }
    );
}

#[test]
fn a_header_too_large_for_luks_is_refused_with_the_way_out() {
    let header = Header::new(
        &config("{}"),
        Binding {
            servers: vec![Server {
                url: "https://kbs".into(),
                cert: "c".repeat(4096),
            }],
            path: "a/b/c".into(),
            init_data: None,
            cfg: [0; 32],
        },
        &Cek::new(&[0; 32]),
    );
    let fault = seal(&header, b"x", &Cek::new(&[0; 32])).unwrap_err();
    assert!(
        matches!(
            fault,
            Fault::TooLarge {
                what: Subject::Header,
                limit: 4096,
                ..
            }
        ),
        "{fault}"
    );
    assert!(fault.advice().contains("digest"));
}

#[test]
fn two_tokens_never_share_an_initialisation_vector() {
    let token = || encrypt(&config("{}"), b"x", &mut FixedSource::new()).unwrap();
    let iv = |token: &str| token.split('.').nth(2).unwrap().to_owned();
    assert_ne!(iv(&token()), iv(&token()));
}

#[derive(Debug)]
struct Refusal;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refusal {}

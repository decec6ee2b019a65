// SPDX-License-Identifier: Apache-2.0

//! Replays handshakes that were recorded between an upstream client and a real Trustee (development branch
//! after 0.21) against this server, and compares every answer.
//!
//! What may differ, and why:
//! * times, the session's expiry included: they are the recording's;
//! * `ear.verifier-id.build`: it names the program that verified, and that is us;
//! * the token's key, and `x5c` beside it: the recorded server had no signer configured and made a key at
//!   each start. Ours always has a certificate, as Trustee needs for a token that can be trusted;
//! * the released JWE: its keys and nonces are random, so it is opened, and its form is compared.
//!
//! Our verifier is stricter than the recorded one (exactly one selection, SHA-256, 24 PCRs); every
//! recorded quote is of that kind, so nothing differs here. Our *default policies* differ on purpose; the
//! last test shows it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::panic
)]

mod common;

use aes_gcm::KeyInit as _;
use aes_gcm::aead::{Aead as _, Payload};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{Answer, Lab, token_parts};
use kbs_protocol::jwe::ResourceJwe;
use kbs_protocol::tee_key::TeeKey;
use lab_kbs::{Dialect, Fault, PolicySet};
use p256::pkcs8::DecodePrivateKey as _;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What the recorded server's operator had uploaded.
const OPERATOR_ATTESTATION: &str = r#"
package policy
import rego.v1
default executables := 33
executables := 3 if {
    input.tpm.pcr04 in query_reference_value("tpm_pcr4")
    input.tpm.pcr14 in query_reference_value("tpm_pcr14")
    input.tpm.ak_public in query_reference_value("trusted_aks")
}
trust_claims := {"executables": executables, "hardware": 0, "configuration": 0}
"#;
const OPERATOR_RESOURCE: &str = r#"
package policy
import rego.v1
default allow := false
allow if input.submods.cpu0["ear.status"] == "affirming"
"#;
const ALLOW_ALL: &str = "package policy\nimport rego.v1\nallow := true";

#[test]
fn recorded_handshakes_get_the_same_answers() {
    let Some(recordings) = recordings() else {
        return;
    };
    let resource = stored_resource(&recordings);
    let mut exchanges = 0;
    for recording in &recordings {
        let case = recording["case"].as_str().unwrap();
        let lab = laboratory(recording, &resource);
        for (number, exchange) in recording["exchanges"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            let at = format!("{case}, exchange {number}");
            let answer = replay(&lab, exchange);
            compare(&at, recording, &exchange["response"], &answer, &resource);
            exchanges += 1;
        }
    }
    assert!(exchanges >= 33, "only {exchanges} exchanges were replayed");
}

#[test]
fn our_default_policies_refuse_what_an_unconfigured_trustee_released() {
    let Some(recordings) = recordings() else {
        return;
    };
    let released = recordings
        .iter()
        .find(|r| r["case"] == "tpm-no-policy-released")
        .unwrap();
    let lab = Lab::with(|options| options.dialect = Dialect::Main);
    lab.admin()
        .set_resource("default/m1/root", stored_resource(&recordings))
        .unwrap();
    let mut answers = released["exchanges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| replay(&lab, e));
    assert_eq!(
        [
            answers.next().unwrap().status,
            answers.next().unwrap().status
        ],
        [200, 200]
    );
    answers
        .next()
        .unwrap()
        .is_refusal(401, "PolicyDeny", "Access denied by policy");
}

/// A server in the state that the recording describes.
fn laboratory(recording: &Value, resource: &[u8]) -> Lab {
    let case = recording["case"].as_str().unwrap();
    let unconfigured = case == "tpm-no-policy-released";
    let lab = Lab::with(|options| {
        options.dialect = Dialect::Main;
        options.policies = if unconfigured {
            PolicySet::Stock
        } else {
            PolicySet::Strict
        };
    });
    let admin = lab.admin();
    admin
        .set_resource("default/m1/root", resource.to_vec())
        .unwrap();
    if unconfigured {
        // The recording lists reference values, its description says that none were installed.
        return lab;
    }
    admin
        .set_attestation_policy("default_cpu", OPERATOR_ATTESTATION)
        .unwrap();
    let allow_all = case.ends_with("-allowall");
    admin
        .set_resource_policy(if allow_all {
            ALLOW_ALL
        } else {
            OPERATOR_RESOURCE
        })
        .unwrap();
    for (name, value) in recording["registered"].as_object().into_iter().flatten() {
        admin.set_reference_value(name, value).unwrap();
    }
    lab
}

fn replay(lab: &Lab, exchange: &Value) -> Answer {
    let (request, response) = (&exchange["request"], &exchange["response"]);
    let path = request["path"].as_str().unwrap();
    if path.ends_with("/auth") {
        let cookie = header(response, "set-cookie").unwrap();
        let session = cookie.split(['=', ';']).nth(1).unwrap().to_owned();
        let nonce = response["body"]["json"]["nonce"]
            .as_str()
            .unwrap()
            .to_owned();
        lab.server.faults().set_times(Fault::Session(session), 1);
        lab.server.faults().set_times(Fault::Nonce(nonce), 1);
    }
    let cookie = header(request, "cookie");
    let headers: Vec<_> = cookie.iter().map(|cookie| ("cookie", *cookie)).collect();
    let body = request["body"]["raw"].as_str().unwrap_or_default();
    lab.send(request["method"].as_str().unwrap(), path, &headers, body)
}

fn compare(at: &str, recording: &Value, recorded: &Value, answer: &Answer, resource: &[u8]) {
    assert_eq!(json!(answer.status), recorded["status"], "{at}: {answer:?}");
    assert_eq!(
        answer.content_type.as_deref(),
        header(recorded, "content-type"),
        "{at}"
    );
    let pair = |cookie: &str| {
        let (pair, expires) = cookie.split_once("; Expires=").unwrap();
        assert_eq!(expires.len(), "Mon, 23 Nov 2026 06:29:15 GMT".len(), "{at}");
        pair.to_owned()
    };
    assert_eq!(
        answer.cookie.as_deref().map(pair),
        header(recorded, "set-cookie").map(pair),
        "{at}"
    );

    let raw = recorded["body"]["raw"].as_str().unwrap();
    let body = &recorded["body"]["json"];
    if let Some(token) = body["token"].as_str() {
        compare_tokens(at, token, answer.json()["token"].as_str().unwrap());
    } else if body["ciphertext"].is_string() {
        assert_eq!(
            answer.body.len(),
            raw.len(),
            "{at}: length of the released resource"
        );
        let [theirs, ours] = [raw.as_bytes(), &answer.body].map(|b| ResourceJwe::parse(b).unwrap());
        assert_eq!(
            header_form(&ours),
            header_form(&theirs),
            "{at}: protected header"
        );
        assert_eq!(
            open(recording, &theirs),
            resource,
            "{at}: the recorded resource"
        );
        assert_eq!(open(recording, &ours), resource, "{at}: our resource");
    } else {
        // Challenges and refusals: byte for byte.
        assert_eq!(String::from_utf8_lossy(&answer.body), raw, "{at}");
    }
}

fn compare_tokens(at: &str, recorded: &str, ours: &str) {
    let strip = |token: &str| {
        let (mut header, mut claims) = token_parts(token);
        let jwk = header["jwk"].as_object_mut().unwrap();
        for random in ["x", "y", "x5c"] {
            jwk.remove(random);
        }
        let lifetime = claims["exp"]
            .as_u64()
            .unwrap()
            .checked_sub(claims["iat"].as_u64().unwrap());
        assert_eq!(lifetime, Some(300), "{at}: five minutes");
        for time in ["iat", "exp"] {
            claims.as_object_mut().unwrap().remove(time);
        }
        assert!(claims["ear.verifier-id"]["build"].is_string(), "{at}");
        claims["ear.verifier-id"]["build"] = json!(null);
        (header, claims)
    };
    assert_eq!(strip(ours), strip(recorded), "{at}");
}

/// The protected header's text with the ephemeral coordinates blanked: order and spacing count.
fn header_form(jwe: &ResourceJwe) -> String {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(&jwe.protected).unwrap()).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    ["x", "y"]
        .iter()
        .filter_map(|name| value["epk"][name].as_str())
        .fold(text.clone(), |text, c| {
            text.replace(c, &"_".repeat(c.len()))
        })
}

/// Opens a resource with the recording's key. P-256 goes through the agent's own code; the other kinds,
/// which no client of ours uses, through the libraries.
fn open(recording: &Value, jwe: &ResourceJwe) -> Vec<u8> {
    let pem = recording["tee_private_key_pem"].as_str().unwrap();
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let wrapped = decode(&jwe.encrypted_key);
    let cek = match recording["tee_key_kind"].as_str().unwrap() {
        "ec-p256" => {
            let key = p256::SecretKey::from_pkcs8_pem(pem).unwrap();
            let key = TeeKey::from_scalar(&key.to_bytes().into()).unwrap();
            return jwe.open(&key).unwrap().expose().to_vec();
        }
        "ec-p521" => {
            let key = p521::SecretKey::from_pkcs8_pem(pem).unwrap();
            let header: Value = serde_json::from_slice(&decode(&jwe.protected)).unwrap();
            let coordinate = |name| decode(header["epk"][name].as_str().unwrap());
            let point = [vec![4], coordinate("x"), coordinate("y")].concat();
            let epk = p521::PublicKey::from_sec1_bytes(&point).unwrap();
            let z = p521::ecdh::diffie_hellman(key.to_nonzero_scalar(), epk.as_affine());
            let info = b"\0\0\0\x0eECDH-ES+A256KW\0\0\0\0\0\0\0\0\0\0\x01\0";
            let mut kek = [0; 32];
            concat_kdf::derive_key_into::<sha2::Sha256>(z.raw_secret_bytes(), info, &mut kek)
                .unwrap();
            let mut cek = vec![0; 32];
            aes_kw::KekAes256::from(kek)
                .unwrap(&wrapped, &mut cek)
                .unwrap();
            cek
        }
        "rsa-2048" => {
            let key = rsa::RsaPrivateKey::from_pkcs1_pem(pem).unwrap();
            key.decrypt(rsa::Oaep::new::<sha2::Sha256>(), &wrapped)
                .unwrap()
        }
        other => panic!("unknown key kind {other}"),
    };
    let message = [decode(&jwe.ciphertext), decode(&jwe.tag)].concat();
    let payload = Payload {
        msg: &message,
        aad: jwe.protected.as_bytes(),
    };
    let iv: [u8; 12] = decode(&jwe.iv).try_into().unwrap();
    aes_gcm::Aes256Gcm::new_from_slice(&cek)
        .unwrap()
        .decrypt(&iv.into(), payload)
        .unwrap()
}

fn header<'a>(message: &'a Value, name: &str) -> Option<&'a str> {
    let headers = message["headers"].as_array().unwrap();
    headers
        .iter()
        .find(|header| header[0] == name)
        .and_then(|header| header[1].as_str())
}

/// All recordings were made with the same resource; one client printed it.
fn stored_resource(recordings: &[Value]) -> Vec<u8> {
    let printed = recordings
        .iter()
        .find_map(|r| r["client_stdout_base64_resource"].as_str());
    STANDARD.decode(printed.unwrap()).unwrap()
}

/// The recordings, or `None` (and a loud word) when this machine does not have them.
fn recordings() -> Option<Vec<Value>> {
    let root = std::env::var_os("SHEEPFOLD_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures"),
        PathBuf::from,
    );
    let dir = root.join("kbs-transcripts");
    let Ok(entries) = std::fs::read_dir(&dir) else {
        eprintln!(
            "SKIPPED: no recordings in {}; set SHEEPFOLD_FIXTURES",
            dir.display()
        );
        return None;
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    paths.sort();
    assert!(!paths.is_empty(), "{} has no recordings", dir.display());
    let read = |path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    Some(paths.into_iter().map(read).collect())
}

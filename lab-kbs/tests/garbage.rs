// SPDX-License-Identifier: Apache-2.0

//! Strangers' bytes: every endpoint answers everything, and the server lives on.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{Lab, Node, SoftTpm};
use kbs_protocol::tee_key::TeeKey;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

#[test]
fn garbage_at_each_endpoint_is_refused() {
    let lab = Lab::start();
    let admin = format!("Bearer {}", lab.admin().token());
    let (cookie, _) = lab.auth("tpm");
    let deep = "[".repeat(100_000);
    let bodies: Vec<Vec<u8>> = [
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        deep.into_bytes(),
        br#"{"version":"99999999999999999999.0.0","tee":"tpm","extra-params":1e999}"#.to_vec(),
        br#"{"policy":"////"}"#.to_vec(),
        br#"{"type":"sample","payload":"AAAA"}"#.to_vec(),
        vec![b' '; 2 * 1024 * 1024],
    ]
    .into();
    for path in [
        "auth",
        "attest",
        "attestation-policy",
        "resource-policy",
        "reference-value",
    ] {
        for body in &bodies {
            let headers = [
                ("cookie", cookie.as_str()),
                ("authorization", admin.as_str()),
            ];
            let answer = lab.send("POST", &format!("/kbs/v0/{path}"), &headers, body.clone());
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(answer.status, 401, "{path} {shown:?}: {answer:?}");
        }
    }
    let answer = lab.send("POST", "/kbs/v0/auth", &[], vec![b' '; 2 * 1024 * 1024 + 1]);
    assert_eq!(answer.status, 413);
    lab.auth("sample");
}

#[test]
fn garbage_in_headers_is_refused() {
    let lab = Lab::start();
    let long = "x".repeat(20_000);
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer ..",
        "Bearer e30.e30.e30",
        "\u{fc}",
        &long,
    ] {
        for name in ["authorization", "cookie"] {
            for (method, path) in [
                ("GET", "/kbs/v0/resource/a/b/c"),
                ("POST", "/kbs/v0/resource/a/b/c"),
                ("GET", "/kbs/v0/resource-policy"),
                ("POST", "/kbs/v0/attest"),
            ] {
                let answer = lab.send(method, path, &[(name, value)], "");
                assert_eq!(answer.status, 401, "{method} {path} {name}: {answer:?}");
            }
        }
    }
}

/// Every member of a good attestation, replaced by every kind of JSON value, is refused without harm.
#[test]
fn mutilated_evidence_is_refused() {
    let lab = Lab::start();
    let (cookie, nonce) = lab.auth("tpm");
    let node = Node::Tpm(SoftTpm::number(0));
    let key = TeeKey::generate().unwrap();
    let good = node.attestation(&nonce, &key);
    let mut tried = 0;
    for pointer in pointers(&good) {
        for value in [
            json!(null),
            json!(-1),
            json!(""),
            json!("AA=="),
            json!("\u{0}\u{ffff}"),
            json!([]),
            json!({}),
            json!("A".repeat(100_000)),
            json!(vec!["00".repeat(32); 1000]),
        ] {
            let mut bad = good.clone();
            let slot = bad.pointer_mut(&pointer).unwrap();
            if *slot == value {
                continue;
            }
            *slot = value;
            let answer = lab.attest(&cookie, &bad);
            let cause = lab.last_cause();
            assert_eq!(answer.status, 401, "{pointer}");
            assert!(
                !cause.contains("ended early"),
                "a panic at {pointer}: {cause}"
            );
            tried += 1;
        }
    }
    assert!(tried > 300, "{tried}");
    assert_eq!(
        lab.attest(&cookie, &good).status,
        200,
        "{}",
        lab.last_cause()
    );
}

fn pointers(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, v)| (name.clone(), v)).collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(n, v)| (n.to_string(), v))
            .collect(),
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(name, child)| {
        let prefix = format!("/{name}");
        // The init-data and additional evidence may be absent: null and "" are good there.
        let here = (name != "init-data" && name != "additional_evidence").then(|| prefix.clone());
        let deeper = pointers(child)
            .into_iter()
            .map(move |rest| format!("{prefix}{rest}"));
        here.into_iter().chain(deeper).collect::<Vec<_>>()
    });
    below.collect()
}

#[test]
fn bytes_that_are_not_http_do_no_harm() {
    let lab = Lab::with(|options| options.insecure_http = true);
    let address = lab.server.url().strip_prefix("http://").unwrap();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..],
        b"\r\n\r\n\r\n",
        b"GET /kbs/v0/resource/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /kbs/v0/auth HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /kbs/v0/auth HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /kbs/v0/auth HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nshort",
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            !answer.starts_with(b"HTTP/1.1 2"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    lab.auth("sample");
}

#[test]
fn a_tls_port_survives_plain_text() {
    let lab = Lab::start();
    let address = lab.server.url().strip_prefix("https://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    lab.auth("sample");
}

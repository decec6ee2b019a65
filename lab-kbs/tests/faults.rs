// SPDX-License-Identifier: Apache-2.0

//! Each fault does to a client what it says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{Lab, Node, open};
use kbs_protocol::jwe::ResourceJwe;
use kbs_protocol::tee_key::TeeKey;
use lab_kbs::wire_error::WireError;
use serde_json::json;

const ALLOW_ALL: &str = "package policy\nallow := true";

/// A laboratory that gives `a/b/c` and `x/y/z` to everybody, with one fault.
fn lab(fault: &str) -> Lab {
    let lab = Lab::start();
    lab.admin().set_resource_policy(ALLOW_ALL).unwrap();
    lab.admin().set_resource("a/b/c", b"abc".to_vec()).unwrap();
    lab.admin().set_resource("x/y/z", b"xyz".to_vec()).unwrap();
    lab.server.faults().set_text(fault).unwrap();
    lab
}

fn auth_request() -> serde_json::Value {
    json!({ "version": "0.4.0", "tee": "sample", "extra-params": "" })
}

#[test]
fn every_refusal_can_be_injected_at_every_step() {
    let lab = lab("wrong-nonce");
    for (name, error) in WireError::catalogue() {
        lab.server.faults().clear();
        for step in ["auth", "attest", "resource", "admin"] {
            lab.server
                .faults()
                .set_text(&format!("error={step}:{name}*1"))
                .unwrap();
        }
        let answers = [
            lab.post("/kbs/v0/auth", &[], &auth_request()),
            lab.post("/kbs/v0/attest", &[], &json!({})),
            lab.resource("", "a/b/c"),
            lab.send("GET", "/kbs/v0/resource-policy", &[], ""),
        ];
        for answer in answers {
            answer.is_refusal(error.status(), error.kind(), &error.to_string());
        }
        assert_eq!(
            lab.post("/kbs/v0/auth", &[], &auth_request()).status,
            200,
            "once is once"
        );
    }
}

#[test]
fn statuses_without_json() {
    for code in [200, 404, 413, 500, 503] {
        let lab = lab(&format!("status=any:{code}"));
        let answer = lab.post("/kbs/v0/auth", &[], &auth_request());
        assert_eq!(answer.status, code);
        assert!(serde_json::from_slice::<serde_json::Value>(&answer.body).is_err());
    }
}

#[test]
fn connections_are_dropped_before_and_inside_the_answer() {
    let lab = lab("drop-before=auth*2");
    let send = || lab.try_send("POST", "/kbs/v0/auth", &[], auth_request().to_string());
    assert!(send().unwrap_err().is_request());
    assert!(send().is_err());
    assert_eq!(send().unwrap().status, 200);
    assert!(lab.server.requests().iter().any(|seen| seen.status == 0));

    lab.server
        .faults()
        .set_text("drop-mid-body=auth*1")
        .unwrap();
    let error = send().unwrap_err();
    assert!(
        error.is_body() || error.is_decode(),
        "the head came, the body did not: {error:?}"
    );
    assert_eq!(send().unwrap().status, 200);
}

#[test]
fn delays_come_first() {
    let lab = lab("delay=auth:300ms*1");
    let start = std::time::Instant::now();
    lab.auth("sample");
    assert!(start.elapsed() >= std::time::Duration::from_millis(300));
}

#[test]
fn huge_bodies_are_as_long_as_asked() {
    let lab = lab("huge-body=attest:3000001");
    let answer = lab.post("/kbs/v0/attest", &[], &json!({}));
    assert_eq!(answer.body.len(), 3_000_001);
}

#[test]
fn sessions_expire_on_demand() {
    let lab = lab("expire-session=resource");
    let (cookie, ..) = lab.handshake(&Node::Sample);
    let answer = lab.resource(&cookie, "a/b/c");
    answer.is_refusal(401, "TokenNotFound", "Attestation Token not found");
    lab.server.faults().clear();
    assert_eq!(lab.resource(&cookie, "a/b/c").status, 200);
    lab.server
        .faults()
        .set_text("expire-session=attest")
        .unwrap();
    let (cookie, nonce) = lab.auth("sample");
    lab.attest(
        &cookie,
        &Node::Sample.attestation(&nonce, &TeeKey::generate().unwrap()),
    )
    .is_attest_failure();
}

#[test]
fn a_wrong_nonce_makes_the_attestation_fail() {
    let lab = lab("wrong-nonce");
    let (cookie, nonce) = lab.auth("sample");
    lab.attest(
        &cookie,
        &Node::Sample.attestation(&nonce, &TeeKey::generate().unwrap()),
    )
    .is_attest_failure();
    assert!(lab.last_cause().contains("nonce"));
}

#[test]
fn nonce_and_session_can_be_fixed() {
    let lab = lab("nonce=AAEC");
    lab.server.faults().set_text("session=00ff").unwrap();
    assert_eq!(
        lab.auth("sample"),
        ("kbs-session-id=00ff".to_owned(), "AAEC".to_owned())
    );
}

#[test]
fn another_protocol_version() {
    let lab = lab("protocol-version=0.2.0");
    let detail = "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: \
                  expect =0.2.0 while the request is 0.4.0";
    lab.post("/kbs/v0/auth", &[], &auth_request())
        .is_refusal(401, "AttestationError", detail);
}

#[test]
fn storage_that_never_overwrites() {
    let lab = lab("never-overwrite");
    let admin = lab.admin();
    admin.set_resource("a/b/c", b"new".to_vec()).unwrap();
    admin.set_resource("n/e/w", b"first".to_vec()).unwrap();
    admin
        .set_resource_policy("package policy\nallow := false")
        .unwrap();
    admin.set_reference_value("v", &json!(1)).unwrap();
    admin.set_reference_value("v", &json!(2)).unwrap();
    assert_eq!(admin.reference_value("v").unwrap(), Some(json!(1)));
    // A session is a key too: it never becomes attested, though the token is handed out.
    let (cookie, key, token) = lab.handshake(&Node::Sample);
    lab.resource(&cookie, "a/b/c")
        .is_refusal(401, "TokenNotFound", "Attestation Token not found");
    let bearer = format!("Bearer {token}");
    let get = |path: &str| lab.send("GET", path, &[("authorization", &bearer)], "");
    assert_eq!(open(&get("/kbs/v0/resource/a/b/c"), &key), b"abc");
    assert_eq!(open(&get("/kbs/v0/resource/n/e/w"), &key), b"first");
    // And at each start the stock policies come back.
    let lab = lab.restart(|options| options.faults = vec!["never-overwrite".to_owned()]);
    let bearer_again = lab.send(
        "GET",
        "/kbs/v0/resource/a/b/c",
        &[("authorization", &bearer)],
        "",
    );
    bearer_again.is_refusal(401, "PolicyDeny", "Access denied by policy");
}

#[test]
fn another_resource_comes_than_was_asked_for() {
    let lab = lab("swap-resource=x/y/z");
    let (cookie, key, _) = lab.handshake(&Node::Sample);
    assert_eq!(open(&lab.resource(&cookie, "a/b/c"), &key), b"xyz");
}

#[test]
fn a_corrupt_tag_does_not_open() {
    let lab = lab("corrupt-tag");
    let (cookie, key, _) = lab.handshake(&Node::Sample);
    let jwe = ResourceJwe::parse(&lab.resource(&cookie, "a/b/c").body).unwrap();
    assert!(jwe.open(&key).is_err());
}

#[test]
fn another_header_order_opens_all_the_same() {
    use base64::Engine as _;
    let lab = lab("header-order");
    let (cookie, key, _) = lab.handshake(&Node::Sample);
    let answer = lab.resource(&cookie, "a/b/c");
    let jwe = ResourceJwe::parse(&answer.body).unwrap();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(jwe.protected)
        .unwrap();
    assert!(header.starts_with(b"{\"enc\":\"A256GCM\", \"alg\":"));
    assert_eq!(open(&answer, &key), b"abc");
}

#[test]
fn wrong_spellings_stop_the_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    lab_kbs::keys::init(dir.path(), &lab_kbs::keys::InitOptions::default()).unwrap();
    let mut options = lab_kbs::Options::new(dir.path());
    options.faults = vec!["nonsense".to_owned()];
    let error = lab_kbs::Server::start(options).err().unwrap().to_string();
    assert!(error.contains("nonsense"), "{error}");
}

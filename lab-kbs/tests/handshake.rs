// SPDX-License-Identifier: Apache-2.0

//! The protocol from a node's side: handshake, sessions, tokens, resources, and who gets what.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod common;

use common::{Lab, Node, SoftTpm, open, token_parts};
use kbs_protocol::tee_key::TeeKey;
use serde_json::{Value, json};

const ALLOW_ALL: &str = "package policy\nallow := true";

/// A laboratory with one approved node and that node's secret.
fn lab_with_node() -> (Lab, SoftTpm) {
    let lab = Lab::start();
    let tpm = SoftTpm::number(0);
    let admin = lab.admin();
    let node = admin
        .allow_node(&tpm.ak_public(), Some(tpm.boot_tuple()))
        .unwrap();
    assert_eq!(node, tpm.node_id());
    admin
        .set_resource(&format!("default/{node}/root"), b"secret".to_vec())
        .unwrap();
    (lab, tpm)
}

#[test]
fn an_approved_node_gets_its_own_secret_and_no_other() {
    let (lab, tpm) = lab_with_node();
    let own = format!("default/{}/root", tpm.node_id());
    let other = SoftTpm::number(1);
    let foreign = lab.admin().allow_node(&other.ak_public(), None).unwrap();
    lab.admin()
        .set_resource(&format!("default/{foreign}/root"), b"other".to_vec())
        .unwrap();

    let before = lab.server.connections();
    let (cookie, key, token) = lab.handshake(&Node::Tpm(tpm.clone()));
    assert_eq!(open(&lab.resource(&cookie, &own), &key), b"secret");
    for path in [
        &format!("default/{foreign}/root"),
        "default/x/root",
        &format!("{foreign}/x/y"),
    ] {
        lab.resource(&cookie, path)
            .is_refusal(401, "PolicyDeny", "Access denied by policy");
    }
    let (_, claims) = token_parts(&token);
    let cpu = &claims["submods"]["cpu0"];
    assert_eq!(cpu["ear.status"], "affirming");
    assert_eq!(cpu["sheepfold.node"], tpm.node_id().to_string());
    assert_eq!(
        cpu["ear.veraison.annotated-evidence"]["tpm"]["pcr04"],
        tpm.pcr(4)
    );
    assert_eq!(
        lab.server.connections() - before,
        1,
        "one connection for all of it"
    );
}

#[test]
fn sample_attests_but_gets_nothing_by_default() {
    let (lab, tpm) = lab_with_node();
    let (cookie, _, token) = lab.handshake(&Node::Sample);
    assert_eq!(
        token_parts(&token).1["submods"]["cpu0"]["ear.status"],
        "warning"
    );
    let answer = lab.resource(&cookie, &format!("default/{}/root", tpm.node_id()));
    answer.is_refusal(401, "PolicyDeny", "Access denied by policy");
}

#[test]
fn sample_gets_a_secret_when_a_policy_says_so() {
    let lab = Lab::start();
    lab.admin().set_resource_policy(ALLOW_ALL).unwrap();
    lab.admin()
        .set_resource("default/m1/root", vec![0, 255, 7])
        .unwrap();
    let (cookie, key, _) = lab.handshake(&Node::Sample);
    assert_eq!(
        open(&lab.resource(&cookie, "default/m1/root"), &key),
        [0, 255, 7]
    );
}

#[test]
fn a_node_that_is_unknown_or_booted_otherwise_is_denied() {
    let (lab, tpm) = lab_with_node();
    let mut tampered = tpm.clone();
    tampered.pcrs[14] = [0xee; 32];
    let path = format!("default/{}/root", tpm.node_id());
    for node in [tampered, SoftTpm::number(1)] {
        let (cookie, _, token) = lab.handshake(&Node::Tpm(node));
        assert_eq!(
            token_parts(&token).1["submods"]["cpu0"]["ear.status"],
            "warning"
        );
        let answer = lab.resource(&cookie, &path);
        answer.is_refusal(401, "PolicyDeny", "Access denied by policy");
    }
}

#[test]
fn approval_works_without_a_restart() {
    let lab = Lab::start();
    let tpm = SoftTpm::number(0);
    let path = format!("default/{}/root", tpm.node_id());
    lab.admin().set_resource(&path, b"s".to_vec()).unwrap();
    let (cookie, ..) = lab.handshake(&Node::Tpm(tpm.clone()));
    lab.resource(&cookie, &path)
        .is_refusal(401, "PolicyDeny", "Access denied by policy");
    lab.admin()
        .allow_node(&tpm.ak_public(), Some(tpm.boot_tuple()))
        .unwrap();
    let (cookie, key, _) = lab.handshake(&Node::Tpm(tpm));
    assert_eq!(open(&lab.resource(&cookie, &path), &key), b"s");
}

#[test]
fn auth_refusals() {
    let lab = Lab::start();
    let failed = "Attestation error: RCAR handshake Auth failed";
    let auth = |version: &str, tee: &str| {
        let request = json!({ "version": version, "tee": tee, "extra-params": "" });
        lab.post("/kbs/v0/auth", &[], &request)
    };
    for version in ["0.2.0", "0.4.1", "1.0.0", "0.4.0-rc.1"] {
        let detail = format!(
            "{failed}: KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is {version}"
        );
        auth(version, "tpm").is_refusal(401, "AttestationError", &detail);
    }
    let detail = format!("{failed}: failed to parse KBS version");
    auth("four", "tpm").is_refusal(401, "AttestationError", &detail);
    let detail = format!("{failed}: deserialize Request");
    auth("0.4.0", "toaster").is_refusal(401, "AttestationError", &detail);
    for body in [
        json!({}),
        json!([]),
        json!({ "version": "0.4.0", "tee": "tpm" }),
    ] {
        lab.post("/kbs/v0/auth", &[], &body)
            .is_refusal(401, "AttestationError", &detail);
    }
}

#[test]
fn challenges_are_fresh_and_the_cookie_has_the_known_form() {
    let lab = Lab::start();
    let request = json!({ "version": "0.4.0", "tee": "sample", "extra-params": "" });
    let answer = lab.post("/kbs/v0/auth", &[], &request);
    assert_eq!(answer.content_type.as_deref(), Some("application/json"));
    assert_eq!(answer.json()["extra-params"], "");
    assert_eq!(answer.json()["nonce"].as_str().unwrap().len(), 44);
    let cookie = answer.cookie.unwrap();
    let (pair, expires) = cookie.split_once("; Expires=").unwrap();
    let id = pair.strip_prefix("kbs-session-id=").unwrap();
    assert!(
        id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()),
        "{id}"
    );
    assert!(
        expires.ends_with(" GMT") && !expires.contains(';'),
        "{expires}"
    );
    assert_ne!(lab.auth("sample"), lab.auth("sample"));
}

#[test]
fn the_cookie_is_found_among_others() {
    let lab = Lab::start();
    let (cookie, ..) = lab.handshake(&Node::Sample);
    let get = |headers: &[(&str, &str)]| {
        lab.send("GET", "/kbs/v0/resource/a/b/c", headers, "")
            .json()["detail"]
            .clone()
    };
    let known = json!("Access denied by policy");
    assert_eq!(get(&[("cookie", &format!("a=b; {cookie}; c=d"))]), known);
    assert_eq!(get(&[("cookie", "a=b"), ("cookie", &cookie)]), known);
    assert_eq!(
        get(&[("cookie", "a=b")]),
        json!("Attestation Token not found")
    );
}

#[test]
fn attest_refusals_are_opaque_to_the_client_and_clear_in_the_log() {
    let (lab, tpm) = lab_with_node();
    let key = TeeKey::generate().unwrap();
    let node = Node::Tpm(tpm.clone());
    let (cookie, nonce) = lab.auth("tpm");
    let good = node.attestation(&nonce, &key);
    let refused = |cookie: &str, body: &Value, cause: &str| {
        lab.attest(cookie, body).is_attest_failure();
        assert!(lab.last_cause().contains(cause), "{}", lab.last_cause());
    };

    lab.post("/kbs/v0/attest", &[], &good).is_attest_failure();
    assert!(lab.last_cause().contains("no session cookie"));
    refused("kbs-session-id=00", &good, "unknown or has expired");
    refused("kbs-session=1", &good, "unknown or has expired");
    refused(&cookie, &json!({}), "malformed");
    refused(&cookie, &node.attestation("other nonce", &key), "nonce");

    let mut evidence_of_another_key = good.clone();
    let other = node.attestation(&nonce, &TeeKey::generate().unwrap());
    evidence_of_another_key["tee-evidence"] = other["tee-evidence"].clone();
    refused(&cookie, &evidence_of_another_key, "another session or key");

    let selections = ["00000001000b03fffffe", "00000001000403ffffff", "00000000"];
    for selection in selections
        .into_iter()
        .chain(["00000002000b03ffffff000b03000000"])
    {
        let partial = Node::Tpm(SoftTpm {
            selection,
            ..tpm.clone()
        });
        refused(
            &cookie,
            &partial.attestation(&nonce, &key),
            "expected [0x000b:ffffff]",
        );
    }
    let mut changed = good.clone();
    changed["tee-evidence"]["primary_evidence"]["tpm_quote"]["pcrs"][4] = json!("00".repeat(32));
    refused(&cookie, &changed, "not the ones that were quoted");
    let mut foreign = good.clone();
    foreign["tee-evidence"]["primary_evidence"]["ak_public"] =
        json!(SoftTpm::number(1).ak_public());
    refused(&cookie, &foreign, "not by the attestation key");
    let mut init = good.clone();
    init["init-data"] = json!({ "format": "json", "body": "{}" });
    refused(&cookie, &init, "json");

    // None of this has burnt the session.
    assert_eq!(lab.attest(&cookie, &good).status, 200);
    let (snp, nonce) = lab.auth("snp");
    refused(
        &snp,
        &node.attestation(&nonce, &key),
        "the SNP evidence has another form",
    );
}

#[test]
fn additional_evidence_is_verified_over_the_device_digest() {
    use kbs_protocol::message::RuntimeData;
    use kbs_protocol::runtime_data::RuntimeDigest;
    let (lab, tpm) = lab_with_node();
    let (cookie, nonce) = lab.auth("sample");
    let key = TeeKey::generate().unwrap();
    let runtime = RuntimeData {
        nonce,
        tee_pubkey: key.public(),
    };
    let device = RuntimeDigest::device(&runtime).unwrap();
    let attest = |extra_data: &[u8]| {
        let additional = json!({ "tpm": tpm.evidence(extra_data) }).to_string();
        let primary = RuntimeDigest::primary(&runtime, &additional).unwrap();
        lab.attest(
            &cookie,
            &json!({
                "runtime-data": runtime,
                "tee-evidence": {
                    "primary_evidence": { "svn": "1", "report_data": primary.to_base64() },
                    "additional_evidence": additional,
                },
            }),
        )
    };
    attest(&RuntimeDigest::primary(&runtime, "").unwrap().as_bytes()[..32]).is_attest_failure();
    let answer = attest(&device.as_bytes()[..32]);
    assert_eq!(answer.status, 200, "{}", lab.last_cause());
    let (_, claims) = token_parts(answer.json()["token"].as_str().unwrap());
    assert_eq!(claims["submods"]["cpu0"]["ear.status"], "warning");
    assert_eq!(claims["submods"]["cpu1"]["ear.status"], "affirming");
    let cpu1 = &claims["submods"]["cpu1"]["ear.veraison.annotated-evidence"];
    assert_eq!(cpu1["runtime_data_claims"].get("additional-evidence"), None);
}

#[test]
fn init_data_must_agree_with_pcr_8() {
    let (lab, mut tpm) = lab_with_node();
    let text = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"node\" = \"n1\"\n";
    let pcr8 = "62c606a23f0c6f4cd3d7408f28f7ea58c2fab06894870b86f3317924cf68443e";
    let key = TeeKey::generate().unwrap();
    let attest = |tpm: &SoftTpm, text: &str| {
        let (cookie, nonce) = lab.auth("tpm");
        let mut body = Node::Tpm(tpm.clone()).attestation(&nonce, &key);
        body["init-data"] = json!({ "format": "toml", "body": text });
        lab.attest(&cookie, &body)
    };
    attest(&tpm, text).is_attest_failure();
    tpm.pcrs[8] = common::unhex(pcr8).try_into().unwrap();
    let answer = attest(&tpm, text);
    assert_eq!(answer.status, 200, "{}", lab.last_cause());
    let (_, claims) = token_parts(answer.json()["token"].as_str().unwrap());
    let evidence = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    assert_eq!(
        (
            &evidence["init_data"],
            &evidence["init_data_claims"]["node"]
        ),
        (&json!(pcr8), &json!("n1"))
    );
    attest(&tpm, &text.replace("n1", "n2")).is_attest_failure();
    attest(&tpm, &text.replace("sha256", "sha512")).is_attest_failure();
}

#[test]
fn a_second_attestation_returns_the_stored_token() {
    let (lab, tpm) = lab_with_node();
    let (cookie, _, token) = lab.handshake(&Node::Tpm(tpm));
    let (_, other_nonce) = lab.auth("sample");
    let other = Node::Sample.attestation(&other_nonce, &TeeKey::generate().unwrap());
    let again = lab.attest(&cookie, &other);
    assert_eq!(
        (again.status, again.json()["token"].as_str()),
        (200, Some(token.as_str()))
    );
}

#[test]
fn sessions_expire() {
    let lab = Lab::with(|options| options.session_ttl = std::time::Duration::ZERO);
    let (cookie, nonce) = lab.auth("sample");
    let key = TeeKey::generate().unwrap();
    lab.attest(&cookie, &Node::Sample.attestation(&nonce, &key))
        .is_attest_failure();

    let (lab, tpm) = lab_with_node();
    let (cookie, ..) = lab.handshake(&Node::Tpm(tpm));
    lab.server.expire_sessions().unwrap();
    lab.resource(&cookie, "default/x/root").is_refusal(
        401,
        "TokenNotFound",
        "Attestation Token not found",
    );
}

#[test]
fn a_bearer_token_works_without_a_session() {
    let (lab, tpm) = lab_with_node();
    let path = format!("/kbs/v0/resource/default/{}/root", tpm.node_id());
    let (_, key, token) = lab.handshake(&Node::Tpm(tpm));
    let get = |value: &str| lab.send("GET", &path, &[("authorization", value)], "");
    assert_eq!(open(&get(&format!("Bearer {token}")), &key), b"secret");
    for bad in ["Bearer x", "Bearer a.b.c", &format!("Bearer {token}x")] {
        get(bad).is_refusal(401, "TokenVerifierError", "Token Verifier error");
    }
    for none in ["Basic YTpi", "Bearer", &token] {
        get(none).is_refusal(401, "TokenNotFound", "Attestation Token not found");
    }
    // A session that is not attested does not stand in the way of the token.
    let (cookie, _) = lab.auth("sample");
    let bearer = format!("Bearer {token}");
    let both = lab.send(
        "GET",
        &path,
        &[("cookie", &cookie), ("authorization", &bearer)],
        "",
    );
    assert_eq!(open(&both, &key), b"secret");
}

#[test]
fn tokens_expire() {
    // The verifier grants a minute of leeway: a token that ended two minutes ago cannot be made through
    // the protocol, so the laboratory's own key makes one.
    let (lab, tpm) = lab_with_node();
    let (_, _, token) = lab.handshake(&Node::Tpm(tpm));
    let (header, mut claims) = token_parts(&token);
    claims["exp"] = json!(1000);
    let past = forge(&lab, &header, &claims, true);
    let bearer = format!("Bearer {past}");
    let answer = lab.send(
        "GET",
        "/kbs/v0/resource/a/b/c",
        &[("authorization", &bearer)],
        "",
    );
    answer.is_refusal(401, "TokenVerifierError", "Token Verifier error");
    assert!(lab.last_cause().contains("past"), "{}", lab.last_cause());
}

#[test]
fn a_forged_token_is_refused_unless_the_server_is_told_to_believe_it() {
    for insecure in [false, true] {
        let lab = Lab::with(|options| options.insecure_header_jwk = insecure);
        lab.admin()
            .set_resource("default/victim/root", b"secret".to_vec())
            .unwrap();
        let key = TeeKey::generate().unwrap();
        let claims = json!({
            "exp": 4_000_000_000_u64,
            "submods": { "cpu0": { "ear.status": "affirming", "sheepfold.node": "victim" } },
            "tee-pubkey": key.public(),
        });
        let token = forge(
            &lab,
            &json!({ "typ": "JWT", "alg": "ES256" }),
            &claims,
            false,
        );
        let bearer = format!("Bearer {token}");
        let path = "/kbs/v0/resource/default/victim/root";
        let answer = lab.send("GET", path, &[("authorization", &bearer)], "");
        match insecure {
            true => assert_eq!(open(&answer, &key), b"secret"),
            false => answer.is_refusal(401, "TokenVerifierError", "Token Verifier error"),
        }
    }
}

/// A token signed with the server's own key, or with a fresh one that stands in the header.
fn forge(lab: &Lab, header: &Value, claims: &Value, own_key: bool) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use p256::ecdsa::signature::Signer as _;
    use p256::pkcs8::DecodePrivateKey as _;
    let key = if own_key {
        let pem = std::fs::read_to_string(lab.dir.path().join("token.key")).unwrap();
        p256::ecdsa::SigningKey::from_pkcs8_pem(&pem).unwrap()
    } else {
        p256::ecdsa::SigningKey::random(&mut rand_core::OsRng)
    };
    let mut header = header.clone();
    if !own_key {
        let point = key.verifying_key().to_encoded_point(false);
        let [x, y] = [point.x(), point.y()].map(|c| URL_SAFE_NO_PAD.encode(c.unwrap()));
        header["jwk"] = json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y });
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", part(&header), part(claims));
    let signature: p256::ecdsa::Signature = key.sign(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

#[test]
fn a_denial_says_nothing_about_existence_and_a_missing_resource_is_an_internal_error() {
    let lab = Lab::start();
    lab.admin().set_resource_policy(ALLOW_ALL).unwrap();
    let (cookie, ..) = lab.handshake(&Node::Sample);
    for path in [
        "default/none/root",
        "/default/m1/root",
        "a/b",
        "a/b/c/d",
        "a/../c",
        ".a/b/c",
        "a/b/%41",
        "",
    ] {
        lab.resource(&cookie, path)
            .is_refusal(401, "PluginInternalError", "Plugin internal error");
    }
    lab.admin()
        .set_resource_policy("package policy\nallow := false")
        .unwrap();
    lab.resource(&cookie, "default/none/root").is_refusal(
        401,
        "PolicyDeny",
        "Access denied by policy",
    );
}

#[test]
fn query_parameters_reach_the_resource_policy() {
    let lab = Lab::start();
    lab.admin().set_resource("a/b/c", b"x".to_vec()).unwrap();
    lab.admin()
        .set_resource_policy("package policy\nallow if data.query.q == \"1 2\"")
        .unwrap();
    let (cookie, key, _) = lab.handshake(&Node::Sample);
    assert_eq!(
        open(&lab.resource(&cookie, "a/b/c?q=1%202&r=3"), &key),
        b"x"
    );
    lab.resource(&cookie, "a/b/c?q=2")
        .is_refusal(401, "PolicyDeny", "Access denied by policy");
}

#[test]
fn broken_policies_are_reported_as_trustee_does() {
    let lab = Lab::start();
    let (cookie, ..) = lab.handshake(&Node::Sample);
    lab.admin()
        .set_resource_policy("package policy\nallow if nothing(1)")
        .unwrap();
    let answer = lab.resource(&cookie, "a/b/c");
    assert!(
        answer.json()["type"]
            .as_str()
            .unwrap()
            .ends_with("/PolicyEngineError")
    );
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .starts_with("Policy engine error: ")
    );
    for broken in [
        "package",
        "package policy\ntrust_claims := {\"speed\": 2}",
        "package policy\ntrust_claims := {}",
    ] {
        lab.admin()
            .set_attestation_policy("default_cpu", broken)
            .unwrap();
        let (cookie, nonce) = lab.auth("sample");
        let body = Node::Sample.attestation(&nonce, &TeeKey::generate().unwrap());
        lab.attest(&cookie, &body).is_attest_failure();
    }
    // A policy under any other id is stored and never looked at.
    lab.admin()
        .set_attestation_policy("default_cpu", "package policy\nother := 1")
        .unwrap();
    lab.admin()
        .set_attestation_policy("default_gpu", "package")
        .unwrap();
    let (.., token) = lab.handshake(&Node::Sample);
    assert_eq!(
        token_parts(&token).1["submods"]["cpu0"]["ear.status"],
        "none"
    );
}

#[test]
fn a_key_that_nothing_can_be_encrypted_to_fails_late() {
    let lab = Lab::start();
    lab.admin().set_resource_policy(ALLOW_ALL).unwrap();
    lab.admin().set_resource("a/b/c", b"x".to_vec()).unwrap();
    let (cookie, nonce) = lab.auth("sample");
    let runtime = kbs_protocol::message::RuntimeData {
        nonce,
        tee_pubkey: serde_json::from_value(
            json!({ "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "AA", "y": "AA" }),
        )
        .unwrap(),
    };
    let digest = kbs_protocol::runtime_data::RuntimeDigest::primary(&runtime, "").unwrap();
    let body = json!({
        "runtime-data": runtime,
        "tee-evidence": { "primary_evidence": { "svn": "1", "report_data": digest.to_base64() },
                          "additional_evidence": "" },
    });
    assert_eq!(lab.attest(&cookie, &body).status, 200);
    lab.resource(&cookie, "a/b/c")
        .is_refusal(401, "JweError", "JWE failed");
}

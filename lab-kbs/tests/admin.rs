// SPDX-License-Identifier: Apache-2.0

//! The administrator's side: who gets in under which dialect, and what each endpoint accepts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use common::{Answer, Lab, Node, open};
use lab_kbs::admin_client::AdminClient;
use lab_kbs::{Acl, Dialect};
use serde_json::{Value, json};

const FAR: u64 = 4_000_000_000;
const DIALECTS: [Dialect; 3] = [Dialect::V0_20, Dialect::V0_21, Dialect::Main];

fn lab(dialect: Dialect) -> Lab {
    Lab::with(|options| options.dialect = dialect)
}

fn call(lab: &Lab, method: &str, path: &str, token: &str, body: impl Into<Vec<u8>>) -> Answer {
    let bearer = format!("Bearer {token}");
    lab.send(method, path, &[("authorization", &bearer)], body)
}

fn list_policies(lab: &Lab, token: &str) -> u16 {
    call(lab, "GET", "/kbs/v0/resource-policy", token, "").status
}

#[test]
fn which_tokens_each_dialect_lets_in() {
    let table = [
        (
            "role, no audience",
            json!({ "role": "admin", "exp": FAR }),
            [200, 200],
        ),
        ("persona", json!({ "exp": FAR }), [200, 401]),
        (
            "audience",
            json!({ "role": "admin", "exp": FAR, "aud": ["x"] }),
            [401, 200],
        ),
        (
            "empty audience",
            json!({ "role": "admin", "exp": FAR, "aud": null }),
            [401, 200],
        ),
        (
            "unknown role",
            json!({ "role": "guest", "exp": FAR }),
            [200, 401],
        ),
        (
            "role is no string",
            json!({ "role": 1, "exp": FAR }),
            [200, 401],
        ),
        ("no expiry", json!({ "role": "admin" }), [401, 401]),
        ("past", json!({ "role": "admin", "exp": 1000 }), [401, 401]),
        (
            "not yet, which nobody checks",
            json!({ "role": "admin", "exp": FAR, "nbf": FAR }),
            [200, 200],
        ),
    ];
    let labs = [lab(Dialect::V0_20), lab(Dialect::V0_21)];
    for (why, claims, statuses) in table {
        for (lab, status) in labs.iter().zip(statuses) {
            let token = lab.admin().token_with(&claims);
            assert_eq!(list_policies(lab, &token), status, "{why}");
        }
    }
}

#[test]
fn other_signatures_are_refused() {
    for dialect in DIALECTS {
        let lab = lab(dialect);
        let other = Lab::start();
        let stranger = AdminClient::open(other.dir.path(), other.server.url()).unwrap();
        assert_eq!(list_policies(&lab, &stranger.token()), 401);
        let good = lab.admin().token();
        assert_eq!(list_policies(&lab, &good), 200);
        let claims = json!({ "role": "admin", "exp": FAR });
        for alg in ["none", "HS256", "ES256", "eddsa"] {
            let token = lab.admin().sign(&json!({ "alg": alg }), &claims);
            assert_eq!(list_policies(&lab, &token), 401, "{alg}");
        }
        let parts: Vec<_> = good.split('.').collect();
        let header = |json: &str| URL_SAFE_NO_PAD.encode(json);
        for bad in [
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}.{}", header(r#"{"alg":"none"}"#), parts[1], parts[2]),
            format!("{}.{}.{}", header(r#"{"alg":"HS256"}"#), parts[1], parts[2]),
            format!(
                "{}.{}.{}",
                parts[0],
                header(r#"{"role":"admin","exp":4000000001}"#),
                parts[2]
            ),
            format!("{good}A"),
            "x".to_owned(),
            String::new(),
        ] {
            assert_eq!(list_policies(&lab, &bad), 401, "{bad}");
        }
    }
}

#[test]
fn errors_have_the_name_of_their_release() {
    let kind = |answer: Answer| {
        let answer = answer.json();
        let kind = answer["type"]
            .as_str()
            .unwrap()
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned();
        (kind, answer["detail"].as_str().unwrap().to_owned())
    };
    for (dialect, built_in, plugin) in [
        (Dialect::V0_20, "AdminAuth", "AdminAuth"),
        (Dialect::V0_21, "AdminAuthAccess", "AdminAuthInitialization"),
        (Dialect::Main, "AdminAuthAccess", "AdminAuthInitialization"),
    ] {
        let lab = lab(dialect);
        for (method, path, expected) in [
            ("POST", "/kbs/v0/attestation-policy", built_in),
            ("POST", "/kbs/v0/resource-policy", built_in),
            ("GET", "/kbs/v0/resource-policy", built_in),
            ("POST", "/kbs/v0/reference-value", built_in),
            ("GET", "/kbs/v0/reference-value/x", built_in),
            ("POST", "/kbs/v0/resource/a/b/c", plugin),
            ("DELETE", "/kbs/v0/resource/a/b/c", plugin),
        ] {
            let (without, _) = kind(lab.send(method, path, &[], "{}"));
            assert_eq!(without, expected, "{dialect} {method} {path}");
            let (wrong, detail) = kind(call(&lab, method, path, "a.b.c", "{}"));
            assert_eq!(wrong, expected, "{dialect} {method} {path}");
            if dialect != Dialect::V0_20 {
                let reason = "Admin access denied: Cannot verify token with any of the issuers";
                assert!(detail.ends_with(reason), "{detail}");
            }
        }
    }
}

#[test]
fn the_access_list_is_matched_against_path_and_query() {
    let acl = |role: &str, allowed: &str| Acl {
        role: role.to_owned(),
        allowed_endpoints: allowed.to_owned(),
    };
    let lab = Lab::with(|options| {
        options.acls = vec![
            acl("reader", "^/kbs/v0/resource-policy$"),
            acl("writer", "^/kbs/v0/resource/nodes/.+$"),
            acl("writer", "^/kbs/v0/reference-value$"),
        ];
    });
    let token = |role: &str| lab.admin().token_with(&json!({ "role": role, "exp": FAR }));
    let status = |role, method, path| call(&lab, method, path, &token(role), "{}").status;
    assert_eq!(status("reader", "GET", "/kbs/v0/resource-policy"), 200);
    assert_eq!(
        status("reader", "GET", "/kbs/v0/resource-policy?x=1"),
        401,
        "the query counts"
    );
    assert_eq!(status("reader", "POST", "/kbs/v0/resource/nodes/a/b"), 401);
    assert_eq!(status("writer", "POST", "/kbs/v0/resource/nodes/a/b"), 200);
    assert_eq!(status("writer", "POST", "/kbs/v0/resource/other/a/b"), 401);
    assert_eq!(
        status("admin", "GET", "/kbs/v0/resource-policy"),
        401,
        "roles outside the list"
    );
    let answer = call(&lab, "GET", "/kbs/v0/resource-policy", &token("writer"), "");
    let detail = "admin access denied for endpoint /kbs/v0/resource-policy: Admin access denied: \
                  Role writer not allowed for path /kbs/v0/resource-policy";
    answer.is_refusal(401, "AdminAuthAccess", detail);
}

#[test]
fn access_lists_must_be_anchored() {
    let dir = tempfile::tempdir().unwrap();
    lab_kbs::keys::init(dir.path(), &lab_kbs::keys::InitOptions::default()).unwrap();
    for bad in ["/kbs/v0/.*", "^/kbs/v0/.*", "^/.*$", "^/kbs/[$"] {
        let mut options = lab_kbs::Options::new(dir.path());
        options.acls = vec![Acl {
            role: "admin".into(),
            allowed_endpoints: bad.into(),
        }];
        assert!(lab_kbs::Server::start(options).is_err(), "{bad}");
    }
}

#[test]
fn resources_are_stored_verbatim_replaced_and_deleted() {
    let lab = Lab::start();
    let admin = lab.admin();
    admin
        .set_resource_policy("package policy\nallow := true")
        .unwrap();
    admin.set_resource("a/b/c", b"one".to_vec()).unwrap();
    let token = admin.token();
    let answer = call(
        &lab,
        "POST",
        "/kbs/v0/resource/a/b/c",
        &token,
        vec![0, 159, 146, 150],
    );
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.content_type.as_deref(), Some("text/xml"));
    let (cookie, key, _) = lab.handshake(&Node::Sample);
    assert_eq!(
        open(&lab.resource(&cookie, "a/b/c"), &key),
        [0, 159, 146, 150]
    );

    admin.delete_resource("a/b/c").unwrap();
    let gone = ("PluginInternalError", "Plugin internal error");
    lab.resource(&cookie, "a/b/c")
        .is_refusal(401, gone.0, gone.1);
    call(&lab, "DELETE", "/kbs/v0/resource/a/b/c", &token, "").is_refusal(401, gone.0, gone.1);
    for path in ["a/b", "a/b/c/d", "a/../c", "a/b/.c", "a//c"] {
        let url = format!("/kbs/v0/resource/{path}");
        call(&lab, "POST", &url, &token, "x").is_refusal(401, gone.0, gone.1);
    }
}

#[test]
fn an_administrator_cannot_read_resources() {
    let lab = Lab::start();
    lab.admin().set_resource("a/b/c", b"one".to_vec()).unwrap();
    let answer = call(
        &lab,
        "GET",
        "/kbs/v0/resource/a/b/c",
        &lab.admin().token(),
        "",
    );
    answer.is_refusal(401, "TokenVerifierError", "Token Verifier error");
}

#[test]
fn policies_must_be_base64url_without_padding() {
    let lab = Lab::start();
    let token = lab.admin().token();
    let rego = "package policy\nallow := true\n # ~~~>>>";
    let post = |path: &str, body: Value| call(&lab, "POST", path, &token, body.to_string());
    assert_ne!(
        URL_SAFE.encode(rego),
        URL_SAFE_NO_PAD.encode(rego),
        "a text that needs padding"
    );
    for policy in [URL_SAFE.encode(rego), STANDARD.encode(rego), "%".to_owned()] {
        let answer = post("/kbs/v0/resource-policy", json!({ "policy": policy }));
        assert!(
            answer.json()["type"]
                .as_str()
                .unwrap()
                .ends_with("/ParsePolicyError")
        );
        let upload = json!({ "type": "rego", "policy_id": "default_cpu", "policy": policy });
        let detail = "Attestation error: Set Attestation Policy failed";
        post("/kbs/v0/attestation-policy", upload).is_refusal(401, "AttestationError", detail);
    }
    assert_eq!(post("/kbs/v0/resource-policy", json!({})).status, 401);
    assert_eq!(post("/kbs/v0/attestation-policy", json!({})).status, 401);
    let good = json!({ "policy": URL_SAFE_NO_PAD.encode(rego) });
    let answer = post("/kbs/v0/resource-policy", good);
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    let list = call(&lab, "GET", "/kbs/v0/resource-policy", &token, "");
    assert_eq!(list.body, br#"["resource-policy"]"#);
}

#[test]
fn only_the_development_branch_parses_rego_at_upload() {
    for dialect in DIALECTS {
        let admin_lab = lab(dialect);
        let admin = admin_lab.admin();
        let refuses = dialect == Dialect::Main;
        assert_eq!(
            admin.set_resource_policy("package").is_err(),
            refuses,
            "{dialect}"
        );
        let upload = admin.set_attestation_policy("default_cpu", "allow { true }");
        assert_eq!(upload.is_err(), refuses, "{dialect}");
    }
}

#[test]
fn reference_values_are_registered_replaced_and_read() {
    let lab = Lab::start();
    let admin = lab.admin();
    assert_eq!(admin.reference_value("svn").unwrap(), None);
    for value in [
        json!(["1", "2"]),
        json!("scalar"),
        json!({ "a": null }),
        json!([]),
    ] {
        admin.set_reference_value("svn", &value).unwrap();
        assert_eq!(admin.reference_value("svn").unwrap(), Some(value));
    }
    let token = admin.token();
    let raw = call(&lab, "GET", "/kbs/v0/reference-value/svn", &token, "");
    assert_eq!(
        (raw.body.as_slice(), raw.content_type.as_deref()),
        (&b"[]"[..], Some("application/json"))
    );
    let two = STANDARD.encode(r#"{"a":1,"b":2}"#);
    let register = |body: Value| {
        call(
            &lab,
            "POST",
            "/kbs/v0/reference-value",
            &token,
            body.to_string(),
        )
    };
    assert_eq!(
        register(json!({ "type": "sample", "payload": two })).status,
        200
    );
    assert_eq!(
        admin.reference_value("b").unwrap(),
        Some(json!(2)),
        "several names in one message"
    );
    for bad in [
        json!({ "version": "0.2.0", "type": "sample", "payload": two }),
        json!({ "type": "in-toto", "payload": two }),
        json!({ "type": "sample", "payload": "a" }),
        json!({ "type": "sample", "payload": STANDARD.encode("[]") }),
        json!({}),
    ] {
        let answer = register(bad);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.starts_with("RVPS configuration failed: Failed to register reference value: "),
            "{detail}"
        );
    }
    let missing = call(&lab, "GET", "/kbs/v0/reference-value/none", &token, "");
    let detail = "RVPS configuration failed: Failed to get reference_values: none not found";
    missing.is_refusal(401, "RvpsError", detail);
}

#[test]
fn approving_nodes_keeps_the_ones_before() {
    let lab = Lab::start();
    let admin = lab.admin();
    // Two keys of one shard: characters 60 and 61 agree.
    let key = |last: char| STANDARD.encode([&[b'x'; 60][..], last.to_string().as_bytes()].concat());
    let (one, two) = (key('1'), key('2'));
    let tuple = json!({ "pcr04": "aa".repeat(32) });
    let first = admin.allow_node(&one, Some(tuple.clone())).unwrap();
    let second = admin.allow_node(&two, Some(tuple.clone())).unwrap();
    assert_ne!(first, second);
    assert_eq!(
        admin.allow_node(&one, None).unwrap(),
        first,
        "a second time changes nothing"
    );
    let shard = lab_kbs::admin_client::shard_of(&one).unwrap();
    let nodes = admin.reference_value(&shard).unwrap().unwrap();
    assert_eq!(
        nodes,
        json!({ one: first.to_string(), two: second.to_string() })
    );
    assert_eq!(
        admin.reference_value("boot_tuples").unwrap(),
        Some(json!([tuple]))
    );
    assert!(admin.allow_node("not base64!", None).is_err());
    assert!(admin.allow_node("c2hvcnQ=", None).is_err());
}

#[test]
fn a_boot_that_no_node_can_show_is_refused() {
    let lab = Lab::start();
    let admin = lab.admin();
    let key = STANDARD.encode([b'x'; 61]);
    let (digest, short) = ("aa".repeat(32), "aa".repeat(20));
    for (tuple, says) in [
        (
            json!({ "pcr4": digest }),
            r#"names "pcr4": policies know pcr00"#,
        ),
        (
            json!({ "pcr04": digest, "pcr24": digest }),
            r#"names "pcr24""#,
        ),
        (json!({ "PCR04": digest }), "to pcr23, with two digits"),
        (json!({ "svn": "1" }), r#"names "svn""#),
        (json!({ "pcr04": short }), "64 lower-case"),
        (json!({ "pcr04": digest.to_uppercase() }), "64 lower-case"),
        (json!({ "pcr04": 4 }), "64 lower-case"),
        (json!({}), "is no boot tuple"),
        (json!([digest]), "is no boot tuple"),
    ] {
        let error = admin.allow_node(&key, Some(tuple)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    // Not even the key was written.
    let shard = lab_kbs::admin_client::shard_of(&key).unwrap();
    assert_eq!(admin.reference_value(&shard).unwrap(), None);
    let all = json!({ "pcr00": digest, "pcr23": digest });
    admin.allow_node(&key, Some(all)).unwrap();
}

#[test]
fn addresses_that_lead_nowhere() {
    let lab = Lab::start();
    let status = |method: &str, path: &str| lab.send(method, path, &[], "");
    let nothing = status("GET", "/kbs/v0/nothing/a");
    nothing.is_refusal(404, "PluginNotFound", "Plugin nothing not found");
    for (method, path, plugin) in [
        ("GET", "/kbs/v0/auth", "auth"),
        ("PUT", "/kbs/v0/attest", "attest"),
        ("DELETE", "/kbs/v0/resource-policy", "resource-policy"),
        ("GET", "/kbs/v0/attestation-policy", "attestation-policy"),
    ] {
        let detail = format!("Plugin {plugin} not found");
        status(method, path).is_refusal(404, "PluginNotFound", &detail);
    }
    let detail = "Request path /kbs/v0/ is invalid";
    status("GET", "/kbs/v0/").is_refusal(404, "InvalidRequestPath", detail);
    assert_eq!(status("PATCH", "/kbs/v0/auth").status, 405);
    assert_eq!(status("GET", "/").status, 404);
    assert_eq!(status("GET", "/kbs/v1/auth").status, 404);
    assert_eq!(status("GET", "/healthz").status, 200);
    assert!(
        String::from_utf8(status("GET", "/metrics").body)
            .unwrap()
            .contains("http_requests_total")
    );
    assert_eq!(
        self::lab(Dialect::V0_20)
            .send("GET", "/healthz", &[], "")
            .status,
        404
    );
}

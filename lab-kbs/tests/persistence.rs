// SPDX-License-Identifier: Apache-2.0

//! A restart loses nothing, and neither does a kill: the command itself is run and killed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{Lab, Node, SoftTpm, open};
use kbs_protocol::tee_key::TeeKey;
use lab_kbs::admin_client::AdminClient;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

#[test]
fn a_restart_keeps_resources_policies_values_and_sessions() {
    let lab = Lab::start();
    let admin = lab.admin();
    let tpm = SoftTpm::number(0);
    let node = admin
        .allow_node(&tpm.ak_public(), Some(tpm.boot_tuple()))
        .unwrap();
    let path = format!("default/{node}/root");
    admin.set_resource(&path, b"secret".to_vec()).unwrap();
    let (attested, key, token) = lab.handshake(&Node::Tpm(tpm.clone()));
    let (open_session, nonce) = lab.auth("tpm");

    let lab = lab.restart(|_| {});
    assert_eq!(
        open(&lab.resource(&attested, &path), &key),
        b"secret",
        "an attested session"
    );
    let second_key = TeeKey::generate().unwrap();
    let body = Node::Tpm(tpm.clone()).attestation(&nonce, &second_key);
    assert_eq!(
        lab.attest(&open_session, &body).status,
        200,
        "a challenge given before"
    );
    let again = lab.attest(&attested, &body);
    assert_eq!(again.json()["token"], token.as_str(), "the stored token");

    lab.admin()
        .set_resource_policy("package policy\nallow := false")
        .unwrap();
    lab.admin()
        .set_attestation_policy("default_cpu", "package policy\nx := 1")
        .unwrap();
    let lab = lab.restart(|_| {});
    lab.resource(&attested, &path)
        .is_refusal(401, "PolicyDeny", "Access denied by policy");
    let (.., token) = lab.handshake(&Node::Tpm(tpm));
    assert_eq!(
        common::token_parts(&token).1["submods"]["cpu0"]["ear.status"],
        "none"
    );
}

#[test]
fn expired_sessions_are_forgotten() {
    let lab = Lab::with(|options| options.session_ttl = std::time::Duration::ZERO);
    lab.auth("sample");
    lab.auth("sample");
    let state: Value =
        serde_json::from_slice(&std::fs::read(lab.dir.path().join("state.json")).unwrap()).unwrap();
    assert_eq!(
        state["sessions"].as_object().unwrap().len(),
        1,
        "only the newest is left"
    );
}

/// The `lab-kbs serve` command, killed when dropped.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lab-kbs"))
            .args(["serve", "--quiet", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .to_owned();
        Self { child, url }
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lab_kbs(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab-kbs"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn ok(arguments: &[&str], input: &[u8]) -> String {
    let output = lab_kbs(arguments, input);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn sigkill_loses_nothing_that_was_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().to_str().unwrap();
    ok(&["init", "--dir", name], b"");
    let mut server = Process::start(dir.path(), &[]);
    let mut confirmed = 0;
    for round in 0..5 {
        let admin = AdminClient::open(dir.path(), &server.url).unwrap();
        for number in 0..10 {
            admin
                .set_reference_value(&format!("v{round}_{number}"), &json!(number))
                .unwrap();
            confirmed += 1;
        }
        server.kill();
        server = Process::start(dir.path(), &[]);
        let admin = AdminClient::open(dir.path(), &server.url).unwrap();
        for number in 0..10 {
            let value = admin
                .reference_value(&format!("v{round}_{number}"))
                .unwrap();
            assert_eq!(value, Some(json!(number)), "round {round}");
        }
    }
    assert_eq!(confirmed, 50);
}

#[test]
fn the_commands_of_a_demo() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().to_str().unwrap();
    ok(
        &[
            "init",
            "--dir",
            name,
            "--host",
            "localhost",
            "--host",
            "127.0.0.1",
        ],
        b"",
    );
    let server = Process::start(dir.path(), &["--dialect", "0.20"]);
    let admin = ["admin", "--dir", name, "--url", &server.url];
    let run = |more: &[&str], input: &[u8]| ok(&[&admin[..], more].concat(), input);
    let tpm = SoftTpm::number(1);
    let node = run(
        &[
            "allow-node",
            "--ak-public",
            &tpm.ak_public(),
            "--boot-tuple",
            &tpm.boot_tuple().to_string(),
        ],
        b"",
    );
    assert_eq!(node.trim(), tpm.node_id().to_string());
    run(
        &["set-resource", &format!("default/{}/root", node.trim())],
        b"secret",
    );
    assert!(run(&["get-reference-value", "boot_tuples"], b"").contains(&tpm.pcr(4)));
    run(&["set-reference-value", "x", "[1]"], b"");
    run(&["set-resource-policy"], b"package policy\nallow := true");
    run(&["set-attestation-policy"], b"package policy\nx := 1");
    run(
        &["set-attestation-policy", "default_gpu"],
        b"package policy\nx := 1",
    );
    run(
        &["delete-resource", &format!("default/{}/root", node.trim())],
        b"",
    );

    let fails = |more: &[&str]| lab_kbs(&[&admin[..], more].concat(), b"").status.code();
    assert_eq!(fails(&["delete-resource", "a/b/c"]), Some(1));
    assert_eq!(fails(&["get-reference-value", "none"]), Some(1));
    assert_eq!(fails(&["set-reference-value", "x", "not json"]), Some(1));
    let ak = tpm.ak_public();
    let tuple = r#"{"pcr4": "00"}"#;
    let misspelt = ["allow-node", "--ak-public", &ak, "--boot-tuple", tuple];
    assert_eq!(fails(&misspelt), Some(1));
    assert_eq!(fails(&["no-such-command"]), Some(2));
    assert_eq!(lab_kbs(&["serve"], b"").status.code(), Some(2));
    assert_eq!(lab_kbs(&["init", "--wrong"], b"").status.code(), Some(2));
    assert!(ok(&["--help"], b"").contains("drop-mid-body"));
}

#[test]
fn an_expired_certificate_is_refused_by_clients() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().to_str().unwrap();
    ok(&["init", "--dir", name, "--tls-not-after", "-1"], b"");
    let server = common::start(dir.path(), |_| {});
    let error = common::client(dir.path())
        .get(server.url())
        .send()
        .unwrap_err();
    assert!(format!("{error:?}").contains("Expired"), "{error:?}");
}

// SPDX-License-Identifier: Apache-2.0

//! Enrolment as a person meets it: `trustee-agent enroll` against `sheepfold-operator register`, both
//! started as programs, on a software TPM that left its factory with certificates.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::zombie_processes,
    reason = "in a test a panic is the report"
)]

use serde_json::Value;
use sheepfold_tests::paths;
use sheepfold_tests::process::{Captured, Run};
use sheepfold_tests::swtpm::{Authority, SoftTpm};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A node, and a registrar that believes the node's maker.
struct World {
    tpm: SoftTpm,
    registrar: Child,
    dir: TempDir,
}

impl World {
    /// `None`, loudly, where software TPMs cannot be made.
    fn new() -> Option<Self> {
        if let Some(program) = SoftTpm::missing().or_else(Authority::missing) {
            eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
            return None;
        }
        let maker = Authority::new().unwrap();
        let tpm = SoftTpm::certified(&maker).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let tls = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        write("tls.pem", &tls.cert.pem());
        write("tls.key", &tls.signing_key.serialize_pem());
        write("roots.pem", &maker.root().unwrap());
        write("intermediates.pem", &maker.intermediate().unwrap());
        write(
            "register.toml",
            "listen = \"127.0.0.1:0\"\ntls_certificate_file = \"tls.pem\"\ntls_key_file = \"tls.key\"\n\
             identity = \"ek-certificate\"\nek_roots_file = \"roots.pem\"\n\
             ek_intermediates_file = \"intermediates.pem\"\nstate_directory = \"registry\"\n",
        );
        let (registrar, address) = serve(&dir.path().join("register.toml"));
        write(
            "agent.toml",
            &format!(
                "[kbs]\nservers = [\"https://kbs.invalid\"]\nca_file = \"tls.pem\"\n\
                 [enroll]\nregistrar = \"{address}\"\n[timeouts]\nfetch = \"20s\"\n[tpm]\ntcti = \"{}\"\n",
                tpm.tcti()
            ),
        );
        Some(Self {
            tpm,
            registrar,
            dir,
        })
    }

    fn enroll(&self, args: &[&str]) -> Captured {
        Run::new(paths::binary("trustee-agent").unwrap())
            .env("TSS2_LOG", "all+none")
            .args(["enroll", "--config"])
            .arg(self.dir.path().join("agent.toml"))
            .args(args)
            .capture()
            .unwrap()
    }

    fn register(&self, args: &[&str]) -> Captured {
        Run::new(paths::binary("sheepfold-operator").unwrap())
            .args(["register", "--config"])
            .arg(self.dir.path().join("register.toml"))
            .args(args)
            .capture()
            .unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.registrar.kill());
        drop(self.registrar.wait());
    }
}

fn serve(config: &Path) -> (Child, String) {
    let mut child = Command::new(paths::binary("sheepfold-operator").unwrap())
        .args(["register", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some((_, address)) = line.split_once("listening on ") {
            return (child, address.to_owned());
        }
        said.push_str(&line);
    }
    panic!("the registrar does not start: {said}");
}

fn json(captured: &Captured) -> Value {
    serde_json::from_slice(&captured.stdout).unwrap_or_else(|_| panic!("no JSON: {captured}"))
}

fn stderr(captured: &Captured) -> String {
    String::from_utf8(captured.stderr.clone()).unwrap()
}

#[test]
fn enrolling_twice_says_the_same_and_a_second_key_waits_for_a_person() {
    let Some(world) = World::new() else { return };
    let first = world.enroll(&["--json"]);
    assert_eq!(first.code, Some(0), "{first}");
    let facts = json(&first);
    assert_eq!(facts["state"], "approved");
    assert_eq!(facts["ek_certificate"], true);
    let node = facts["node_id"].as_str().unwrap().to_owned();
    assert_eq!(json(&world.enroll(&["--json"])), facts, "idempotent");
    let text = world.enroll(&[]);
    assert!(
        text.stdout.is_empty(),
        "standard output is for programs: {text}"
    );
    assert!(stderr(&text).contains(&node), "{text}");
    let listed = json(&world.register(&["--list"]));
    assert_eq!(
        (&listed["node_id"], &listed["ak_public"]),
        (&facts["node_id"], &facts["ak_public"])
    );
    assert_eq!(listed["ek_sha256"], facts["ek_sha256"]);

    // A new attestation key on the same machine.
    let tpm = &world.tpm;
    tpm.tool(&["evictcontrol", "-Q", "-C", "o", "-c", "0x81010002"])
        .unwrap();
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
    let scheme = "rsa2048:rsassa-sha256:null";
    tpm.tool(&[
        "createprimary",
        "-Q",
        "-C",
        "o",
        "-G",
        scheme,
        "-a",
        attributes,
        "-c",
        "k",
    ])
    .unwrap();
    tpm.tool(&["evictcontrol", "-Q", "-C", "o", "-c", "k", "0x81010002"])
        .unwrap();
    let held = world.enroll(&["--json"]);
    assert_eq!(held.code, Some(14), "{held}");
    let facts = json(&held);
    assert_eq!(
        (&facts["ok"], &facts["state"]),
        (&Value::Bool(false), &"held".into())
    );
    let second = facts["node_id"].as_str().unwrap();
    assert_ne!(second, node);
    assert!(
        facts["error"]["advice"]
            .as_str()
            .unwrap()
            .contains("--approve"),
        "{facts}"
    );
    assert_eq!(world.register(&["--approve", second]).code, Some(0));
    assert_eq!(json(&world.enroll(&["--json"]))["state"], "approved");

    let unknown = "e3b0c442-98fc-8c14-9afb-f4c8996fb924";
    let refused = world.register(&["--approve", unknown]);
    assert_ne!(refused.code, Some(0));
    assert!(stderr(&refused).contains(unknown), "{refused}");
}

#[test]
fn mistakes_have_an_owner_and_a_next_step() {
    let Some(world) = World::new() else { return };
    // The endorsement hierarchy has a password, after the attestation key was made.
    world.enroll(&[]);
    world
        .tpm
        .tool(&["changeauth", "-c", "e", "secret"])
        .unwrap();
    let locked = world.enroll(&[]);
    assert_eq!(locked.code, Some(11), "{locked}");
    assert!(stderr(&locked).contains("tpm2_changeauth -c e"), "{locked}");
    world
        .tpm
        .tool(&["changeauth", "-c", "e", "-p", "secret"])
        .unwrap();
    assert_eq!(world.enroll(&[]).code, Some(0));

    let file = world.dir.path().join("agent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[enroll]", "[enrol]")).unwrap();
    let misspelt = world.enroll(&[]);
    assert_eq!(misspelt.code, Some(10), "{misspelt}");
    let without: String = text
        .lines()
        .filter(|l| !l.contains("enroll") && !l.contains("registrar"))
        .map(|l| format!("{l}\n"))
        .collect();
    std::fs::write(&file, without).unwrap();
    let nowhere = world.enroll(&[]);
    assert_eq!(nowhere.code, Some(10), "{nowhere}");
    assert!(stderr(&nowhere).contains("enroll.registrar"), "{nowhere}");
}

#[test]
fn a_registrar_that_would_let_in_nobody_or_anybody_says_so() {
    let Some(world) = World::new() else { return };
    let file = world.dir.path().join("register.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    for (from, to, reason) in [
        ("ek_roots_file = \"roots.pem\"\n", "", "ek_roots_file"),
        ("\"roots.pem\"", "\"nothing.pem\"", "nothing.pem"),
        ("\"roots.pem\"", "\"tls.key\"", "no certificate"),
        ("identity", "idenity", "unknown field"),
    ] {
        std::fs::write(&file, text.replace(from, to)).unwrap();
        let refused = world.register(&["--list"]);
        assert_eq!(refused.code, Some(10), "{refused}");
        assert!(stderr(&refused).contains(reason), "{reason}: {refused}");
    }
}

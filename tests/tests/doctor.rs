// SPDX-License-Identifier: Apache-2.0
//! `trustee-agent doctor`: what is between a node and its KBS, in the order in which it is needed, up to the
//! first thing that is broken, with its cure. And that looking changes nothing.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use serde_json::Value;
use sheepfold_tests::lab;
use sheepfold_tests::world::World;
use std::os::unix::fs::DirBuilderExt as _;

/// Runs the doctor: exit code, the names of the checks in order, and the broken one.
fn doctor(world: &World) -> (i32, Vec<String>, Value) {
    let text = world.agent(["doctor"]).capture().unwrap();
    let json = world.agent(["--json", "doctor"]).capture().unwrap();
    assert_eq!(text.code, json.code, "{text}\n{json}");
    let facts: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(facts["ok"], text.code == Some(0));
    let names = facts["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["check"].as_str().unwrap().to_owned())
        .collect();
    if let Some(why) = facts["broken"]["message"].as_str() {
        assert!(
            text.err().contains(why) && text.err().contains("FAIL"),
            "{}",
            text.err()
        );
        assert!(
            text.err()
                .contains(facts["broken"]["advice"].as_str().unwrap())
        );
    }
    (text.code.unwrap(), names, facts["broken"].clone())
}

#[track_caller]
fn broken(world: &World, code: i32, check: &str, says: &str, not_reached: &str) {
    let (exit, names, broken) = doctor(world);
    assert_eq!(exit, code, "{names:?} {broken}");
    assert_eq!(broken["check"], check, "{names:?} {broken}");
    assert!(
        broken["message"].as_str().unwrap().contains(says),
        "{broken}"
    );
    assert!(!broken["advice"].as_str().unwrap().is_empty(), "{broken}");
    assert!(!names.iter().any(|name| name == not_reached), "{names:?}");
}

#[test]
fn a_healthy_node() {
    let (world, _, _) = World::enrolled().unwrap();
    let (code, names, _) = doctor(&world);
    assert_eq!(code, 0);
    assert_eq!(
        names,
        [
            "configuration",
            "TPM",
            "attestation key",
            "clock",
            "name",
            "TCP",
            "TLS and protocol"
        ]
    );
}

#[test]
fn a_new_node_is_not_changed_by_looking() {
    let world = World::new().unwrap();
    drop(world.tpm.take_commands());
    let (code, names, _) = doctor(&world);
    assert_eq!(code, 0, "{names:?}");
    world.agent(["status"]).success().unwrap();
    let commands = world.tpm.take_commands();
    assert!(!commands.is_empty());
    for change in ["CreatePrimary", "EvictControl", "PCR_Extend"] {
        assert!(
            !commands.iter().any(|command| command == change),
            "{commands:?}"
        );
    }
    assert!(world.node().is_err(), "there is still no attestation key");
}

#[test]
fn what_preflight_said_about_the_next_boot_is_shown() {
    let world = World::new().unwrap();
    // For people on standard error, for programs on standard output.
    let status = |arguments: &[&str]| {
        let captured = world.agent(arguments.iter().copied()).capture().unwrap();
        assert_eq!(captured.code, Some(0), "{captured}");
        String::from_utf8([captured.stderr, captured.stdout].concat()).unwrap()
    };
    assert!(!status(&["status"]).contains("next boot"));
    // As the agent makes it.
    let mut directory = std::fs::DirBuilder::new();
    directory.mode(0o700).create(world.run_dir()).unwrap();
    let answer = world.run_dir().join("preflight.json");
    std::fs::write(
        &answer,
        r#"{"unlocks":"no","sentence":"it will not\n","boot":"b"}"#,
    )
    .unwrap();
    let text = status(&["status"]);
    assert!(
        text.contains("\nnext boot        it will not  (b)\n"),
        "{text}"
    );
    let facts: serde_json::Value = serde_json::from_str(&status(&["--json", "status"])).unwrap();
    assert_eq!(facts["next_boot"]["unlocks"], "no");
    std::fs::write(&answer, "{").unwrap();
    assert!(!status(&["status"]).contains("next boot"));
}

#[test]
fn no_tpm() {
    let (mut world, _, _) = World::enrolled().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    world.settings.tcti = format!("swtpm:host=127.0.0.1,port={nobody}");
    world.configure().unwrap();
    broken(&world, 11, "TPM", "no TPM answers", "clock");
}

#[test]
fn no_name() {
    let (mut world, _, _) = World::enrolled().unwrap();
    world.settings.servers = vec!["https://kbs.invalid:8080".to_owned()];
    world.configure().unwrap();
    broken(&world, 12, "name", "does not resolve", "TCP");
}

#[test]
fn nobody_listens() {
    let (mut world, _, _) = World::enrolled().unwrap();
    world.lab.stop().unwrap();
    broken(&world, 12, "TCP", "no connection", "TLS and protocol");
}

#[test]
fn another_authority() {
    let (mut world, _, _) = World::enrolled().unwrap();
    let other = world.dir().join("another-kbs");
    lab::init(&other).unwrap();
    world.settings.ca_file = Some(other.join("ca.pem"));
    world.configure().unwrap();
    broken(
        &world,
        10,
        "TLS",
        "not issued by a configured authority",
        "TLS and protocol",
    );
}

#[test]
fn another_protocol() {
    let (mut world, _, _) = World::enrolled().unwrap();
    world
        .restart_lab(&["--fault", "protocol-version=0.5.0"])
        .unwrap();
    broken(
        &world,
        13,
        "protocol",
        "another protocol version",
        "TLS and protocol",
    );
}

#[test]
fn one_server_of_two_is_enough() {
    let (mut world, _, _) = World::enrolled().unwrap();
    world
        .settings
        .servers
        .push("https://kbs.invalid:8080".to_owned());
    world.configure().unwrap();
    let (code, names, _) = doctor(&world);
    assert_eq!(code, 0, "{names:?}");
    let text = world.agent(["doctor"]).capture().unwrap().err();
    assert!(
        text.contains("warn") && text.contains("kbs.invalid"),
        "{text}"
    );
}

#[test]
fn a_configuration_that_is_not_one() {
    let world = World::new().unwrap();
    let file = world.config_file();
    let good = std::fs::read_to_string(&file).unwrap();
    for (line, says) in [
        ("[kbs]\nserver = [\"https://a:1\"]\n", "server"),
        ("[kbs]\nservers = []\n", "kbs.servers"),
        ("nonsense", "line 1"),
        ("", "kbs"),
    ] {
        std::fs::write(&file, line).unwrap();
        let refused = world.agent(["doctor"]).capture().unwrap();
        assert_eq!(refused.code, Some(10), "{line:?}: {refused}");
        assert!(refused.err().contains(says), "{line:?}: {refused}");
        assert!(refused.err().contains("our configuration"), "{refused}");
    }
    std::fs::write(&file, good).unwrap();
    std::fs::remove_file(&file).unwrap();
    let missing = world.agent(["doctor"]).capture().unwrap();
    assert_eq!(missing.code, Some(10), "{missing}");
}

// SPDX-License-Identifier: Apache-2.0

//! `provision` and its companions against the laboratory KBS, as a person uses them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use common::{Lab, Tpm, machine, object};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[track_caller]
fn ok(output: Output) -> String {
    assert_eq!(code(&output), 0, "{}", said(&output));
    said(&output)
}

#[test]
fn each_node_reads_its_own_secret_and_nobody_elses() {
    let lab = Lab::start();
    let [a, b, stranger] = [0, 1, 2].map(Tpm::number);
    lab.machines(&[("a", &a, "approved"), ("b", &b, "approved")]);
    lab.provision();
    let [of_a, of_b] = [&a, &b].map(|tpm| lab.fetch(tpm, &tpm.root()).expect("its own secret"));
    assert_ne!(of_a, of_b);
    let stored = lab.resources();
    assert_eq!(stored[&a.root()], of_a);
    for path in stored.keys() {
        assert_eq!(lab.fetch(&stranger, path), None, "{path}");
        let owner = path.split('/').nth(1).unwrap();
        assert_eq!(lab.fetch(&a, path).is_some(), owner == a.node(), "{path}");
    }
    let secret: Value = serde_json::from_slice(&of_a).unwrap();
    assert_eq!(
        (secret["node"].as_str(), secret["path"].as_str()),
        (Some(&*a.node()), Some(&*a.root()))
    );
}

#[test]
fn every_dialect_is_served() {
    let tpm = Tpm::number(0);
    for dialect in [
        lab_kbs::Dialect::V0_20,
        lab_kbs::Dialect::V0_21,
        lab_kbs::Dialect::Main,
    ] {
        let lab = Lab::with(|options| options.dialect = dialect);
        lab.machines(&[("a", &tpm, "approved")]);
        lab.provision();
        assert!(lab.fetch(&tpm, &tpm.root()).is_some(), "{dialect:?}");
        ok(lab.run(&["revoke", "a"]));
        assert_eq!(lab.resources().len(), 0, "{dialect:?}");
    }
}

#[test]
fn twice_writes_nothing() {
    let lab = Lab::start();
    lab.machines(&[("a", &Tpm::number(0), "approved")]);
    assert!(!lab.provision().plan.writes.is_empty());
    let before = (lab.shape(), lab.resources());
    let requests = lab.server.requests().len();
    assert_eq!(lab.provision().plan.writes, []);
    assert_eq!((lab.shape(), lab.resources()), before);
    // What is sent all the same: the inspection, which writes a value of its own, and the question whether
    // this is still our KBS.
    let sent: Vec<String> = lab.server.requests()[requests..]
        .iter()
        .map(|seen| format!("{} {}", seen.method, seen.path))
        .collect();
    let writes = sent.iter().filter(|line| line.starts_with("POST"));
    assert!(
        writes
            .clone()
            .all(|line| line == "POST /kbs/v0/reference-value"),
        "{sent:?}"
    );
    assert_eq!(writes.count(), 2, "{sent:?}");
}

#[test]
fn a_dry_run_shows_everything_but_secrets_and_changes_nothing() {
    let lab = Lab::start();
    lab.machines(&[("worker-1", &Tpm::number(0), "approved")]);
    let shown = ok(lab.run(&["provision", "--dry-run", "."]));
    for line in [
        "+ policy    attestation default_cpu",
        &format!("+ secret    {}  (worker-1)", Tpm::number(0).root()),
        "~ value     boot_tuples: 1 more, 0 fewer",
        "(worker-1)\n",
    ] {
        assert!(shown.contains(line), "{line:?} is not in\n{shown}");
    }
    assert_eq!(lab.server.requests(), []);
    assert!(!lab.dir.path().join("cluster.state").exists());

    ok(lab.run(&["provision", "."]));
    lab.machines(&[]);
    let shown = ok(lab.run(&["provision", "--dry-run", "."]));
    assert!(
        shown.contains(&format!("- secret    {}\n", Tpm::number(0).root())),
        "{shown}"
    );
    assert!(shown.contains(": 0 more, 1 fewer"), "{shown}");
    for secret in lab.resources().values() {
        let secret: Value = serde_json::from_slice(secret).unwrap();
        assert!(!shown.contains(secret["key"].as_str().unwrap()));
    }
    let json: Value =
        serde_json::from_slice(&lab.run(&["--json", "provision", "--dry-run", "."]).stdout)
            .unwrap();
    assert_eq!(json["writes"].as_array().unwrap().len(), 3, "{json}");
}

#[test]
fn no_secret_is_on_the_operators_disk_or_in_its_words() {
    let lab = Lab::start();
    let tpm = Tpm::number(0);
    lab.machines(&[("a", &tpm, "approved")]);
    let mut words = ok(lab.run(&["provision", "."]));
    let mut keys: Vec<Value> = Vec::new();
    let collect = |keys: &mut Vec<Value>| {
        keys.extend(
            lab.resources()
                .values()
                .map(|secret| serde_json::from_slice::<Value>(secret).unwrap()["key"].clone()),
        );
    };
    collect(&mut keys);
    words += &ok(lab.run(&["rotate", "a"]));
    collect(&mut keys);
    words += &ok(lab.run(&["--json", "status", "."]));
    for entry in fs::read_dir(lab.dir.path().join("cluster.state")).unwrap() {
        words += &String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(keys.len() >= 5);
    for key in keys {
        assert!(!words.contains(key.as_str().unwrap()));
    }
}

#[test]
fn rotation_keeps_the_old_secret_until_the_node_has_rebound() {
    let lab = Lab::start();
    let tpm = Tpm::number(0);
    lab.machines(&[("a", &tpm, "approved")]);
    ok(lab.run(&["provision", "."]));
    let old = lab.fetch(&tpm, &tpm.root()).unwrap();
    ok(lab.run(&["rotate", "a"]));
    let new = lab.fetch(&tpm, &tpm.root()).unwrap();
    assert_ne!(old, new);
    // The node finds the old one by the `kid` of its token.
    let key = kbs_protocol::resource_secret::ResourceSecret::parse(&kbs_protocol::Secret::new(
        old.clone(),
    ))
    .unwrap();
    let kid = clevis_pin::Cek::new(key.key()).id();
    let kid = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, kid);
    let kept = format!("{}.{kid}", tpm.root());
    assert_eq!(lab.fetch(&tpm, &kept), Some(old));
    assert!(ok(lab.run(&["status", "."])).contains("root rotating"));

    let again = lab.run(&["rotate", "a"]);
    assert_eq!(code(&again), 11, "{}", said(&again));
    assert!(said(&again).contains("under way"), "{}", said(&again));
    assert_eq!(lab.fetch(&tpm, &tpm.root()).unwrap(), new);
    // Provisioning is not the end of a rotation.
    ok(lab.run(&["provision", "."]));
    assert!(lab.fetch(&tpm, &kept).is_some());

    ok(lab.run(&["rebound", "a", "--volume", "root"]));
    assert_eq!(lab.fetch(&tpm, &kept), None);
    assert_eq!(lab.fetch(&tpm, &tpm.root()).unwrap(), new);
    assert_eq!(lab.resources().len(), 2);
    ok(lab.run(&["rotate", "a"]));

    for (arguments, expected) in [
        (&["rotate", "b"][..], "no machine \"b\""),
        (&["rotate", "a", "--volume", "data"], "no volume data"),
    ] {
        let refused = lab.run(arguments);
        assert_eq!(code(&refused), 10);
        assert!(said(&refused).contains(expected), "{}", said(&refused));
    }
}

#[test]
fn a_revocation_holds_whatever_the_file_says_until_it_is_taken_back() {
    let lab = Lab::start();
    let [a, b] = [0, 1].map(Tpm::number);
    lab.machines(&[("a", &a, "approved"), ("b", &b, "approved")]);
    ok(lab.run(&["provision", "."]));
    let session = lab.handshake(&a);
    assert!(session.fetch(&a.root()).is_some());
    ok(lab.run(&["revoke", "a"]));
    assert_eq!(
        session.fetch(&a.root()),
        None,
        "even with a token from before"
    );
    assert_eq!(lab.fetch(&a, &a.root()), None);
    assert!(lab.fetch(&b, &b.root()).is_some());
    ok(lab.run(&["provision", "."]));
    assert_eq!(lab.fetch(&a, &a.root()), None);
    assert!(ok(lab.run(&["status", "."])).contains("revoked (by command)"));
    let refused = lab.run(&["rotate", "a"]);
    assert!(
        said(&refused).contains("only an approved one"),
        "{}",
        said(&refused)
    );
    ok(lab.run(&["revoke", "a", "--undo"]));
    assert!(lab.fetch(&a, &a.root()).is_some());
}

#[test]
fn a_revocation_that_meets_a_dead_network_is_not_forgotten() {
    let lab = Lab::start();
    let a = Tpm::number(0);
    lab.machines(&[("a", &a, "approved")]);
    ok(lab.run(&["provision", "."]));
    let refused = lab.run(&["revoke", "a", "--url", "https://127.0.0.1:1"]);
    assert_eq!(code(&refused), 12, "{}", said(&refused));
    assert!(lab.fetch(&a, &a.root()).is_some());
    ok(lab.run(&["provision", "."]));
    assert_eq!(lab.fetch(&a, &a.root()), None);
}

#[test]
fn status_compares_files_record_and_kbs() {
    let lab = Lab::start();
    let [a, b] = [0, 1].map(Tpm::number);
    lab.machines(&[("a", &a, "approved"), ("b", &b, "held")]);
    let status = || -> Value {
        serde_json::from_slice(&lab.run(&["status", ".", "--json"]).stdout).unwrap()
    };
    let before = status();
    assert_eq!(before["pending"], 9, "{before}");
    assert_eq!(before["machines"][0]["volumes"][0]["secret"], "missing");
    ok(lab.run(&["provision", "."]));
    let after = status();
    assert_eq!(
        (&after["pending"], &after["differs"]),
        (&json!(0), &json!([]))
    );
    assert_eq!(
        after["machines"][0]["volumes"],
        json!([{"name": "root", "secret": "stored", "key_recorded": false}])
    );
    assert!(after["machines"][0]["changed"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(after["machines"][1]["state"], "held");
    assert_eq!(after["machines"][1]["changed"], Value::Null);

    // Somebody else lets a key in.
    let admin =
        lab_kbs::admin_client::AdminClient::open(&lab.dir.path().join("lab"), lab.server.url())
            .unwrap();
    admin
        .set_reference_value("boot_tuples", &json!([]))
        .unwrap();
    assert_eq!(status()["differs"], json!(["boot_tuples"]));
    assert_eq!(
        ok(lab.run(&["status", ".", "--offline"]))
            .matches("was not asked")
            .count(),
        1
    );
    assert!(ok(lab.run(&["provision", "."])).contains("nothing was written"));
    let mended = ok(lab.run(&["provision", ".", "--verify"]));
    assert!(
        mended.contains("somebody else had changed boot_tuples"),
        "{mended}"
    );
    assert_eq!(status()["differs"], json!([]));
    assert!(lab.fetch(&a, &a.root()).is_some());
}

#[test]
fn a_kbs_that_believes_forged_tokens_is_managed_only_by_name() {
    let lab = Lab::with(|options| options.insecure_header_jwk = true);
    lab.machines(&[("a", &Tpm::number(0), "approved")]);
    let refused = lab.run(&["provision", "."]);
    assert_eq!(code(&refused), 13, "{}", said(&refused));
    assert!(
        said(&refused).contains("insecure_header_jwk = true"),
        "{}",
        said(&refused)
    );
    assert_eq!(lab.resources().len(), 0);
    ok(lab.run(&["provision", ".", "--allow-insecure-kbs"]));
}

#[test]
fn a_kbs_that_lost_its_storage_or_is_another_one_is_not_filled_silently() {
    let lab = Lab::start();
    lab.machines(&[("a", &Tpm::number(0), "approved")]);
    ok(lab.run(&["provision", "."]));
    let other = Lab::start();
    // The other laboratory under this one's keys.
    for file in ["ca.pem", "admin.key"] {
        fs::copy(
            other.dir.path().join("lab").join(file),
            lab.dir.path().join("lab").join(file),
        )
        .unwrap();
    }
    let refused = lab.run(&["provision", ".", "--url", other.server.url()]);
    assert_eq!(code(&refused), 13, "{}", said(&refused));
    assert!(
        said(&refused).contains("lost its storage"),
        "{}",
        said(&refused)
    );
    assert_eq!(other.resources().len(), 0);
    ok(lab.run(&[
        "provision",
        ".",
        "--new-record",
        "--url",
        other.server.url(),
    ]));
    assert_eq!(other.resources().len(), 2);
}

#[test]
fn two_records_do_not_manage_one_kbs() {
    let lab = Lab::start();
    lab.machines(&[("a", &Tpm::number(0), "approved")]);
    ok(lab.run(&["provision", "."]));
    let secrets = lab.resources();
    let refused = lab.run(&["provision", ".", "--state", "../elsewhere"]);
    assert_eq!(code(&refused), 10, "{}", said(&refused));
    assert!(
        said(&refused).contains("another record"),
        "{}",
        said(&refused)
    );
    assert_eq!(lab.resources(), secrets);
    // Nor do two operators at once.
    let first = lab.open();
    let refused = lab.run(&["provision", "."]);
    assert_eq!(code(&refused), 11);
    assert!(
        said(&refused).contains("another operator"),
        "{}",
        said(&refused)
    );
    drop(first);
    ok(lab.run(&["provision", "."]));
}

#[test]
fn a_key_that_everybody_can_read_is_refused() {
    let lab = Lab::start();
    lab.machines(&[]);
    let key = lab.dir.path().join("lab/admin.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = lab.run(&["provision", "."]);
    assert_eq!(code(&refused), 10);
    assert!(said(&refused).contains("chmod go="), "{}", said(&refused));
}

#[test]
fn the_release_that_is_asked_for_is_checked() {
    let lab = Lab::start();
    let asked = |release: &str| {
        lab.cluster("").replace(
            "    laboratory",
            &format!("    release: \"{release}\"\n    laboratory"),
        )
    };
    lab.write("cluster.yaml", &asked("0.20"));
    let refused = lab.run(&["provision", "."]);
    assert_eq!(code(&refused), 10, "{}", said(&refused));
    assert!(
        said(&refused).contains("Trustee 0.20"),
        "{}",
        said(&refused)
    );
    lab.write("cluster.yaml", &asked("0.21"));
    ok(lab.run(&["provision", "."]));
}

#[test]
fn a_recovery_passphrase_exists_only_if_asked_for_and_by_name_if_confidential() {
    let lab = Lab::start();
    let tpm = Tpm::number(0);
    lab.machines(&[("a", &tpm, "approved")]);
    lab.provision();
    assert_eq!(lab.resources().len(), 2);
    lab.write(
        "cluster.yaml",
        &lab.cluster("  recovery:\n    passphrase: escrowed\n"),
    );
    lab.provision();
    assert!(
        lab.resources()
            .contains_key(&format!("default/{}/recovery", tpm.node()))
    );
    let both = "  evidence: [tpm, snp+tpm]\n  recovery:\n    passphrase: escrowed\n";
    lab.write("cluster.yaml", &lab.cluster(both));
    let refused = lab.run(&["provision", "--dry-run", "."]);
    assert!(
        said(&refused).contains("evenWhenConfidential"),
        "{}",
        said(&refused)
    );
    lab.write(
        "cluster.yaml",
        &lab.cluster(&format!("{both}    evenWhenConfidential: true\n")),
    );
    ok(lab.run(&["provision", "--dry-run", "."]));
}

/// Every mistake names file, line and field.
#[test]
fn mistakes_in_files_are_found_where_they_are() {
    let lab = Lab::start();
    let tpm = Tpm::number(0);
    let ak = tpm.ak_public();
    let good = machine("a", &ak, "approved");
    let image = |values: &str| {
        object(
            "ApprovedImage",
            "i",
            &format!("  referenceValues:\n{values}"),
        )
    };
    let hex64 = "0".repeat(64);
    let cases: Vec<(String, &str, &str)> = vec![
        (
            good.replace("  state", "  stat"),
            "x.yaml:7",
            "unknown field `stat`",
        ),
        (
            format!("{good}  colour: red\n"),
            "x.yaml:8",
            "unknown field `colour`",
        ),
        (
            good.replace("metadata:", "metadata:\n  nmae: b"),
            "x.yaml:4",
            "unknown field `nmae`",
        ),
        (
            format!("{good}status: {{}}\n"),
            "x.yaml:8",
            "unknown field `status`",
        ),
        (
            good.replace("approved", "aproved"),
            "x.yaml:7",
            "unknown variant `aproved`",
        ),
        (
            good.replace(&ak, "AAAA"),
            "x.yaml:6",
            "SubjectPublicKeyInfo",
        ),
        (format!("{good}  state: held\n"), "x.yaml:8", "duplicate"),
        (
            format!("{good}  volumes: [a/b]\n"),
            "x.yaml:8",
            "the name of a volume",
        ),
        (
            format!("{good}  id: somebody\n"),
            "x.yaml:1",
            "id says somebody",
        ),
        (
            good.replace(&format!("  attestationKey: {ak}\n"), ""),
            "x.yaml:1",
            "needs an attestationKey",
        ),
        (
            format!("{good}---\n{good}"),
            "x.yaml:9",
            "two Machines named \"a\"",
        ),
        (
            format!("{good}--- # again\n{}", good.replace("name: a", "name: b")),
            "x.yaml:9",
            "are both",
        ),
        (
            format!(
                "# first\n---\n{}",
                good.replace("kind: Machine", "kind: Machin")
            ),
            "x.yaml:3",
            "kind must be",
        ),
        (
            good.replace("v1alpha1", "v1"),
            "x.yaml:1",
            "apiVersion must be",
        ),
        (
            "spec: {}\n".to_owned(),
            "x.yaml:1",
            "begins with apiVersion and kind",
        ),
        ("a: [\n".to_owned(), "x.yaml:", "unclosed"),
        (
            image("    bootTuples: []\n"),
            "x.yaml:1",
            "approves nothing",
        ),
        (
            image(&format!("    bootTuples:\n    - pcr07: \"{hex64}\"\n")),
            "x.yaml:8",
            "pcr04",
        ),
        (
            image("    bootTuples:\n    - pcr04: \"00\"\n"),
            "x.yaml:8",
            "64 lower-case",
        ),
        (
            image("    bootTuple: []\n"),
            "x.yaml:7",
            "unknown field `bootTuple`",
        ),
        (lab.cluster(""), "x.yaml:1", "one cluster"),
    ];
    for (text, place, reason) in cases {
        lab.write("x.yaml", &text);
        let refused = lab.run(&["provision", "."]);
        let said = said(&refused);
        assert_eq!(code(&refused), 10, "{text}\n{said}");
        assert!(
            said.contains(place) && said.contains(reason),
            "{place} {reason}\n{text}\n{said}"
        );
    }
    lab.write("x.yaml", &good);
    ok(lab.run(&["provision", "."]));
    fs::remove_file(lab.files().join("cluster.yaml")).unwrap();
    assert!(said(&lab.run(&["provision", "."])).contains("no Cluster"));
    assert_eq!(code(&lab.run(&["provision"])), 2);
    assert_eq!(code(&lab.run(&["provision", "elsewhere"])), 11);
    assert_eq!(lab.resources().len(), 2);
}

#[test]
fn the_key_may_come_from_the_registrars_file() {
    let lab = Lab::start();
    let [old, new] = [0, 1].map(Tpm::number);
    lab.machines(&[]);
    let record = |states: [&str; 2]| {
        let keys: Vec<Value> = [&old, &new]
            .iter()
            .zip(states)
            .map(|(tpm, state)| json!({"node_id": tpm.node(), "ak_public": tpm.ak_public(), "state": state}))
            .collect();
        lab.write(
            "tpm.json",
            &json!({"ek_sha256": "00", "keys": keys}).to_string(),
        );
    };
    let spec = "  recordFile: tpm.json\n  state: approved\n";
    lab.write("m.yaml", &object("Machine", "m", spec));
    for (states, reason) in [
        (["held", "held"], "no approved key"),
        (["approved", "approved"], "more than one"),
    ] {
        record(states);
        let refused = lab.run(&["provision", "."]);
        assert!(said(&refused).contains(reason), "{}", said(&refused));
    }
    record(["held", "approved"]);
    ok(lab.run(&["provision", "."]));
    assert!(lab.fetch(&new, &new.root()).is_some());
    assert_eq!(lab.fetch(&old, &new.root()), None);
}

#[test]
fn many_machines_do_not_go_by_mistake() {
    let lab = Lab::start();
    lab.machines(&[]);
    let of = |count: u32| {
        let machines: Vec<String> = (0..count)
            .map(sheepfold_operator::testing::machine_file)
            .collect();
        lab.write("many.yaml", &machines.concat());
    };
    of(14);
    ok(lab.run(&["provision", "."]));
    of(3);
    let refused = lab.run(&["provision", "."]);
    assert_eq!(code(&refused), 10, "{}", said(&refused));
    assert!(
        said(&refused).contains("11 machines are no longer"),
        "{}",
        said(&refused)
    );
    assert_eq!(lab.resources().len(), 28);
    of(4);
    ok(lab.run(&["provision", "."]));
    assert_eq!(lab.resources().len(), 8);
    of(0);
    ok(lab.run(&["provision", ".", "--remove-many"]));
    assert_eq!(lab.resources().len(), 0);
}

#[test]
fn machines_may_be_named_by_their_init_data() {
    let lab = Lab::start();
    lab.write(
        "cluster.yaml",
        &lab.cluster("  identity: init-data\n  evidence: [snp]\n"),
    );
    lab.write("node.toml", "uuid = 'n1'\n");
    let spec = "  id: n1\n  initDataFile: node.toml\n  state: approved\n  volumes: [root, data]\n";
    lab.write("m.yaml", &object("Machine", "n1", spec));
    lab.provision();
    let stored = lab.resources();
    assert_eq!(stored.len(), 4);
    let secret: Value = serde_json::from_slice(&stored["default/n1/data"]).unwrap();
    assert_eq!(secret["path"], "default/n1/data");
    assert!(
        secret.get("node").is_none(),
        "it has no key to be named after"
    );
    let values = lab.state()["reference_values"].clone();
    let maps = values
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| name.starts_with("node_init_"));
    // HOST_DATA and the padded MRCONFIGID begin alike and share a map.
    assert_eq!(maps.count(), 2);
}

#[test]
fn the_example_of_the_guide_can_be_applied() {
    let lab = Lab::start();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster");
    for entry in fs::read_dir(example).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, lab.files().join(path.file_name().unwrap())).unwrap();
    }
    // The example lives beside a laboratory named `lab`, at an address of its own.
    ok(lab.run(&["provision", ".", "--url", lab.server.url()]));
    let status: Value = serde_json::from_slice(
        &lab.run(&["status", ".", "--url", lab.server.url(), "--json"])
            .stdout,
    )
    .unwrap();
    assert_eq!(
        (&status["pending"], &status["differs"], &status["problems"]),
        (&json!(0), &json!([]), &json!([]))
    );
    assert_eq!(status["machines"].as_array().unwrap().len(), 3);
    assert!(lab.resources().len() >= 4);
    let again = lab.run(&["provision", ".", "--url", lab.server.url()]);
    assert!(
        said(&again).contains("nothing was written"),
        "{}",
        said(&again)
    );
}

#[test]
fn errors_have_an_owner_and_a_next_step_in_json_too() {
    let lab = Lab::start();
    lab.machines(&[]);
    let refused = lab.run(&["provision", ".", "--json", "--url", "https://127.0.0.1:1"]);
    let json: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(json["ok"], false);
    assert_eq!(json["error"]["owner"], "network");
    assert_eq!(json["error"]["exit_code"], 12);
    assert_eq!(json["error"]["permanent"], false);
    assert!(!json["error"]["advice"].as_str().unwrap().is_empty());
    assert!(said(&refused).contains("to act:  the network"));
}

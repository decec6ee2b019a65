// SPDX-License-Identifier: Apache-2.0

//! Ignition configs that a directory gives to machines: who can read them, and what becomes of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use common::{Lab, Tpm, machine};
use serde_json::{Value, json};
use std::process::Output;

#[track_caller]
fn ok(output: &Output) -> String {
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    said
}

fn config(file: &str) -> String {
    json!({
        "ignition": { "version": "3.4.0" },
        "storage": { "files": [{ "path": file, "contents": { "source": "data:,x" } }] },
    })
    .to_string()
}

fn place(tpm: &Tpm) -> String {
    format!("default/{}/ignition", tpm.node())
}

/// Machines `a` and `b`; these lines belong to `a`.
fn machines(lab: &Lab, of_a: &str) -> [Tpm; 2] {
    let [a, b] = [0, 1].map(Tpm::number);
    lab.machines(&[("a", &a, "approved"), ("b", &b, "approved")]);
    let text = machine("a", &a.ak_public(), "approved") + of_a;
    let text = format!("{text}---\n{}", machine("b", &b.ak_public(), "approved"));
    lab.write("machines.yaml", &text);
    [a, b]
}

const OF_A: &str = "  ignition:\n    configFile: a.ign\n";
const OF_ALL: &str = "  ignition:\n    configFile: all.ign\n";

#[test]
fn each_node_reads_its_own_config_and_nobody_elses() {
    let lab = Lab::start();
    let [a, b] = machines(&lab, OF_A);
    let stranger = Tpm::number(2);
    lab.write("cluster.yaml", &lab.cluster(OF_ALL));
    lab.write("a.ign", &config("/a"));
    lab.write("all.ign", &config("/all"));
    ok(&lab.run(&["provision", "."]));
    for (tpm, own) in [(&a, "/a"), (&b, "/all")] {
        let read = lab.fetch(tpm, &place(tpm)).expect("its own config");
        assert_eq!(String::from_utf8(read).unwrap(), config(own));
        let others = [&a, &b]
            .into_iter()
            .filter(|other| other.node() != tpm.node());
        for other in others {
            assert_eq!(lab.fetch(tpm, &place(other)), None);
        }
        assert_eq!(lab.fetch(&stranger, &place(tpm)), None);
    }
    assert!(
        lab.fetch(&a, &a.root()).is_some(),
        "beside its disk's secret"
    );
    let status = ok(&lab.run(&["status", "."]));
    assert_eq!(status.matches("ignition stored").count(), 2, "{status}");
}

#[test]
fn another_config_replaces_the_old_one_and_nothing_else() {
    let lab = Lab::start();
    let [a, _] = machines(&lab, OF_A);
    lab.write("a.ign", &config("/one"));
    ok(&lab.run(&["provision", "."]));
    let before = lab.resources();
    let again = ok(&lab.run(&["provision", "."]));
    assert!(again.contains("nothing was written"), "{again}");

    lab.write("a.ign", &config("/two"));
    let status = ok(&lab.run(&["status", "."]));
    assert!(status.contains("ignition old"), "{status}");
    let shown = ok(&lab.run(&["provision", "--dry-run", "."]));
    assert!(
        shown.contains(&format!("~ secret    {}  (a)", place(&a))),
        "{shown}"
    );
    assert!(shown.ends_with("1 writes\n"), "{shown}");
    assert!(!shown.contains("/two"), "{shown}");
    ok(&lab.run(&["provision", "."]));
    let mut expected = before;
    expected.insert(place(&a), config("/two").into_bytes());
    assert_eq!(lab.resources(), expected);

    // No rotation makes a random secret of it.
    ok(&lab.run(&["rotate", "a", "--dir", "."]));
    assert_eq!(lab.resources()[&place(&a)], config("/two").into_bytes());

    machines(&lab, "");
    ok(&lab.run(&["provision", "."]));
    assert!(!lab.resources().contains_key(&place(&a)));
    assert!(lab.resources().contains_key(&a.root()));
}

#[test]
fn a_revoked_machine_leaves_no_config_behind() {
    let lab = Lab::start();
    let [a, b] = machines(&lab, "");
    lab.write("cluster.yaml", &lab.cluster(OF_ALL));
    lab.write("all.ign", &config("/all"));
    ok(&lab.run(&["provision", "."]));
    ok(&lab.run(&["revoke", "a", "--dir", "."]));
    assert!(!lab.resources().contains_key(&place(&a)));
    assert!(lab.fetch(&b, &place(&b)).is_some());
}

#[test]
fn volumes_are_merged_into_what_is_stored() {
    let lab = Lab::start();
    let luks = "    luks:\n    - name: root\n      device: /dev/disk/by-partlabel/root\n      \
                filesystem: {format: xfs, label: root}\n";
    let [a, _] = machines(&lab, &format!("{OF_A}{luks}"));
    lab.write("a.ign", &config("/a"));
    ok(&lab.run(&["provision", "."]));
    let stored: Value = serde_json::from_slice(&lab.fetch(&a, &place(&a)).unwrap()).unwrap();
    assert_eq!(stored["storage"]["files"][0]["path"], "/a");
    let merged = stored["ignition"]["config"]["merge"].as_array().unwrap();
    assert_eq!(merged.len(), 1);
}

#[test]
fn mistakes_are_found_before_anything_is_written() {
    let good = config("/a");
    let remote = good.replace("data:,x", "https://files.example/x");
    for (lines, text, sentence) in [
        (
            OF_A,
            remote.as_str(),
            "fetches storage.files[0].contents from elsewhere",
        ),
        (OF_A, "variant: fcos\n", "is not JSON"),
        (
            "  ignition: {}\n",
            &good,
            "needs config or configFile, and not both",
        ),
        (
            "  ignition: {config: '{}', configFile: a.ign}\n",
            &good,
            "needs config or configFile, and not both",
        ),
        ("  ignition: {configfile: a.ign}\n", &good, "unknown field"),
        (
            "  ignition: {configFile: a.ign, luks: [{name: root, device: sda}]}\n",
            &good,
            "a path below /dev",
        ),
        (
            "  ignition: {configFile: a.ign, luks: [{name: root, device: /dev/a, integrity: crc32c}]}\n",
            &good,
            "hmac-sha256",
        ),
        (
            "  ignition: {configFile: a.ign, luks: [{name: r, device: /dev/a, integrity: aead, discard: true}]}\n",
            &good,
            "discard does not go with integrity aead",
        ),
        (
            "  ignition: {configFile: a.ign}\n  volumes: [root, ignition]\n",
            &good,
            "has a volume ignition, where its Ignition config lies",
        ),
        (
            "  ignition: {configFile: missing.ign}\n",
            &good,
            "missing.ign",
        ),
    ] {
        let lab = Lab::start();
        machines(&lab, lines);
        lab.write("a.ign", text);
        let refused = lab.run(&["provision", "."]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{lines}");
        assert!(said.contains(sentence), "{sentence}: {said}");
        assert!(!said.contains("files.example"), "{said}");
        assert_eq!(lab.resources().len(), 0, "{lines}");
        assert_eq!(lab.server.requests(), [], "{lines}");
    }
}

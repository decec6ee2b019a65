// SPDX-License-Identifier: Apache-2.0

//! The program on whole images: what a builder claims, and what an update leads to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod common;
#[path = "../../measured-boot/tests/common/mod.rs"]
mod measured;

use common::Image;
use measured::pe_file::PeFile;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const PLATFORM: [&str; 4] = [
    "--platform",
    "profile:debian13-ovmf",
    "--kernel-measurements",
    "1",
];

fn image(name: &str, label: &str) -> Image {
    let text = |content: String| (".text", content.into_bytes());
    let file = |sections| PeFile::new(sections).build().0;
    let vendor = [[0; 4], [0; 4], [16, 0, 0, 0], [16, 0, 0, 0]].concat();
    let shim = file(vec![
        text(format!("shim {name}")),
        (".data.ident", b"$Version: 16.1 $\n".to_vec()),
        (".vendor_cert", vendor),
    ]);
    let program = |what: &str| file(vec![text(format!("{what} {name}"))]);
    Image::of(
        &[
            ("usr/lib/bootupd/updates/EFI/test/shimx64.efi", shim),
            (
                "usr/lib/bootupd/updates/EFI/test/grubx64.efi",
                program("GRUB"),
            ),
            ("usr/lib/modules/6.1/vmlinuz", program("kernel")),
        ],
        label,
    )
}

fn refvals(command: &str, images: &[&Path]) -> (Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_refvals"))
        .arg(command)
        .args(images)
        .args(PLATFORM)
        .args(["--no-cache", "--format", "json"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    (serde_json::from_slice(&output.stdout).unwrap(), stderr)
}

fn pcrs(answer: &Value) -> BTreeSet<String> {
    let boots = answer["boots"].as_array().unwrap();
    boots.iter().map(|boot| boot["pcrs"].to_string()).collect()
}

#[test]
fn a_label_that_is_not_what_the_image_boots_is_told() {
    let directory = tempfile::tempdir().unwrap();
    image("A", "").write_layout(directory.path());
    let (answer, _) = refvals("predict", &[directory.path()]);
    let computed = answer["boots"][0]["pcrs"].clone();
    assert_eq!(answer["boots"][0]["remarks"], json!([]));
    let label = |four: &str, seven: &str| {
        json!({"pcrs": [{"id": 4, "value": four, "events": []}, {"id": 7, "value": seven, "events": []}]}).to_string()
    };
    // As it is; for another platform; in capitals; with another kernel inside.
    let four = computed["pcr04"].as_str().unwrap();
    let zero = "0".repeat(64);
    for (label, differs) in [
        (label(four, &zero), false),
        (label(&four.to_uppercase(), &zero), false),
        (label(&zero, &zero), true),
    ] {
        let directory = tempfile::tempdir().unwrap();
        image("A", &label).write_layout(directory.path());
        let (answer, _) = refvals("predict", &[directory.path()]);
        assert_eq!(
            answer["boots"][0]["pcrs"], computed,
            "the label changes nothing"
        );
        let remarks = answer["boots"][0]["remarks"].to_string();
        assert_eq!(
            remarks.contains("org.coreos.pcrs says 0000"),
            differs,
            "{remarks}"
        );
        // Among the boots of an update, against those that this image has alone.
        let other = tempfile::tempdir().unwrap();
        image("B", "").write_layout(other.path());
        let (answer, said) = refvals("combine", &[directory.path(), other.path()]);
        let labels = answer["about"]["labels"].as_array().unwrap();
        assert_eq!(labels.len(), usize::from(differs));
        assert_eq!(
            said.contains("org.coreos.pcrs says 0000"),
            differs,
            "{said}"
        );
        assert_eq!(pcrs(&answer).len(), 4, "the label changes nothing");
    }
}

#[test]
fn an_update_is_four_boots_each_with_its_parts() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b, c] = ["A", "B", "C"].map(|name| {
        let layout = directory.path().join(name);
        image(name, "").write_layout(&layout);
        layout
    });
    let (update, _) = refvals("combine", &[&a, &b]);
    assert_eq!(pcrs(&update).len(), 4);
    for one in [&a, &b] {
        let (alone, _) = refvals("predict", &[one]);
        assert!(pcrs(&update).is_superset(&pcrs(&alone)));
    }
    let (row, _) = refvals("combine", &[&a, &b, &c]);
    assert!(pcrs(&row).is_superset(&pcrs(&update)));
    // A tuple is one boot: no PCR 4 comes with two values of PCR 14.
    let mut fours = BTreeSet::new();
    for boot in row["boots"].as_array().unwrap() {
        assert!(fours.insert(boot["pcrs"]["pcr04"].to_string()), "{boot}");
        assert!(!boot["remarks"].as_array().unwrap().is_empty());
    }
}

/// What a person types wrong: which argument it was, whose turn it is, and what next.
#[test]
fn what_is_no_image_and_no_platform_is_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let (text, empty) = (
        directory.path().join("text"),
        directory.path().join("empty"),
    );
    std::fs::write(&text, "hello").unwrap();
    std::fs::create_dir(&empty).unwrap();
    let (text, empty) = (text.to_str().unwrap(), empty.to_str().unwrap());
    let digest = format!("registry.invalid/os@sha256:{}", "0".repeat(64));
    let neither = "is not a file or directory that is there, nor an image by digest";
    for (arguments, code, sentence) in [
        (&["image", "/nowhere/os.tar"][..], 10, neither),
        (&["image", "registry.invalid/os:latest"], 10, neither),
        (&["image", "registry.invalid/os@sha256:abc"], 10, neither),
        (
            &["image", text],
            15,
            "it is no archive of an image, nor what",
        ),
        (
            &["image", empty],
            10,
            "holds no kernel, boot loader or unified kernel image",
        ),
        (
            &["image", "--mirror", "registry.invalid", &digest],
            10,
            "\"registry.invalid\" is not a mirror: HOST=MIRROR",
        ),
        (
            &["image", "--ca", text, &digest],
            15,
            "(--ca) is not valid: it holds no certificate",
        ),
        (
            &["image", "--cosign-key", text, &digest],
            15,
            "(--cosign-key) is not valid: not a public key",
        ),
        (
            &["image", "--authfile", text, &digest],
            15,
            "(--authfile) is not valid: expected",
        ),
        (
            &["image", "containers-storage:no-such-image"],
            15,
            "`podman images`",
        ),
        (&["platform", text], 15, "as an event log it does not read"),
        (&["platform", empty], 15, "/sys/firmware/efi/efivars"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refvals"));
        command.args(arguments).env("XDG_DATA_HOME", empty);
        if arguments[0] == "image" {
            command.arg("--no-cache");
        }
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(sentence), "{arguments:?}: {said}");
        assert!(said.contains("  next:    "), "{said}");
        let named = arguments.last().unwrap();
        if [text, empty].contains(named) {
            assert!(said.contains(named), "{said}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Before a reboot, on machines that booted: the node is one of the recorded boots, and what it is told about the next
//! boot is held against another recorded boot. Then a node of deployments, made of files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

#[path = "../../measured-boot/tests/common/mod.rs"]
mod common;

use common::fixtures;
use common::made_up::hashes;
use common::pe_file::PeFile;
use measured_boot::bank::Bank;
use measured_boot::platform::{KNOWN, PlatformFacts};
use serde::Serialize;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const YES: i32 = 0;
const NO: i32 = 1;
const UNKNOWN: i32 = 3;

/// Runs `refvals preflight`: exit code and answer.
fn preflight(root: &Path, arguments: &[&str]) -> (i32, Value) {
    let (code, stdout, stderr) = refvals(
        &[
            &["preflight", "--format", "json", "--root", text(root)],
            arguments,
        ]
        .concat(),
    );
    (code, serde_json::from_str(&stdout).unwrap_or(json!(stderr)))
}

fn refvals(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_refvals"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn write(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A machine that shows what a recorded one showed, and documents about what is installed on it.
struct Recorded {
    directory: TempDir,
}

impl Recorded {
    fn new(fixtures: &common::Fixtures, scenario: &str) -> Self {
        let this = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let scenario = fixtures.named(scenario);
        for (bank, pcr, value) in fixtures.recorded_pcrs(&scenario.name) {
            let path = format!("sys/class/tpm/tpm0/pcr-{bank}/{pcr}");
            write(
                &this.path(&path),
                format!("{}\n", value.to_uppercase()).as_bytes(),
            );
        }
        if scenario.has_log {
            let log = fixtures.log(&scenario.name);
            write(
                &this.path("sys/kernel/security/tpm0/binary_bios_measurements"),
                &log,
            );
        }
        write(&this.path("proc/cmdline"), b"root=/dev/vda1 quiet\n");
        this.document("running", &scenario.image);
        this.installs(fixtures, &scenario.name);
        this
    }

    /// What the next boot runs, and the variables that it finds, are those of another recorded boot.
    fn installs(&self, fixtures: &common::Fixtures, scenario: &str) {
        let scenario = fixtures.named(scenario);
        self.document("next", &scenario.image);
        self.document("platform", &scenario.platform);
        let tuple: serde_json::Map<String, Value> = fixtures
            .recorded_pcrs(&scenario.name)
            .into_iter()
            .filter(|(bank, pcr, _)| *bank == Bank::Sha256 && [4, 7, 14].contains(pcr))
            .map(|(_, pcr, value)| (format!("pcr{pcr:02}"), json!(value)))
            .collect();
        self.document("approved", &json!({"bootTuples": [tuple]}));
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn document(&self, name: &str, content: &impl Serialize) {
        write(
            &self.path(&format!("{name}.json")),
            &serde_json::to_vec(content).unwrap(),
        );
    }

    fn ask(&self, arguments: &[&str]) -> (i32, Value) {
        let [next, running, platform] =
            ["next.json", "running.json", "platform.json"].map(|name| self.path(name));
        let places = [
            text(&next),
            "--esp",
            text(&next),
            "--running",
            text(&running),
            "--platform",
            text(&platform),
        ];
        // The recorded facts do not name the version of GRUB, which is what the log is for.
        let route = match serde_json::from_slice::<Value>(&std::fs::read(&next).unwrap()).unwrap() {
            facts if facts["uki"].is_null() => "shim-grub",
            facts if facts["shim"].is_null() => "uki",
            _ => "shim-uki",
        };
        preflight(
            self.directory.path(),
            &[&places, ["--boot-path", route].as_slice(), arguments].concat(),
        )
    }

    fn ask_approved(&self, arguments: &[&str]) -> (i32, Value) {
        let approved = self.path("approved.json");
        self.ask(&[&["--approved", text(&approved)], arguments].concat())
    }
}

#[test]
fn a_machine_that_changes_nothing_unlocks_again() {
    let Some(fixtures) = fixtures() else { return };
    for scenario in fixtures.scenarios() {
        let machine = Recorded::new(&fixtures, &scenario.name);
        for (code, answer) in [machine.ask(&[]), machine.ask_approved(&[])] {
            assert_eq!(code, YES, "{}: {answer:#}", scenario.name);
            assert_eq!(answer["boots"].as_array().unwrap().len(), 1);
            for (bank, pcr, value) in fixtures.recorded_pcrs(&scenario.name) {
                if bank == Bank::Sha256 && [4, 7, 14].contains(&pcr) {
                    assert_eq!(answer["boots"][0][format!("pcr{pcr:02}")], value);
                }
            }
        }
    }
}

#[test]
fn an_update_unlocks_when_what_it_boots_is_approved() {
    let Some(fixtures) = fixtures() else { return };
    let machine = Recorded::new(&fixtures, "sb-shim161-grub206");
    machine.installs(&fixtures, "sb-shim161-grub212");
    // Nobody said what is approved.
    let (code, answer) = machine.ask(&["--kernel-measurements", "1"]);
    assert_eq!(code, UNKNOWN, "{answer:#}");
    assert!(
        answer["sentence"]
            .as_str()
            .unwrap()
            .contains("another PCR 4 ")
    );
    // What the other machine showed, a recorded boot of exactly this.
    let (code, answer) = machine.ask_approved(&["--kernel-measurements", "1"]);
    assert_eq!(code, YES, "{answer:#}");
    let remarks = answer["remarks"].to_string();
    assert!(
        remarks.contains("changed since this machine booted"),
        "{remarks}"
    );
    // The new GRUB has not been counted, and the log is of the old one.
    let (code, answer) = machine.ask_approved(&[]);
    assert_eq!(code, UNKNOWN, "{answer:#}");
    assert_eq!(answer["boots"].as_array().unwrap().len(), 2);
    // Approved is the old one only.
    let old = Recorded::new(&fixtures, "sb-shim161-grub206");
    let (code, answer) = machine.ask(&["--approved", text(&old.path("approved.json"))]);
    assert_eq!(code, NO, "{answer:#}");
    assert!(
        answer["sentence"]
            .as_str()
            .unwrap()
            .contains("another PCR 4;"),
        "{answer:#}"
    );
}

#[test]
fn keys_that_change_before_the_reboot_count() {
    let Some(fixtures) = fixtures() else { return };
    let machine = Recorded::new(&fixtures, "sb-shim161-grub206");
    let old = std::fs::read(machine.path("approved.json")).unwrap();
    machine.installs(&fixtures, "sb-db2023first-shim161-grub206");
    let (code, answer) = machine.ask_approved(&[]);
    assert_eq!(code, YES, "{answer:#}");
    assert!(
        answer["remarks"].to_string().contains("db on this machine"),
        "{answer:#}"
    );
    write(&machine.path("approved.json"), &old);
    let (code, answer) = machine.ask_approved(&[]);
    assert_eq!(code, NO, "{answer:#}");
    assert!(
        answer["sentence"]
            .as_str()
            .unwrap()
            .contains("another PCR 7;"),
        "{answer:#}"
    );
    // Revoked: it will not even start.
    let scenario = fixtures.named("sb-shim161-grub206");
    let shim = scenario.image.shim.unwrap().file;
    let mut platform: PlatformFacts = scenario.platform;
    let digest = shim.authenticode.get(Bank::Sha256).unwrap();
    let dbx = hashes(&["shim"]);
    let dbx = [&dbx[..dbx.len() - 32], digest.as_bytes()].concat();
    common::made_up::set(&mut platform, "dbx", &dbx);
    machine.document("platform", &platform);
    let (code, answer) = machine.ask_approved(&[]);
    assert_eq!(code, NO, "{answer:#}");
    assert!(
        answer["sentence"]
            .as_str()
            .unwrap()
            .starts_with("the next boot will not start: ")
    );
}

#[test]
fn what_owners_enrolled_is_read_from_the_running_system() {
    let Some(fixtures) = fixtures() else { return };
    for scenario in ["sb-shim161-uki257-mok", "sb-shim158-uki257-mok"] {
        let machine = Recorded::new(&fixtures, scenario);
        // The variables that Linux shows: none of shim's own but the copies that it left.
        let platform = fixtures.named(scenario).platform;
        let shown = ["PK", "KEK", "db", "dbx"].map(|name| (name, platform.variable(name)));
        for (name, content) in shown.into_iter().chain([("SecureBoot", [1].as_slice())]) {
            let (_, vendor) = KNOWN.iter().find(|(known, _)| *known == name).unwrap();
            let path = format!("sys/firmware/efi/efivars/{name}-{vendor}");
            write(&machine.path(&path), &[&[6, 0, 0, 0], content].concat());
        }
        let copy = |name: &str| {
            let content = fixtures.bytes(&format!("{scenario}/mok-variables/{name}"));
            write(
                &machine.path(&format!("sys/firmware/efi/mok-variables/{name}")),
                &content,
            );
        };
        copy("MokListXRT");
        let next = machine.path("next.json");
        let arguments = [
            "--running",
            text(&next),
            "--esp",
            text(&next),
            "--boot-path",
            "shim-uki",
        ];
        let ask = || {
            preflight(
                machine.directory.path(),
                &[&[text(&next)], &arguments[..]].concat(),
            )
        };
        // Without the owner's key nothing authorises the image.
        let (code, answer) = ask();
        assert_eq!(code, NO, "{scenario}: {answer:#}");
        copy("MokListRT");
        let (code, answer) = ask();
        assert_eq!(code, YES, "{scenario}: {answer:#}");
    }
}

#[test]
fn a_boot_that_is_not_understood_promises_nothing() {
    let Some(fixtures) = fixtures() else { return };
    // The log is not what the TPM shows.
    let machine = Recorded::new(&fixtures, "sb-shim161-grub206");
    let pcr = machine.path("sys/class/tpm/tpm0/pcr-sha256/4");
    let value = std::fs::read_to_string(&pcr).unwrap();
    std::fs::write(&pcr, value.replace(char::is_alphanumeric, "0")).unwrap();
    let (code, answer) = machine.ask_approved(&[]);
    assert_eq!(code, UNKNOWN, "{answer:#}");
    assert!(
        answer["sentence"]
            .as_str()
            .unwrap()
            .contains("does not lead to what its TPM shows in PCR 4")
    );
    // The way was another one than the files suggest: the log is of a unified kernel image.
    let machine = Recorded::new(&fixtures, "sb-shim161-uki257-mok");
    let other = fixtures.named("sb-shim161-grub206");
    machine.document("running", &other.image);
    machine.document("next", &other.image);
    let (code, answer) = machine.ask(&[]);
    assert_eq!(code, UNKNOWN, "{answer:#}");
    // Neither log nor PCRs.
    std::fs::remove_dir_all(machine.path("sys")).unwrap();
    let (code, answer) = machine.ask(&[]);
    assert_eq!(code, UNKNOWN, "{answer:#}");
    assert!(
        answer["sentence"]
            .as_str()
            .unwrap()
            .contains("neither an event log nor PCRs")
    );
    // PCRs that no file leads to, and no log.
    let machine = Recorded::new(&fixtures, "nosb-shim161-grub206");
    machine.document("running", &other.image);
    let (code, answer) = machine.ask(&[]);
    assert_eq!(code, YES, "{answer:#}");
    machine.document("platform", &other.platform);
    let (code, answer) = machine.ask(&[]);
    assert_eq!(code, UNKNOWN, "{answer:#}");
}

/// A node of deployments without Secure Boot: an ESP, two deployments, boot entries as ostree writes them.
struct Deployments {
    directory: TempDir,
}

/// As the staged deployment in `data/` names them.
const NEW: &str = "b6c1a644705a24c839787249b3e2ea936cd7357887c5facce544ff89bf075305.0";
const OLD: &str = "002772b15823dc0faa72ff4210edef336c399fe99c5716d8ff11e4bc35259494.0";

impl Deployments {
    fn new() -> Self {
        let this = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        for (deployment, kernel) in [(OLD, "6.1"), (NEW, "6.2")] {
            let tree = this.path(&format!("sysroot/ostree/deploy/test/deploy/{deployment}"));
            let vmlinuz = tree.join(format!("usr/lib/modules/{kernel}/vmlinuz"));
            write(&vmlinuz, &program(&format!("kernel {kernel}")));
            // What lies in the image is not yet on the ESP.
            write(
                &tree.join("usr/lib/bootupd/updates/EFI/test/shimx64.efi"),
                &shim(kernel),
            );
            write(
                &tree.join("usr/lib/bootupd/updates/EFI/test/grubx64.efi"),
                &program("another GRUB"),
            );
        }
        write(&this.path("boot/efi/EFI/test/shimx64.efi"), &shim("old"));
        write(
            &this.path("boot/efi/EFI/test/grubx64.efi"),
            &program("GRUB"),
        );
        symlink("sysroot/ostree", this.path("ostree")).unwrap();
        this.boots(1, OLD);
        write(
            &this.path("proc/cmdline"),
            b"root=LABEL=x ostree=/ostree/boot.1/test/1/0\n",
        );
        let secure_boot =
            "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        write(&this.path(secure_boot), &[6, 0, 0, 0, 0]);
        this.boot();
        this
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// The boot entry with this number.
    fn boots(&self, number: u32, deployment: &str) {
        let links = self.path(&format!("sysroot/ostree/boot.1.1/test/{number}"));
        std::fs::create_dir_all(&links).unwrap();
        symlink(
            format!("../../../deploy/test/deploy/{deployment}"),
            links.join("0"),
        )
        .unwrap();
        let _ = symlink("boot.1.1", self.path("sysroot/ostree/boot.1"));
        let entry = format!(
            "title test 1 (ostree:0)\nversion {number}\noptions root=LABEL=x ostree=/ostree/boot.1/test/{number}/0\n\
             linux /ostree/test-1/vmlinuz\n"
        );
        write(
            &self.path(&format!("boot/loader/entries/ostree-{number}-test.conf")),
            entry.as_bytes(),
        );
    }

    /// The TPM shows a boot of the old kernel, which this GRUB measures once.
    fn boot(&self) {
        for (pcr, value) in self.predicted("6.1", OLD) {
            let path = format!(
                "sys/class/tpm/tpm0/pcr-sha256/{}",
                pcr.trim_start_matches("pcr")
            );
            let path = path.replace("/04", "/4").replace("/07", "/7");
            write(&self.path(&path), value.as_str().unwrap().as_bytes());
        }
        for pcr in [11, 12, 13] {
            let path = format!("sys/class/tpm/tpm0/pcr-sha256/{pcr}");
            write(&self.path(&path), "0".repeat(64).as_bytes());
        }
    }

    /// What `refvals predict` says about a directory with exactly what boots.
    fn predicted(&self, kernel: &str, deployment: &str) -> serde_json::Map<String, Value> {
        let tree = tempfile::tempdir().unwrap();
        for (from, to) in [
            (
                "boot/efi/EFI/test/shimx64.efi".to_owned(),
                "EFI/test/shimx64.efi",
            ),
            (
                "boot/efi/EFI/test/grubx64.efi".to_owned(),
                "EFI/test/grubx64.efi",
            ),
            (
                format!("ostree/deploy/test/deploy/{deployment}/usr/lib/modules/{kernel}/vmlinuz"),
                "vmlinuz",
            ),
        ] {
            write(
                &tree.path().join(to),
                &std::fs::read(self.path(&from)).unwrap(),
            );
        }
        let platform = self.path("sys/firmware/efi/efivars");
        let (code, stdout, stderr) = refvals(&[
            "predict",
            text(tree.path()),
            "--platform",
            text(&platform),
            "--kernel-measurements",
            "1",
            "--format",
            "json",
        ]);
        assert_eq!(code, 0, "{stderr}");
        let json: Value = serde_json::from_str(&stdout).unwrap();
        json["boots"][0]["pcrs"].as_object().unwrap().clone()
    }

    fn stage(&self) {
        write(
            &self.path("run/ostree/staged-deployment"),
            include_bytes!("data/staged-deployment"),
        );
    }

    fn ask(&self, arguments: &[&str]) -> (i32, Value) {
        preflight(self.directory.path(), arguments)
    }
}

/// Its digest depends on the text.
fn program(content: &str) -> Vec<u8> {
    PeFile::new(vec![(".text", content.as_bytes().to_vec())])
        .build()
        .0
}

fn shim(content: &str) -> Vec<u8> {
    PeFile::new(vec![
        (".text", content.as_bytes().to_vec()),
        (".data.ident", b"$Version: 16.1 $\n".to_vec()),
        (
            ".vendor_cert",
            [[0; 4], [0; 4], [16, 0, 0, 0], [16, 0, 0, 0]].concat(),
        ),
    ])
    .build()
    .0
}

#[test]
fn what_is_staged_is_what_boots_next() {
    let node = Deployments::new();
    let (code, answer) = node.ask(&[]);
    assert_eq!(code, YES, "{answer:#}");
    assert_eq!(answer["boot"], format!("the deployment {OLD}"));

    node.stage();
    let (code, answer) = node.ask(&[]);
    assert_eq!(code, UNKNOWN, "{answer:#}");
    assert_eq!(answer["boot"], format!("the staged deployment {NEW}"));
    // The new kernel behind the boot loader of the ESP, not the one that lies in the image; counted on this machine.
    let predicted = node.predicted("6.2", NEW);
    assert_eq!(answer["boots"], json!([predicted]));

    // As the operator reads it, with another boot beside it.
    let other = node.predicted("6.1", OLD);
    let list = |boots: &[&serde_json::Map<String, Value>]| {
        let boots: Vec<String> = boots.iter().map(|boot| json!(boot).to_string()).collect();
        format!(
            "# approved\n---\napiVersion: x/v1\nkind: ApprovedImage\nmetadata: {{name: a}}\nspec:\n  image: x\n  \
             referenceValues:\n    bootTuples: [{}]\n---\n# nothing\n",
            boots.join(", ")
        )
    };
    let approved = node.path("approved.yaml");
    write(&approved, list(&[&other, &predicted]).as_bytes());
    let (code, answer) = node.ask(&["--approved", text(&approved)]);
    assert_eq!(code, YES, "{answer:#}");
    // A list that mixes two boots approves neither.
    let mut mixed = predicted.clone();
    mixed.insert("pcr14".to_owned(), json!("0".repeat(64)));
    write(&approved, list(&[&other, &mixed]).as_bytes());
    let (code, answer) = node.ask(&["--approved", text(&approved)]);
    assert_eq!(code, NO, "{answer:#}");
    // A list about what nobody predicts.
    let mut nine = predicted.clone();
    nine.insert("pcr09".to_owned(), json!("0".repeat(64)));
    write(&approved, list(&[&nine]).as_bytes());
    let (code, answer) = node.ask(&["--approved", text(&approved)]);
    assert_eq!(code, UNKNOWN, "{answer:#}");
    write(&approved, b"---\n# nothing\n");
    let (code, answer) = node.ask(&["--approved", text(&approved)]);
    assert_eq!(code, 15, "{answer:#}");

    // Held back: it stays where it is.
    write(&node.path("run/ostree/staged-deployment-locked"), b"");
    let (code, answer) = node.ask(&[]);
    assert_eq!(
        (code, &answer["boot"]),
        (YES, &json!(format!("the deployment {OLD}")))
    );
    std::fs::remove_file(node.path("run/ostree/staged-deployment-locked")).unwrap();
    // Damaged.
    write(&node.path("run/ostree/staged-deployment"), b"target");
    assert_eq!(node.ask(&[]).0, 15);
}

#[test]
fn the_first_boot_entry_counts_and_the_answer_is_kept() {
    let node = Deployments::new();
    // As after an update that was not staged: the newest entry is the new one.
    node.boots(2, NEW);
    let record = node.path("run/preflight.json");
    let (code, answer) = node.ask(&["--record", text(&record)]);
    assert_eq!(code, UNKNOWN, "{answer:#}");
    assert_eq!(answer["boot"], format!("the deployment {NEW}"));
    let kept: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    assert_eq!(
        (&kept["unlocks"], &kept["boot"]),
        (&json!("unknown"), &answer["boot"])
    );
    // The boot loader was replaced since: the TPM shows the old one, and no log says what it was.
    write(
        &node.path("boot/efi/EFI/test/grubx64.efi"),
        &program("new GRUB"),
    );
    let (code, answer) = node.ask(&[]);
    assert_eq!(code, UNKNOWN, "{answer:#}");
    assert!(
        answer["sentence"]
            .as_str()
            .unwrap()
            .contains("no event log to say why"),
        "{answer:#}"
    );
    // Nothing is deployed.
    std::fs::remove_dir_all(node.path("boot/loader")).unwrap();
    let (code, answer) = node.ask(&[]);
    assert_eq!(code, 10, "{answer:#}");
}

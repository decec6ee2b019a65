// SPDX-License-Identifier: Apache-2.0

//! A confidential node from its processor to its secret: the built agent asks a software processor through the
//! files of the kernel's interface, a software TPM beside it, and a KBS that believes only what it verified.
//! The policies are the operator's own.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in a test a panic is the report"
)]

mod azure;
mod device;
mod paravisor;
mod processor;

use kbs_protocol::encoding::hex;
use serde_json::{Value, json};
use sheepfold_tests::administrator::Stored;
use sheepfold_tests::world::{Node, World};
use soft_tee::configfs::{Configfs, Device};
use soft_tee::rtmr::Rtmr3;
use soft_tee::snp::{Authority, Generation};
use soft_tee::tdx::{Platform, Td, event_log};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const ATTESTATION: &str = include_str!("../../../operator/src/policy/attestation.rego");
const RESOURCE: &str = include_str!("../../../operator/src/policy/resource.rego");

/// Init-data that names a node.
const INIT_DATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\nuuid = \"7f1c0d66-6f0e-4b0e-9a53-0c1f5c5f7a01\"\n";

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A node whose TPM is known and whose processor is this device. The KBS believes the roots in `lab` and runs the
/// operator's policies.
fn confidential(
    tee: &str,
    lab: &[&str],
    values: &[(&str, Value)],
    device: Device,
    root: &Path,
) -> (World, Node, Stored, Configfs) {
    let (mut world, node, stored) = World::enrolled_with_lab(lab).unwrap();
    let provider = if tee == "snp" {
        "sev_guest"
    } else {
        "tdx_guest"
    };
    let configfs = Configfs::serve(root, provider, device).unwrap();
    policies(&world, tee, values);
    world.settings.evidence = format!("primary = {tee:?}\nadditional = [\"tpm\"]\nroot = {root:?}");
    world.configure().unwrap();
    (world, node, stored, configfs)
}

/// The operator's policies, for a TEE with a TPM beside it.
fn policies(world: &World, tee: &str, values: &[(&str, Value)]) {
    let upload = |command: &str, text: &str| world.lab.admin(&[command], text.as_bytes()).unwrap();
    upload("set-attestation-policy", ATTESTATION);
    upload("set-resource-policy", RESOURCE);
    let options = json!({"evidence": [format!("{tee}+tpm")], "identity": "ak", "pcrs": ["pcr04"]});
    world
        .set_reference_value("sheepfold_options", &options)
        .unwrap();
    for (name, value) in values {
        world.set_reference_value(name, value).unwrap();
    }
}

fn snp(root: &Path, measurement: u8) -> (World, Node, Stored, Configfs) {
    let authority = Authority::new(now());
    let pem = root.join("amd.pem");
    std::fs::write(&pem, authority.pem()).unwrap();
    let chip = authority.chip(Generation::Turin);
    let table = authority.table(&chip);
    let device = move |data: &[u8]| (chip.report(data.try_into().unwrap()), table.clone());
    let values = [
        (
            "snp_measurements",
            json!([format!("{measurement:02x}").repeat(48)]),
        ),
        (
            "snp_tcb_floors",
            json!([{"bootloader": 4, "microcode": 200, "snp": 20, "tee": 0}]),
        ),
    ];
    confidential(
        "snp",
        &["--amd-root", pem.to_str().unwrap()],
        &values,
        Box::new(device),
        root,
    )
}

fn tdx(root: &Path) -> (World, Node, Stored, Configfs, Rtmr3) {
    let platform = Platform::new(now());
    let (pem, collateral) = (root.join("intel.pem"), root.join("collateral.json"));
    std::fs::write(&pem, platform.root_pem()).unwrap();
    std::fs::write(&collateral, platform.collateral().to_string()).unwrap();
    let (log, rtmrs) = event_log(&[(1, b"firmware"), (2, b"loader"), (3, b"kernel")]);
    let table = root.join("sys/firmware/acpi/tables/data/CCEL");
    std::fs::create_dir_all(table.parent().unwrap()).unwrap();
    std::fs::write(table, [&log[..], &[0xff; 4096]].concat()).unwrap();
    let rtmr3 = Rtmr3::serve(root).unwrap();
    let register = rtmr3.register();
    let device = move |data: &[u8]| {
        let [first, second, third, _] = rtmrs;
        let td = Td {
            rtmrs: [first, second, third, *register.lock().unwrap()],
            report_data: data.try_into().unwrap(),
            ..Td::default()
        };
        (platform.quote(&td), Vec::new())
    };
    let launch = json!({
        "mr_td": "7d".repeat(48), "rtmr_1": hex::encode(rtmrs[1]), "rtmr_2": hex::encode(rtmrs[2]),
    });
    let values = [
        ("tdx_launches", json!([launch])),
        ("tdx_tcb_status", json!(["UpToDate"])),
    ];
    let lab = [
        "--intel-root",
        pem.to_str().unwrap(),
        "--tdx-collateral",
        collateral.to_str().unwrap(),
    ];
    let (world, node, stored, configfs) =
        confidential("tdx", &lab, &values, Box::new(device), root);
    (world, node, stored, configfs, rtmr3)
}

/// The secret comes, with one report for the handshake; status and doctor know what it came from.
fn releases(world: &World, stored: &Stored, configfs: &Configfs, what: &str) {
    let before = configfs.asked();
    drop(world.tpm.take_commands());
    let fetched = world.run(world.agent(["fetch"])).unwrap();
    assert_eq!(fetched.code, Some(0), "{fetched}\n{}", world.lab.log());
    assert_eq!(fetched.stdout, stored.content.expose());
    assert_eq!(configfs.asked(), before + 1, "one handshake, one report");
    let commands = world.tpm.take_commands();
    let quotes = commands.iter().filter(|command| *command == "Quote");
    assert_eq!(quotes.count(), 1, "one handshake, one quote: {commands:?}");
    let explained = world.run(world.agent(["explain"])).unwrap();
    assert!(explained.err().contains("gives default/"), "{explained}");
    assert_eq!(configfs.asked(), before + 2);
    for command in ["status", "doctor"] {
        let shown = world.run(world.agent([command])).unwrap();
        assert_eq!(shown.code, Some(0), "{shown}");
        assert!(shown.err().contains(what), "{shown}");
    }
    assert_eq!(
        configfs.asked(),
        before + 2,
        "nobody asks for a report to show a status"
    );
    assert_eq!(configfs.open_requests(), 0, "requests are removed");
}

#[test]
fn snp_and_a_tpm_open_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let (world, _, stored, configfs) = snp(root.path(), 0xab);
    releases(
        &world,
        &stored,
        &configfs,
        "SEV-SNP reports with certificates, through configfs-tsm",
    );
}

#[test]
fn tdx_and_a_tpm_open_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let (world, _, stored, configfs, _rtmr3) = tdx(root.path());
    releases(
        &world,
        &stored,
        &configfs,
        "TDX quotes through configfs-tsm, with an event log",
    );
}

/// The processor's register is a door of its own: a TPM that the host has reset does not open it again.
#[test]
fn a_sealed_td_attests_and_gets_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (mut world, _, _, _configfs, rtmr3) = tdx(root.path());
    for says in ["sealed: disk secrets cannot be fetched", "sealed already"] {
        let sealed = world.run(world.agent(["seal"])).unwrap();
        assert_eq!(sealed.code, Some(0), "{sealed}");
        assert!(sealed.err().contains(says), "{sealed}");
        assert_eq!(hex::encode(rtmr3.value()), SEALED);
    }
    world.tpm.restart().unwrap();
    let refused = world.run(world.agent(["fetch"])).unwrap();
    assert_eq!(refused.code, Some(14), "{refused}");
    let explained = world.run(world.agent(["explain"])).unwrap();
    assert!(
        explained
            .err()
            .contains("its configuration is not approved"),
        "{explained}"
    );
}

#[test]
fn a_td_that_cannot_be_sealed_is_found_out_early() {
    let root = tempfile::tempdir().unwrap();
    let (world, _, _, _configfs, rtmr3) = tdx(root.path());
    drop(rtmr3);
    for command in ["doctor", "seal"] {
        let stopped = world.run(world.agent([command])).unwrap();
        assert_eq!(stopped.code, Some(11), "{stopped}");
        assert!(stopped.err().contains("rtmr3:sha384"), "{stopped}");
        assert!(stopped.err().contains("Linux 6.16"), "{stopped}");
    }
}

/// RTMR 3 over 48 zeros and SHA-384 of `trustee:leave-initrd`, as `sha384sum` gives it.
const SEALED: &str = "a8ee4d94fa0fd73a8485ca170bc0ed9b18da11a405c16cd32b28c2ac14fa0a3cbf9b09bd90f502ea53325c14b89e1ffd";

#[test]
fn another_launch_is_refused_and_explained() {
    let root = tempfile::tempdir().unwrap();
    let (world, _, _, _configfs) = snp(root.path(), 0xcd);
    let refused = world.run(world.agent(["fetch"])).unwrap();
    assert_eq!(refused.code, Some(14), "{refused}");
    let explained = world.run(world.agent(["explain"])).unwrap();
    assert!(
        explained.err().contains("its launch is not approved"),
        "{explained}"
    );
}

/// The processor is fine and the TPM is not; then the processor's firmware is too old.
#[test]
fn the_piece_and_the_part_that_the_policy_dislikes_are_named() {
    let root = tempfile::tempdir().unwrap();
    let (mut world, _, _, _configfs) = snp(root.path(), 0xab);
    let explains = |world: &World, says: &str| {
        let explained = world.run(world.agent(["explain"])).unwrap();
        assert_eq!(explained.code, Some(14), "{explained}");
        assert!(explained.err().contains(says), "{says}: {explained}");
    };
    world.tamper(4).unwrap();
    explains(&world, "what it booted is not approved");
    world.tpm.restart().unwrap();
    let floor = json!([{"bootloader": 4, "microcode": 220, "snp": 20, "tee": 0}]);
    world.set_reference_value("snp_tcb_floors", &floor).unwrap();
    explains(&world, "microcode is 219, a floor is 220");
}

#[test]
fn a_node_never_takes_the_next_best() {
    let root = tempfile::tempdir().unwrap();
    let (mut world, _, _, configfs) = snp(root.path(), 0xab);
    let mut stops = |evidence: &str, root: &Path, says: &str| {
        world.settings.evidence = format!("{evidence}\nroot = {root:?}");
        world.configure().unwrap();
        for command in ["fetch", "status", "doctor"] {
            let stopped = world.run(world.agent([command])).unwrap();
            assert_eq!(stopped.code, Some(11), "{stopped}");
            assert!(stopped.err().contains(says), "{stopped}");
        }
    };
    // Another driver answers; then none does.
    stops(
        "primary = \"tdx\"",
        root.path(),
        "reports come from \"sev_guest\"",
    );
    let other = tempfile::tempdir().unwrap();
    let silent = Box::new(|_: &[u8]| (Vec::new(), Vec::new()));
    let unasked = Configfs::serve(other.path(), "tdx_guest", silent).unwrap();
    stops(
        "primary = \"snp\"\nadditional = [\"tpm\"]",
        other.path(),
        "reports come from \"tdx_guest\"",
    );
    let nothing = tempfile::tempdir().unwrap();
    stops(
        "primary = \"snp\"\nadditional = [\"tpm\"]",
        nothing.path(),
        "neither /sys/kernel/config/tsm/report nor /dev/sev-guest",
    );
    assert_eq!((configfs.asked(), unasked.asked()), (0, 0));
    // All else that there is to know of the node is shown beside what is missing.
    let status = world.run(world.agent(["status"])).unwrap().err();
    for says in [
        "\nevidence         snp (primary) is missing: this machine offers no snp evidence: there is neither ",
        "the kernel module configfs is not loaded\nto act           this machine\nnext             start the machine as",
        "\nevidence         tpm (additional): TPM quotes\n",
        "\nserver           https://",
    ] {
        assert!(status.contains(says), "{says}: {status}");
    }
    let status = world.run(world.agent(["--json", "status"])).unwrap();
    assert_eq!(status.code, Some(11), "{status}");
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["ok"], false);
    let [snp, tpm] = [0, 1].map(|at| status["evidence"][at].clone());
    assert_eq!(
        (&snp["tee"], &snp["role"]),
        (&json!("snp"), &json!("primary"))
    );
    assert!(
        snp["missing"].as_str().unwrap().contains("configfs"),
        "{snp}"
    );
    assert!(!snp["advice"].as_str().unwrap().is_empty(), "{snp}");
    assert_eq!(
        tpm,
        json!({"tee": "tpm", "role": "additional", "what": "TPM quotes"})
    );
}

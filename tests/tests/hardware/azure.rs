// SPDX-License-Identifier: Apache-2.0

//! A confidential machine of Azure, from the paravisor's vTPM to the secret.

use crate::paravisor::{Paravisor, Processor, REPORT};
use crate::{ATTESTATION, INIT_DATA, RESOURCE, now};
use kbs_protocol::encoding::{b64u, hex};
use kbs_protocol::init_data::InitDataToml;
use serde_json::{Value, json};
use sheepfold_tests::administrator::Stored;
use sheepfold_tests::world::World;
use soft_tee::snp::{Authority, Generation};
use soft_tee::tdx::{Platform, Td};
use std::path::Path;
use std::sync::atomic::Ordering;

/// A node that its init-data names, and a KBS that knows it.
fn azure(
    tee: &str,
    lab: &[&str],
    values: &[(&str, Value)],
    processor: Processor,
) -> (World, Stored, Paravisor) {
    let mut world = World::with_lab(lab).unwrap();
    let paravisor = Paravisor::around(&world.tpm, processor);
    let upload = |command: &str, text: &str| world.lab.admin(&[command], text.as_bytes()).unwrap();
    upload("set-attestation-policy", ATTESTATION);
    upload("set-resource-policy", RESOURCE);
    let init_data = InitDataToml::parse(INIT_DATA).unwrap();
    let pcr8 = hex::encode(init_data.expected_pcr8().unwrap());
    let uuid = init_data.node_id().unwrap().unwrap();
    let pcrs = world.tpm.read_pcrs().unwrap();
    let tuple = json!({"pcr04": hex::encode(pcrs[4]), "pcr07": hex::encode(pcrs[7]), "pcr14": hex::encode(pcrs[14])});
    let options = json!({"evidence": [tee], "identity": "init-data"});
    let shard = format!("node_init_{}", &pcr8[..2]);
    let all = [
        ("sheepfold_options", options),
        ("boot_tuples", json!([tuple])),
        (&shard, json!({&pcr8: uuid.to_string()})),
    ];
    for (name, value) in all.iter().chain(values) {
        world.set_reference_value(name, value).unwrap();
    }
    world.give_init_data(INIT_DATA).unwrap();
    world.settings.evidence = format!("primary = {tee:?}\nmetadata = {:?}", paravisor.metadata);
    world.configure().unwrap();
    let node = sheepfold_tests::world::Node {
        ak_public: String::new(),
        id: uuid,
    };
    let stored = world.store_secret(&node).unwrap();
    (world, stored, paravisor)
}

fn snp(root: &Path) -> (World, Stored, Paravisor) {
    let authority = Authority::new(now());
    let pem = root.join("amd.pem");
    std::fs::write(&pem, authority.pem()).unwrap();
    let values = [
        ("az_snp_measurements", json!(["q6ur".repeat(16)])),
        (
            "snp_tcb_floors",
            json!([{"bootloader": 4, "microcode": 200, "snp": 20, "tee": 0}]),
        ),
    ];
    let lab = ["--amd-root", pem.to_str().unwrap()];
    azure(
        "az-snp-vtpm",
        &lab,
        &values,
        Processor::Amd(authority.chip(Generation::Genoa)),
    )
}

fn tdx(root: &Path) -> (World, Stored, Paravisor) {
    let platform = Platform::new(now());
    let (pem, collateral) = (root.join("intel.pem"), root.join("collateral.json"));
    std::fs::write(&pem, platform.root_pem()).unwrap();
    std::fs::write(&collateral, platform.collateral().to_string()).unwrap();
    let values = [
        ("az_tdx_mr_tds", json!(["7d".repeat(48)])),
        ("tdx_tcb_status", json!(["UpToDate"])),
    ];
    let lab = [
        "--intel-root",
        pem.to_str().unwrap(),
        "--tdx-collateral",
        collateral.to_str().unwrap(),
    ];
    azure(
        "az-tdx-vtpm",
        &lab,
        &values,
        Processor::Intel(platform, Td::default()),
    )
}

/// The secret comes, for one report and one question to the metadata service; and again, in the same boot.
fn releases(world: &World, stored: &Stored, paravisor: &Paravisor, what: &str) {
    for handshake in 1..=2 {
        let fetched = world.run(world.agent(["fetch"])).unwrap();
        assert_eq!(fetched.code, Some(0), "{fetched}\n{}", world.lab.log());
        assert_eq!(fetched.stdout, stored.content.expose());
        assert_eq!(
            (paravisor.reports(), paravisor.requests()),
            (handshake, handshake)
        );
    }
    for command in ["status", "doctor"] {
        let shown = world.run(world.agent([command])).unwrap();
        assert_eq!(shown.code, Some(0), "{shown}");
        assert!(shown.err().contains(what), "{shown}");
    }
    assert_eq!(
        paravisor.reports(),
        2,
        "nobody asks for a report to show a status"
    );
    // What leaves the initramfs moves PCR 11, and the vTPM's quote shows it.
    let sealed = world.run(world.agent(["seal"])).unwrap();
    assert_eq!(sealed.code, Some(0), "{sealed}");
    let refused = world.run(world.agent(["fetch"])).unwrap();
    assert_eq!(refused.code, Some(14), "{refused}");
}

#[test]
fn snp_below_a_paravisor_opens_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let (world, stored, paravisor) = snp(root.path());
    releases(&world, &stored, &paravisor, "SEV-SNP below a paravisor");
}

#[test]
fn tdx_below_a_paravisor_opens_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let (world, stored, paravisor) = tdx(root.path());
    releases(&world, &stored, &paravisor, "TDX below a paravisor");
}

#[test]
fn what_is_missing_is_named() {
    let root = tempfile::tempdir().unwrap();
    let (mut world, _, paravisor) = snp(root.path());
    let stops = |world: &World, code: i32, says: &str| {
        let stopped = world.run(world.agent(["fetch"])).unwrap();
        assert_eq!(stopped.code, Some(code), "{stopped}");
        assert!(stopped.err().contains(says), "{says}: {stopped}");
    };
    // The other processor.
    let good = world.settings.evidence.clone();
    world.settings.evidence = good.replace("az-snp-vtpm", "az-tdx-vtpm");
    world.configure().unwrap();
    stops(
        &world,
        11,
        "reports come from \"SEV-SNP\", az-tdx-vtpm needs \"TDX\"",
    );
    // A metadata service that is ill.
    world.settings.evidence = good;
    world.settings.overall = "5s";
    world.configure().unwrap();
    for (status, answer, why) in [
        ("200 OK", "{}", "its answer has another form"),
        (
            "200 OK",
            r#"{"vcekCert":"-"}"#,
            "its vcekCert is no certificate",
        ),
        ("200 OK", "x", "its answer has another form"),
        (
            "503 Busy",
            r#"{"vcekCert":"-"}"#,
            "it answers 503 Service Unavailable",
        ),
    ] {
        *paravisor.broken.lock().unwrap() = Some((status, answer));
        stops(&world, 12, why);
    }
    *paravisor.broken.lock().unwrap() = None;
    // A report about another key than the one that signs.
    paravisor.other_key.store(true, Ordering::SeqCst);
    stops(&world, 11, "0x81000003 was replaced while");
    // A TPM with that key, and no report.
    world.tpm.tool(&["nvundefine", REPORT, "-C", "o"]).unwrap();
    stops(&world, 11, "no report in NV index 0x01400001");
    // A quote of another machine's, which the metadata service takes for this one's.
    let elsewhere = tempfile::tempdir().unwrap();
    let (mut td, _, other) = tdx(elsewhere.path());
    td.settings.overall = "5s";
    td.configure().unwrap();
    let foreign = Platform::new(now()).quote(&Td::default());
    let answer = json!({ "quote": b64u::encode(foreign) }).to_string();
    *other.broken.lock().unwrap() = Some(("200 OK", answer.leak()));
    stops(&td, 11, "does not carry the data");
    // No paravisor at all.
    let nothing = World::new().unwrap();
    world.settings.tcti = nothing.tpm.tcti();
    world.configure().unwrap();
    stops(&world, 11, "no key at 0x81000003");
}

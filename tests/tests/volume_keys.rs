// SPDX-License-Identifier: Apache-2.0
//! Which volume belongs to a node, from its first boot to the KBS and back: the node's TPM signs the id of the volume
//! key, the registrar keeps it, `provision` stores it beside the secret, and the next boot opens no other volume.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::encoding::hex;
use kbs_protocol::volume_record::VolumeRecord;
use serde_json::{Value, json};
use sheepfold_tests::cluster::Cluster;
use sheepfold_tests::luks::Volume;
use sheepfold_tests::process::Captured;
use sheepfold_tests::registrar::Registrar;
use sheepfold_tests::swtpm::{Authority, SoftTpm};
use sheepfold_tests::world::World;
use std::fs;
use std::path::{Path, PathBuf};

/// A node that is registered and provisioned, and has no volume yet.
struct Site {
    world: World,
    registrar: Registrar,
    cluster: Cluster,
    record: PathBuf,
}

impl Site {
    /// `None`, loudly, where software TPMs cannot be made.
    fn new() -> Option<Self> {
        if let Some(program) = SoftTpm::missing().or_else(Authority::missing) {
            eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
            return None;
        }
        let (mut world, registrar, _) = World::with_registrar().unwrap();
        world.agent(["enroll"]).success().unwrap();
        world.settings.unlock = "vk_id = \"required\"\n";
        world.configure().unwrap();
        let cluster = Cluster::new(&world.dir().join("cluster"), &world.lab).unwrap();
        cluster
            .approve("image", &world.tpm.read_pcrs().unwrap())
            .unwrap();
        let record = registrar
            .record_file(&world.node().unwrap().id.to_string())
            .unwrap();
        cluster.add("node", &record).unwrap();
        cluster.provision(&[]).unwrap().success().unwrap();
        Some(Self {
            world,
            registrar,
            cluster,
            record,
        })
    }

    fn unlock(&self, volume: &Volume, more: &[&str]) -> Captured {
        let device = volume.path.to_str().unwrap();
        let args = [
            "--json", "unlock", "--test", "--name", "root", "--device", device,
        ];
        let run = self.world.agent(args).args(more);
        self.world.run(run).unwrap()
    }

    /// What it says of a volume that opens.
    fn opened(&self, volume: &Volume, more: &[&str]) -> Value {
        let captured = self.unlock(volume, more);
        assert_eq!(captured.code, Some(0), "{captured}");
        serde_json::from_slice(&captured.stdout).unwrap()
    }

    fn provision(&self) -> Value {
        let run = self.cluster.provision(&["--json"]).unwrap();
        serde_json::from_slice(&run.success().unwrap().stdout).unwrap()
    }

    fn renew(&self) {
        self.cluster
            .command(&["renew-volume", "node"])
            .unwrap()
            .success()
            .unwrap();
    }

    /// As Ignition does on first boot: a volume with the key slot of Clevis and no other.
    fn first_boot(&self, name: &str) -> Volume {
        self.world.bound_volume(name, "trustee", "{}").unwrap()
    }

    fn kept(&self) -> PathBuf {
        self.world.run_dir().join("volumes.json")
    }
}

fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    change(&mut json);
    fs::write(file, json.to_string()).unwrap();
}

fn writes(report: &Value) -> Vec<&str> {
    let writes = report["writes"].as_array().unwrap();
    writes.iter().map(|write| write.as_str().unwrap()).collect()
}

fn problem(report: &Value) -> &str {
    report["problems"][0].as_str().unwrap_or_default()
}

#[test]
fn from_first_boot_to_the_kbs_and_back() {
    let Some(site) = Site::new() else {
        return;
    };
    let volume = site.first_boot("first");
    // Nobody knows the volume yet, and this node opens no other.
    let unknown = site.unlock(&volume, &[]);
    assert_eq!(unknown.code, Some(13), "{unknown}");
    assert!(
        unknown.err().contains("sheepfold-operator provision"),
        "{unknown}"
    );

    let facts = site.opened(&volume, &["--record"]);
    assert_eq!(facts["recorded"], "registrar", "{facts}");
    let again = site.opened(&volume, &["--record"]);
    assert_eq!(again["recorded"], "registrar", "{again}");
    let report = site.provision();
    let path = site.world.path().unwrap();
    let expected = format!("record the volume key at {path}.vk");
    assert_eq!(writes(&report), [&*expected]);
    assert_eq!(report["problems"], json!([]));
    assert!(writes(&site.provision()).is_empty(), "once");
    let facts = site.opened(&volume, &[]);
    assert_eq!(facts["volumes"][0]["vk_id_known"], true);
    let status = site.cluster.command(&["status"]).unwrap();
    let status = status.success().unwrap();
    assert!(
        status.out().contains("root stored, key recorded"),
        "{status}"
    );

    // Another volume with a token that is as good, in its place: an older one, or one that was made behind our back.
    let other = site.first_boot("other");
    let refused = site.unlock(&other, &[]);
    assert_eq!(refused.code, Some(15), "{refused}");
    assert!(refused.err().contains("it is not this node's"), "{refused}");
    // Nor does it get on record: first boot ends here.
    assert_eq!(site.unlock(&other, &["--record"]).code, Some(15));

    // Until a person says that the volume is to be made anew.
    site.renew();
    let status = site.cluster.command(&["status"]).unwrap();
    assert!(!status.success().unwrap().out().contains("key recorded"));
    assert_eq!(
        site.unlock(&volume, &[]).code,
        Some(13),
        "nobody knows it any more"
    );
    assert!(
        writes(&site.provision()).is_empty(),
        "what was signed before is too old"
    );
    site.opened(&other, &["--record"]);
    assert_eq!(writes(&site.provision()), [&*expected]);
    assert_eq!(site.opened(&other, &[])["volumes"][0]["vk_id_known"], true);
    assert_eq!(
        site.unlock(&volume, &[]).code,
        Some(15),
        "it is the old one now"
    );
    drop(site.registrar);
}

/// Without a registrar a person carries the record.
#[test]
fn a_record_is_left_for_a_person_where_there_is_no_registrar() {
    let Some(mut site) = Site::new() else {
        return;
    };
    site.world.settings.registrar = None;
    site.world.configure().unwrap();
    let volume = site.first_boot("first");
    let facts = site.opened(&volume, &["--record"]);
    assert_eq!(facts["recorded"], "file", "{facts}");
    assert!(
        writes(&site.provision()).is_empty(),
        "nobody has carried it yet"
    );
    let carried = site.world.dir().join("carried.json");
    fs::copy(site.kept(), &carried).unwrap();
    site.cluster
        .add_with_records("node", &site.record, &[&carried])
        .unwrap();
    assert_eq!(writes(&site.provision()).len(), 1);
    assert_eq!(site.opened(&volume, &[])["volumes"][0]["vk_id_known"], true);
}

/// Each row is a record that says the truth but for one thing. None is stored, and `provision` says why.
#[test]
fn a_record_counts_when_everything_about_it_holds() {
    let Some(mut site) = Site::new() else {
        return;
    };
    site.world.settings.registrar = None;
    site.world.configure().unwrap();
    let volume = site.first_boot("first");
    site.opened(&volume, &["--record"]);
    let honest = fs::read(site.kept()).unwrap();
    let carried = site.world.dir().join("carried.json");
    let refused = |why: &str| {
        let report = site.provision();
        assert!(writes(&report).is_empty(), "{why}: {report}");
        assert!(problem(&report).contains(why), "{why}: {report}");
    };
    site.cluster
        .add_with_records("node", &site.record, &[&carried])
        .unwrap();

    // Another key in the signed text.
    fs::write(&carried, &honest).unwrap();
    edit(&carried, |json| {
        let text = json["record"].as_str().unwrap();
        let at = text.find("vk_id\":\"").unwrap() + 8;
        let other = format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..]);
        json["record"] = json!(other);
    });
    refused("belongs to another session or key");

    // A TPM of the same make, with the same boot, says it of our node.
    let (stranger, _, _) = World::enrolled().unwrap();
    let stranger_volume = stranger.bound_volume("v", "trustee", "{}").unwrap();
    let device = stranger_volume.path.to_str().unwrap();
    let args = [
        "unlock", "--test", "--record", "--name", "root", "--device", device,
    ];
    stranger.agent(args).success().unwrap();
    fs::copy(stranger.run_dir().join("volumes.json"), &carried).unwrap();
    refused("another attestation key has signed it");

    // Root of the booted system has the key of the TPM, but no way back into the initramfs.
    let sealed = site.world.run(site.world.agent(["seal"])).unwrap();
    assert_eq!(sealed.code, Some(0), "{sealed}");
    fs::write(&carried, signed_by_hand(&site.world, &honest).to_string()).unwrap();
    refused("had left its initramfs");

    fs::write(&carried, &honest).unwrap();
    site.cluster.disapprove("image").unwrap();
    let mut pcrs = site.world.tpm.read_pcrs().unwrap();
    pcrs[4] = [4; 32];
    site.cluster.approve("another", &pcrs).unwrap();
    let report = site.provision();
    assert!(problem(&report).contains("is not approved"), "{report}");
}

/// The same text, quoted anew with the node's key by whoever has its TPM now.
fn signed_by_hand(world: &World, honest: &[u8]) -> Value {
    let mut record: Value = serde_json::from_slice(honest).unwrap();
    let text = record["record"].as_str().unwrap();
    let extra = hex::encode(VolumeRecord::extra_data(text));
    let all: Vec<String> = (0..24).map(|pcr| pcr.to_string()).collect();
    let selection = format!("sha256:{}", all.join(","));
    let args = [
        "quote",
        "-Q",
        "-c",
        "0x81010002",
        "-g",
        "sha256",
        "-q",
        &extra,
    ];
    let rest = ["-l", &selection, "-m", "quote.msg", "-s", "quote.sig"];
    world.tpm.tool(&[&args[..], &rest].concat()).unwrap();
    let file = |name: &str| STANDARD.encode(world.tpm.read_file(name).unwrap());
    let pcrs = world.tpm.read_pcrs().unwrap();
    record["evidence"]["tpm_quote"] = json!({
        "message": file("quote.msg"),
        "signature": file("quote.sig"),
        "pcrs": pcrs.iter().map(hex::encode).collect::<Vec<_>>(),
    });
    record
}

/// Only a node that is approved gets on record.
#[test]
fn a_registrar_keeps_what_its_own_nodes_have_signed() {
    let Some(site) = Site::new() else {
        return;
    };
    let volume = site.first_boot("first");
    let (mut stranger, _, _) = World::enrolled().unwrap();
    let foreign = stranger.bound_volume("v", "trustee", "{}").unwrap();
    stranger.settings.registrar = site.world.settings.registrar.clone();
    stranger.settings.unlock = "vk_id = \"required\"\n";
    let ca = fs::read_to_string(site.world.settings.ca_file.as_ref().unwrap()).unwrap();
    stranger.settings.enroll = format!("ca_pem = {ca:?}\n");
    stranger.configure().unwrap();
    let device = foreign.path.to_str().unwrap();
    let args = [
        "unlock", "--test", "--record", "--name", "root", "--device", device,
    ];
    let refused = stranger.agent(args).capture().unwrap();
    assert_eq!(refused.code, Some(14), "{refused}");
    assert!(refused.err().contains("no approved node"), "{refused}");
    // Where a key need not be known, its record is no reason to keep a disk shut.
    stranger.settings.unlock = "";
    stranger.configure().unwrap();
    let opened = stranger.agent(args).success().unwrap();
    assert!(
        opened.err().contains("the volume keys are not recorded"),
        "{opened}"
    );
    assert!(stranger.run_dir().join("volumes.json").exists());

    site.opened(&volume, &["--record"]);
    let kept: Value = serde_json::from_slice(&fs::read(&site.record).unwrap()).unwrap();
    assert_eq!(kept["keys"][0]["volumes"].as_array().unwrap().len(), 1);
}

/// At each boot a node tells which volumes it has opened, until it is sealed.
#[test]
fn each_boot_is_recorded_before_its_seal() {
    let Some(site) = Site::new() else {
        return;
    };
    let world = &site.world;
    let record = || world.run(world.agent(["--json", "record-boot"])).unwrap();
    let facts = |captured: &Captured| -> Value {
        assert_eq!(captured.code, Some(0), "{captured}");
        serde_json::from_slice(&captured.stdout).unwrap()
    };
    let idle = record();
    assert_eq!(facts(&idle)["recorded"], "nowhere", "{idle}");
    assert!(idle.err().contains("has opened no volume"), "{idle}");

    // What first boot has signed, and what this boot remembers.
    let volume = site.first_boot("first");
    let first = site.opened(&volume, &["--record"]);
    let first = &first["volumes"][0];
    let uuid = &first["luks_uuid"];
    fs::write(
        world.run_dir().join("state.json"),
        json!({
            "version": 1, "phase": "open", "extends": [], "attested": null, "waiting": {}, "refused": {},
            "volumes": { "root": {
                "luks_uuid": uuid, "source": "/dev/vda4", "source_number": "254:4", "number": "253:0",
                "vk_id": first["vk_id"], "path": first["path"],
            }},
        })
        .to_string(),
    )
    .unwrap();
    let told = record();
    let told = facts(&told);
    assert_eq!(told["recorded"], "registrar", "{told}");
    assert_eq!(told["volumes"], json!(["root"]), "{told}");
    assert_eq!(told["known"], true, "the same volumes as on first boot");
    let kept: Value = serde_json::from_slice(&fs::read(&site.record).unwrap()).unwrap();
    assert_eq!(kept["keys"][0]["volumes"].as_array().unwrap().len(), 1);

    // Afterwards the registers show no boot that anybody approved.
    let sealed = world.run(world.agent(["seal"])).unwrap();
    assert_eq!(sealed.code, Some(0), "{sealed}");
    let late = record();
    assert_eq!(late.code, Some(10), "{late}");
    assert!(late.err().contains("this boot is sealed"), "{late}");
}

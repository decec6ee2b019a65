// SPDX-License-Identifier: Apache-2.0
//! What the running system may read: from the administrator's files through a real `provision`, a KBS and a TPM to
//! standard output, in each phase of a boot.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use serde_json::Value;
use sheepfold_tests::cluster::Cluster;
use sheepfold_tests::paths;
use sheepfold_tests::process::Captured;
use sheepfold_tests::swtpm::SoftTpm;
use sheepfold_tests::world::{Node, World};
use std::fs;

/// A provisioned node with two resources of its own and one that every node has, and a neighbour.
struct Site {
    world: World,
    node: Node,
    cluster: Cluster,
}

impl Site {
    /// `None`, loudly, where there is no software TPM. The boots are approved later, or are those of another image.
    fn new() -> Option<Self> {
        if let Some(program) = SoftTpm::missing() {
            eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
            return None;
        }
        let world = World::new().unwrap();
        // The first attestation makes the key.
        world.agent(["attest"]).capture().unwrap();
        let node = world.node().unwrap();
        let cluster = Cluster::with(
            &world.dir().join("cluster"),
            &world.lab,
            "  runtime:\n  - {name: ca, file: ca}\n  - {name: greeting, file: ca}\n",
        )
        .unwrap();
        for (file, content) in [
            ("ca", EVERYBODYS),
            ("token", TOKEN),
            ("own", OWN),
            ("its", ITS),
        ] {
            cluster.file(file, content).unwrap();
        }
        let own = "  runtime:\n  - {name: token, file: token}\n  - {name: greeting, file: own}\n";
        cluster.add_key("node", &node.ak_public, own).unwrap();
        let example = paths::workspace().join("operator/examples/cluster/machines.yaml");
        let neighbour = fs::read_to_string(example).unwrap();
        let neighbour = neighbour
            .lines()
            .find_map(|line| line.split_once("attestationKey: "));
        let its = "  runtime:\n  - {name: token, file: its}\n";
        cluster
            .add_key("neighbour", neighbour.unwrap().1, its)
            .unwrap();
        Some(Self {
            world,
            node,
            cluster,
        })
    }

    fn approve(&self) {
        let pcrs = self.world.tpm.read_pcrs().unwrap();
        self.cluster.approve("image", &pcrs).unwrap();
    }

    fn provision(&self) -> Captured {
        self.cluster.provision(&[]).unwrap().success().unwrap()
    }

    fn fetch(&self, path: &str) -> Captured {
        let run = self.world.agent(["fetch", "--path", path]);
        self.world.run(run).unwrap()
    }

    fn reads(&self, path: &str, content: &str) {
        let fetched = self.fetch(path);
        assert_eq!(fetched.code, Some(0), "{fetched}");
        assert_eq!(fetched.stdout, content.as_bytes());
    }

    fn is_refused(&self, path: &str) {
        let refused = self.fetch(path);
        assert_eq!(refused.code, Some(14), "{path}: {refused}");
        assert!(refused.stdout.is_empty(), "{refused}");
    }
}

#[test]
fn in_each_phase_of_a_boot() {
    let Some(mut site) = Site::new() else {
        return;
    };
    let everything = [
        "runtime/{node}/token",
        "runtime/{node}/ca",
        "default/{node}/root",
    ];
    // Another boot than this one is approved.
    site.cluster.approve("image", &[[9; 32]; 24]).unwrap();
    site.provision();
    everything.iter().for_each(|path| site.is_refused(path));
    // A boot that is not approved, sealed or not: this one is never anything else.
    site.world.agent(["seal"]).success().unwrap();
    everything.iter().for_each(|path| site.is_refused(path));
    site.world.tpm.restart().unwrap();
    fs::remove_dir_all(site.world.run_dir()).unwrap();
    site.approve();
    site.provision();

    // In its initramfs: its disk, and what is below its name.
    assert_eq!(site.fetch("default/{node}/root").code, Some(0));
    site.reads("runtime/{node}/token", TOKEN);
    // Sealed.
    let unlocked = site.world.agent(["fetch"]).capture().unwrap();
    assert_eq!(unlocked.code, Some(0), "{unlocked}");
    site.world.agent(["seal"]).success().unwrap();
    site.is_refused("default/{node}/root");
    let explained = site.world.agent(["explain"]).capture().unwrap();
    assert!(
        explained.err().contains("this boot is sealed"),
        "{explained}"
    );
    site.reads("runtime/{node}/token", TOKEN);
    site.reads("runtime/{node}/ca", EVERYBODYS);
    site.reads("runtime/{node}/greeting", OWN);
    // The neighbour's, and what there is not.
    let status = site.cluster.command(&["status"]).unwrap().arg("--json");
    let status: Value = serde_json::from_slice(&status.success().unwrap().stdout).unwrap();
    let neighbour = status["machines"].as_array().unwrap();
    let neighbour = neighbour.iter().find(|m| m["name"] == "neighbour").unwrap();
    assert_eq!(neighbour["runtime"]["token"], "stored", "{status}");
    let neighbour = neighbour["id"].as_str().unwrap();
    site.is_refused(&format!("runtime/{neighbour}/token"));
    site.is_refused("runtime/other/token");
    assert_ne!(site.fetch("runtime/{node}/root").code, Some(0));

    // Whoever moves the register further is no sealed node any more.
    site.world.tamper(11).unwrap();
    everything.iter().for_each(|path| site.is_refused(path));
}

#[test]
fn what_a_file_says_is_what_a_node_reads() {
    let Some(site) = Site::new() else {
        return;
    };
    site.approve();
    let dry = site.cluster.provision(&["--dry-run"]).unwrap();
    let dry = dry.success().unwrap();
    let line = format!("+ runtime   runtime/{}/token  (node)", site.node.id);
    assert!(dry.out().contains(&line), "{dry}");
    let first = site.provision();
    for said in [&dry, &first] {
        for content in [TOKEN, OWN, EVERYBODYS, ITS] {
            assert!(!said.to_string().contains(content), "{said}");
        }
    }
    let nothing = site
        .cluster
        .provision(&["--json"])
        .unwrap()
        .success()
        .unwrap();
    let nothing: Value = serde_json::from_slice(&nothing.stdout).unwrap();
    assert_eq!(nothing["writes"], serde_json::json!([]));
    // Another content, and one that is gone.
    site.cluster.file("token", "another").unwrap();
    site.provision();
    site.reads("runtime/{node}/token", "another");
    let own = "  runtime: []\n";
    site.cluster
        .add_key("node", &site.node.ak_public, own)
        .unwrap();
    site.provision();
    assert_ne!(site.fetch("runtime/{node}/token").code, Some(0));
    site.reads("runtime/{node}/greeting", EVERYBODYS);
    // What is wrong is said before anything is written.
    for (code, spec, says) in [
        (10, "  runtime: [{name: a/b, file: token}]\n", "A-Z a-z 0-9"),
        (11, "  runtime: [{name: a, file: nothing}]\n", "nothing"),
        (10, "  runtime: [{name: a, file: empty}]\n", "is empty"),
        (
            10,
            "  runtime: [{name: a, file: own}, {name: a, file: own}]\n",
            "two of this name",
        ),
        (10, "  runtime: [{name: a}]\n", "file"),
    ] {
        site.cluster.file("empty", "").unwrap();
        site.cluster
            .add_key("node", &site.node.ak_public, spec)
            .unwrap();
        let refused = site.cluster.provision(&[]).unwrap().capture().unwrap();
        assert_eq!(refused.code, Some(code), "{refused}");
        assert!(refused.err().contains(says), "{says}: {refused}");
    }
    site.reads("runtime/{node}/ca", EVERYBODYS);
}

#[test]
fn a_machine_that_is_revoked_loses_them() {
    let Some(site) = Site::new() else {
        return;
    };
    site.approve();
    site.provision();
    site.reads("runtime/{node}/token", TOKEN);
    site.cluster.revoke("node").unwrap().success().unwrap();
    site.is_refused("runtime/{node}/token");
    let status = site.cluster.command(&["status"]).unwrap().arg("--json");
    let status: Value = serde_json::from_slice(&status.success().unwrap().stdout).unwrap();
    let machines = status["machines"].as_array().unwrap();
    let node = machines.iter().find(|m| m["name"] == "node").unwrap();
    assert_eq!(node["runtime"]["token"], "missing", "{status}");
    assert_eq!(node["runtime"]["ca"], "missing", "{status}");
}

const EVERYBODYS: &str = "of-every-machine-9c2f";
const TOKEN: &str = "of-this-machine-71d0";
const OWN: &str = "instead-of-everybodys-0aa1";
const ITS: &str = "of-the-neighbour-55e3";

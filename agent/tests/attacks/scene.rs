// SPDX-License-Identifier: Apache-2.0

//! A node with a bound volume that opens, whose key the KBS knows; and what a host can do to its header.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sheepfold_tests::administrator::Stored;
use sheepfold_tests::luks::Volume;
use sheepfold_tests::process::{Captured, Run};
use sheepfold_tests::world::{Node, World};
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) node: Node,
    pub(crate) stored: Stored,
    pub(crate) volume: Volume,
}

impl Scene {
    /// Under the operator's policies. The volume has opened once, and its key is on record.
    pub(crate) fn new() -> Self {
        let (world, node, stored) = World::enrolled().unwrap();
        for (operation, text) in [
            ("set-attestation-policy", ATTESTATION),
            ("set-resource-policy", RESOURCE),
        ] {
            let done = world.lab.admin(&[operation], text.as_bytes()).unwrap();
            assert_eq!(done.code, Some(0), "{done}");
        }
        let options = json!({ "evidence": ["tpm"], "identity": "ak" });
        world
            .set_reference_value("sheepfold_options", &options)
            .unwrap();
        let volume = bound(&world, "volume");
        let scene = Self {
            world,
            node,
            stored,
            volume,
        };
        let opened = scene.opens(&scene.volume.path);
        let record = json!({ "vk_id": opened["vk_id"] }).to_string();
        let path = format!("{}.vk", scene.stored.path);
        let done = scene
            .world
            .lab
            .admin(&["set-resource", &path], record.as_bytes());
        assert_eq!(done.unwrap().code, Some(0));
        assert_eq!(scene.opens(&scene.volume.path)["vk_id_known"], true);
        scene
    }

    pub(crate) fn unlock(&self, device: &Path, more: &[&str]) -> Captured {
        let device = device.to_str().unwrap();
        let args = [
            "--json", "unlock", "--test", "--name", "root", "--device", device,
        ];
        let run = self.world.agent(args).args(more);
        self.world.run(run).unwrap()
    }

    pub(crate) fn opens(&self, device: &Path) -> Value {
        let opened = self.unlock(device, &[]);
        assert_eq!(opened.code, Some(0), "{opened}");
        let facts: Value = serde_json::from_slice(&opened.stdout).unwrap();
        facts["volumes"][0].clone()
    }

    /// Refused with these words, and no server was asked for anything: no secret was sent.
    pub(crate) fn refused_unasked(&self, device: &Path, words: &str) {
        let before = self.world.lab.log();
        self.refused(device, words);
        assert_eq!(self.world.lab.log(), before, "the server was asked");
    }

    /// Refused with these words. The answer has nothing of a volume in it, so the secret was not used.
    pub(crate) fn refused(&self, device: &Path, words: &str) {
        let refused = self.unlock(device, &[]);
        assert_eq!(refused.code, Some(15), "{refused}");
        assert!(refused.err().contains(words), "{refused}");
        let answer: Value = serde_json::from_slice(&refused.stdout).unwrap();
        assert_eq!(
            (&answer["ok"], &answer["volumes"]),
            (&json!(false), &json!(null))
        );
    }

    /// The volume with another text in both copies of its header, and checksums that fit.
    pub(crate) fn rewritten(&self, change: impl FnOnce(&mut Value)) -> PathBuf {
        self.changed(|bytes, size| {
            let end = bytes[4096..].iter().position(|&byte| byte == 0).unwrap();
            let mut json: Value = serde_json::from_slice(&bytes[4096..4096 + end]).unwrap();
            change(&mut json);
            let text = json.to_string();
            for copy in bytes.chunks_mut(size).take(2) {
                copy[4096..].fill(0);
                copy[4096..4096 + text.len()].copy_from_slice(text.as_bytes());
            }
        })
    }

    /// The volume after this change of its bytes, the size of a copy given; checksums fit.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut [u8], usize)) -> PathBuf {
        let mut bytes = fs::read(&self.volume.path).unwrap();
        let size = u64::from_be_bytes(bytes[8..16].try_into().unwrap());
        let size = usize::try_from(size).unwrap();
        change(&mut bytes, size);
        for copy in bytes.chunks_mut(size).take(2) {
            copy[448..512].fill(0);
            let sum = Sha256::digest(&*copy);
            copy[448..480].copy_from_slice(&sum);
        }
        let hostile = self.world.node_dir().join("hostile");
        fs::write(&hostile, bytes).unwrap();
        hostile
    }
}

/// A volume with one key slot, that of Clevis, bound on this node.
pub(crate) fn bound(world: &World, name: &str) -> Volume {
    bound_with(world, name, "{}")
}

/// The same, with this configuration of the pin.
pub(crate) fn bound_with(world: &World, name: &str, config: &str) -> Volume {
    world.bound_volume(name, "trustee", config).unwrap()
}

pub(crate) fn cryptsetup(args: &[&str]) -> Run {
    Run::new(sheepfold_tests::paths::tool("cryptsetup").unwrap()).args(args)
}

const ATTESTATION: &str = include_str!("../../../operator/src/policy/attestation.rego");
const RESOURCE: &str = include_str!("../../../operator/src/policy/resource.rego");

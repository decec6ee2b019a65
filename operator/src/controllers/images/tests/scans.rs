// SPDX-License-Identifier: Apache-2.0

//! Images that are looked through, in a registry of ours: what comes out, when it is looked again, and what an operator
//! says that has no say.

use super::super::material::Material;
use super::super::scan::MOST_BOOTS;
use super::super::{Wish, Work, Writer};
use super::{cluster, set, set_cluster};
use crate::controllers::inventory::Inventory;
use crate::controllers::testing::{NAMESPACE, Server};
use bootable::registry::{Image, Registry, Spoil, as_it_is};
use bootable::{PLATFORM, files, tuple};
use measured_boot::bank::Bank;
use measured_boot::bytes::Blob;
use measured_boot::pe::PeFacts;
use measured_boot::uefi::{SignatureEntry, SignatureList, guid};
use p256::ecdsa::SigningKey;
use p256::pkcs8::{EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[path = "../../../../tests/bootable/mod.rs"]
#[allow(
    clippy::arithmetic_side_effects,
    reason = "in a test a panic is the report"
)]
mod bootable;

/// A namespace, a registry, and what was applied so far.
struct World {
    server: Server,
    registry: Registry,
    registries: Value,
    inventory: Inventory,
    /// Of each image its spec, and our part of its status.
    images: BTreeMap<String, (Value, Value)>,
    held: Arc<AtomicBool>,
    most_bytes: u64,
}

/// What one attempt did.
#[derive(Debug)]
struct Attempt {
    ended: Result<(), bool>,
    /// Of each image the reasons that its condition had, one after the other.
    reasons: BTreeMap<String, Vec<String>>,
    events: Vec<String>,
    /// Requests at the registry.
    requests: usize,
}

impl World {
    /// With these images in the registry.
    fn with(images: &[&Image], spoil: Spoil) -> Self {
        let mut all = Image::default();
        for image in images {
            all.blobs.extend(image.blobs.clone());
        }
        let (server, registry) = (Server::start(), Registry::serve(all, spoil));
        let file = |name: &str| std::fs::read(registry.directory.path().join(name)).unwrap();
        server.put_secret("pull", &[(PULL, &file("auth.json"))]);
        let ca = String::from_utf8(file("ca.pem")).unwrap();
        config_map(&server, "registry-ca", json!({"ca.crt": ca}));
        let mut world = Self {
            server,
            registry,
            registries: json!({"pullSecret": "pull", "ca": {"configMap": "registry-ca"}}),
            inventory: cluster(json!({})),
            images: BTreeMap::new(),
            held: Arc::new(AtomicBool::new(true)),
            most_bytes: u64::MAX,
        };
        world.configure("pullSecret", json!("pull"));
        world
    }

    /// Says how to reach registries.
    fn configure(&mut self, field: &str, value: Value) {
        self.registries[field] = value;
        let spec = json!({"platforms": [PLATFORM], "registries": self.registries});
        set_cluster(&mut self.inventory, spec);
    }

    fn approve(&mut self, name: &str, digest: &str, more: Value) {
        let mut spec =
            json!({"image": self.registry.name(digest), "boot": {"kernelMeasurements": 1}});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let images = &mut self.images;
        images.entry(name.to_owned()).or_default().0 = spec;
        self.see(name);
    }

    /// As the watch tells it.
    fn see(&mut self, name: &str) {
        let (spec, status) = self.images[name].clone();
        set(&mut self.inventory, name, spec.clone(), status.clone());
        self.server
            .put(super::object("ApprovedImage", name, spec, status));
    }

    /// Looks through these, which are one group.
    fn attempt(&mut self, names: &[&str]) -> Attempt {
        let (client, runtime) = (&self.server.client, self.server.runtime.handle());
        let work = Work {
            material: Material::new(client, NAMESPACE, runtime),
            writer: Writer::new(client, NAMESPACE, "one", runtime),
            cache: None,
            most_bytes: self.most_bytes,
            held: Arc::clone(&self.held),
        };
        let before = self.registry.requests("");
        let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut attempt = Attempt {
            ended: work.attempt(&Wish::of(&self.inventory), &names),
            reasons: BTreeMap::new(),
            events: Vec::new(),
            requests: self.registry.requests("").saturating_sub(before),
        };
        for write in self.server.writes() {
            if write.path.contains("/events") {
                let reason = write.body["reason"].as_str().unwrap();
                attempt.events.push(reason.to_owned());
                continue;
            }
            assert!(write.path.ends_with("/status"), "{}", write.path);
            let name = write.body["metadata"]["name"].as_str().unwrap().to_owned();
            let status = write.body["status"].clone();
            let reason = status["conditions"][0]["reason"].as_str().unwrap();
            let reasons = attempt.reasons.entry(name.clone()).or_default();
            reasons.push(reason.to_owned());
            self.images.get_mut(&name).unwrap().1 = status;
            self.see(&name);
        }
        attempt
    }

    /// What its condition says.
    fn says(&self, name: &str) -> String {
        let condition = &self.images[name].1["conditions"][0];
        condition["message"].as_str().unwrap_or_default().to_owned()
    }

    fn computed(&self, name: &str) -> &Value {
        &self.images[name].1["computed"]
    }

    /// How many boots it approves.
    fn approved(&self, name: &str) -> usize {
        let image = &self.inventory.images()[name];
        image.boots.as_ref().map_or(0, |boots| boots.len())
    }
}

impl Attempt {
    fn reasons(&self, name: &str) -> Vec<&str> {
        let reasons = self.reasons.get(name).into_iter().flatten();
        reasons.map(String::as_str).collect()
    }
}

fn config_map(server: &Server, name: &str, data: Value) {
    server.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data,
    }));
}

fn image(content: &str) -> Image {
    Image::of(&files(content, content), "")
}

const PULL: &str = ".dockerconfigjson";

#[test]
fn what_an_image_boots_is_computed_once_and_again_when_anything_of_it_changes() {
    let os = image("A");
    let mut world = World::with(&[&os], as_it_is);
    world.approve("os", &os.root, json!({}));
    let first = world.attempt(&["os"]);
    assert_eq!(first.ended, Ok(()));
    assert_eq!(first.reasons("os"), ["Scanning", "Computed"]);
    assert_eq!(first.events, ["Computed"]);
    assert!(first.requests > 0);
    let computed = world.computed("os");
    assert_eq!(computed["image"], os.root.as_str());
    let boots = computed["boots"].as_array().unwrap();
    let tuples: Vec<_> = boots.iter().map(|boot| &boot["bootTuple"]).collect();
    assert_eq!(tuples, [&tuple("A", "A")]);
    assert_eq!(world.approved("os"), 1);

    let is_settled = |world: &mut World, what: &str| {
        let again = world.attempt(&["os"]);
        assert_eq!(again.ended, Ok(()), "{what}");
        assert_eq!((again.requests, again.reasons.len()), (0, 0), "{what}");
        assert_eq!(again.events.len(), 0, "{what}");
    };
    is_settled(&mut world, "nothing");
    let firmware = |world: &World, platform: &str| {
        let mut facts = refvals::platform::load(PLATFORM, None).unwrap();
        platform.clone_into(&mut facts.platform);
        let data = json!({"platform.json": json!(facts).to_string()});
        config_map(&world.server, "firmware", data);
    };
    let spec = |world: &mut World, more: Value| world.approve("os", &os.root, more);
    type Change<'a> = Box<dyn Fn(&mut World) + 'a>;
    let changes: [(&str, Change<'_>); 4] = [
        (
            "how often GRUB measures",
            Box::new(|world: &mut World| {
                spec(world, json!({"boot": {"kernelMeasurements": 2}}));
            }),
        ),
        (
            "its platforms",
            Box::new(|world: &mut World| {
                firmware(world, "one");
                spec(world, json!({"platforms": ["configmap:firmware"]}));
            }),
        ),
        (
            "what they are read from",
            Box::new(|world: &mut World| firmware(world, "two")),
        ),
        (
            "that it is binary",
            Box::new(|world: &mut World| {
                let mut facts = refvals::platform::load(PLATFORM, None).unwrap();
                "three".clone_into(&mut facts.platform);
                let bytes = kbs_protocol::encoding::b64::encode(json!(facts).to_string());
                world.server.put(json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "firmware"},
                    "binaryData": {"platform.json": bytes},
                }));
            }),
        ),
    ];
    for (what, change) in changes {
        change(&mut world);
        let again = world.attempt(&["os"]);
        assert_eq!(again.ended, Ok(()), "{what}: {}", world.says("os"));
        assert!(again.requests > 0, "{what}");
        is_settled(&mut world, what);
    }
}

#[test]
fn what_was_computed_stays_while_something_fails_and_that_is_said_once() {
    let os = image("A");
    let mut world = World::with(&[&os], as_it_is);
    world.approve("os", &os.root, json!({}));
    world.attempt(&["os"]).ended.unwrap();
    // Somebody insists on signatures, and there are none.
    let key = SigningKey::random(&mut rand_core::OsRng);
    let pem = key
        .verifying_key()
        .to_public_key_pem(LineEnding::LF)
        .unwrap();
    config_map(&world.server, "signers", json!({"cosign.pub": pem}));
    world.configure("cosignKey", json!({"configMap": "signers"}));
    let failed = world.attempt(&["os"]);
    assert_eq!(failed.ended, Err(false), "nothing that passes by itself");
    assert_eq!(failed.reasons("os"), ["Scanning", "NotSigned"]);
    assert_eq!(failed.events, ["NotSigned"]);
    let says = world.says("os");
    assert!(
        says.ends_with("what was computed for it before stays approved"),
        "{says}"
    );
    assert_eq!(world.approved("os"), 1);
    let again = world.attempt(&["os"]);
    assert_eq!(again.reasons("os"), ["NotSigned"], "it does not flicker");
    assert_eq!(again.events.len(), 0, "no news");
    // Taken back: what is there is right, and says so.
    world.configure("cosignKey", Value::Null);
    let back = world.attempt(&["os"]);
    assert_eq!((back.ended, back.requests), (Ok(()), 0));
    assert_eq!(back.reasons("os"), ["Computed"]);
    assert_eq!(world.says("os"), "1 boot");
    // What was computed for another image is no consolation.
    world.approve("os", &format!("sha256:{}", "0".repeat(64)), json!({}));
    assert_eq!(world.attempt(&["os"]).events, ["NotFound"]);
    assert!(
        !world.says("os").contains("stays approved"),
        "{}",
        world.says("os")
    );
    assert_eq!(world.approved("os"), 0);
}

#[test]
fn whoever_has_lost_the_lease_says_nothing() {
    let os = image("A");
    let mut world = World::with(&[&os], as_it_is);
    world.held.store(false, Ordering::Release);
    for (what, digest) in [
        ("good", os.root.clone()),
        ("missing", format!("sha256:{}", "0".repeat(64))),
    ] {
        world.approve("os", &digest, json!({}));
        let attempt = world.attempt(&["os"]);
        assert!(attempt.ended.is_err(), "{what}");
        assert_eq!(attempt.reasons.len(), 0, "{what}: {attempt:?}");
        assert_eq!(attempt.events.len(), 0, "{what}: {attempt:?}");
    }
}

/// The layers, and nothing else, are other bytes than their digests say.
fn tampered(path: &str, mut bytes: Vec<u8>) -> Vec<u8> {
    if path.starts_with("/cdn/") && bytes.starts_with(&[0x1f, 0x8b]) {
        bytes
            .iter_mut()
            .last()
            .into_iter()
            .for_each(|last| *last ^= 1);
    }
    bytes
}

#[test]
fn what_is_not_what_it_should_be_is_not_computed() {
    let (os, empty) = (image("A"), Image::made(""));
    let digest = |world: &mut World| world.approve("os", &os.root, json!({}));
    let root = os.root.as_str();
    let with = |more: Value| move |world: &mut World| world.approve("os", root, more.clone());
    let wrong = json!({"auths": {"localhost": {"auth": "dXNlcjp3cm9uZw=="}}}).to_string();
    type Change<'a> = Box<dyn Fn(&mut World) + 'a>;
    let cases: [(Change<'_>, Spoil, &str, &str, bool); 12] = [
        (
            Box::new(digest),
            tampered,
            "DigestMismatch",
            "do not approve this image",
            false,
        ),
        (
            Box::new(|world: &mut World| {
                digest(world);
                world.most_bytes = 100;
            }),
            as_it_is,
            "InvalidDocument",
            "of at most 100",
            false,
        ),
        (
            Box::new(|world: &mut World| {
                digest(world);
                world.registry.set_down(true);
            }),
            as_it_is,
            "RegistryUnreachable",
            "turn of the network",
            true,
        ),
        (
            Box::new(|world: &mut World| {
                world.approve("os", &format!("sha256:{}", "0".repeat(64)), json!({}))
            }),
            as_it_is,
            "NotFound",
            "does not have it",
            false,
        ),
        (
            Box::new(|world: &mut World| world.approve("os", &empty.root, json!({}))),
            as_it_is,
            "NotPredictable",
            "spec.boot.path",
            false,
        ),
        (
            Box::new(|world: &mut World| {
                digest(world);
                world.configure("pullSecret", Value::Null);
            }),
            as_it_is,
            "Unauthorized",
            "name a Secret with credentials",
            false,
        ),
        (
            Box::new(with(json!({"pullSecret": "nowhere"}))),
            as_it_is,
            "NoPullSecret",
            "there is no Secret \"nowhere\"",
            false,
        ),
        (
            Box::new(|world: &mut World| {
                world.server.put_secret("own", &[(PULL, wrong.as_bytes())]);
                with(json!({"pullSecret": "own"}))(world);
            }),
            as_it_is,
            "Unauthorized",
            "Secret \"own\"",
            false,
        ),
        (
            Box::new(with(json!({"platforms": ["/etc/passwd"]}))),
            as_it_is,
            "InvalidSpec",
            "is no platform",
            false,
        ),
        (
            Box::new(with(json!({"platforms": ["configmap:registry-ca"]}))),
            as_it_is,
            "NoConfigMap",
            "an entry \"platform.json\"",
            false,
        ),
        (
            Box::new(with(json!({"platforms": ["profile:debian13-ovmf-ms"]}))),
            as_it_is,
            "NotPredictable",
            "none of the platforms",
            false,
        ),
        (
            Box::new(with(json!({"updatesFrom": ["nobody"]}))),
            as_it_is,
            "InvalidSpec",
            "both need an image",
            false,
        ),
    ];
    for (change, spoil, reason, says, may_pass) in cases {
        let mut world = World::with(&[&os, &empty], spoil);
        change(&mut world);
        let attempt = world.attempt(&["os"]);
        assert_eq!(attempt.ended, Err(may_pass), "{reason}: {says}");
        assert_eq!(
            attempt.reasons("os").last(),
            Some(&reason),
            "{}",
            world.says("os")
        );
        assert!(world.says("os").contains(says), "{}", world.says("os"));
        assert_eq!(attempt.events, [reason]);
        assert_eq!(*world.computed("os"), Value::Null);
        assert_eq!(world.approved("os"), 0);
    }
}

#[test]
fn an_update_is_computed_together_and_each_step_needs_both_images() {
    let label = json!({"pcrs": [{"id": 4, "value": "0".repeat(64)}]}).to_string();
    let (old, new) = (image("A"), Image::of(&files("B", "B"), &label));
    let mut world = World::with(&[&old, &new], as_it_is);
    world.approve("a", &old.root, json!({}));
    let missing = format!("sha256:{}", "0".repeat(64));
    world.approve("b", &missing, json!({"updatesFrom": ["a"]}));
    let failed = world.attempt(&["a", "b"]);
    assert_eq!(failed.reasons("b").last(), Some(&"NotFound"));
    assert_eq!(failed.reasons("a").last(), Some(&"WaitsForAnother"));
    let says = world.says("a");
    assert!(says.starts_with("image b, of the same update: "), "{says}");

    world.approve("b", &new.root, json!({"updatesFrom": ["a"]}));
    let done = world.attempt(&["a", "b"]);
    assert_eq!(done.ended, Ok(()), "{}", world.says("b"));
    assert_eq!(done.events, ["Computed", "LabelDiffers"]);
    // Which kernel it is that boots, behind whose boot loader, and what that needs.
    for (name, boots) in [
        (
            "a",
            [
                (tuple("A", "A"), json!([])),
                (tuple("B", "A"), json!([new.root])),
            ],
        ),
        (
            "b",
            [
                (tuple("B", "B"), json!([])),
                (tuple("A", "B"), json!([old.root])),
            ],
        ),
    ] {
        let listed = world.computed(name)["boots"].as_array().unwrap();
        let listed: Vec<_> = listed
            .iter()
            .map(|boot| {
                let with = boot.get("with").cloned().unwrap_or(json!([]));
                (boot["bootTuple"].clone(), with)
            })
            .collect();
        assert_eq!(listed, boots, "{name}");
        assert_eq!(world.approved(name), 2, "{name}");
    }
    // The other way round is another update.
    assert_eq!(world.attempt(&["a", "b"]).requests, 0);
    world.approve("a", &old.root, json!({"updatesFrom": ["b"]}));
    world.approve("b", &new.root, json!({}));
    assert!(world.attempt(&["a", "b"]).requests > 0);
}

/// An EFI_SIGNATURE_LIST of Authenticode digests.
fn signature_list(digests: &[[u8; 32]]) -> Vec<u8> {
    let entries = digests.iter().map(|digest| SignatureEntry {
        owner: guid::SHIM_LOCK,
        data: digest.to_vec(),
    });
    let list = SignatureList {
        kind: guid::CERT_SHA256,
        header: Vec::new(),
        entries: entries.collect(),
    };
    list.to_bytes()
}

#[test]
fn an_image_that_starts_behind_the_loader_of_another_one_only_is_approved_there() {
    // Firmware that knows every program but the shim of A.
    let mut known = Vec::new();
    for (of, skipped) in [("A", 1), ("B", 0)] {
        for (path, content) in files(of, of).into_iter().skip(skipped) {
            let file = PeFacts::read(path, &content).unwrap();
            let digest = file.authenticode.get(Bank::Sha256).unwrap();
            known.push(digest.as_bytes().try_into().unwrap());
        }
    }
    let mut firmware = refvals::platform::load("profile:debian13-ovmf-snakeoil", None).unwrap();
    firmware
        .variables
        .insert("db".to_owned(), Blob(signature_list(&known)));
    let (a, b) = (image("A"), image("B"));
    let mut world = World::with(&[&a, &b], as_it_is);
    let data = json!({"platform.json": json!(firmware).to_string()});
    config_map(&world.server, "firmware", data);
    let on_it = |mut spec: Value| {
        spec["platforms"] = json!(["configmap:firmware"]);
        spec
    };
    world.approve("a", &a.root, on_it(json!({})));
    world.approve("b", &b.root, on_it(json!({})));
    let alone = world.attempt(&["a"]);
    assert_eq!(alone.reasons("a").last(), Some(&"NotPredictable"));
    assert_eq!(world.attempt(&["b"]).ended, Ok(()));
    assert_eq!((world.approved("a"), world.approved("b")), (0, 1));

    world.approve("a", &a.root, on_it(json!({"updatesFrom": ["b"]})));
    assert_eq!(
        world.attempt(&["a", "b"]).ended,
        Ok(()),
        "{}",
        world.says("a")
    );
    let boots = world.computed("a")["boots"].as_array().unwrap();
    let behind: Vec<_> = boots.iter().map(|boot| &boot["with"]).collect();
    assert_eq!(behind, [&json!([b.root])]);
}

#[test]
fn an_image_of_more_boots_than_its_status_can_have_is_refused() {
    let os = image("A");
    let mut world = World::with(&[&os], as_it_is);
    let mut facts = refvals::platform::load(PLATFORM, None).unwrap();
    let mut platforms = Vec::new();
    for number in 0..=MOST_BOOTS {
        let dbx = u64::try_from(number).unwrap().to_be_bytes();
        let dbx = signature_list(&[*[dbx; 4].as_flattened().first_chunk().unwrap()]);
        facts.variables.insert("dbx".to_owned(), Blob(dbx));
        let data = json!({"platform.json": json!(facts).to_string()});
        config_map(&world.server, &format!("firmware-{number}"), data);
        platforms.push(format!("configmap:firmware-{number}"));
    }
    world.approve("os", &os.root, json!({"platforms": platforms}));
    assert_eq!(world.attempt(&["os"]).events, ["TooMany"]);
    assert_eq!(world.approved("os"), 0);
    platforms.pop();
    world.approve("os", &os.root, json!({"platforms": platforms}));
    assert_eq!(world.attempt(&["os"]).events, ["Computed"]);
    assert_eq!(world.approved("os"), MOST_BOOTS);
}

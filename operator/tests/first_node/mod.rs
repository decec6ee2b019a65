// SPDX-License-Identifier: Apache-2.0

//! A machine with a software TPM, from an empty namespace to an open disk and out again: the registrar, the
//! operator, the KBS and the agent are processes of their own, with the rights of the installation.

use crate::control_plane::{Place, eventually};
use kbs_protocol::Secret;
use kbs_protocol::encoding::hex;
use kbs_protocol::resource_secret::ResourceSecret;
use serde_json::json;
use sheepfold_operator::controllers::api::{ApprovedImage, AttestationKey, Machine, Phase};
use sheepfold_operator::model::State;
use sheepfold_tests::luks::Volume;
use sheepfold_tests::registrar::Registrar;
use sheepfold_tests::scan::Scanner;
use sheepfold_tests::swtpm::{Authority, SoftTpm};
use sheepfold_tests::world::World;

/// The first of the two manifests: the KBS and who may administrate it.
fn cluster_manifest(world: &World) -> String {
    let indented = |file: &str| {
        let text = std::fs::read_to_string(world.lab.dir().join(file)).unwrap();
        let lines = text.lines().map(|line| format!("      {line}\n"));
        lines.collect::<String>()
    };
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: kbs\nstringData:\n  admin.key: |\n{}\
         \n---\napiVersion: trusted-execution-clusters.io/v1alpha1\nkind: TrustedExecutionCluster\n\
         metadata:\n  name: cluster\nspec:\n  kbs:\n    url: {}\n    role: admin\n    \
         adminKey: {{secret: kbs}}\n    ca: |\n{}",
        indented("admin.key"),
        world.lab.url(),
        indented("ca.pem"),
    )
}

/// The second: the boot that the machine shows now.
fn image_manifest(name: &str, world: &World) -> String {
    let pcrs = world.tpm.read_pcrs().unwrap();
    let value = |index: usize| hex::encode(pcrs[index]);
    let tuple = json!({"pcr04": value(4), "pcr07": value(7), "pcr14": value(14)});
    format!(
        "apiVersion: trusted-execution-clusters.io/v1alpha1\nkind: ApprovedImage\nmetadata:\n  \
         name: {name}\nspec:\n  referenceValues:\n    bootTuples: [{tuple}]\n"
    )
}

/// The disk, as a boot would open it; whose secret is not refused by the policy, must open.
pub(crate) fn opens(world: &World, volume: &Volume) -> bool {
    // A boot knows nothing of the one before it: a pin that was refused there asks at once.
    let state = world.run_dir().join("state.json");
    drop(std::fs::remove_file(&state));
    let disk = volume.path.to_str().unwrap();
    let asked = world.clevis(["luks", "pass", "-d", disk, "-s", "1"]);
    let asked = asked.capture().unwrap();
    if asked.code == Some(0) {
        let opened = volume.test_passphrase(&asked.stdout, Some(1)).unwrap();
        opened.success().unwrap();
        return true;
    }
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    let refused: Vec<_> = state["refused"].as_object().unwrap().values().collect();
    assert!(!refused.is_empty(), "{asked}: {state}");
    for one in refused {
        assert_eq!(one["reason"]["owner"], "policy", "{asked}: {state}");
    }
    false
}

#[test]
fn two_manifests_open_a_disk_and_a_deletion_closes_it() {
    let Some(place) = Place::new() else { return };
    if let Some(program) = SoftTpm::missing().or_else(Authority::missing) {
        eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
        return;
    }
    let maker = Authority::new().unwrap();
    let mut world = World::with_tpm(SoftTpm::certified(&maker).unwrap(), &[]).unwrap();
    let operator = place.installed_operator();
    place.rights(include_str!("../../deploy/registrar/rbac.yaml"));
    let lines = format!(
        "[kubernetes]\nnamespace = {:?}\n[[ignition.volumes]]\nname = \"root\"\n\
         device = \"/dev/disk/by-partlabel/root\"\n",
        place.namespace
    );
    let rights = place.kubeconfig_of("sheepfold-registrar");
    let env = [("KUBECONFIG", rights.as_path())];
    let dir = world.dir().join("registrar");
    let registrar = Registrar::start_with(&dir, &maker, world.lab.dir(), &lines, &env).unwrap();
    world.settings.registrar = Some(registrar.url().to_owned());
    world.configure().unwrap();

    // What it merges into its config on first boot.
    let fragment = crate::common::client(world.lab.dir())
        .get(format!("{}/ignition", registrar.url()))
        .header("user-agent", "Ignition/2.26.0")
        .send()
        .unwrap();
    assert_eq!(fragment.status().as_u16(), 200);
    let fragment: serde_json::Value = serde_json::from_str(&fragment.text().unwrap()).unwrap();
    assert_eq!(fragment["ignition"]["version"], "3.6.0");
    assert_eq!(
        fragment["storage"]["luks"][0]["clevis"]["custom"]["pin"],
        "trustee"
    );

    place.apply_manifest(&cluster_manifest(&world));
    place.apply_manifest(&image_manifest("os-1", &world));
    world
        .run(world.agent(["enroll"]))
        .unwrap()
        .success()
        .unwrap();
    let node = world.node().unwrap();
    let name = node.id.to_string();
    place.await_phase(&name, Phase::Served);
    let volume = Volume::format(&world.node_dir(), "disk.img").unwrap();
    let bind = world.bind(&volume, "trustee", "{}");
    world.run(bind).unwrap().success().unwrap();
    assert!(opens(&world, &volume));
    // Not through the journal: it is the secret.
    let fetched = world.agent(["fetch"]).success().unwrap();
    let secret = ResourceSecret::parse(&Secret::new(fetched.stdout)).unwrap();

    // Enrolling again makes nothing anew.
    let uid = |name: &str| place.get::<Machine>(name).metadata.uid;
    let before = uid(&name);
    world
        .run(world.agent(["enroll"]))
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(uid(&name), before);

    // An update: nobody has approved it, then both are accepted.
    world.tamper(4).unwrap();
    assert!(!opens(&world, &volume), "not approved");
    place.apply_manifest(&image_manifest("os-2", &world));
    eventually("the new image opens the disk", || opens(&world, &volume));
    world.tpm.restart().unwrap();
    assert!(opens(&world, &volume), "and so does the old one");

    // The old image is taken back.
    place.delete::<ApprovedImage>("os-1");
    eventually("the old image is refused", || !opens(&world, &volume));
    world.tamper(4).unwrap();
    assert!(opens(&world, &volume), "the new one is not");

    // The machine goes, and does not come back by enrolling again.
    place.delete::<Machine>(&name);
    assert!(!opens(&world, &volume));
    let again = world.run(world.agent(["enroll"])).unwrap();
    assert_eq!(again.code, Some(14), "held for an administrator: {again}");
    assert!(!place.has_machine(&name));

    let log = operator.end();
    let mut scanner = Scanner::new();
    scanner.add("the volume's key", secret.key()).unwrap();
    for (where_, text) in [
        ("the API server", place.everything_readable()),
        ("the operator's log", log),
    ] {
        assert!(!text.is_empty());
        let leaks = scanner.bytes(where_, text.as_bytes());
        assert!(leaks.is_empty(), "{leaks:?}");
    }
}

#[test]
fn a_second_key_of_a_tpm_waits_and_a_written_machine_is_not_made_twice() {
    use kbs_protocol::enroll::State as Decision;
    use sheepfold_operator::register::objects::ObjectRegistry;
    use sheepfold_operator::register::registry::{NewKey, Registry};
    let Some(place) = Place::new() else { return };
    let [first, second, third] = [0, 1, 2].map(crate::common::Tpm::number);
    let open = || {
        place.block_on(ObjectRegistry::open(
            &place.client,
            &place.namespace,
            3,
            place.runtime(),
        ))
    };
    let registry = open().unwrap();
    let admit = |registry: &ObjectRegistry, ek: u8, tpm: &crate::common::Tpm| {
        let spki = kbs_protocol::encoding::b64::decode(&tpm.ak_public()).unwrap();
        registry.admit(&NewKey {
            ek_sha256: [ek; 32],
            ak_spki: &spki,
            basis: "ek-certificate",
            product: Some("test box"),
            now: std::time::SystemTime::now(),
        })
    };
    assert_eq!(admit(&registry, 1, &first), Ok(Decision::Approved));
    // Another registrar, as after a restart.
    let registry = open().unwrap();
    assert_eq!(admit(&registry, 1, &second), Ok(Decision::Held));
    assert_eq!(admit(&registry, 1, &first), Ok(Decision::Approved));
    let machine: Machine = place.get(&second.node());
    assert_eq!(machine.spec.state, Some(State::Held));
    let key: AttestationKey = place.get(&format!("tpm-{}-1", "01".repeat(32)));
    assert_eq!(key.spec.uuid, Some(first.node()));
    assert_eq!(key.spec.product.as_deref(), Some("test box"));

    // An administrator decides otherwise.
    let register = |arguments: &[&str]| {
        let place_of = ["--namespace", &place.namespace];
        place.command(&[&["register"], arguments, &place_of].concat())
    };
    let listed = || {
        let output = register(&["--list"]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let rows = text.lines().map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |member: &str| row[member].as_str().unwrap().to_owned();
            (text("node_id"), text("state"))
        });
        rows.collect::<std::collections::BTreeMap<_, _>>()
    };
    let states = |one: &str, two: &str| {
        [
            (first.node(), one.to_owned()),
            (second.node(), two.to_owned()),
        ]
        .into()
    };
    assert_eq!(listed(), states("approved", "held"));
    let approved = register(&["--approve", &second.node()]);
    assert!(approved.status.success(), "{approved:?}");
    assert_eq!(listed(), states("held", "approved"));
    assert_eq!(admit(&registry, 1, &second), Ok(Decision::Approved));
    assert_eq!(admit(&registry, 1, &first), Ok(Decision::Held));
    let stranger = register(&["--approve", &third.node()]);
    assert_eq!(stranger.status.code(), Some(2), "{stranger:?}");

    place.machine("by-hand", &third, json!({"state": "held"}));
    assert_eq!(admit(&registry, 2, &third), Ok(Decision::Held));
    assert!(
        !place.has_machine(&third.node()),
        "it is there under another name"
    );
    let full = admit(&registry, 3, &third).unwrap_err();
    assert_eq!(full.error, kbs_protocol::enroll::RefusalKind::Failure);
}

// SPDX-License-Identifier: Apache-2.0
//! The attested Ignition config, from the KBS to the real Ignition of Debian: it takes ours before the platform's,
//! and gets none where ours is refused.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]
#![allow(clippy::arithmetic_side_effects)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sheepfold_tests::cluster::Cluster;
use sheepfold_tests::lab::Lab;
use sheepfold_tests::node_root::{NodeRoot, Suite, Tree};
use sheepfold_tests::paths;
use sheepfold_tests::process::Captured;
use sheepfold_tests::world::{Node, World};

/// A world with a node that takes its config out of an attestation.
fn world() -> (World, Node) {
    let (mut world, node, _) = World::enrolled().unwrap();
    world.settings.ignition = Some("default/{node}/ignition".to_owned());
    world.configure().unwrap();
    (world, node)
}

/// Stores a node's config, as its administrator.
fn store(world: &World, node: &Node, config: &[u8]) {
    let path = format!("default/{}/ignition", node.id);
    world.lab.admin(&["set-resource", &path], config).unwrap();
}

/// A config that makes one file, so that it can be told from others.
fn config(file: &str) -> String {
    json!({
        "ignition": { "version": "3.3.0" },
        "storage": { "files": [{ "path": file, "contents": { "source": "data:,x" } }] },
    })
    .to_string()
}

/// A root as the agent finds it in an initramfs.
fn root(world: &World, cmdline: &str) -> PathBuf {
    let root = world.dir().join("initramfs");
    drop(fs::remove_dir_all(&root));
    fs::create_dir_all(root.join("proc")).unwrap();
    fs::write(root.join("proc/cmdline"), cmdline).unwrap();
    root
}

fn fetch_config(world: &World, root: &Path) -> Captured {
    let run = world.agent(["fetch-config", "--root"]).arg(root);
    world.run(run).unwrap()
}

/// The real Ignition, which a host has given a config of its own.
#[test]
fn ignition_takes_ours_before_the_platforms() {
    let Some(node_root) = NodeRoot::new(Suite::Bookworm).unwrap() else {
        return;
    };
    let tree = &node_root.tree;
    tree.write(
        "/usr/lib/ignition/base.d/10-vendor.ign",
        config("/of-the-vendor"),
    )
    .unwrap();
    tree.write("/config.ign", config("/of-the-host")).unwrap();
    // Outside the namespace in which programs of the tree run, this is what is below the mount point.
    tree.write(
        "/proc/cmdline",
        "ignition.firstboot ignition.platform.id=file",
    )
    .unwrap();
    let drop_in = directory_of_the_drop_in();

    for stage in ["fetch", "fetch-offline"] {
        let hosts = files(&ignition(tree, stage, Some(&drop_in)));
        assert_eq!(hosts, ["/of-the-host"], "there is no config of ours yet");
    }
    let (world, node) = world();
    store(&world, &node, config("/of-the-kbs").as_bytes());
    let fetched = world
        .agent(["--json", "fetch-config", "--root"])
        .arg(tree.path("/"))
        .success()
        .unwrap();
    let facts: Value = serde_json::from_slice(&fetched.stdout).unwrap();
    assert_eq!(facts["ok"], true);
    assert_eq!(facts["path"], format!("default/{}/ignition", node.id));
    assert_eq!(facts["files"].as_array().unwrap().len(), 2);

    for stage in ["fetch", "fetch-offline"] {
        let attested = files(&ignition(tree, stage, Some(&drop_in)));
        assert_eq!(attested, ["/of-the-kbs"], "{stage}");
        // The reason for the drop-in: this Ignition is too old for /run/ignition.
        let stock = files(&ignition(tree, stage, None));
        assert_eq!(stock, ["/of-the-host"], "{stage} without the drop-in");
    }
    vendors_base_counts(tree, &drop_in);
}

/// Base configs are merged in each stage, not cached: so the directory of the drop-in has to have them.
fn vendors_base_counts(tree: &Tree, drop_in: &str) {
    let base = "/run/trustee/ignition/base.d/10-vendor.ign";
    assert_eq!(
        tree.read(base).unwrap(),
        tree.read("/usr/lib/ignition/base.d/10-vendor.ign").unwrap()
    );
    // What Ignition says of a base config that it reads and cannot use.
    tree.write(base, "{").unwrap();
    let run = format!("{}; exit 0", command("fetch", Some(drop_in)));
    let said = tree.run(["sh", "-c", &run]).success().unwrap();
    assert!(said.err().contains(base), "{said}");
}

/// Runs one stage and gives the config that it caches for the others.
fn ignition(tree: &Tree, stage: &str, config_dir: Option<&str>) -> Value {
    let run = format!(
        "{} && cat /run/ignition.json && rm -r /run/ignition.json /run/ignition/state",
        command(stage, config_dir)
    );
    let done = tree.run(["sh", "-c", &run]).success().unwrap();
    serde_json::from_slice(&done.stdout).unwrap()
}

fn command(stage: &str, config_dir: Option<&str>) -> String {
    let variable = config_dir.map(|dir| format!("IGNITION_SYSTEM_CONFIG_DIR={dir} "));
    format!(
        "{}{IGNITION} --root=/sysroot --platform=file --stage={stage} --log-to-stdout >&2",
        variable.unwrap_or_default()
    )
}

/// The files that a config makes.
fn files(config: &Value) -> Vec<String> {
    let files = config["storage"]["files"].as_array().unwrap();
    let path = |file: &Value| file["path"].as_str().unwrap().to_owned();
    files.iter().map(path).collect()
}

/// What the drop-in of Ignition's units says.
fn directory_of_the_drop_in() -> String {
    let file = paths::workspace().join("dracut/65trustee/attested-config.conf");
    let text = fs::read_to_string(file).unwrap();
    let line = "Environment=IGNITION_SYSTEM_CONFIG_DIR=";
    let dir = text.lines().find_map(|text| text.strip_prefix(line));
    dir.unwrap().to_owned()
}

#[test]
fn a_config_that_is_not_complete_in_itself_does_not_arrive() {
    let (world, node) = world();
    let remote = json!({ "source": "https://files.example/x" });
    let with = |place: &str, value: &Value| {
        let mut config = json!({ "ignition": { "version": "3.4.0" } });
        config[place.split('.').next().unwrap()] = match place {
            "ignition.config.merge" => {
                json!({ "version": "3.4.0", "config": { "merge": [value] } })
            }
            "ignition.config.replace" => {
                json!({ "version": "3.4.0", "config": { "replace": value } })
            }
            "ignition.security.tls" => {
                json!({ "version": "3.4.0", "security": { "tls": { "certificateAuthorities": [value] } } })
            }
            "storage.files.contents" => json!({ "files": [{ "path": "/x", "contents": value }] }),
            "storage.files.append" => json!({ "files": [{ "path": "/x", "append": [value] }] }),
            "storage.luks.keyFile" => {
                json!({ "luks": [{ "name": "x", "device": "/dev/x", "keyFile": value }] })
            }
            other => panic!("{other}"),
        };
        config.to_string().into_bytes()
    };
    let mut table: Vec<(String, Vec<u8>, &str)> = [
        (
            "ignition.config.merge",
            "ignition.config.merge[0] from elsewhere",
        ),
        (
            "ignition.config.replace",
            "ignition.config.replace from elsewhere",
        ),
        (
            "ignition.security.tls",
            "ignition.security.tls.certificateauthorities[0]",
        ),
        ("storage.files.contents", "storage.files[0].contents"),
        ("storage.files.append", "storage.files[0].append[0]"),
        ("storage.luks.keyFile", "storage.luks[0].keyfile"),
    ]
    .map(|(place, named)| (place.to_owned(), with(place, &remote), named))
    .into();
    let known = config("/x");
    table.push((
        "new".into(),
        known.replace("3.3.0", "4.0.0").into(),
        "version 4.0.0",
    ));
    table.push((
        "yaml".into(),
        b"variant: fcos\nversion: 1.4.0\n".into(),
        "is not JSON",
    ));
    table.push((
        "large".into(),
        format!("{known}{}", " ".repeat(1024 * 1024)).into(),
        "expected at most 1048576",
    ));
    for (name, config, sentence) in table {
        store(&world, &node, &config);
        let root = root(&world, "quiet");
        let refused = fetch_config(&world, &root);
        assert_eq!(refused.code, Some(15), "{name}: {refused}");
        assert!(refused.err().contains(sentence), "{name}: {refused}");
        assert!(
            !refused.err().contains("files.example"),
            "{name}: {refused}"
        );
        assert!(!root.join("run").exists(), "{name}: something was written");
    }
    store(&world, &node, known.as_bytes());
    let root = root(&world, "quiet");
    assert_eq!(fetch_config(&world, &root).code, Some(0));
}

/// Without a KBS: a node that was tampered with needs none to say so.
#[test]
fn a_host_that_wants_another_config_is_refused_at_once() {
    let (mut world, _) = world();
    world.lab.stop().unwrap();
    let refused = |root: &Path, sentence: &str| {
        let refused = fetch_config(&world, root);
        assert_eq!(refused.code, Some(11), "{refused}");
        assert!(refused.err().contains(sentence), "{refused}");
        assert!(!root.join("run/trustee").exists());
    };
    let told = root(
        &world,
        "quiet ignition.config.url=http://host.example/x.ign",
    );
    refused(&told, "ignition.config.url=http://host.example/x.ign");
    let cached = root(&world, "quiet");
    fs::create_dir(cached.join("run")).unwrap();
    fs::write(cached.join("run/ignition.json"), "{}").unwrap();
    refused(&cached, "there is already /run/ignition.json");
}

#[test]
fn a_config_that_a_host_put_there_stays_and_is_named() {
    let (world, node) = world();
    store(&world, &node, config("/x").as_bytes());
    let root = root(&world, "quiet");
    fs::create_dir_all(root.join("run/ignition")).unwrap();
    fs::write(root.join("run/ignition/user.ign"), "of the host").unwrap();
    let refused = fetch_config(&world, &root);
    assert_eq!(refused.code, Some(11), "{refused}");
    assert!(refused.err().contains("there is already"), "{refused}");
    fs::remove_file(root.join("run/ignition/user.ign")).unwrap();
    assert_eq!(fetch_config(&world, &root).code, Some(0));
    // A unit that is started again.
    assert_eq!(fetch_config(&world, &root).code, Some(0));
}

#[test]
fn another_nodes_config_is_refused_by_the_policy() {
    let (mut world, node) = world();
    let other = "default/0a0a0a0a-0a0a-8a0a-8a0a-0a0a0a0a0a0a/ignition";
    world
        .lab
        .admin(&["set-resource", other], config("/x").as_bytes())
        .unwrap();
    store(&world, &node, config("/x").as_bytes());
    world.settings.ignition = Some(other.to_owned());
    world.configure().unwrap();
    let root = root(&world, "quiet");
    let refused = fetch_config(&world, &root);
    assert_eq!(refused.code, Some(14), "{refused}");
    assert!(!root.join("run").exists());
}

/// From the administrator's directory to the real Ignition: the operator stores a node's config with the volume
/// that is to be encrypted, that node alone gets it, and Ignition reads both parts.
#[test]
fn what_the_operator_provisions_is_what_ignition_reads() {
    let Some(node_root) = NodeRoot::new(Suite::Bookworm).unwrap() else {
        return;
    };
    let tree = &node_root.tree;
    let (mut world, mut other) = (World::new().unwrap(), World::new().unwrap());
    other.settings.servers = world.settings.servers.clone();
    other.settings.ca_file = world.settings.ca_file.clone();
    let [node, others] = [&world, &other].map(|world| {
        drop(world.run(world.agent(["attest"])).unwrap());
        world.node().unwrap()
    });
    let cluster = Cluster::new(&world.dir().join("cluster"), &world.lab).unwrap();
    for world in [&world, &other] {
        let name = format!("image-{}", world.node().unwrap().id);
        cluster
            .approve(&name, &world.tpm.read_pcrs().unwrap())
            .unwrap();
    }
    let spec = "  ignition:\n    configFile: worker.ign\n    luks:\n    - name: root\n      \
                device: /dev/disk/by-partlabel/root\n      filesystem: {format: xfs, label: root}\n";
    cluster.add_key("worker", &node.ak_public, spec).unwrap();
    cluster.add_key("other", &others.ak_public, "").unwrap();
    let wanted = config("/of-the-administrator");
    cluster.file("worker.ign", &wanted).unwrap();
    cluster.provision(&[]).unwrap().success().unwrap();

    let path = format!("default/{}/ignition", node.id);
    for world in [&mut world, &mut other] {
        world.settings.ignition = Some(path.clone());
        world.configure().unwrap();
    }
    let outside = root(&other, "quiet");
    let refused = fetch_config(&other, &outside);
    assert_eq!(refused.code, Some(14), "{refused}");
    assert!(!outside.join("run").exists());
    assert!(!other.agent(["fetch"]).success().unwrap().stdout.is_empty());

    tree.write("/proc/cmdline", "ignition.firstboot").unwrap();
    world
        .agent(["fetch-config", "--root"])
        .arg(tree.path("/"))
        .success()
        .unwrap();
    let user = tree.read("/run/ignition/user.ign").unwrap();
    let judged = tree.run(["ignition-validate", "-"]).stdin(user).capture();
    let judged = judged.unwrap();
    assert_eq!(judged.code, Some(0), "{judged}");
    assert!(judged.err().is_empty(), "{judged}");
    let read = ignition(tree, "fetch", Some(&directory_of_the_drop_in()));
    assert_eq!(files(&read), ["/of-the-administrator"]);
    let luks = &read["storage"]["luks"];
    assert_eq!(luks.as_array().unwrap().len(), 1, "{luks}");
    assert_eq!(luks[0]["name"], "root");
    assert_eq!(luks[0]["clevis"]["custom"]["pin"], "sss");
    assert_eq!(luks[0]["clevis"]["custom"]["needsNetwork"], true);
    assert_eq!(
        read["storage"]["filesystems"][0]["device"],
        "/dev/mapper/root"
    );

    // The other way round: a config that the real one would refuse, and so does ours, never gets this far.
    cluster
        .file(
            "worker.ign",
            &wanted.replace("data:,x", "https://files.example/x"),
        )
        .unwrap();
    let refused = cluster.provision(&[]).unwrap().capture().unwrap();
    assert_eq!(refused.code, Some(10), "{refused}");
    assert!(
        refused.err().contains("without a verification.hash"),
        "{refused}"
    );
}

#[test]
fn a_node_without_the_table_says_so() {
    let (world, _, _) = World::enrolled().unwrap();
    let refused = fetch_config(&world, &root(&world, "quiet"));
    assert_eq!(refused.code, Some(10), "{refused}");
    assert!(
        refused
            .err()
            .contains("takes no Ignition config out of an attestation"),
        "{refused}"
    );
}

/// A rack that starts before its KBS.
#[test]
fn it_waits_for_a_kbs_that_is_away_and_says_so() {
    let (mut world, node) = world();
    store(&world, &node, config("/x").as_bytes());
    let address = world.lab.address().unwrap().to_string();
    world.settings.overall = "0s";
    world.configure().unwrap();
    world.lab.stop().unwrap();
    let root = root(&world, "quiet");
    let run = world.agent(["fetch-config", "--root"]).arg(&root);
    let mut child = run.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("waiting for"), "{line}");
    let dir = world.lab.dir().to_path_buf();
    world.lab = Lab::serve(&dir, &address, &[]).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{line}{rest}");
    assert!(root.join("run/ignition/user.ign").exists());
}

/// Where Debian's package leaves the program.
const IGNITION: &str = "/usr/lib/dracut/modules.d/30ignition/ignition";

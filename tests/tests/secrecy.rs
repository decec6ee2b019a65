// SPDX-License-Identifier: Apache-2.0
//! The secret of a volume shows up nowhere but where the contract says: on the standard output of the command
//! whose output it is. Everything the demo does is done here under watch, and every trace of it is searched,
//! for raw bytes, hexadecimal, base64 and printed byte lists.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sheepfold_tests::luks::Volume;
use sheepfold_tests::process::Run;
use sheepfold_tests::proxy::Proxy;
use sheepfold_tests::scan::Scanner;
use sheepfold_tests::watch::Watch;
use sheepfold_tests::world::World;

#[test]
fn the_secret_is_seen_by_its_caller_only() {
    let (mut world, _, stored) = World::enrolled().unwrap();
    let wire = Proxy::start(world.lab.address().unwrap()).unwrap();
    world.settings.servers = vec![format!("https://{}", wire.address())];
    world.configure().unwrap();
    let mut watch = Watch::new(world.dir()).unwrap();

    // What a node does, with everything that reports about it.
    for args in [
        &["attest"][..],
        &["--json", "attest"],
        &["status"],
        &["--json", "status"],
        &["explain"],
        &["--json", "explain"],
        &["doctor"],
        &["--json", "doctor"],
    ] {
        watch
            .run(world.agent(args.iter().copied()))
            .unwrap()
            .success()
            .unwrap();
    }
    let fetched = watch
        .run_for_its_output(world.agent(["fetch"]))
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(fetched.stdout, stored.content.expose());

    // The node's Ignition config: in its two places, and one that cannot be used nowhere.
    let key_in_config = STANDARD.encode([&b"the key of a node: "[..], &[0xfe; 21]].concat());
    let config = format!(
        r#"{{"ignition":{{"version":"3.4.0"}},"storage":{{"files":[{{"path":"/key","contents":{{"source":"data:,{key_in_config}"}}}}]}}}}"#
    );
    let path = stored.path.as_str().replace("/root", "/ignition");
    let root = world.node_dir().join("initramfs");
    fs::create_dir_all(root.join("proc")).unwrap();
    fs::write(root.join("proc/cmdline"), "quiet").unwrap();
    world.settings.ignition = Some("default/{node}/ignition".to_owned());
    world.configure().unwrap();
    for (text, code) in [
        (config.replace("data:,", "https://"), 15),
        (config.replace("3.4.0", &key_in_config), 15),
        (config.replace("}}", ""), 15),
        (config.clone(), 0),
    ] {
        world
            .lab
            .admin(&["set-resource", &path], text.as_bytes())
            .unwrap();
        for json in [None, Some("--json")] {
            let run = world
                .agent(json)
                .args(["fetch-config", "--root"])
                .arg(&root);
            assert_eq!(watch.run(run).unwrap().code, Some(code));
        }
    }
    let places = ["run/ignition", "run/trustee/ignition"].map(|place| root.join(place));
    for place in &places {
        assert_eq!(fs::read_to_string(place.join("user.ign")).unwrap(), config);
    }

    // A volume, from bind to unbind.
    let volume = Volume::format(&world.node_dir(), "disk.img").unwrap();
    let disk = volume.path.to_str().unwrap();
    let bind = world.bind(&volume, "trustee", "{}");
    watch.run(bind).unwrap().success().unwrap();
    watch
        .run(world.clevis(["luks", "list", "-d", disk]))
        .unwrap()
        .success()
        .unwrap();
    let pass = ["luks", "pass", "-d", disk, "-s", "1"];
    let passphrase = watch
        .run_for_its_output(world.clevis(pass))
        .unwrap()
        .success()
        .unwrap()
        .stdout;
    assert_eq!(
        volume.test_passphrase(&passphrase, Some(1)).unwrap().code,
        Some(0)
    );

    // A share of a secret, and tokens that do not open.
    let share: Vec<u8> = (0..64)
        .map(|n: u8| n.wrapping_mul(59).wrapping_add(7))
        .collect();
    let encrypt = world.encrypt(["{}"]).stdin(share.clone());
    let token = watch.run(encrypt).unwrap().success().unwrap().stdout;
    let decrypt = world.decrypt([]).stdin(token.clone());
    assert_eq!(
        watch
            .run_for_its_output(decrypt)
            .unwrap()
            .success()
            .unwrap()
            .stdout,
        share
    );
    let mut altered = token.clone();
    let last = altered.len() - 3;
    altered[last] = if altered[last] == b'A' { b'B' } else { b'A' };
    assert_eq!(
        watch.run(world.decrypt([]).stdin(altered)).unwrap().code,
        Some(1)
    );

    // A secret whose form is wrong must not be quoted in the complaint.
    let broken = [stored.content.expose(), b"}"].concat();
    world
        .lab
        .admin(&["set-resource", stored.path.as_str()], &broken)
        .unwrap();
    assert_eq!(
        watch
            .run(world.decrypt([]).stdin(token.clone()))
            .unwrap()
            .code,
        Some(1)
    );
    assert_eq!(
        watch
            .run(world.encrypt(["{}"]).stdin(share.clone()))
            .unwrap()
            .code,
        Some(1)
    );
    world
        .lab
        .admin(
            &["set-resource", stored.path.as_str()],
            stored.content.expose(),
        )
        .unwrap();

    // A node that is not what it was.
    world.tamper(4).unwrap();
    assert_eq!(watch.run(world.agent(["fetch"])).unwrap().code, Some(14));
    assert_eq!(watch.run(world.agent(["explain"])).unwrap().code, Some(14));
    assert_eq!(
        watch.run(world.decrypt([]).stdin(token)).unwrap().code,
        Some(1)
    );
    assert_ne!(watch.run(world.clevis(pass)).unwrap().code, Some(0));

    watch.keep("the wire", &wire.seen());
    assert!(
        watch.processes() > 20,
        "only {} processes were seen",
        watch.processes()
    );
    let mut scanner = Scanner::new();
    scanner.add("the stored key", stored.key.expose()).unwrap();
    scanner
        .add("the stored content", stored.content.expose())
        .unwrap();
    scanner.add("the LUKS passphrase", &passphrase).unwrap();
    scanner.add("the share", &share).unwrap();
    scanner
        .add("the key in the config", key_in_config.as_bytes())
        .unwrap();
    // The KBS keeps the secrets and Ignition gets its config; that is their duty.
    let leaks = watch
        .leaks(
            &scanner,
            world.dir(),
            &[world.lab.dir(), &places[0], &places[1]],
        )
        .unwrap();
    assert_eq!(leaks, []);
}

/// A watch that sees nothing would pass the test above. Each leak here is one that real programs have had.
#[test]
fn a_planted_leak_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let secret = b"\x00\xffsecret bytes, some of them not text\x80".to_vec();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut scanner = Scanner::new();
    scanner.add("the secret", &secret).unwrap();
    let found = |script: &str, place: &str| {
        let mut watch = Watch::new(dir.path()).unwrap();
        let run = Run::new("sh")
            .args(["-c", script])
            .env("MARK", dir.path())
            .env("FILE", dir.path().join("left-behind"))
            .stdin(secret.clone());
        watch.run(run).unwrap().success().unwrap();
        let leaks = watch.leaks(&scanner, dir.path(), &[]).unwrap();
        let _ = fs::remove_file(dir.path().join("left-behind"));
        assert!(
            leaks.iter().any(|leak| leak.place.contains(place)),
            "{script}: expected {place:?}, found {leaks:?}"
        );
    };
    found("cat", "standard output");
    found("base64 >&2", "standard error");
    found(
        "od -An -tu1 -w1000 -v | tr -s ' ' ',' >&2",
        "standard error",
    );
    found("cat > \"$FILE\"", "left-behind");
    found(&format!("printf %s {hex} > \"$FILE\""), "left-behind");
    // One process lower, gone at once: only a trace sees it.
    if Watch::new(dir.path()).unwrap().traces() {
        found(
            "text=$(base64 -w0); /bin/true \"$text\"",
            "an argument or variable below",
        );
        found(
            "KEY=$(od -An -tx1 -v | tr -d ' \\n') /bin/true",
            "an argument or variable below",
        );
    }
    // One that lives long enough for /proc.
    found("KEY=$(base64 -w0) sleep 0.3", "/proc");
    found(
        "sleep 0.3 & exec 3<&0; sh -c 'sleep 0.3; :' \"$(base64 -w0 <&3)\"",
        "/proc",
    );
}

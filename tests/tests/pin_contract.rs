// SPDX-License-Identifier: Apache-2.0
//! The pin against its callers: the real Clevis, the real `jose`, the real `cryptsetup`, each with what it
//! expects of `clevis-encrypt-trustee` and `clevis-decrypt-trustee`. One test, one expectation.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]
#![allow(clippy::arithmetic_side_effects)]

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::Signal;
use serde_json::{Value, json};
use sheepfold_tests::administrator::Stored;
use sheepfold_tests::luks::Volume;
use sheepfold_tests::paths;
use sheepfold_tests::process::{self, Run};
use sheepfold_tests::proxy::Proxy;
use sheepfold_tests::world::World;

/// What Clevis really gives a pin: a LUKS passphrase, a share of 64 raw bytes, and the awkward rest.
fn plaintexts() -> Vec<Vec<u8>> {
    vec![
        b"-a passphrase as clevis makes it, 54 characters long_ ".to_vec(),
        (0..64).map(|n: u8| n.wrapping_mul(37)).collect(),
        vec![0; 64],
        vec![0],
        b"ends with newlines\n\n".to_vec(),
        (0..=255).collect(),
    ]
}

fn encrypted(world: &World, plaintext: &[u8]) -> Vec<u8> {
    world
        .encrypt(["{}"])
        .stdin(plaintext)
        .success()
        .unwrap()
        .stdout
}

fn protected_header(token: &[u8]) -> Value {
    let first = token.split(|&byte| byte == b'.').next().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(first).unwrap()).unwrap()
}

#[test]
fn any_bytes_come_back_as_they_went_in() {
    let (world, _, _) = World::enrolled().unwrap();
    for plaintext in plaintexts() {
        let made = world
            .encrypt(["{}"])
            .stdin(plaintext.clone())
            .success()
            .unwrap();
        let text = String::from_utf8(made.stdout.clone()).unwrap();
        assert_eq!(
            text.trim(),
            text,
            "a token has no newline: sss stores it as it is"
        );
        let parts: Vec<&str> = text.split('.').collect();
        assert_eq!(parts.len(), 5, "a compact JWE");
        assert_eq!(parts[1], "", "alg `dir` has no encrypted key");

        let opened = world
            .decrypt([])
            .stdin(made.stdout.clone())
            .success()
            .unwrap();
        assert_eq!(opened.stdout, plaintext);
        // `clevis luks` reads the token from a here-string, which ends with a newline.
        let trailing = [made.stdout.as_slice(), b"\n \n"].concat();
        assert_eq!(
            world.decrypt([]).stdin(trailing).success().unwrap().stdout,
            plaintext
        );
    }
}

#[test]
fn clevis_encrypt_and_decrypt_find_the_pin() {
    let (world, _, _) = World::enrolled().unwrap();
    for plaintext in plaintexts() {
        let made = world
            .clevis(["encrypt", "trustee", "{}"])
            .stdin(plaintext.clone())
            .success()
            .unwrap();
        let opened = world
            .clevis(["decrypt"])
            .stdin(made.stdout)
            .success()
            .unwrap();
        assert_eq!(opened.stdout, plaintext);
    }
}

#[test]
fn each_volume_of_a_node_is_bound_to_its_own_secret() {
    let (mut world, node, root) = World::enrolled().unwrap();
    let data = world.store_secret_at(&node, "default/{node}/data").unwrap();
    world.settings.path = "default/{node}/{volume}".to_owned();
    world.configure().unwrap();
    for (volume, config, stored) in [
        ("root", "{}", &root),
        ("data", r#"{"path":"default/{node}/data"}"#, &data),
    ] {
        let token = world.encrypt([config]).stdin("x").success().unwrap().stdout;
        assert_eq!(
            protected_header(&token)["clevis"]["path"],
            stored.path.as_str()
        );
        let opened = world.decrypt([]).stdin(token).success().unwrap();
        assert_eq!(opened.stdout, b"x");
        let fetched = world.agent(["fetch", "--volume", volume]).success();
        assert_eq!(fetched.unwrap().stdout, stored.content.expose());
    }
    // Whose volume it is remains the configuration's word.
    let stranger = world
        .encrypt([r#"{"path":"default/e3b0c442-98fc-8c14-9afb-f4c8996fb924/data"}"#])
        .stdin("x")
        .capture()
        .unwrap();
    assert_eq!(stranger.code, Some(1), "{stranger}");
    assert!(stranger.err().contains("{volume}"), "{stranger}");
}

#[test]
fn jose_opens_a_token_with_the_stored_key() {
    let (world, _, stored) = World::enrolled().unwrap();
    let plaintext = plaintexts().swap_remove(1);
    let token = world.node_dir().join("token.jwe");
    std::fs::write(&token, encrypted(&world, &plaintext)).unwrap();
    let jwk = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(stored.key.expose()) });
    let key = world.node_dir().join("key.jwk");
    std::fs::write(&key, jwk.to_string()).unwrap();
    let opened = Run::new("jose")
        .args(["jwe", "dec", "-i"])
        .arg(&token)
        .arg("-k")
        .arg(&key)
        .success();
    assert_eq!(opened.unwrap().stdout, plaintext);
}

#[test]
fn the_header_serves_the_older_pin_and_clevis_luks_list() {
    let (world, _, stored) = World::enrolled().unwrap();
    let header = protected_header(&encrypted(&world, b"12345678"));
    assert_eq!(header["alg"], "dir");
    assert_eq!(header["enc"], "A256GCM");
    let clevis = &header["clevis"];
    assert_eq!(clevis["pin"], "trustee");
    assert_eq!(clevis["path"], stored.path.as_str());
    // The older pin's struct has no default for either member.
    let server = clevis["servers"][0].as_object().unwrap();
    assert_eq!(
        server["url"].as_str().unwrap().trim_end_matches('/'),
        world.lab.url()
    );
    assert!(server["cert"].is_string());
    assert!(clevis["trustee"].is_object());
}

#[test]
fn summary_lists_the_pin_once() {
    let world = World::new().unwrap();
    let encrypt = world.encrypt(["--summary"]).success().unwrap();
    assert_eq!(encrypt.out().lines().count(), 1);
    assert!(
        encrypt.out().ends_with('\n') && encrypt.out().len() > 10,
        "{}",
        encrypt.out()
    );
    let decrypt = world.decrypt(["--summary"]).capture().unwrap();
    assert_ne!(decrypt.code, Some(0));
    assert_eq!(decrypt.out(), "");
    // What a person sees. Clevis lists the pins beside itself, and fails because nothing was asked of it.
    let clevis = world.dir().join("bin/clevis");
    symlink(paths::tool("clevis").unwrap(), &clevis).unwrap();
    let list = Run::new(&clevis).capture().unwrap();
    assert_eq!(
        list.err().matches("clevis encrypt trustee").count(),
        1,
        "{list}"
    );
    assert_eq!(list.err().matches("trustee").count(), 1, "{list}");
}

#[test]
fn the_second_argument_may_be_y_or_empty_and_nothing_else() {
    let (world, _, _) = World::enrolled().unwrap();
    for second in ["-y", ""] {
        let made = world
            .encrypt(["{}", second])
            .stdin("12345678")
            .success()
            .unwrap();
        assert_eq!(
            world
                .decrypt([])
                .stdin(made.stdout)
                .success()
                .unwrap()
                .out(),
            "12345678"
        );
    }
    for wrong in [vec![], vec!["{}", "-z"], vec!["{}", "-y", "-y"]] {
        let refused = world
            .encrypt(wrong.iter().copied())
            .stdin("12345678")
            .capture()
            .unwrap();
        assert_eq!(refused.code, Some(2), "{wrong:?}: {refused}");
        assert_eq!(refused.out(), "");
        assert!(refused.err().contains("Usage"), "{refused}");
    }
    let refused = world.decrypt(["{}"]).stdin("x").capture().unwrap();
    assert_eq!(refused.code, Some(2), "{refused}");
}

#[test]
fn a_person_at_a_terminal_gets_the_usage() {
    let world = World::new().unwrap();
    for run in [world.encrypt(["{}"]), world.decrypt([])] {
        let shown = run.capture_with_terminal_input().unwrap();
        assert_eq!(shown.code, Some(2), "{shown}");
        assert!(shown.err().contains("Usage"), "{shown}");
        assert_eq!(shown.out(), "");
    }
}

#[test]
fn a_token_on_a_terminal_ends_its_line() {
    let (world, _, _) = World::enrolled().unwrap();
    let shown = world
        .encrypt(["{}"])
        .stdin("12345678")
        .capture_with_terminal_output()
        .unwrap();
    assert_eq!(shown.code, Some(0), "{shown}");
    // The terminal itself makes two characters of a newline.
    assert!(shown.out().ends_with("\r\n"), "{:?}", shown.out());
    assert_eq!(shown.out().trim_end().split('.').count(), 5);
}

#[test]
fn what_cannot_be_done_exits_with_1_and_prints_nothing() {
    let (world, _, _) = World::enrolled().unwrap();
    let good = String::from_utf8(encrypted(&world, b"12345678")).unwrap();
    let flipped = {
        let (head, tag) = good.rsplit_once('.').unwrap();
        let first = if tag.starts_with('A') { "B" } else { "A" };
        format!("{head}.{first}{}", &tag[1..])
    };
    let tang =
        URL_SAFE_NO_PAD.encode(r#"{"alg":"ECDH-ES","enc":"A256GCM","clevis":{"pin":"tang"}}"#);
    for (token, says) in [
        (String::new(), "token"),
        ("not a token".to_owned(), "token"),
        (good[..good.len() / 2].to_owned(), "token"),
        (format!("{tang}..AAAA.AAAA.AAAA"), "tang"),
        (flipped, "does not open"),
    ] {
        let refused = world.decrypt([]).stdin(token.clone()).capture().unwrap();
        assert_eq!(refused.code, Some(1), "{token}: {refused}");
        assert_eq!(refused.out(), "");
        assert!(refused.err().contains(says), "{token}: {refused}");
    }
    for (config, says) in [
        ("{", "pin configuration"),
        ("[]", "pin configuration"),
        (r#"{"path":7}"#, "`path`"),
        (r#"{"path":"default/../root"}"#, "path"),
        (
            r#"{"servers":[{"url":"https://kbs.example:1","cert":""}]}"#,
            "kbs.example",
        ),
    ] {
        let refused = world.encrypt([config]).stdin("12345678").capture().unwrap();
        assert_eq!(refused.code, Some(1), "{config}: {refused}");
        assert_eq!(refused.out(), "");
        assert!(refused.err().contains(says), "{config}: {refused}");
    }
    let empty = world.encrypt(["{}"]).capture().unwrap();
    assert_eq!(empty.code, Some(1), "{empty}");
    assert!(empty.err().contains("empty"), "{empty}");
}

#[test]
fn a_rotated_secret_opens_old_tokens_from_where_the_operator_keeps_it() {
    let (world, node, stored) = World::enrolled().unwrap();
    let token = encrypted(&world, b"passphrase");
    let kid = protected_header(&token)["clevis"]["trustee"]["kid"]
        .as_str()
        .unwrap()
        .to_owned();
    let kept = format!("{}.{kid}", stored.path);
    world.store_secret(&node).unwrap();

    let replaced = world.decrypt([]).stdin(token.clone()).capture().unwrap();
    assert_eq!(replaced.code, Some(1), "{replaced}");
    assert!(
        replaced
            .err()
            .contains("not the one that the token was made with"),
        "{replaced}"
    );

    world
        .lab
        .admin(&["set-resource", &kept], stored.content.expose())
        .unwrap();
    let opened = world.decrypt([]).stdin(token).success().unwrap();
    assert_eq!(opened.stdout, b"passphrase");
    assert!(opened.err().contains("bind it again"), "{opened}");
}

/// A token is printed when it opens with what the KBS gives next time. Ignition has no key of its own by then.
#[test]
fn a_server_that_changes_its_mind_binds_nothing() {
    let (mut world, node, _) = World::enrolled().unwrap();
    world.settings.binding = "if-present";
    world.configure().unwrap();
    // Neither secret names its path, so nothing but the second answer shows the first one to be wrong.
    let text = |key: &str| json!({ "key_type": "oct", "key": key.repeat(32) }).to_string();
    for (name, key) in [("root", "a"), ("other", "b")] {
        let path = format!("default/{}/{name}", node.id);
        let stored = world
            .lab
            .admin(&["set-resource", &path], text(key).as_bytes())
            .unwrap();
        assert_eq!(stored.code, Some(0), "{stored}");
    }
    let fault = format!("swap-resource=default/{}/other*1", node.id);
    world.restart_lab(&["--fault", &fault]).unwrap();
    let refused = world.encrypt(["{}"]).stdin("x").capture().unwrap();
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stdout.is_empty(), "no token");
    assert!(refused.err().contains("gave one key for"), "{refused}");
    // It was wrong once; bound again, the token opens.
    let token = encrypted(&world, b"x");
    let opened = world.decrypt([]).stdin(token).success().unwrap();
    assert_eq!(opened.stdout, b"x");
}

/// Clevis deletes the old passphrase's last copy once the pin says that the token is written.
#[test]
fn output_that_was_lost_is_no_success() {
    let (world, _, _) = World::enrolled().unwrap();
    let token = encrypted(&world, b"passphrase");
    for (run, input) in [
        (world.encrypt(["{}"]), b"passphrase".to_vec()),
        (world.decrypt([]), token),
    ] {
        let lost = run
            .wrapped(&["sh", "-c", "exec \"$0\" \"$@\" > /dev/full"])
            .unwrap()
            .stdin(input)
            .capture()
            .unwrap();
        assert_eq!(lost.code, Some(1), "{lost}");
        assert!(
            lost.err().contains("cannot write to standard output"),
            "{lost}"
        );
    }
}

#[test]
fn sigterm_ends_the_pin_silently() {
    let (mut world, _, _) = World::enrolled().unwrap();
    let proxy = Proxy::start(world.lab.address().unwrap()).unwrap();
    world.settings.servers = vec![format!("https://{}", proxy.address())];
    world.configure().unwrap();
    let token = encrypted(&world, b"12345678");
    proxy.stall();
    let asked = proxy.connections();
    let mut child = world.decrypt([]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&token).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while proxy.connections() == asked {
        assert!(Instant::now() < deadline, "the pin never asked the server");
        thread::sleep(Duration::from_millis(5));
    }
    process::signal(&child, Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(15), "{:?}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// A secret shared between this pin and the TPM's own, over the same TPM.
fn shared(threshold: u32) -> String {
    json!({ "t": threshold, "pins": { "trustee": {}, "tpm2": {} } }).to_string()
}

#[test]
fn inside_sss_alone() {
    let (world, _, _) = World::enrolled().unwrap();
    let config = json!({ "t": 1, "pins": { "trustee": {} } }).to_string();
    let plaintext = b"a passphrase of some length";
    let made = world
        .clevis(["encrypt", "sss", &config])
        .stdin(plaintext)
        .success()
        .unwrap();
    let opened = world
        .clevis(["decrypt"])
        .stdin(made.stdout)
        .success()
        .unwrap();
    assert_eq!(opened.stdout, plaintext);
}

#[test]
fn inside_sss_either_pin_is_enough() {
    let (mut world, _, _) = World::enrolled().unwrap();
    let plaintext = b"a passphrase of some length";
    let made = world
        .clevis(["encrypt", "sss", &shared(1)])
        .stdin(plaintext)
        .success()
        .unwrap();
    let opened = world
        .clevis(["decrypt"])
        .stdin(made.stdout.clone())
        .success()
        .unwrap();
    assert_eq!(opened.stdout, plaintext);
    // Without the KBS the TPM's pin answers, and sss ends ours, which is still trying.
    world.lab.stop().unwrap();
    let opened = world
        .clevis(["decrypt"])
        .stdin(made.stdout)
        .success()
        .unwrap();
    assert_eq!(opened.stdout, plaintext);
}

#[test]
fn inside_sss_both_pins_are_needed() {
    let (mut world, _, _) = World::enrolled().unwrap();
    let plaintext = b"a passphrase of some length";
    let made = world
        .clevis(["encrypt", "sss", &shared(2)])
        .stdin(plaintext)
        .success()
        .unwrap();
    let opened = world
        .clevis(["decrypt"])
        .stdin(made.stdout.clone())
        .success()
        .unwrap();
    assert_eq!(opened.stdout, plaintext);
    world.lab.stop().unwrap();
    world.settings.overall = "1s";
    world.configure().unwrap();
    let refused = world
        .clevis(["decrypt"])
        .stdin(made.stdout)
        .capture()
        .unwrap();
    assert_ne!(refused.code, Some(0));
    assert_eq!(refused.out(), "");
}

#[test]
fn a_volume_is_bound_listed_opened_and_unbound() {
    let (world, _, stored) = World::enrolled().unwrap();
    let volume = Volume::format(&world.node_dir(), "disk.img").unwrap();
    let disk = volume.path.to_str().unwrap();
    world.bind(&volume, "trustee", "{}").success().unwrap();
    let tokens = volume.clevis_tokens().unwrap();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0]["keyslots"], json!(["1"]));

    let list = world
        .clevis(["luks", "list", "-d", disk])
        .success()
        .unwrap()
        .out();
    assert!(
        list.starts_with("1: "),
        "clevis-luks-askpass would give up: {list:?}"
    );
    let passphrase = world
        .clevis(["luks", "pass", "-d", disk, "-s", "1"])
        .success()
        .unwrap()
        .stdout;
    assert_eq!(
        volume.test_passphrase(&passphrase, Some(1)).unwrap().code,
        Some(0)
    );
    assert_ne!(
        volume.test_passphrase(b"another", Some(1)).unwrap().code,
        Some(0)
    );

    world
        .clevis(["luks", "unbind", "-f", "-d", disk, "-s", "1"])
        .success()
        .unwrap();
    assert_eq!(volume.clevis_tokens().unwrap().len(), 0);
    assert_ne!(
        volume.test_passphrase(&passphrase, None).unwrap().code,
        Some(0)
    );

    // As stock Ignition before 2.26 binds: any pin, as long as it is called sss; and `-y`.
    let first_key = volume.key_file.to_str().unwrap();
    let config = json!({ "t": 1, "pins": { "trustee": { "path": stored.path.as_str() } } });
    world
        .clevis([
            "luks",
            "bind",
            "-y",
            "-k",
            first_key,
            "-d",
            disk,
            "sss",
            &config.to_string(),
        ])
        .success()
        .unwrap();
    let passphrase = world
        .clevis(["luks", "pass", "-d", disk, "-s", "1"])
        .success()
        .unwrap()
        .stdout;
    assert_eq!(
        volume.test_passphrase(&passphrase, Some(1)).unwrap().code,
        Some(0)
    );
}

#[test]
fn a_failed_bind_leaves_the_volume_as_it_was() {
    let (mut world, _, _) = World::enrolled().unwrap();
    let volume = Volume::format(&world.node_dir(), "disk.img").unwrap();
    let before = volume.header().unwrap();
    world.settings.overall = "1s";
    world.configure().unwrap();
    world.lab.stop().unwrap();
    let refused = world.bind(&volume, "trustee", "{}").capture().unwrap();
    assert_ne!(refused.code, Some(0));
    assert_eq!(volume.header().unwrap(), before);
}

/// A token as the older pin makes it: flat header, key given as text.
fn older_token(world: &World, url: &str, path: &str, key: &str, plaintext: &[u8]) -> Vec<u8> {
    let jwk = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(key), "alg": "A256GCM" });
    let template = json!({ "protected": {
        "alg": "dir", "enc": "A256GCM",
        "clevis": { "pin": "trustee", "servers": [{ "url": url, "cert": "" }], "path": path, "initdata": null }
    }});
    let file = world.node_dir().join("older.jwk");
    std::fs::write(&file, jwk.to_string()).unwrap();
    let made = Run::new("jose")
        .args([
            "jwe",
            "enc",
            "-c",
            "-I",
            "-",
            "-i",
            &template.to_string(),
            "-k",
        ])
        .arg(&file)
        .stdin(plaintext)
        .success()
        .unwrap();
    made.out().trim().as_bytes().to_vec()
}

/// A world whose secret is of the older form: 32 characters that are the key.
fn world_of_the_older_pin() -> (World, Stored, &'static str) {
    let (mut world, _, stored) = World::enrolled().unwrap();
    let key = "0123456789abcdef0123456789ABCDEF";
    let content = json!({ "key_type": "oct", "key": key }).to_string();
    world
        .lab
        .admin(&["set-resource", stored.path.as_str()], content.as_bytes())
        .unwrap();
    world.settings.binding = "if-present";
    world.settings.overall = "20s";
    world.configure().unwrap();
    (world, stored, key)
}

#[test]
fn tokens_of_the_older_pin_open_where_that_was_asked_for() {
    let (mut world, stored, key) = world_of_the_older_pin();
    let plaintext = b"from an older disk";
    let token = older_token(
        &world,
        world.lab.url(),
        stored.path.as_str(),
        key,
        plaintext,
    );
    world.settings.mode = "header";
    world.configure().unwrap();
    let opened = world.decrypt([]).stdin(token).success().unwrap();
    assert_eq!(opened.stdout, plaintext);
    assert!(
        opened.err().contains("trust"),
        "the mode warns on every use: {:?}",
        opened.err()
    );
}

#[test]
fn a_token_cannot_send_the_node_to_another_server() {
    let (world, stored, key) = world_of_the_older_pin();
    let elsewhere = Proxy::start(world.lab.address().unwrap()).unwrap();
    let url = format!("https://{}", elsewhere.address());
    let token = older_token(&world, &url, stored.path.as_str(), key, b"a trap");
    let refused = world.decrypt([]).stdin(token).capture().unwrap();
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(
        refused.err().contains(&elsewhere.address().to_string()),
        "{refused}"
    );
    assert_eq!(
        elsewhere.connections(),
        0,
        "the node asked the server that the disk named"
    );
}

#[test]
fn the_older_pin_can_read_our_tokens() {
    let (world, stored, key) = world_of_the_older_pin();
    let token = encrypted(&world, b"12345678");
    let clevis = protected_header(&token)["clevis"].clone();
    assert_eq!(clevis["path"], stored.path.as_str());
    // It takes the bytes of the text as the key, and `dir` with A256GCM.
    let jwk = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(key) });
    let file = world.node_dir().join("key.jwk");
    std::fs::write(&file, jwk.to_string()).unwrap();
    let opened = Run::new("jose")
        .args(["jwe", "dec", "-i-", "-k"])
        .arg(&file)
        .stdin(token)
        .success();
    assert_eq!(opened.unwrap().out(), "12345678");
}

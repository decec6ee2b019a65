// SPDX-License-Identifier: Apache-2.0

//! The `jose` command, which Clevis itself uses, opens our tokens, and we open its tokens.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clevis_pin::{decrypt, encrypt};

use crate::common::{FixedSource, TEST_KEY, TEST_PLAINTEXT, config};

#[test]
fn jose_opens_our_token() {
    if no_jose() {
        return;
    }
    let token = encrypt(&config("{}"), TEST_PLAINTEXT, &mut FixedSource::new()).unwrap();
    let token = file("ours.jwe", token.as_bytes());
    for (name, extra) in [("ours-alg.jwk", ALG), ("ours-ops.jwk", KEY_OPS)] {
        let key = file(name, jwk(extra).as_bytes());
        let output = jose(&["jwe", "dec", "-i", text(&token), "-k", text(&key)]);
        assert_eq!(output.stdout, TEST_PLAINTEXT, "{extra}");
    }
}

#[test]
fn we_open_the_token_of_jose() {
    if no_jose() {
        return;
    }
    let plaintext = file("theirs.txt", TEST_PLAINTEXT);
    let key = file("theirs.jwk", jwk(ALG).as_bytes());
    let output = jose(&[
        "jwe",
        "enc",
        "-c",
        "-i",
        r#"{"protected":{"alg":"dir","enc":"A256GCM","clevis":{"pin":"trustee","servers":[],"path":"a/b/c"}}}"#,
        "-I",
        text(&plaintext),
        "-k",
        text(&key),
    ]);
    let opened = decrypt(&output.stdout, &mut FixedSource::new()).unwrap();
    assert_eq!(opened.expose(), TEST_PLAINTEXT);
}

/// `clevis luks bind` stores the token as flattened JSON, and `clevis luks pass` makes it compact again.
#[test]
fn our_token_survives_the_way_through_a_luks_header() {
    if no_jose() {
        return;
    }
    let token = encrypt(&config("{}"), TEST_PLAINTEXT, &mut FixedSource::new()).unwrap();
    let compact = file("way.jwe", token.as_bytes());
    let flattened = jose(&["jwe", "fmt", "-i", text(&compact)]).stdout;
    let stored: serde_json::Value = serde_json::from_slice(&flattened).unwrap();
    assert_eq!(stored["encrypted_key"], "");
    let flattened = file("way.json", &flattened);
    let back = jose(&["jwe", "fmt", "-c", "-i", text(&flattened)]).stdout;
    assert_eq!(String::from_utf8(back).unwrap().trim_end(), token);
}

fn no_jose() -> bool {
    let missing = Command::new("jose").arg("alg").output().is_err();
    if missing {
        // Not `eprintln`, which the test harness hides when a test passes.
        io::stderr()
            .write_all(
                b"SKIPPED: the command `jose` is not installed; interoperability was NOT tested
",
            )
            .unwrap();
    }
    missing
}

fn jose(arguments: &[&str]) -> Output {
    let output = Command::new("jose").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

fn jwk(extra: &str) -> String {
    format!(
        r#"{{"kty":"oct","k":"{}",{extra}}}"#,
        URL_SAFE_NO_PAD.encode(TEST_KEY)
    )
}

/// A file in this test program's own folder below `target`. The key in it protects nothing.
fn file(name: &str, content: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("clevis-pin-{name}"));
    fs::write(&path, content).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const ALG: &str = r#""alg":"A256GCM""#;
const KEY_OPS: &str = r#""key_ops":["encrypt","decrypt"]"#;

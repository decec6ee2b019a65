// SPDX-License-Identifier: Apache-2.0

use super::Config;
use crate::provision::objects::Luks;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::Secret;
use serde_json::{Value, json};

fn config(text: &str, luks: &Value) -> Result<Config, String> {
    let luks: Vec<Luks> = serde_json::from_value(luks.clone()).unwrap();
    Config::new(Secret::new(text.as_bytes().to_vec()), &luks)
}

fn root() -> Value {
    json!([{
        "name": "root", "device": "/dev/disk/by-partlabel/root", "label": "luks-root",
        "filesystem": {"format": "xfs", "label": "root"},
    }])
}

const PLAIN: &str = r#"{"ignition": {"version": "3.4.0"}, "x": "a secret"}"#;

#[test]
fn without_volumes_the_text_stays_as_it_is() {
    let same = config(PLAIN, &json!([])).unwrap();
    assert_eq!(same.text().expose(), PLAIN.as_bytes());
    assert_eq!(same.id(), config(PLAIN, &json!([])).unwrap().id());
    let other = config(&format!("{PLAIN} "), &json!([])).unwrap();
    assert_ne!(same.id(), other.id());
    assert!(!format!("{same:?}").contains("secret"));
}

#[test]
fn volumes_come_after_what_the_config_merges_itself() {
    let own = r#"{"source": "data:,%7B%22ignition%22:%7B%22version%22:%223.4.0%22%7D%7D"}"#;
    let merging =
        format!(r#"{{"ignition": {{"version": "3.4.0", "config": {{"merge": [{own}]}}}}}}"#);
    for (text, before) in [(PLAIN, 0), (&merging, 1)] {
        let made = config(text, &root()).unwrap();
        let made: Value = serde_json::from_slice(made.text().expose()).unwrap();
        let merge = made["ignition"]["config"]["merge"].as_array().unwrap();
        assert_eq!(merge.len(), before + 1);
        let source = merge[before]["source"].as_str().unwrap();
        let source = source.strip_prefix("data:;base64,").unwrap();
        let fragment = STANDARD.decode(source).unwrap();
        let golden = include_bytes!("../../ignition/golden/root-3.4.0.ign");
        assert_eq!(
            String::from_utf8_lossy(&fragment),
            String::from_utf8_lossy(golden)
        );
        let rest = |mut value: Value| {
            value["ignition"]["config"] = Value::Null;
            value
        };
        assert_eq!(rest(made), rest(serde_json::from_str(text).unwrap()));
    }
}

#[test]
fn what_a_volume_may_say() {
    let mut all = root();
    all[0]["uuid"] = "11111111-2222-4333-8444-555555555555".into();
    all[0]["wipeVolume"] = false.into();
    all[0]["discard"] = true.into();
    all[0]["filesystem"]["path"] = "/sysroot".into();
    let made = config(PLAIN, &all).unwrap();
    let made: Value = serde_json::from_slice(made.text().expose()).unwrap();
    let source = made["ignition"]["config"]["merge"][0]["source"].as_str();
    let fragment = STANDARD.decode(source.unwrap().rsplit(',').next().unwrap());
    let fragment: Value = serde_json::from_slice(&fragment.unwrap()).unwrap();
    let luks = &fragment["storage"]["luks"][0];
    assert_eq!(luks["uuid"], all[0]["uuid"]);
    assert_eq!(luks["wipeVolume"], false);
    assert_eq!(luks["discard"], true);
    assert_eq!(fragment["storage"]["filesystems"][0]["path"], "/sysroot");
}

#[test]
fn a_volume_may_have_authenticated_sectors() {
    let mut all = root();
    for (word, cipher) in [
        ("hmac-sha256", "aes-xts-plain64"),
        ("aead", "aes-gcm-random"),
    ] {
        all[0]["integrity"] = word.into();
        let made = config(PLAIN, &all).unwrap();
        let made: Value = serde_json::from_slice(made.text().expose()).unwrap();
        let source = made["ignition"]["config"]["merge"][0]["source"].as_str();
        let fragment = STANDARD.decode(source.unwrap().rsplit(',').next().unwrap());
        let fragment: Value = serde_json::from_slice(&fragment.unwrap()).unwrap();
        let options = fragment["storage"]["luks"][0]["options"]
            .as_array()
            .unwrap();
        for expected in [word, cipher] {
            assert!(options.contains(&expected.into()), "{options:?}");
        }
    }
    all[0]["discard"] = true.into();
    let error = config(PLAIN, &all).unwrap_err();
    assert!(
        error.contains("discard does not go with integrity aead; leave discard out"),
        "{error}"
    );
    all[0]["integrity"] = "crc32c".into();
    let error = serde_json::from_value::<Vec<Luks>>(all).unwrap_err();
    assert!(error.to_string().contains("hmac-sha256"), "{error}");
}

#[test]
fn what_a_node_would_refuse_is_refused_here() {
    let replace = r#"{"source": "data:,%7B%22ignition%22:%7B%22version%22:%223.4.0%22%7D%7D"}"#;
    let old = PLAIN.replace("3.4.0", "3.1.0");
    let before_discard = PLAIN.replace("3.4.0", "3.3.0");
    let mut discard = root();
    discard[0]["discard"] = true.into();
    let twice = json!([root()[0], root()[0]]);
    let mut device = root();
    device[0]["device"] = "sda".into();
    for (text, luks, sentence) in [
        ("variant: fcos\n", &json!([]), "is not JSON at line 1"),
        (
            r#"{"ignition":{"version":"3.4.0"},"storage":{"files":[{"contents":{"source":"https://x"}}]}}"#,
            &json!([]),
            "storage.files[0].contents from elsewhere",
        ),
        (
            &format!(r#"{{"ignition":{{"version":"3.4.0","config":{{"replace":{replace}}}}}}}"#),
            &root(),
            "ignition.config.replace leaves no place",
        ),
        (
            r#"{"Ignition": {"version": "3.4.0"}}"#,
            &root(),
            "not spelled as the specification does",
        ),
        (
            r#"{"ignition": {"version": "3.4.0", "Config": {}}}"#,
            &root(),
            "ignition.config twice",
        ),
        (old.as_str(), &root(), "3.1.0 cannot encrypt"),
        (before_discard.as_str(), &discard, "discard needs"),
        (PLAIN, &twice, "two volumes have the name \"root\""),
        (PLAIN, &device, "a path below /dev"),
    ] {
        let error = config(text, luks).unwrap_err();
        assert!(error.contains(sentence), "{sentence}: {error}");
        assert!(!error.contains("a secret"), "{error}");
    }
}

#[test]
fn volumes_do_not_make_it_too_large_to_be_fetched() {
    let head = r#"{"ignition":{"version":"3.4.0"},"x":""#;
    let fill = ignition_config::LIMIT - head.len() - 2;
    let full = format!("{head}{}\"}}", "x".repeat(fill));
    config(&full, &json!([])).unwrap();
    let error = config(&full, &root()).unwrap_err();
    assert!(error.contains("expected at most"), "{error}");
}

// SPDX-License-Identifier: Apache-2.0

use super::{Facts, LIMIT, VERSIONS, check};
use crate::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_protocol::{Blame as _, Owner, Persistence, Secret};

fn judge(text: &str) -> Result<Facts, Error> {
    check(&Secret::new(text.as_bytes().to_vec()))
}

/// A config with this object in this place.
fn with(place: &str, object: &str) -> String {
    let mut text = object.to_owned();
    for step in place.rsplit('.') {
        text = match step.strip_suffix("[]") {
            Some(name) => format!(r#"{{"{name}":[{text}]}}"#),
            None => format!(r#"{{"{step}":{text}}}"#),
        };
    }
    match text.strip_prefix(r#"{"ignition":{"#) {
        Some(rest) => format!(r#"{{"ignition":{{"version":"3.4.0",{rest}"#),
        None => format!(
            r#"{{"ignition":{{"version":"3.4.0"}},{}"#,
            text.trim_start_matches('{')
        ),
    }
}

fn sha512() -> String {
    format!("sha512-{}", "0a".repeat(64))
}

/// Every place where a resource may stand (Ignition configuration specification 3.6).
const PLACES: [&str; 6] = [
    "ignition.security.tls.certificateAuthorities[]",
    "storage.files[].contents",
    "storage.files[].append[]",
    "storage.luks[].keyFile",
    "ignition.config.merge[]",
    "ignition.config.replace",
];

#[test]
fn each_remote_source_is_pinned() {
    let sources = [
        "https://files.example/x",
        "http://files.example/x",
        "tftp://files.example/x",
        "s3://bucket/x",
        "gs://bucket/x",
        "arn:aws:s3:::bucket/x",
        "DATAS:,x",
        "/x",
    ];
    for place in PLACES {
        for source in sources {
            let bare = judge(&with(place, &format!(r#"{{"source":"{source}"}}"#))).unwrap_err();
            let named = place.replace("[]", "[0]").to_lowercase();
            assert!(bare.to_string().contains(&named), "{place}: {bare}");
            assert!(!bare.to_string().contains(source), "{bare}");
            assert_eq!(bare.owner(), Owner::Data);
            let pinned = format!(
                r#"{{"source":"{source}","verification":{{"hash":"{}"}}}}"#,
                sha512()
            );
            let verdict = judge(&with(place, &pinned));
            match place.starts_with("ignition.config") {
                // What a config elsewhere fetches, nobody can see from here.
                true => assert!(matches!(verdict, Err(Error::Elsewhere { .. }))),
                false => drop(verdict.unwrap()),
            }
        }
        for inside in [r#"{"source":""}"#, r#"{"source":null}"#, "{}"] {
            judge(&with(place, inside)).unwrap();
        }
    }
    for place in &PLACES[..4] {
        judge(&with(place, r#"{"source":"data:,hello"}"#)).unwrap();
        judge(&with(
            place,
            r#"{"source":"DATA:;base64,AAAA","compression":"gzip"}"#,
        ))
        .unwrap();
    }
}

#[test]
fn a_digest_is_a_whole_one() {
    let place = PLACES[1];
    let hash = |hash: &str| {
        let object =
            format!(r#"{{"source":"https://x.example","verification":{{"hash":"{hash}"}}}}"#);
        judge(&with(place, &object))
    };
    hash(&sha512()).unwrap();
    hash(&format!("sha256-{}", "F0".repeat(32))).unwrap();
    for bad in [
        "",
        "sha512-",
        &"0a".repeat(64),
        &format!("sha1-{}", "0a".repeat(20)),
        &format!("sha512-{}", "0a".repeat(32)),
        &format!("sha256-{}", "0g".repeat(32)),
        &format!("{} ", sha512()),
    ] {
        assert!(matches!(hash(bad), Err(Error::Unpinned { .. })), "{bad}");
    }
    let elsewhere = format!(r#"{{"source":"https://x.example","hash":"{}"}}"#, sha512());
    assert!(judge(&with(place, &elsewhere)).is_err());
}

/// Go reads `Source` for `source`, and the last of two.
#[test]
fn names_are_gos() {
    let remote = "https://x.example";
    for name in ["Source", "SOURCE", "\\u017fource", "so\\u0075rce"] {
        let error = judge(&with(PLACES[1], &format!(r#"{{"{name}":"{remote}"}}"#))).unwrap_err();
        assert!(matches!(error, Error::Unpinned { .. }), "{name}: {error}");
    }
    for (first, second) in [("source", "source"), ("source", "Source"), ("mode", "mode")] {
        let object = format!(r#"{{"{first}":"data:,x","{second}":"data:,y"}}"#);
        let error = judge(&with(PLACES[1], &object)).unwrap_err();
        assert!(matches!(error, Error::Twice { .. }), "{error}");
    }
    let pinned = format!(
        r#"{{"SOURCE":"{remote}","Verification":{{"HASH":"{}"}}}}"#,
        sha512()
    );
    judge(&with(PLACES[1], &pinned)).unwrap();
}

/// A specification that adds a place adds no hole.
#[test]
fn a_place_that_we_do_not_know_is_judged_too() {
    let error = judge(&with(
        "storage.new[].thing",
        r#"{"source":"https://x.example"}"#,
    ));
    assert!(matches!(error, Err(Error::Unpinned { .. })));
}

#[test]
fn configs_inside_are_looked_into() {
    fn plain(text: &str) -> String {
        let escaped = text.replace('%', "%25").replace('"', "%22");
        format!("data:application/json,{escaped}")
    }
    fn base64(text: &str) -> String {
        format!("data:;base64,{}", STANDARD.encode(text))
    }
    let forms: [fn(&str) -> String; 2] = [plain, base64];
    let bad = with(PLACES[1], r#"{"source":"https://x.example"}"#);
    let good = with(PLACES[1], r#"{"source":"data:,x"}"#);
    for place in &PLACES[4..] {
        for form in forms {
            let object = |text: &str| with(place, &format!(r#"{{"source":"{}"}}"#, form(text)));
            judge(&object(&good)).unwrap();
            let error = judge(&object(&bad)).unwrap_err();
            let named = place.replace("[]", "[0]");
            let expected = format!("{named}: storage.files[0].contents");
            assert!(error.to_string().contains(&expected), "{error}");
            let deeper = judge(&object(&object(&bad))).unwrap_err().to_string();
            assert!(
                deeper.contains(&format!("{named}: {named}: storage")),
                "{deeper}"
            );
            let older = judge(&object(&good.replace("3.4.0", "2.2.0"))).unwrap_err();
            assert!(
                older
                    .to_string()
                    .contains(&format!("in {named} has version 2.2.0")),
                "{older}"
            );
        }
        let compressed = format!(r#"{{"source":"{}","compression":"gzip"}}"#, base64(&good));
        let opaque = [
            compressed.as_str(),
            r#"{"source":"data:;base64,e30"}"#,
            r#"{"source":"data:;base64,!"}"#,
            r#"{"source":"data:text"}"#,
            r#"{"source":"data:,%7"}"#,
            r#"{"source":"data:,%+1"}"#,
            r#"{"source":"data:a=%22,%22;base64,e30="}"#,
        ];
        for object in opaque {
            let error = judge(&with(place, object)).unwrap_err();
            assert!(matches!(error, Error::Opaque { .. }), "{object}: {error}");
        }
    }
}

/// Ignition follows `replace` and forgets the rest.
#[test]
fn a_config_that_another_replaces_says_so() {
    let inner = r#"{"source":"data:,%7B%22ignition%22:%7B%22version%22:%223.4.0%22%7D%7D"}"#;
    for (place, replaced) in [
        ("ignition.config.replace", true),
        ("ignition.Config.REPLACE", true),
        ("ignition.config.merge[]", false),
    ] {
        let facts = judge(&with(place, inner)).unwrap();
        let version = "3.4.0";
        assert_eq!(facts, Facts { version, replaced }, "{place}");
    }
    assert!(
        !judge(&with(PLACES[5], r#"{"source":""}"#))
            .unwrap()
            .replaced
    );
}

#[test]
fn versions() {
    let config = |version: &str| format!(r#"{{"ignition":{{"version":{version}}}}}"#);
    for version in VERSIONS {
        assert_eq!(
            judge(&config(&format!("\"{version}\""))).unwrap().version,
            version
        );
    }
    for (version, shown) in [
        ("\"3.7.0-experimental\"", "version 3.7.0-experimental"),
        ("\"2.3.0\"", "version 2.3.0"),
        ("3", "no known version"),
        (
            "\"a word that was meant to be a secret\"",
            "no known version",
        ),
    ] {
        let error = judge(&config(version)).unwrap_err().to_string();
        assert!(error.contains(shown), "{error}");
        assert!(!error.contains("meant"), "{error}");
    }
    for text in ["{}", r#"{"version":"3.4.0"}"#, "[]", "null", "7"] {
        assert!(matches!(judge(text), Err(Error::Version { .. })), "{text}");
    }
}

#[test]
fn json_only_and_not_too_much() {
    for text in [
        "",
        "variant: fcos\nversion: 1.5.0\n",
        r#"{"ignition":{"version":"3.4.0"}"#,
        r#"{"ignition":{"version":"3.4.0"}} {}"#,
        r#"{"ignition":{"version":"3.4.0"},"passwd":"hunter2, unquoted" oops}"#,
        &"[".repeat(4000),
    ] {
        let error = judge(text).unwrap_err();
        assert!(matches!(error, Error::NotJson { .. }), "{text}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert_eq!(error.persistence(), Persistence::Permanent);
    }
    let fill = |bytes: usize| {
        let head = r#"{"ignition":{"version":"3.4.0"},"x":""#;
        format!("{head}{}\"}}", "x".repeat(bytes - head.len() - 2))
    };
    judge(&fill(LIMIT)).unwrap();
    let error = judge(&fill(LIMIT + 1)).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

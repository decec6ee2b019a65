// SPDX-License-Identifier: Apache-2.0
//! The configs that the operator renders, judged by the real `ignition-validate`. The operator's own tests
//! prove that these files are what it renders.
//!
//! Debian 12 and 13 have Ignition 2.14. `SHEEPFOLD_IGNITION_VALIDATE` names another one to ask as well.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test helpers: a panic is the report"
)]
#![allow(clippy::arithmetic_side_effects)]

use std::fs;

use serde_json::Value;
use sheepfold_tests::node_root::{NodeRoot, Suite};
use sheepfold_tests::paths;
use sheepfold_tests::process::Run;

/// Something to ask: a program about to run, which reads a config from its standard input.
type Judge<'j> = &'j dyn Fn(&str) -> Run;

#[test]
fn debians_ignition() {
    let Some(root) = NodeRoot::new(Suite::Bookworm).unwrap() else {
        return;
    };
    let judge = |argument: &str| root.tree.run(["ignition-validate", argument]);
    assert_eq!(minor_version(&judge), 14);
    whole_matrix(&judge);
}

#[test]
fn another_ignition() {
    let Some(program) = std::env::var_os("SHEEPFOLD_IGNITION_VALIDATE") else {
        paths::skipped(
            "specifications 3.4 and newer: set SHEEPFOLD_IGNITION_VALIDATE to an ignition-validate \
             newer than Debian's 2.14",
        );
        return;
    };
    whole_matrix(&|argument: &str| Run::new(&program).arg(argument));
}

fn whole_matrix(judge: Judge<'_>) {
    let minor = minor_version(judge);
    let mut seen = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let mut spec = name.trim_end_matches(".ign").rsplit('-');
        let experimental = name.contains("experimental");
        let spec = spec.nth(usize::from(experimental)).unwrap();
        let text = fs::read_to_string(golden().join(&name)).unwrap();
        let (accepted, said) = verdict(judge, &text);
        assert_eq!(
            accepted,
            understands(minor, spec, experimental),
            "{name}: {said}"
        );
        if accepted {
            assert_eq!(said, "", "{name} is accepted with a warning");
        }
        seen += 1;
    }
    assert_eq!(seen, 18, "three for each specification version");
    what_the_renderer_avoids(judge);
}

/// The reasons behind the two forms, and behind what the renderer refuses.
fn what_the_renderer_avoids(judge: Judge<'_>) {
    let text = fs::read_to_string(golden().join("root-3.3.0.ign")).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        verdict(judge, &text.replace(from, to))
    };
    let (accepted, said) = changed(r#""pin": "sss""#, r#""pin": "trustee""#);
    assert!(!accepted, "a pin by its own name, before 3.6: {said}");
    let config = r#""config": "{\"t\":1,\"pins\":{\"trustee\":{}}}""#;
    let (accepted, said) = changed(config, r#""config": """#);
    assert!(!accepted, "a pin without configuration: {said}");
    let wipe = r#""wipeVolume": true"#;
    for word in ["\"discard\": true", "\"openOptions\": []"] {
        let (_, said) = changed(wipe, &format!("{wipe}, {word}"));
        assert!(said.contains("Unused key"), "{word} before 3.4: {said}");
    }
}

/// The Butane examples say what the rendered configs say.
#[test]
fn butane_examples() {
    for (example, version, rendered) in [
        ("root-wrapped.bu", "1.5.0", "root-3.4.0.ign"),
        ("root-direct.bu", "1.7.0", "root-3.6.0.ign"),
    ] {
        let path = paths::workspace().join("ignition").join(example);
        let mut said = yaml_leaves(&fs::read_to_string(path).unwrap());
        let mut meant = vec![pair("variant", "fcos"), pair("version", version)];
        let config = fs::read(golden().join(rendered)).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        json_leaves("", &config["storage"], &mut meant);
        said.sort();
        meant.sort();
        assert_eq!(said, meant, "{example}");
    }
}

/// Name and value of each scalar, where names are as Ignition spells them. Reads only what the examples use.
fn yaml_leaves(text: &str) -> Vec<(String, String)> {
    let mut leaves = Vec::new();
    let mut list = String::new();
    for line in text.lines().map(str::trim) {
        let line = line.strip_prefix("- ").unwrap_or(line);
        let value = |text: &str| text.trim_matches(['"', '\'']).to_owned();
        match line.split_once(':') {
            _ if line.starts_with('#') => {}
            Some((name, "")) => list = camel_case(name),
            Some((name, rest)) if rest.starts_with(' ') => {
                leaves.push((camel_case(name), value(rest.trim())));
            }
            _ => leaves.push((list.clone(), value(line))),
        }
    }
    leaves
}

fn json_leaves(name: &str, value: &Value, leaves: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => members
            .iter()
            .for_each(|(name, value)| json_leaves(name, value, leaves)),
        Value::Array(items) => items
            .iter()
            .for_each(|value| json_leaves(name, value, leaves)),
        Value::String(text) => leaves.push(pair(name, text)),
        other => leaves.push(pair(name, &other.to_string())),
    }
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(1);
        name + &head.to_uppercase() + tail
    })
}

/// Whether it was accepted, and what was said.
fn verdict(judge: Judge<'_>, config: &str) -> (bool, String) {
    let ended = judge("-").stdin(config).capture().unwrap();
    let said = format!("{}{}", ended.out(), ended.err());
    assert!(matches!(ended.code, Some(0 | 1)), "{ended}");
    (ended.code == Some(0), said.trim().to_owned())
}

/// 14 of "Ignition Debian 2.14.0+ds1".
fn minor_version(judge: Judge<'_>) -> u32 {
    let said = judge("--version").success().unwrap();
    let text = format!("{}{}", said.out(), said.err());
    let version = text
        .split_whitespace()
        .last()
        .unwrap()
        .trim_start_matches('v');
    let mut numbers = version.split('.');
    assert_eq!(numbers.next(), Some("2"), "{text}");
    numbers.next().unwrap().parse().unwrap()
}

/// The first Ignition with each specification (Ignition documentation, "Specification versions").
fn understands(minor: u32, spec: &str, experimental: bool) -> bool {
    match (spec, experimental) {
        ("3.2.0", false) => minor >= 7,
        ("3.3.0", false) => minor >= 11,
        ("3.4.0", false) => minor >= 15,
        ("3.5.0", false) => minor >= 20,
        ("3.6.0", true) => minor == 25,
        ("3.6.0", false) => minor >= 26,
        other => panic!("{other:?}"),
    }
}

fn golden() -> std::path::PathBuf {
    paths::workspace().join("operator/src/ignition/golden")
}

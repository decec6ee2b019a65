// SPDX-License-Identifier: Apache-2.0

//! What the documents say of commands and keys is what the program knows.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;
use std::process::Command;
use trustee_agent::config::Config;

#[test]
fn every_command_of_the_help_is_in_the_manual() {
    let help = Command::new(env!("CARGO_BIN_EXE_trustee-agent"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() >= 6, "{commands:?}");
    for command in commands {
        assert!(
            MANUAL.contains(&format!(".It Cm {command}")),
            "trustee-agent.8 lacks {command}"
        );
    }
}

#[test]
fn every_documented_key_exists_and_is_in_both_documents() {
    let mut section = String::new();
    let mut keys = 0;
    for line in GUIDE.lines() {
        if let Some(name) = line.strip_prefix("## `[") {
            section = name.trim_end_matches("]`").to_owned();
        }
        let names = line
            .strip_prefix("| `")
            .and_then(|rest| rest.split(" | ").next());
        for key in names.into_iter().flat_map(|names| names.split("`, `")) {
            let key = key.trim_end_matches('`');
            keys += 1;
            assert!(FORMAT.contains(key), "agent.toml.5 lacks {section}.{key}");
            // A key with a value of a type that no key has: known keys complain about the type.
            let text = format!("[kbs]\nservers = []\n[{section}]\n{key} = 1979-05-27\n");
            let text = text.replacen("[kbs]\nservers = []\n[kbs]", "[kbs]", 1);
            let error = Config::parse(&text).unwrap_err().to_string();
            assert!(!error.contains("unknown field"), "{section}.{key}: {error}");
        }
    }
    assert!(keys >= 17, "only {keys} keys documented");
}

/// Somebody searches the page for the sentence on the console.
#[test]
fn every_message_in_the_troubleshooting_page_exists() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = String::new();
    for source in ["agent", "clevis-pin", "ignition", "kbs-protocol"] {
        read_sources(&room.join(source).join("src"), &mut sources);
    }
    let one_line: Vec<&str> = sources.split("\\\n").map(str::trim_start).collect();
    let sources = one_line.concat();
    let mut messages = 0;
    for line in TROUBLE.lines() {
        let Some((message, _)) = line.strip_prefix("| ").and_then(|l| l.split_once(" | ")) else {
            continue;
        };
        if message == "what it says" {
            continue;
        }
        messages += 1;
        let known = message.trim_end_matches(" …");
        assert!(sources.contains(known), "nothing says {known:?}");
    }
    assert!(messages >= 15, "only {messages} messages found");
}

/// A promise is worth the test that is named beside it.
#[test]
fn every_promise_of_the_threat_model_names_tests_that_exist() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = include_str!("../../docs/threat-model.md");
    let table = text.split("## What is promised").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let mut rows = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let tests: Vec<(&str, &str)> = row
            .split('`')
            .filter_map(|word| word.split_once("::"))
            .filter(|(file, _)| file.ends_with(".rs"))
            .collect();
        assert!(!tests.is_empty(), "no test is named: {row}");
        rows += 1;
    }
    assert!(rows >= 14, "only {rows} promises found");
    // The attacks, and what is promised in spite of what is not.
    let named = text.split('`').filter_map(|word| word.split_once("::"));
    let mut tests = 0;
    for (file, test) in named.filter(|(file, _)| file.ends_with(".rs")) {
        let source = std::fs::read_to_string(room.join(file)).unwrap_or_default();
        let found = source.contains(&format!("#[test]\nfn {test}("))
            || source.contains(&format!("\nfn {test}() {{"));
        assert!(found, "{file} has no test {test}");
        tests += 1;
    }
    assert!(tests >= 60, "only {tests} tests named");
}

fn read_sources(directory: &Path, into: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, into);
        } else {
            into.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

const MANUAL: &str = include_str!("../man/trustee-agent.8");
const FORMAT: &str = include_str!("../man/agent.toml.5");
const TROUBLE: &str = include_str!("../../docs/troubleshooting.md");
const GUIDE: &str = include_str!("../../docs/agent.toml.md");

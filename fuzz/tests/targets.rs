// SPDX-License-Identifier: Apache-2.0

//! The targets themselves: malformed cases are refused, seeds are accepted, and everything has its program.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is the report"
)]

use sheepfold_fuzz::{TARGETS, Target, corpus, malformed, mutate};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[test]
fn no_malformed_case_is_accepted() {
    let cases = malformed::cases();
    let mut names = BTreeSet::new();
    let mut accepted = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for case in &cases {
        assert!(
            names.insert((case.target, &case.name)),
            "{} twice",
            case.name
        );
        *counts.entry(case.target).or_default() += 1;
        if (Target::find(case.target).unwrap().accepts)(&case.bytes) {
            accepted.push(&case.name);
        }
    }
    assert!(accepted.is_empty(), "{accepted:#?}");
    println!("{counts:?}, {} in all", cases.len());
    assert!(cases.len() >= 300, "only {}", cases.len());
}

/// A property that nothing reaches holds for ever.
#[test]
fn every_target_accepts_a_seed_and_keeps_its_property_for_a_while() {
    for target in TARGETS {
        let seeds = target.seeds();
        let accepted = seeds.iter().filter(|seed| (target.accepts)(seed)).count();
        assert!(
            accepted > 0,
            "{}: none of {} seeds",
            target.name,
            seeds.len()
        );
        let mut random = mutate::Random::new(2);
        for _ in 0..300 {
            (target.accepts)(&mutate::mutated(&seeds, &mut random));
        }
    }
}

#[test]
fn the_corpus_is_what_the_program_makes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut wanted = BTreeSet::new();
    for seed in corpus::seeds() {
        let file = root.join(seed.target).join(seed.name);
        assert!(
            std::fs::read(&file).unwrap() == seed.bytes,
            "{}: run `corpus`",
            file.display()
        );
        wanted.insert(file);
    }
    for dir in std::fs::read_dir(root).unwrap() {
        for file in std::fs::read_dir(dir.unwrap().path()).unwrap() {
            let file = file.unwrap().path();
            assert!(wanted.contains(&file), "nobody makes {}", file.display());
        }
    }
}

#[test]
fn every_target_has_its_program_and_no_other_is_there() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
    let mut programs = 0;
    for entry in std::fs::read_dir(dir.join("fuzz_targets")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(Target::find(&name).is_some(), "{name}");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(
            text.contains(&format!("::{name}(data)")),
            "{name} calls another target"
        );
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not in Cargo.toml"
        );
        programs += 1;
    }
    assert_eq!(programs, TARGETS.len());
}

/// A dependency with another profile than in the project's own workspace is built a second time, and that is most of what
/// `make fuzz-smoke` would wait for.
#[test]
fn dependencies_are_built_as_they_are_beside_us() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(dir.join(path)).unwrap();
    let profile = |manifest: &str| -> Vec<String> {
        let (_, rest) = manifest.split_once("[profile.dev.package.\"*\"]").unwrap();
        let lines = rest.lines().take_while(|line| !line.starts_with('#'));
        let lines = lines.filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    };
    let (ours, theirs) = (
        profile(&read("Cargo.toml")),
        profile(&read("../Cargo.toml")),
    );
    assert!(ours.len() > 10, "{ours:?}");
    // Theirs names crates that are none of ours.
    for line in &ours {
        assert!(theirs.contains(line), "{line}");
    }
    assert_eq!(ours[..2], theirs[..2]);
}

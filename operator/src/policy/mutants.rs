// SPDX-License-Identifier: Apache-2.0

//! Takes each line and each rule out of the policies, one at a time, and expects that a row of the
//! [`tables`](super::tables) answers differently. What no row would miss has no business being there.

use super::engine::{AttestationPolicy, ResourcePolicy};
use super::tables::{attestation, resource};

#[test]
fn no_line_of_the_attestation_policy_is_idle() {
    let rows: Vec<_> = attestation()
        .into_iter()
        .filter(|row| !row.question.is_large())
        .collect();
    let survivors = survivors(super::ATTESTATION, |text| {
        let policy = AttestationPolicy::compile(text).ok()?;
        Some(
            rows.iter()
                .any(|row| row.question.ask(&policy) != row.answer),
        )
    });
    assert!(
        survivors.is_empty(),
        "no row misses these:\n{}",
        survivors.join("\n")
    );
}

#[test]
fn no_line_of_the_resource_policy_is_idle() {
    let rows = resource();
    let survivors = survivors(super::RESOURCE, |text| {
        let policy = ResourcePolicy::compile(text).ok()?;
        Some(
            rows.iter()
                .any(|row| row.question.ask(&policy) != row.answer),
        )
    });
    assert!(
        survivors.is_empty(),
        "no row misses these:\n{}",
        survivors.join("\n")
    );
}

/// The mutants that nothing notices. `notices` says nothing about a text that does not compile: such a
/// mutant cannot be uploaded by accident, `validate` refuses it.
fn survivors(text: &str, notices: impl Fn(&str) -> Option<bool>) -> Vec<String> {
    let (mut survivors, mut viable) = (Vec::new(), 0..);
    for (name, mutant) in mutants(text) {
        match notices(&mutant) {
            None => {}
            Some(noticed) => {
                viable.next();
                survivors.extend((!noticed).then_some(name));
            }
        }
    }
    println!(
        "{} of {} mutants compile",
        viable.start,
        mutants(text).len()
    );
    assert!(viable.start > 10, "the mutants must be worth something");
    survivors
}

/// The text without line n, for each n, and without each rule.
fn mutants(text: &str) -> Vec<(String, String)> {
    let lines: Vec<_> = text.lines().collect();
    let without = |from: usize, to: usize| {
        let kept = lines
            .iter()
            .enumerate()
            .filter(|(n, _)| !(from..to).contains(n));
        kept.map(|(_, line)| *line).collect::<Vec<_>>().join("\n")
    };
    let code =
        |line: &str| !line.is_empty() && !line.starts_with('#') && !line.starts_with("package");
    let mut mutants = Vec::new();
    let mut start = None;
    for (number, (line, next)) in lines.iter().zip(1..).enumerate() {
        // `import rego.v1` says for old engines what new ones take for granted.
        if code(line) && *line != "import rego.v1" {
            mutants.push((format!("line {next}: {line}"), without(number, next)));
            start.get_or_insert(number);
        } else if let Some(from) = start.take() {
            mutants.push((
                format!("rule before line {next}: {}", lines[from]),
                without(from, number),
            ));
        }
    }
    mutants
}

// SPDX-License-Identifier: Apache-2.0

//! A plan as a person wants to see it before saying yes: per policy, secret and reference value, what comes
//! and what goes. Secrets are ids only.

use super::Directory;
use crate::model::RUNTIME;
use crate::plan::{Difference, Observed, Plan, Write};
use crate::policy;
use kbs_protocol::resource::ResourcePath;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The text for a person.
pub fn text(plan: &Plan, observed: &Observed, directory: &Directory) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    for write in &plan.writes {
        match write {
            Write::ResourcePolicy { text } if *text == policy::DENY_ALL => {
                line("~ policy    resource: deny everything while this is carried out".to_owned());
            }
            Write::ResourcePolicy { .. } => line("+ policy    resource".to_owned()),
            Write::AttestationPolicy { id, .. } => line(format!("+ policy    attestation {id}")),
            Write::Resource { path, .. } => {
                let mark = match observed.secret(path.as_str()) {
                    None => '+',
                    Some(_) => '~',
                };
                line(resource(mark, path, directory));
            }
            Write::DeleteResource { path } => {
                line(resource('-', path, directory));
            }
            Write::ReferenceValue { .. } => {}
        }
    }
    for (name, change) in values(plan, observed) {
        line(format!(
            "~ value     {name}: {} more, {} fewer",
            change.added.len(),
            change.removed.len()
        ));
        for (key, value) in &change.added {
            line(format!("    + {}", entry(key, value, directory)));
        }
        for digest in &change.removed {
            line(format!("    - the entry with digest {digest}"));
        }
    }
    for problem in &plan.problems {
        line(format!("! {problem}"));
    }
    line(format!("{} writes", plan.writes.len()));
    out
}

/// The same for a program.
pub fn json(plan: &Plan, observed: &Observed) -> Value {
    let values: BTreeMap<_, _> = values(plan, observed)
        .into_iter()
        .map(|(name, change)| {
            let added: Vec<_> = change
                .added
                .iter()
                .map(|(key, value)| json!({"key": key, "value": value}))
                .collect();
            (name, json!({"added": added, "removed": change.removed}))
        })
        .collect();
    json!({
        "writes": plan.writes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "values": values,
        "problems": problems(plan),
    })
}

/// What could not be granted, as sentences.
pub fn problems(plan: &Plan) -> Vec<String> {
    plan.problems.iter().map(ToString::to_string).collect()
}

/// A value may be written twice, smaller and then larger: what counts is its last content.
fn values(plan: &Plan, observed: &Observed) -> BTreeMap<String, Difference> {
    let last = plan.writes.iter().filter_map(|write| match write {
        Write::ReferenceValue { name, value } => {
            Some((name.clone(), observed.difference(name, value)))
        }
        _ => None,
    });
    last.collect()
}

fn resource(mark: char, path: &ResourcePath, directory: &Directory) -> String {
    let kind = match path.segments().next() {
        Some(RUNTIME) => "runtime",
        _ => "secret ",
    };
    format!("{mark} {kind}   {path}{}", owner(path, directory))
}

fn owner(path: &ResourcePath, directory: &Directory) -> String {
    let node = path.segments().nth(1).and_then(|name| name.parse().ok());
    match node.as_ref().and_then(|node| directory.name(node)) {
        Some(name) => format!("  ({name})"),
        None => String::new(),
    }
}

/// One line for an entry; a key of a map is a public key or a digest, of which the beginning tells enough.
fn entry(key: &str, value: &Value, directory: &Directory) -> String {
    let node = value.as_str().and_then(|name| name.parse().ok());
    let name = node.as_ref().and_then(|node| directory.name(node));
    match key {
        "" => value.to_string(),
        key => {
            let shown: String = key.chars().skip(KEY_HEAD).take(KEY_SHOWN).collect();
            let name = name.map(|name| format!("  ({name})")).unwrap_or_default();
            format!("…{shown}… is {}{name}", value.as_str().unwrap_or_default())
        }
    }
}

/// All RSA keys begin alike.
const KEY_HEAD: usize = 44;
const KEY_SHOWN: usize = 24;

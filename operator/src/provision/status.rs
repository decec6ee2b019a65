// SPDX-License-Identifier: Apache-2.0

//! Compares what is wanted, what the record says and what the KBS answers, and lists the machines.

use super::load::word;
use super::{Directory, Error, Target};
use crate::model::{Desired, NodeName, SecretId, Tag};
use crate::plan::{Observed, Plan, reference_values};
use crate::provision::record::State;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// How a cluster stands.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The cluster.
    pub cluster: String,
    /// Writes that `provision` would make.
    pub pending: usize,
    /// What cannot be granted, as sentences.
    pub problems: Vec<String>,
    /// Reference values that the KBS holds otherwise than we wrote them; absent if it was not asked.
    pub differs: Option<Vec<String>>,
    /// The machines, by their names.
    pub machines: Vec<MachineStatus>,
}

/// How a machine stands.
#[derive(Debug, Serialize)]
pub struct MachineStatus {
    /// `metadata.name`.
    pub name: String,
    /// Its id.
    pub id: String,
    /// `approved`, `held` or `revoked`.
    pub state: &'static str,
    /// Revoked by command, whatever the directory says.
    pub by_command: bool,
    /// Its volumes.
    pub volumes: Vec<VolumeStatus>,
    /// `stored`, `missing` or `unknown`: the Ignition config that it is to have; `old`: another one is stored.
    pub ignition: Option<&'static str>,
    /// What its running system may read, by name: `stored`, `missing`, `unknown` or `old`.
    pub runtime: BTreeMap<String, &'static str>,
    /// When a secret of it was last written or deleted, seconds since 1970.
    pub changed: Option<u64>,
}

/// How a volume stands.
#[derive(Debug, Serialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// `stored`, `missing`, `unknown` (a write was interrupted) or `rotating` (an older secret is kept).
    pub secret: &'static str,
    /// Whether the id of its volume key is stored beside the secret.
    pub key_recorded: bool,
}

impl Status {
    /// Puts it together.
    pub fn new(directory: &Directory, state: &State, desired: &Desired, plan: &Plan) -> Self {
        let mut machines: Vec<MachineStatus> = directory
            .machines
            .iter()
            .map(|(node, entry)| MachineStatus {
                name: entry.name.clone(),
                id: node.to_string(),
                state: desired
                    .machines
                    .get(node)
                    .map_or("revoked", |machine| word(machine.state)),
                by_command: state.revoked.contains(node),
                volumes: entry
                    .volumes
                    .iter()
                    .filter_map(|tag| {
                        let path = tag.path(node).ok()?;
                        Some(VolumeStatus {
                            name: tag.to_string(),
                            secret: secret(path.as_str(), &state.observed),
                            key_recorded: key_recorded(node, tag, &state.observed),
                        })
                    })
                    .collect(),
                ignition: entry.ignition.as_ref().and_then(|config| {
                    let path = Tag::ignition().path(node).ok()?;
                    Some(content(path.as_str(), config.id(), &state.observed))
                }),
                runtime: entry
                    .runtime
                    .iter()
                    .filter_map(|(name, resource)| {
                        let path = name.runtime_path(node).ok()?;
                        let state = content(path.as_str(), resource.id(), &state.observed);
                        Some((name.to_string(), state))
                    })
                    .collect(),
                changed: state.changed.get(node).copied(),
            })
            .collect();
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            cluster: directory.cluster.clone(),
            pending: plan.writes.len(),
            problems: super::diff::problems(plan),
            differs: None,
            machines,
        }
    }

    /// The text for a person.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            let _ = writeln!(out, "{}", text.trim_end());
        };
        line(format!("cluster {}", self.cluster));
        line(match self.pending {
            0 => "  the KBS has everything that is wanted".to_owned(),
            n => format!("  {n} writes are to be made: run `provision`"),
        });
        match &self.differs {
            None => line("  the KBS was not asked".to_owned()),
            Some(names) if names.is_empty() => {
                line("  its reference values are as we wrote them".to_owned());
            }
            Some(names) => line(format!(
                "  its reference values differ from what we wrote: {}; run `provision --verify`, and find \
                 out who writes to it",
                names.join(", ")
            )),
        }
        for problem in &self.problems {
            line(format!("  ! {problem}"));
        }
        for machine in &self.machines {
            let config = machine.ignition.map(|state| format!("ignition {state}"));
            let runtime = machine.runtime.iter();
            let runtime = runtime.map(|(name, state)| format!("runtime/{name} {state}"));
            let volumes: Vec<String> = machine
                .volumes
                .iter()
                .map(|volume| {
                    let key = match volume.key_recorded {
                        true => ", key recorded",
                        false => "",
                    };
                    format!("{} {}{key}", volume.name, volume.secret)
                })
                .chain(config)
                .chain(runtime)
                .collect();
            let by = if machine.by_command {
                " (by command)"
            } else {
                ""
            };
            let changed = machine.changed.map_or_else(
                || "never".to_owned(),
                |at| {
                    let time = UNIX_EPOCH.checked_add(Duration::from_secs(at));
                    time.map_or_else(String::new, httpdate::fmt_http_date)
                },
            );
            line(format!(
                "{:<20} {} {:<8} {}; last change {changed}",
                machine.name,
                machine.id,
                format!("{}{by}", machine.state),
                volumes.join(", ")
            ));
        }
        out
    }
}

/// The reference values that the KBS holds otherwise than the record says. Those that are to be written
/// anyway are not asked for.
///
/// # Errors
/// Whatever a request can meet.
pub fn differing(
    target: &dyn Target,
    desired: &Desired,
    observed: &Observed,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<String>, Error> {
    let (values, _) = reference_values(desired);
    let settled: Vec<_> = values
        .iter()
        .filter(|(name, value)| observed.holds_value(name, value))
        .collect();
    let mut differing = Vec::new();
    for (number, (name, value)) in (1usize..).zip(&settled) {
        if target.reference_value(name)? != Some(value.to_value()) {
            differing.push((*name).clone());
        }
        progress(number, settled.len());
    }
    Ok(differing)
}

/// Of what is not made here.
fn content(path: &str, wanted: &SecretId, observed: &Observed) -> &'static str {
    match observed.secret(path) {
        None => "missing",
        Some(None) => "unknown",
        Some(Some(stored)) if stored == wanted => "stored",
        Some(Some(_)) => "old",
    }
}

fn secret(path: &str, observed: &Observed) -> &'static str {
    match observed.secret(path) {
        None => "missing",
        Some(None) => "unknown",
        Some(Some(_)) => {
            let key = format!("{path}.vk");
            let prefix = format!("{path}.");
            let kept = observed.under(&prefix).filter(|(at, _)| *at != key);
            match kept.count() {
                0 | 1 => "stored",
                _ => "rotating",
            }
        }
    }
}

fn key_recorded(node: &NodeName, tag: &Tag, observed: &Observed) -> bool {
    let at = tag.volume_key().ok().and_then(|tag| tag.path(node).ok());
    let id = at
        .as_ref()
        .and_then(|at| observed.secret(at.as_str()).flatten());
    id.is_some_and(super::volume_keys::is_key)
}

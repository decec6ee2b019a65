// SPDX-License-Identifier: Apache-2.0

//! Which volumes of this machine are bound to a KBS, from their headers alone.

use crate::config::Config;
use crate::unlock::{Candidate, UnlockError, active_volumes, all_volumes};
use luks_header::Extent;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A volume and a binding in its header; or why it has none.
pub(super) struct Binding {
    name: String,
    device: PathBuf,
    found: Result<Bound, UnlockError>,
}

struct Bound {
    keyslot: u32,
    path: String,
    same_configuration: Option<bool>,
}

/// Every binding of every volume that is open, or that the kernel command line or `/etc/crypttab` names.
pub(super) fn all(config: &Config) -> Vec<Binding> {
    // A text that cannot be read names nothing.
    let text = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let named = all_volumes(&text("/proc/cmdline"), &text("/etc/crypttab"));
    let open = active_volumes(Path::new("/sys")).unwrap_or_default();
    let volumes: BTreeMap<String, PathBuf> = named.into_iter().chain(open).collect();
    volumes
        .into_iter()
        .flat_map(|(name, device)| of(config, &name, &device))
        .collect()
}

fn of(config: &Config, name: &str, device: &Path) -> Vec<Binding> {
    let row = |found| Binding {
        name: name.to_owned(),
        device: device.to_owned(),
        found,
    };
    match Candidate::find(name, device, config, Extent::Unlocking) {
        Ok(candidate) => {
            let bound = candidate.bindings().iter().map(|binding| Bound {
                keyslot: binding.keyslot(),
                path: binding.path().to_owned(),
                same_configuration: binding.bound_under(config),
            });
            bound.map(|bound| row(Ok(bound))).collect()
        }
        Err(error) => vec![row(Err(error))],
    }
}

impl Binding {
    pub(super) fn text(&self) -> String {
        let (name, device) = (&self.name, self.device.display());
        match &self.found {
            Ok(bound) => {
                let under = match bound.same_configuration {
                    Some(true) => ", bound under this configuration",
                    Some(false) => ", bound under another configuration",
                    None => "",
                };
                format!(
                    "{name} on {device}, key slot {}: {}{under}",
                    bound.keyslot, bound.path
                )
            }
            Err(error) => format!("{name}: none: {error}"),
        }
    }

    pub(super) fn json(&self) -> Value {
        let (name, device) = (&self.name, self.device.display().to_string());
        match &self.found {
            Ok(bound) => json!({
                "name": name,
                "device": device,
                "keyslot": bound.keyslot,
                "path": bound.path,
                "same_configuration": bound.same_configuration,
            }),
            Err(error) => json!({ "name": name, "device": device, "problem": error.to_string() }),
        }
    }
}

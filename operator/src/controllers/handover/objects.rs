// SPDX-License-Identifier: Apache-2.0

//! What a directory describes, as objects of a cluster.

use crate::controllers::Error;
use crate::controllers::api::GROUP;
use crate::model::{Boots, State};
use crate::provision::load::RECOVERY;
use crate::provision::objects::{Passphrase, Release};
use crate::provision::record;
use crate::provision::{Directory, Entry};
use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// In the order in which they are applied.
pub(super) struct Objects {
    /// The administrator's key, and what running systems may read.
    pub(super) secrets: Vec<Value>,
    pub(super) images: Vec<Value>,
    pub(super) machines: Vec<Value>,
    pub(super) cluster: Value,
}

/// All objects.
///
/// # Errors
/// The administrator's key cannot be read.
pub(super) fn of(directory: &Directory, state: &record::State) -> Result<Objects, Error> {
    let access = directory.access()?;
    let secret = format!("{}-kbs-admin", directory.cluster);
    let pem = String::from_utf8_lossy(access.key_pem.expose()).into_owned();
    let key = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret},
        "stringData": {"admin.key": pem},
    });
    let options = &directory.desired.options;
    let mut kbs = json!({
        "url": directory.kbs.url, "adminKey": {"secret": secret},
        "issuer": access.issuer, "role": access.role,
    });
    set(
        &mut kbs,
        "ca",
        (!access.ca_pem.is_empty()).then_some(json!(access.ca_pem)),
    );
    set(
        &mut kbs,
        "insecureHttp",
        access.insecure_http.then_some(json!(true)),
    );
    let release = directory.kbs.release.map(|release| match release {
        Release::V0_20 => json!("0.20"),
        Release::V0_21 => json!("0.21"),
    });
    set(&mut kbs, "release", release);
    let mut spec = json!({
        "kbs": kbs, "evidence": options.evidence, "identity": options.identity, "pcrs": options.pcrs,
    });
    let recovery = (directory.recovery.passphrase == Passphrase::Escrowed).then(|| {
        json!({
            "passphrase": "escrowed",
            "evenWhenConfidential": directory.recovery.even_when_confidential,
        })
    });
    set(&mut spec, "recovery", recovery);
    Ok(Objects {
        secrets: std::iter::once(key).chain(runtime(directory)).collect(),
        images: images(directory),
        machines: machines(directory, state),
        cluster: object("TrustedExecutionCluster", &directory.cluster, &spec),
    })
}

/// One for each image that states its values, and one for all that was computed.
fn images(directory: &Directory) -> Vec<Value> {
    let mut computed = directory.desired.boots.clone();
    let mut objects = Vec::new();
    for (name, boots) in directory
        .images
        .iter()
        .filter(|(_, boots)| !boots.is_empty())
    {
        computed.remove(boots);
        objects.push(image(name, boots));
    }
    if !computed.is_empty() {
        let name = format!("{}-computed", directory.cluster);
        objects.push(image(&name, &computed));
    }
    objects
}

fn image(name: &str, boots: &Boots) -> Value {
    object("ApprovedImage", name, &json!({"referenceValues": boots}))
}

fn machines(directory: &Directory, state: &record::State) -> Vec<Value> {
    let machines = directory.machines.iter().filter_map(|(node, entry)| {
        let wanted = directory.desired.machines.get(node)?;
        let mut spec = json!({"id": node.to_string(), "volumes": volumes(entry, directory)});
        set(
            &mut spec,
            "attestationKey",
            wanted.ak.as_ref().map(|ak| json!(ak)),
        );
        set(
            &mut spec,
            "initData",
            entry.init_data.as_ref().map(|text| json!(text)),
        );
        let decided = match state.revoked.contains(node) {
            true => State::Revoked,
            false => wanted.state,
        };
        set(
            &mut spec,
            "state",
            (decided != State::Approved).then_some(json!(decided)),
        );
        let runtime = (!entry.runtime.is_empty()).then(|| json!({"secret": runtime_of(entry)}));
        set(&mut spec, "runtime", runtime);
        Some(object("Machine", &entry.name, &spec))
    });
    machines.collect()
}

/// A Secret for each machine whose running system may read something.
fn runtime(directory: &Directory) -> impl Iterator<Item = Value> {
    let entries = directory.machines.values();
    let entries = entries.filter(|entry| !entry.runtime.is_empty());
    entries.map(|entry| {
        let resources = entry.runtime.iter();
        let data: BTreeMap<String, ByteString> = resources
            .map(|(name, resource)| {
                let content = resource.content().expose().to_vec();
                (name.to_string(), ByteString(content))
            })
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": runtime_of(entry)}, "data": data,
        })
    })
}

fn runtime_of(entry: &Entry) -> String {
    format!("{}-runtime", entry.name)
}

/// The recovery passphrase is the cluster's wish, not the machine's.
fn volumes(entry: &Entry, directory: &Directory) -> Vec<String> {
    let escrowed = directory.recovery.passphrase == Passphrase::Escrowed;
    let volumes = entry.volumes.iter().map(ToString::to_string);
    volumes
        .filter(|name| !(escrowed && name == RECOVERY))
        .collect()
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1alpha1"), "kind": kind, "metadata": {"name": name}, "spec": spec,
    })
}

fn set(object: &mut Value, name: &str, value: Option<Value>) {
    if let (Some(members), Some(value)) = (object.as_object_mut(), value) {
        let members: &mut Map<String, Value> = members;
        members.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests;

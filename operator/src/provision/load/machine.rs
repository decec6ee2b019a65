// SPDX-License-Identifier: Apache-2.0

//! What a machine is known by, from what is written down about it.

use super::yaml::wrong;
use crate::model::{self, AkPublic, Identity, InitDataDigest, NodeName, Tag};
use crate::provision::ignition::Config;
use crate::provision::objects::{EnrolledTpm, Ignition, Machine};
use crate::provision::{Error, Place};
use kbs_protocol::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A machine from its object: its node's name, what is wanted for it but for secrets, its volumes, its init-data.
pub(super) fn machine(
    name: &str,
    spec: Machine,
    place: &Place,
    identity: Identity,
) -> Result<(NodeName, model::Machine, BTreeSet<Tag>, Option<String>), Error> {
    let ak = match (spec.attestation_key, spec.record_file) {
        (Some(_), Some(_)) => {
            let why = format!("{name} has both attestationKey and recordFile");
            return Err(wrong(place, why));
        }
        (None, Some(file)) => Some(enrolled(&beside(place, &file), place)?),
        (ak, None) => ak,
    };
    let node = node(name, identity, ak.as_ref(), spec.id).map_err(|why| wrong(place, why))?;
    let init_data = match (spec.init_data, spec.init_data_file) {
        (Some(_), Some(_)) => {
            let why = format!("{name} has both initData and initDataFile");
            return Err(wrong(place, why));
        }
        (None, Some(file)) => {
            let file = beside(place, &file);
            Some(std::fs::read_to_string(&file).map_err(Error::io("read", file))?)
        }
        (text, None) => text,
    };
    let machine = model::Machine {
        ak,
        init_data: init_data.as_deref().map(InitDataDigest::of),
        state: spec.state,
        secrets: BTreeMap::new(),
        runtime: BTreeMap::new(),
    };
    Ok((node, machine, spec.volumes, init_data))
}

/// The name of a machine's node: derived from its key or assigned, as the cluster wants it.
///
/// # Errors
/// A sentence: what it lacks, or how it contradicts itself.
pub(crate) fn node(
    name: &str,
    identity: Identity,
    ak: Option<&AkPublic>,
    id: Option<NodeName>,
) -> Result<NodeName, String> {
    match (identity, ak.map(|ak| ak.node_id().into()), id) {
        (Identity::Ak, Some(derived), Some(id)) if id != derived => Err(format!(
            "the attestation key of {name} makes it {derived}, id says {id}"
        )),
        (Identity::Ak, Some(derived), _) => Ok(derived),
        (_, _, Some(id)) => Ok(id),
        (Identity::Ak, None, None) => Err(format!("{name} needs an attestationKey")),
        (Identity::InitData, _, None) => Err(format!(
            "{name} needs an id: the uuid of its init-data names it here"
        )),
    }
}

/// The key that a registrar has approved.
fn enrolled(file: &Path, place: &Place) -> Result<AkPublic, Error> {
    let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
    let shown = file.display();
    let tpm: EnrolledTpm = serde_json::from_slice(&bytes)
        .map_err(|error| wrong(place, format!("{shown} is no file of a registrar: {error}")))?;
    let mut approved = tpm.keys.into_iter().filter(|key| key.state == APPROVED);
    match (approved.next(), approved.next()) {
        (Some(key), None) => Ok(key.ak_public),
        (None, _) => Err(wrong(place, format!("{shown} has no approved key"))),
        (Some(_), Some(_)) => Err(wrong(
            place,
            format!("{shown} has more than one approved key"),
        )),
    }
}

/// The config that an object gives to a machine, or to all.
pub(super) fn ignition(wanted: &Ignition, place: &Place) -> Result<Arc<Config>, Error> {
    let said = |why: String| wrong(place, format!("the Ignition config: {why}"));
    let text = match (&wanted.config, &wanted.config_file) {
        (Some(text), None) => text.clone().into_bytes(),
        (None, Some(file)) => {
            let file = beside(place, file);
            std::fs::read(&file).map_err(Error::io("read", file))?
        }
        _ => return Err(said("needs config or configFile, and not both".to_owned())),
    };
    let config = Config::new(Secret::new(text), &wanted.luks).map_err(said)?;
    Ok(Arc::new(config))
}

pub(in crate::provision) fn beside(place: &Place, file: &Path) -> PathBuf {
    place.file.parent().unwrap_or(Path::new(".")).join(file)
}

/// As a registrar spells it.
const APPROVED: &str = "approved";

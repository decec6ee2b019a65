// SPDX-License-Identifier: Apache-2.0

//! From one object to what it means, or to a sentence about what is wrong with it. The same parsers as for
//! files (`provision::load`), and the rules that the definitions state in CEL: an API server before 1.25 does
//! not enforce those.

use super::api::{self, ApprovedImageSpec, KeyReference, MachineSpec};
use super::inventory::{Cluster, Parsed};
use crate::kbs_admin::Access;
use crate::model::{AkPublic, BootTuple, Boots, InitDataDigest, Machine, Options, Pcr, State, Tag};
use crate::provision::load;
use crate::provision::objects;
use kbs_protocol::Secret;
use kbs_protocol::encoding::hex;
use std::collections::{BTreeMap, BTreeSet};

/// What a cluster asks of its machines.
pub(super) fn cluster(object: &api::TrustedExecutionCluster) -> Result<Cluster<'_>, String> {
    let spec = &object.spec;
    let usual = Options::default();
    let pcrs = match &spec.pcrs {
        None => usual.pcrs,
        Some(names) => names
            .iter()
            .map(|name| Pcr::try_from(name.clone()))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?,
    };
    let options = Options {
        evidence: spec
            .evidence
            .clone()
            .map_or(usual.evidence, BTreeSet::from_iter),
        identity: spec.identity.unwrap_or(usual.identity),
        pcrs,
    };
    let recovery = spec.recovery.unwrap_or_default();
    let recovery = objects::Recovery {
        passphrase: match recovery.passphrase.unwrap_or_default() {
            api::Passphrase::None => objects::Passphrase::None,
            api::Passphrase::Escrowed => objects::Passphrase::Escrowed,
        },
        even_when_confidential: recovery.even_when_confidential.unwrap_or_default(),
    };
    Ok(Cluster {
        object,
        escrowed: load::escrowed(&options, recovery)?,
        options,
        copies: spec.copies.unwrap_or_default(),
    })
}

/// What an image approves: what is written down, and what was computed from it for platforms that are wanted (`usual`
/// are those of the cluster). `present` are the digests of all images.
pub(super) fn image(
    name: &str,
    object: &api::ApprovedImage,
    usual: Option<&Vec<String>>,
    present: &BTreeSet<String>,
) -> Result<Boots, String> {
    let spec = &object.spec;
    let reference = reference(spec)?;
    if reference.is_none() && (spec.platforms.is_some() || spec.updates_from.is_some()) {
        return Err("platforms and updatesFrom are about an image: say which".to_owned());
    }
    let values = serde_json::to_value(spec.reference_values.clone().unwrap_or_default());
    let values = values.map_err(|error| error.to_string())?;
    let mut boots: Boots = serde_json::from_value(values).map_err(|error| error.to_string())?;
    let status = object.status.as_ref();
    let computed = status.and_then(|status| status.computed.as_ref());
    let own = computed.filter(|computed| {
        platforms(spec, usual).is_some() && reference.and_then(digest) == Some(&computed.image)
    });
    for boot in own.into_iter().flat_map(|computed| &computed.boots) {
        if boot.with.iter().all(|other| present.contains(other)) {
            let tuple = serde_json::to_value(&boot.boot_tuple);
            let tuple = tuple.and_then(serde_json::from_value::<BootTuple>);
            boots
                .tuples
                .insert(tuple.map_err(|error| error.to_string())?);
        }
    }
    if !boots.is_empty() {
        return Ok(boots);
    }
    let scanned = super::status::scanned(object);
    let scanned = scanned.filter(|_| platforms(spec, usual).is_some());
    Err(match (scanned, &spec.reference_values) {
        (Some(scanned), _) => scanned.message.clone(),
        (None, None) => {
            "it has no referenceValues and no platforms, so it approves nothing: name the platforms that it boots on, \
             here or in spec.platforms of the cluster"
                .to_owned()
        }
        (None, Some(_)) => format!("image {name} has no reference values, so it approves nothing"),
    })
}

/// The platforms that an image is computed for, if it is: its own, or, where nothing is written down, those of the cluster.
pub(super) fn platforms<'a>(
    spec: &'a ApprovedImageSpec,
    usual: Option<&'a Vec<String>>,
) -> Option<&'a Vec<String>> {
    let usual = usual.filter(|_| spec.reference_values.is_none());
    let platforms = spec.platforms.as_ref().or(usual);
    platforms.filter(|platforms| !platforms.is_empty())
}

/// The digest in a reference.
pub(super) fn digest(reference: &str) -> Option<&str> {
    reference.rsplit_once('@').map(|(_, digest)| digest)
}

/// The image, under whichever name it was given.
pub(super) fn reference(spec: &ApprovedImageSpec) -> Result<Option<&str>, String> {
    let image = match (&spec.image, &spec.reference) {
        (Some(image), Some(reference)) if image != reference => {
            return Err(
                "image and reference are two names of one field: say one of them".to_owned(),
            );
        }
        (image, reference) => image.as_ref().or(reference.as_ref()),
    };
    let has_digest = |image: &str| {
        image
            .rsplit_once("@sha256:")
            .is_some_and(|(_, digest)| hex::is_sha256(digest))
    };
    match image {
        Some(image) if !has_digest(image) => Err(format!(
            "the image must carry a digest (@sha256:...), a tag can move to another image; got {image:?}"
        )),
        None if spec.reference_values.is_none() => {
            Err("say which image, or which reference values".to_owned())
        }
        image => Ok(image.map(String::as_str)),
    }
}

/// What a machine means.
pub(super) fn machine(
    name: &str,
    object: &api::Machine,
    key: Option<(&String, &api::AttestationKey)>,
    cluster: &Cluster<'_>,
) -> Result<Parsed, String> {
    let spec: &MachineSpec = &object.spec;
    let text = match (&spec.attestation_key, key) {
        (Some(own), Some((key, other))) if *own != other.spec.public_key => {
            return Err(format!(
                "its attestationKey is another one than that of AttestationKey {key}"
            ));
        }
        (Some(own), _) => Some(own.clone()),
        (None, other) => other.map(|(_, key)| key.spec.public_key.clone()),
    };
    let sentence = |error: crate::model::Error| error.to_string();
    let ak = text.map(AkPublic::try_from).transpose().map_err(sentence)?;
    let id = spec.id.clone().map(TryInto::try_into);
    let id = id.transpose().map_err(sentence)?;
    let node = load::node(name, cluster.options.identity, ak.as_ref(), id)?;
    let before = object
        .status
        .as_ref()
        .and_then(|status| status.node.as_ref());
    if let Some(before) = before
        && *before != node.to_string()
    {
        return Err(format!(
            "it was node {before} and now says that it is {node}: another node is another Machine"
        ));
    }
    let mut volumes = match &spec.volumes {
        None => BTreeSet::from(["root".to_owned()]),
        Some(volumes) => volumes.iter().cloned().collect(),
    };
    if cluster.escrowed {
        volumes.insert(load::RECOVERY.to_owned());
    }
    let volumes = volumes.into_iter().map(TryInto::try_into);
    let volumes: BTreeSet<Tag> = volumes.collect::<Result<_, _>>().map_err(sentence)?;
    have_room(
        &volumes,
        spec.ignition.is_some() || cluster.object.spec.ignition.is_some(),
    )?;
    Ok(Parsed {
        node,
        machine: Machine {
            ak,
            init_data: spec.init_data.as_deref().map(InitDataDigest::of),
            state: spec.state.unwrap_or(State::Approved),
            secrets: BTreeMap::new(),
            runtime: BTreeMap::new(),
        },
        volumes,
        key: key.map(|(name, _)| name.clone()),
    })
}

/// What lies beside secrets has places that are no volume's.
fn have_room(volumes: &BTreeSet<Tag>, has_config: bool) -> Result<(), String> {
    for tag in volumes {
        let beside = tag.volume_key().map_err(|error| error.to_string())?;
        if volumes.contains(&beside) {
            return Err(format!(
                "it has a volume {beside}, where the id of {tag}'s key lies"
            ));
        }
    }
    match has_config && volumes.contains(&Tag::ignition()) {
        true => Err("it has a volume ignition, where its Ignition config lies".to_owned()),
        false => Ok(()),
    }
}

/// How to reach the KBS, with the key that was found where [`key_place`] says.
pub(super) fn access(kbs: &api::Kbs, key: Secret) -> Result<Access, String> {
    let insecure = kbs.insecure_http.unwrap_or_default();
    let ca = match (&kbs.ca, kbs.url.starts_with("https://")) {
        (None, true) => {
            return Err(
                "spec.kbs.ca is needed: nothing else says which KBS is the right one".to_owned(),
            );
        }
        (ca, _) => ca.clone().unwrap_or_default(),
    };
    let mut access = Access::new(&kbs.url, &ca, key);
    access.insecure_http = insecure;
    access.issuer = kbs.issuer.clone().unwrap_or(access.issuer);
    access.role = kbs.role.clone().unwrap_or(access.role);
    Ok(access)
}

/// The Secret and its entry in which the administrator's key is.
pub(super) fn key_place(reference: &KeyReference) -> (&str, &str) {
    let key = reference.key.as_deref().unwrap_or("admin.key");
    (&reference.secret, key)
}

// SPDX-License-Identifier: Apache-2.0

//! The secrets of one run, and which secret belongs where.
//!
//! A secret is made here, written to the KBS and forgotten: it is never on the operator's disk. What stays
//! is its id, and the record says which id lies at which path. An interrupted write loses its secret; then
//! another one is made, and what a node may have read in the meantime is kept in its second place. An Ignition
//! config lies beside them, and what the running system may read; they are not made here, so they have no second place.

use super::{Directory, Error};
use crate::model::{Desired, InitDataDigest, Machine, NodeName, SecretId, State, Tag};
use crate::plan::Observed;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac as _};
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::resource_secret::ResourceSecret;
use kbs_protocol::{NodeId, Secret};
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet};
use zeroize::Zeroizing;

/// What a run is to change beyond what the directory says.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Volumes that get a new secret.
    pub rotate: Option<(NodeName, BTreeSet<Tag>)>,
    /// Volumes whose older secrets are no longer needed.
    pub rebound: Option<(NodeName, BTreeSet<Tag>)>,
    /// Volumes that will be made anew: their keys are forgotten.
    pub renewed: Option<(NodeName, BTreeSet<Tag>)>,
}

/// Where secrets come from.
pub trait Source {
    /// A secret that nobody has seen, for this node and path.
    ///
    /// # Errors
    /// When there are no random numbers.
    fn make(&mut self, node: Option<&NodeId>, path: &ResourcePath) -> Result<SecretId, Error>;

    /// Something that is not made here, but has to be stored all the same. Its id stands for its content, which is
    /// asked for once, however many get it.
    fn keep(&mut self, id: SecretId, _content: &dyn Fn() -> Secret) -> SecretId {
        id
    }

    /// The secret that belongs at this path, where a copy of it is kept: it can be stored again.
    fn recall(&self, _path: &str) -> Option<SecretId> {
        None
    }
}

/// Secrets made in this run, by id; wiped when it ends.
#[derive(Default)]
pub struct Fresh(BTreeMap<SecretId, Secret>);

impl Fresh {
    /// Takes in a secret that was made earlier; its id, or none if it is no secret of ours.
    pub fn add(&mut self, secret: Secret) -> Option<SecretId> {
        let id = id(ResourceSecret::parse(&secret).ok()?.key());
        self.0.insert(id.clone(), secret);
        Some(id)
    }

    /// The bytes to store.
    pub fn get(&self, id: &SecretId) -> Option<&Secret> {
        self.0.get(id)
    }
}

impl Source for Fresh {
    fn make(&mut self, node: Option<&NodeId>, path: &ResourcePath) -> Result<SecretId, Error> {
        let secret = ResourceSecret::generate_for(node, path)?;
        let id = id(secret.key());
        self.0.insert(id.clone(), secret.to_json()?);
        Ok(id)
    }

    fn keep(&mut self, id: SecretId, content: &dyn Fn() -> Secret) -> SecretId {
        self.0.entry(id.clone()).or_insert_with(content);
        id
    }
}

/// Names for secrets that are not made: a dry run shows where new ones would go.
#[derive(Default)]
pub struct Imagined(u64);

impl Source for Imagined {
    fn make(&mut self, _: Option<&NodeId>, _: &ResourcePath) -> Result<SecretId, Error> {
        self.0 = self.0.saturating_add(1);
        Ok(SecretId(format!("new-{}", self.0)))
    }
}

/// The `kid` that a token of the Clevis pin carries for this key: so a node that holds a token of an older
/// secret knows the second place where it lies. It says nothing about the key.
fn id(key: &[u8; 32]) -> SecretId {
    // HMAC pads a key with zeros to its block of 64 bytes; with the padded key its set-up cannot fail.
    let mut block = Zeroizing::new([0_u8; 64]);
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let mut mac = <Hmac<Sha256> as KeyInit>::new((&*block).into());
    mac.update(KID_MESSAGE);
    let digest = mac.finalize().into_bytes();
    SecretId(URL_SAFE_NO_PAD.encode(digest.get(..KID_LENGTH).unwrap_or_default()))
}

/// What is wanted, with the secrets that are there and those that have to be made.
///
/// # Errors
/// [`Error::Model`] for a rotation on top of another, [`Error::NotApproved`] or [`Error::NoVolume`] for a
/// wish that cannot be met, and when there are no random numbers.
pub fn desired(
    directory: &Directory,
    observed: &Observed,
    revoked: &BTreeSet<NodeName>,
    wishes: &Wishes,
    source: &mut dyn Source,
) -> Result<Desired, Error> {
    let mut desired = directory.desired.clone();
    for (node, entry) in &directory.machines {
        let Some(machine) = desired.machines.get_mut(node) else {
            continue;
        };
        if revoked.contains(node) {
            machine.state = State::Revoked;
        }
        let rotate = named(&wishes.rotate, node);
        let rebound = named(&wishes.rebound, node);
        if machine.state != State::Approved {
            match rotate.or(rebound) {
                Some(_) => {
                    return Err(Error::NotApproved {
                        name: entry.name.clone(),
                        state: super::load::word(machine.state),
                    });
                }
                None => continue,
            }
        }
        let wished = rotate.into_iter().chain(rebound).flatten();
        if let Some(volume) = wished.into_iter().find(|tag| !entry.volumes.contains(*tag)) {
            return Err(Error::NoVolume {
                name: entry.name.clone(),
                volume: volume.to_string(),
            });
        }
        for tag in &entry.volumes {
            let wished = |wish: Option<&BTreeSet<Tag>>| wish.is_some_and(|tags| tags.contains(tag));
            fill(machine, node, tag, observed, wished(rotate), source)?;
            if wished(rebound) {
                machine.rebound(tag);
            }
        }
        if let Some(config) = &entry.ignition {
            let id = source.keep(config.id().clone(), &|| config.text());
            machine.secrets.insert(Tag::ignition(), id);
        }
        for (name, resource) in &entry.runtime {
            let id = source.keep(resource.id().clone(), &|| resource.content());
            machine.runtime.insert(name.clone(), id);
        }
    }
    Ok(desired)
}

/// Puts the secrets of one volume into the machine: what the record says is there, else a new one; with
/// `rotate` a new one in any case.
///
/// # Errors
/// [`Error::Model`] for a rotation on top of another, and when there are no random numbers.
pub fn fill(
    machine: &mut Machine,
    node: &NodeName,
    tag: &Tag,
    observed: &Observed,
    rotate: bool,
    source: &mut dyn Source,
) -> Result<(), Error> {
    let path = tag.path(node)?;
    let ak = machine.ak.as_ref().map(crate::model::AkPublic::node_id);
    let made = present(machine, node, tag, observed, &mut *source, ak.as_ref())?;
    if rotate && !made {
        let fresh = source.make(ak.as_ref(), &path)?;
        machine.rotate(tag, fresh)?;
    }
    Ok(())
}

/// Puts into the machine what the record says about a volume; a new secret if that is nothing certain.
/// Returns whether it is new.
fn present(
    machine: &mut Machine,
    node: &NodeName,
    tag: &Tag,
    observed: &Observed,
    source: &mut dyn Source,
    ak: Option<&NodeId>,
) -> Result<bool, Error> {
    let path = tag.path(node)?;
    let prefix = format!("{path}.");
    // What lies in a second place: according to the record, else according to a copy.
    let kept: Vec<SecretId> = observed
        .under(&prefix)
        .filter_map(|(at, secret)| {
            let id = secret.cloned().or_else(|| source.recall(at))?;
            (at.strip_prefix(&prefix) == Some(&id.0)).then_some(id)
        })
        .collect();
    let keep = |machine: &mut Machine| -> Result<(), Error> {
        for id in &kept {
            machine.secrets.insert(tag.second(id)?, id.clone());
        }
        Ok(())
    };
    let known = observed.secret(path.as_str());
    if let Some(Some(id)) = known {
        machine.secrets.insert(tag.clone(), id.clone());
        keep(machine)?;
        return Ok(false);
    }
    if let Some(id) = source.recall(path.as_str()) {
        keep(machine)?;
        machine.put(tag, id)?;
        return Ok(false);
    }
    // Somebody may have bound a volume to whatever lay here while the node was let in.
    if known.is_some() && may_have_been_served(machine, node, observed) {
        keep(machine)?;
    }
    let fresh = source.make(ak, &path)?;
    machine.put(tag, fresh)?;
    Ok(true)
}

fn may_have_been_served(machine: &Machine, node: &NodeName, observed: &Observed) -> bool {
    let by_key =
        |ak: &crate::model::AkPublic| observed.may_hold(&ak.shard(), &ak.to_string(), node);
    let by_register =
        |register: String| observed.may_hold(&InitDataDigest::shard(&register), &register, node);
    machine.ak.as_ref().is_some_and(by_key)
        || machine
            .init_data
            .iter()
            .flat_map(InitDataDigest::registers)
            .any(by_register)
}

fn named<'a>(
    wish: &'a Option<(NodeName, BTreeSet<Tag>)>,
    node: &NodeName,
) -> Option<&'a BTreeSet<Tag>> {
    wish.as_ref()
        .filter(|(wished, _)| wished == node)
        .map(|(_, tags)| tags)
}

/// As the Clevis pin computes `kid`.
const KID_MESSAGE: &[u8] = b"clevis-pin-trustee kid v1";
const KID_LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::{Fresh, Source as _, id};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use clevis_pin::Cek;
    use kbs_protocol::resource_secret::ResourceSecret;

    #[test]
    fn a_secret_has_the_name_that_a_token_of_the_pin_gives_it() {
        for key in [[0; 32], [7; 32]] {
            assert_eq!(id(&key).0, URL_SAFE_NO_PAD.encode(Cek::new(&key).id()));
        }
    }

    #[test]
    fn what_is_made_can_be_read_and_is_bound() {
        let node = crate::testing::ak(1).node_id();
        let path = "default/a/root".parse().unwrap();
        let mut fresh = Fresh::default();
        let made = fresh.make(Some(&node), &path).unwrap();
        let read = ResourceSecret::parse(fresh.get(&made).unwrap()).unwrap();
        read.check(&node, &path, true).unwrap();
        assert_eq!(made, id(read.key()));
        let other = fresh.make(None, &path).unwrap();
        let read = ResourceSecret::parse(fresh.get(&other).unwrap()).unwrap();
        assert_eq!(read.binding().node, None);
        assert_ne!(made, other);
    }
}

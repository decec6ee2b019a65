// SPDX-License-Identifier: Apache-2.0

//! Which volume key belongs to each volume, beside its secret at `<volume>.vk`: what a node compares before it opens
//! anything ([`kbs_protocol::volume_record`]).
//!
//! A node records the ids when its volumes are made; its records come with the registrar's file, or as files of their
//! own. Nothing in them is believed that does not follow from the signature: it must be by the machine's own attestation
//! key, over the PCRs of an approved boot which had not left its initramfs. The first id that is stored stays, and the
//! node makes no volume that contradicts it. A person who wants the volume made anew says so first: then the id gives
//! way to a mark, and what the TPM signs after that counts. What a host has kept of an older volume comes too late.

use super::secrets::Source;
use super::{Directory, Error, Wishes};
use crate::model::{Boots, Desired, Machine, NodeName, SecretId, State, Tag};
use crate::plan::{Observed, Problem};
use kbs_protocol::Secret;
use kbs_protocol::volume_record::{SignedRecord, VerifiedRecord, VolumeRecord, is_vk_id};
use serde_json::json;

/// Whether this is the id of a volume key, and not the mark of one that is forgotten.
pub(super) fn is_key(id: &SecretId) -> bool {
    Key::read(id).is_some_and(|key| key.vk_id.is_some())
}

/// Adds the ids to what is wanted. Returns what could not be granted.
///
/// # Errors
/// [`Error::NotApproved`] or [`Error::NoVolume`] for a wish that cannot be met.
pub(super) fn fill(
    desired: &mut Desired,
    directory: &Directory,
    observed: &Observed,
    wishes: &Wishes,
    source: &mut dyn Source,
) -> Result<Vec<Problem>, Error> {
    check(wishes, directory, desired)?;
    let boots = &desired.boots;
    let mut problems = Vec::new();
    for (node, entry) in &directory.machines {
        let Some(machine) = desired.machines.get_mut(node) else {
            continue;
        };
        if machine.state != State::Approved {
            continue;
        }
        for tag in &entry.volumes {
            let wish = wishes.renewed.as_ref();
            let renew = wish.is_some_and(|(of, tags)| of == node && tags.contains(tag));
            let at = tag.volume_key()?.path(node)?;
            let question = Question {
                node,
                machine,
                tag,
                records: &entry.records,
                known: observed.secret(at.as_str()).flatten(),
                renew,
            };
            let answer = question.answer(boots)?;
            problems.extend(answer.refused.map(|why| Problem::VolumeKey {
                node: node.clone(),
                tag: tag.clone(),
                why,
            }));
            if let Some(key) = answer.key {
                let content = key.content;
                let id = source.keep(key.id, &|| Secret::new(content.expose().to_vec()));
                machine.secrets.insert(key.place, id);
            }
        }
    }
    Ok(problems)
}

/// What is asked about one volume of one machine.
pub(crate) struct Question<'a> {
    /// The machine.
    pub(crate) node: &'a NodeName,
    /// What is wanted for it.
    pub(crate) machine: &'a Machine,
    /// The volume.
    pub(crate) tag: &'a Tag,
    /// All that the machine has said, not yet believed.
    pub(crate) records: &'a [SignedRecord],
    /// What was decided before.
    pub(crate) known: Option<&'a SecretId>,
    /// The volume is about to be made anew.
    pub(crate) renew: bool,
}

/// What is decided about it.
pub(crate) struct Answer {
    /// What is to be stored.
    pub(crate) key: Option<Stored>,
    /// What does not count of what was said, and why.
    pub(crate) refused: Option<String>,
}

/// An id of a volume's key, or the mark that there will be another one.
pub(crate) struct Stored {
    /// Where.
    pub(crate) place: Tag,
    /// What the record remembers.
    pub(crate) id: SecretId,
    /// What the agent reads.
    pub(crate) content: Secret,
}

impl Question<'_> {
    /// Decides, given the boots that are approved.
    ///
    /// # Errors
    /// [`Error::Model`] when there is no room beside the secret.
    pub(crate) fn answer(&self, boots: &Boots) -> Result<Answer, Error> {
        let known = self.known.and_then(Key::read);
        let mut said = Said {
            path: self.tag.path(self.node)?.to_string(),
            node: self.node,
            machine: self.machine,
            fits: &|pcrs| boots.before_the_seal(pcrs),
            refused: None,
        };
        let newest = match &known {
            // Nothing to decide, and no signature to check.
            Some(known) if !self.renew && said.nothing_else(self.records, known) => None,
            _ => said.newest(self.records),
        };
        let (key, refused) = match (known, newest) {
            (Some(known), newest) if self.renew => (Some(known.forgotten(newest)), None),
            (Some(known), Some(newest)) if known.vk_id.is_some() => {
                let differs = known.vk_id != newest.vk_id;
                let why = "it has recorded another volume key than the one that is stored: find out who changed \
                           the disk";
                (Some(known), differs.then(|| why.to_owned()))
            }
            (Some(mark), Some(newest)) if newest.order > mark.order => (Some(newest), None),
            (Some(known), _) => (Some(known), None),
            (None, Some(newest)) => (Some(newest), None),
            (None, None) => (None, said.refused.take()),
        };
        let place = self.tag.volume_key()?;
        let key = key.map(|key| Stored {
            place,
            id: key.id(),
            content: key.content(),
        });
        Ok(Answer { key, refused })
    }
}

/// A wish is about an approved machine and its volumes.
fn check(wishes: &Wishes, directory: &Directory, desired: &Desired) -> Result<(), Error> {
    let Some((node, tags)) = &wishes.renewed else {
        return Ok(());
    };
    let (Some(entry), Some(machine)) = (directory.machines.get(node), desired.machines.get(node))
    else {
        return Ok(());
    };
    if machine.state != State::Approved {
        return Err(Error::NotApproved {
            name: entry.name.clone(),
            state: super::load::word(machine.state),
        });
    }
    match tags.iter().find(|tag| !entry.volumes.contains(*tag)) {
        None => Ok(()),
        Some(volume) => Err(Error::NoVolume {
            name: entry.name.clone(),
            volume: volume.to_string(),
        }),
    }
}

/// A volume key as the record of a KBS remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    /// Its id; none is the mark of a volume that is to be made anew.
    vk_id: Option<String>,
    /// When the TPM signed it, or after what another one counts.
    order: (u32, u64),
}

impl Key {
    fn id(&self) -> SecretId {
        let vk_id = self.vk_id.as_deref().unwrap_or_default();
        let (resets, clock) = self.order;
        SecretId(format!("{PREFIX}{vk_id}:{resets}:{clock}"))
    }

    fn read(id: &SecretId) -> Option<Self> {
        let mut parts = id.0.strip_prefix(PREFIX)?.split(':');
        let (vk_id, resets, clock) = (parts.next()?, parts.next()?, parts.next()?);
        let order = (resets.parse().ok()?, clock.parse().ok()?);
        let vk_id = match vk_id {
            "" => None,
            vk_id => Some(is_vk_id(vk_id).then(|| vk_id.to_owned())?),
        };
        Some(Self { vk_id, order })
    }

    /// The mark in its place: nothing that was signed so far counts any more.
    fn forgotten(self, newest: Option<Self>) -> Self {
        let order = newest.map_or(self.order, |newest| newest.order.max(self.order));
        Self { vk_id: None, order }
    }

    /// What the agent reads.
    fn content(&self) -> Secret {
        Secret::new(json!({ "vk_id": self.vk_id }).to_string().into_bytes())
    }
}

/// What one machine has said of one volume.
struct Said<'a> {
    path: String,
    node: &'a NodeName,
    machine: &'a Machine,
    fits: &'a dyn Fn(&[[u8; 32]]) -> bool,
    /// Why the last record that speaks of it does not count.
    refused: Option<String>,
}

impl Said<'_> {
    /// Whether no record, true or not, speaks of another key than this.
    fn nothing_else(&self, records: &[SignedRecord], known: &Key) -> bool {
        records.iter().all(|record| {
            VolumeRecord::parse(&record.record).is_ok_and(|record| {
                let of_it = record.volumes().iter().filter(|v| v.path == self.path);
                of_it
                    .into_iter()
                    .all(|volume| Some(&volume.vk_id) == known.vk_id.as_ref())
            })
        })
    }

    /// The youngest of the records that hold.
    fn newest(&mut self, records: &[SignedRecord]) -> Option<Key> {
        let mut newest: Option<Key> = None;
        for record in records {
            match self.key(record) {
                Ok(Some(key)) => {
                    if newest
                        .as_ref()
                        .is_none_or(|newest| key.order > newest.order)
                    {
                        newest = Some(key);
                    }
                }
                Ok(None) => {}
                Err(why) => self.refused = Some(why),
            }
        }
        newest
    }

    /// The key in one record, if it speaks of this volume and everything about it holds.
    fn key(&self, record: &SignedRecord) -> Result<Option<Key>, String> {
        let refused = |why: &str| format!("its record of volume keys does not count: {why}");
        let VerifiedRecord {
            record,
            ak_public,
            pcrs,
            order,
        } = record
            .verify()
            .map_err(|error| refused(&error.to_string()))?;
        let ours = |ak: &crate::model::AkPublic| ak.to_string() == ak_public;
        if !self.machine.ak.as_ref().is_some_and(ours) {
            return Err(refused("another attestation key has signed it"));
        }
        if record.node() != self.node.to_string() {
            return Err(refused("it names another node"));
        }
        let mut volumes = record.volumes().iter();
        let Some(volume) = volumes.find(|volume| volume.path == self.path) else {
            return Ok(None);
        };
        if !(self.fits)(&pcrs) {
            return Err(refused(
                "the boot that made it is not approved, or had left its initramfs",
            ));
        }
        Ok(Some(Key {
            vk_id: Some(volume.vk_id.clone()),
            order,
        }))
    }
}

/// Tells these ids from those of secrets, which have no colon.
const PREFIX: &str = "vk:";

#[cfg(test)]
mod tests {
    use super::Key;
    use crate::model::SecretId;

    #[test]
    fn a_key_is_remembered_with_its_order() {
        let key = Key {
            vk_id: Some("0a".repeat(32)),
            order: (7, 1 << 40),
        };
        assert_eq!(Key::read(&key.id()), Some(key.clone()));
        let content = format!("{{\"vk_id\":\"{}\"}}", "0a".repeat(32));
        assert_eq!(key.content().expose(), content.as_bytes());
        let later = Key {
            order: (8, 0),
            ..key.clone()
        };
        for (newest, order) in [(None, (7, 1 << 40)), (Some(later), (8, 0))] {
            let mark = key.clone().forgotten(newest);
            assert_eq!((&mark.vk_id, mark.order), (&None, order));
            assert_eq!(Key::read(&mark.id()), Some(mark.clone()));
            assert_eq!(mark.content().expose(), br#"{"vk_id":null}"#);
        }
        for bad in [
            "0a".repeat(32),
            format!("vk:{}", "0a".repeat(32)),
            format!("vk:{}:7", "0a".repeat(32)),
            "vk:x:7:8".to_owned(),
        ] {
            assert_eq!(Key::read(&SecretId(bad)), None);
        }
    }
}

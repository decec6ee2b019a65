// SPDX-License-Identifier: Apache-2.0

//! What the running system of a machine may read from the KBS, after the seal too, at `runtime/<node>/<name>`: files of
//! the administrator's, for one machine or for each.

use super::load::beside;
use super::{Error, Place, objects};
use crate::model::{SecretId, Tag};
use kbs_protocol::Secret;
use kbs_protocol::encoding::hex;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Resources by name.
pub type Resources = BTreeMap<Tag, Arc<Resource>>;

/// A resource that may be stored.
pub struct Resource {
    content: Secret,
    id: SecretId,
}

impl Resource {
    /// From the bytes to store.
    ///
    /// # Errors
    /// A sentence, when there are none, or too many.
    pub fn new(content: Secret) -> Result<Self, String> {
        match content.expose().len() {
            0 => Err("is empty".to_owned()),
            length if length > LIMIT => {
                Err(format!("has {length} bytes, expected at most {LIMIT}"))
            }
            _ => {
                let digest = Sha256::digest(content.expose());
                let id = hex::encode(digest.get(..ID_LENGTH).unwrap_or_default());
                let id = SecretId(format!("runtime-{id}"));
                Ok(Self { content, id })
            }
        }
    }

    /// The bytes to store.
    pub fn content(&self) -> Secret {
        Secret::new(self.content.expose().to_vec())
    }

    /// Another content has another id.
    pub fn id(&self) -> &SecretId {
        &self.id
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("runtime resource")
    }
}

/// Reads what an object names.
///
/// # Errors
/// [`Error::Io`], or [`Error::Object`] for a file that cannot be one and for a name that is there twice.
pub(super) fn read(wanted: &[objects::Runtime], place: &Place) -> Result<Resources, Error> {
    let mut resources = Resources::new();
    for objects::Runtime { name, file } in wanted {
        let file = beside(place, file);
        let content = Secret::new(std::fs::read(&file).map_err(Error::io("read", &file))?);
        let said = |why: String| Error::Object {
            place: place.clone(),
            why: format!("the runtime resource {name}: {why}"),
        };
        let resource =
            Resource::new(content).map_err(|why| said(format!("{} {why}", file.display())))?;
        if resources.insert(name.clone(), Arc::new(resource)).is_some() {
            return Err(said("there are two of this name".to_owned()));
        }
    }
    Ok(resources)
}

/// As an Ignition config: half of what a Trustee takes in one request.
const LIMIT: usize = ignition_config::LIMIT;
/// Bytes of the digest in an id.
const ID_LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::{LIMIT, Resource};
    use kbs_protocol::Secret;

    #[test]
    fn another_content_is_another_resource() {
        let of = |bytes: &[u8]| Resource::new(Secret::new(bytes.to_vec()));
        let (one, other) = (of(b"one").unwrap(), of(b"other").unwrap());
        assert_eq!(one.id(), of(b"one").unwrap().id());
        assert_ne!(one.id(), other.id());
        assert_eq!(one.content().expose(), b"one");
        assert!(!format!("{one:?}").contains("one"));
        assert!(of(&vec![0; LIMIT]).is_ok());
        for bad in [vec![], vec![0; LIMIT + 1]] {
            assert!(of(&bad).is_err(), "{}", bad.len());
        }
    }
}

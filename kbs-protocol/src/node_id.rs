// SPDX-License-Identifier: Apache-2.0

//! A node's name, derived from its attestation key so that nobody has to hand it out.

use crate::encoding::hex;
use crate::error::{Error, INIT_DATA, RESOURCE_PATH};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// Node id = the first 128 bits of SHA-256(DER SubjectPublicKeyInfo of the attestation key), with the
/// version and variant bits of a version-8 UUID (RFC 9562 section 5.8), written in lower case.
///
/// Registering twice gives the same id, and the same image serves every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// The id of the node that holds the key with this DER-encoded SubjectPublicKeyInfo (RFC 5280).
    pub fn from_spki_der(spki: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(spki).into();
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(digest) {
            *to = from;
        }
        let [.., version, _, variant, _, _, _, _, _, _, _] = &mut id;
        *version = (*version & 0x0f) | 0x80;
        *variant = (*variant & 0x3f) | 0x80;
        Self(id)
    }

    /// An id that somebody assigned, as the `uuid` of init-data does: any UUID in lower case.
    ///
    /// # Errors
    /// [`Error::Malformed`] for any other spelling.
    pub fn assigned(uuid: &str) -> Result<Self, Error> {
        let digits: String = uuid.chars().filter(|c| *c != '-').collect();
        hex::decode(&digits)
            .and_then(|bytes| Some(Self(bytes.try_into().ok()?)))
            .filter(|id| id.to_string() == uuid)
            .ok_or_else(|| Error::malformed(INIT_DATA, "its uuid is not a lower-case UUID"))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for NodeId {
    type Err = Error;

    /// Reads the one spelling that [`fmt::Display`] writes.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything else, upper case and other UUID versions included.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::malformed(RESOURCE_PATH, "a node id is a lower-case version-8 UUID");
        let id = Self::assigned(text).map_err(|_| wrong())?;
        let is_version_8 = id.0.get(6).is_some_and(|b| b >> 4 == 8);
        let is_rfc_variant = id.0.get(8).is_some_and(|b| b >> 6 == 2);
        match is_version_8 && is_rfc_variant {
            true => Ok(id),
            false => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::NodeId;

    #[test]
    fn is_the_head_of_the_hash_with_version_and_variant() {
        // sha256("") = e3b0c44298fc1c149afbf4c8996fb924…
        let id = NodeId::from_spki_der(b"");
        assert_eq!(id.to_string(), "e3b0c442-98fc-8c14-9afb-f4c8996fb924");
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
    }

    #[test]
    fn assigned_ids_are_uuids_of_any_version() {
        for text in [
            "e3b0c442-98fc-4c14-9afb-f4c8996fb924",
            "00000000-0000-0000-0000-000000000001",
        ] {
            assert_eq!(NodeId::assigned(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "n1",
            "E3B0C442-98FC-4C14-9AFB-F4C8996FB924",
            "e3b0c44298fc4c149afbf4c8996fb924",
        ] {
            let why = NodeId::assigned(text).unwrap_err().to_string();
            assert!(why.contains("lower-case UUID"), "{why}");
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "e3b0c44298fc8c149afbf4c8996fb924",
            "E3B0C442-98FC-8C14-9AFB-F4C8996FB924",
            "e3b0c442-98fc-4c14-9afb-f4c8996fb924",
            "e3b0c442-98fc-8c14-3afb-f4c8996fb924",
            "e3b0c442-98fc-8c14-9afb-f4c8996fb9240",
            "e3b0c4-4298fc-8c14-9afb-f4c8996fb924",
        ] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }
}

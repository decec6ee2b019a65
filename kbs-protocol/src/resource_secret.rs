// SPDX-License-Identifier: Apache-2.0

//! What the KBS stores for a volume: a key, and whom it is for.
//!
//! Two forms. The first is the older pin's, `{"key_type":"oct","key":"<32 characters>"}`, whose 32 ASCII
//! bytes *are* the key. The second adds `"enc":"b64url"`, and then `key` is the base64url of 32 random
//! bytes. Either may name the `node` and `path` it belongs to and the `vk_id` of the volume: the protocol
//! itself does not bind an answer to the path that was asked for, so a server (or whoever can write to its
//! storage) could hand out one node's secret as another's. A secret that names its owner cannot be swapped.

use crate::encoding::b64u;
use crate::error::{Error, RESOURCE_SECRET};
use crate::message::{SMALL_LIMIT, parse};
use crate::node_id::NodeId;
use crate::resource::ResourcePath;
use crate::secret::Secret;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A volume's key-encryption key with its optional binding. Wiped when dropped; has no `Debug`.
pub struct ResourceSecret {
    /// Boxed, because moving a value leaves its bytes behind where it was.
    key: Box<Zeroizing<[u8; KEY_LENGTH]>>,
    binding: Binding,
}

/// Whom a secret is for, as far as it says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binding {
    /// The node.
    pub node: Option<String>,
    /// The resource path.
    pub path: Option<String>,
    /// The id of the volume key that this secret may unlock.
    pub vk_id: Option<String>,
}

impl ResourceSecret {
    /// Reads either form.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Algorithm`] when the content has another form. The content itself
    /// never becomes part of the message.
    pub fn parse(content: &Secret) -> Result<Self, Error> {
        let wire: Wire = parse(RESOURCE_SECRET, content.expose(), SMALL_LIMIT)?;
        let algorithm = |what: &str, allowed| {
            Err(Error::Algorithm {
                what: RESOURCE_SECRET,
                name: name_of_algorithm(what),
                allowed,
            })
        };
        if wire.key_type != KEY_TYPE {
            return algorithm(&wire.key_type, KEY_TYPE);
        }
        let bytes = match wire.enc.as_deref() {
            None => Zeroizing::new(wire.key.as_bytes().to_vec()),
            Some(ENC_B64URL) => Zeroizing::new(b64u::decode(&wire.key).ok_or_else(|| {
                Error::malformed(RESOURCE_SECRET, "its key is not base64url without padding")
            })?),
            Some(other) => return algorithm(other, ENC_B64URL),
        };
        let mut key = Box::new(Zeroizing::new([0; KEY_LENGTH]));
        if bytes.len() != KEY_LENGTH {
            let why = format!(
                "its key is {} bytes long, a 256-bit key has {KEY_LENGTH}",
                bytes.len()
            );
            return Err(Error::malformed(RESOURCE_SECRET, why));
        }
        key.copy_from_slice(&bytes);
        let binding = Binding {
            node: wire.node,
            path: wire.path,
            vk_id: wire.vk_id,
        };
        Ok(Self { key, binding })
    }

    /// Makes a secret in the second form: 256 random bits, bound to a node and a path.
    ///
    /// # Errors
    /// [`Error::Random`] when the system has no random numbers.
    pub fn generate(node: &NodeId, path: &ResourcePath) -> Result<Self, Error> {
        Self::generate_for(Some(node), path)
    }

    /// As [`ResourceSecret::generate`]; without a node for one that has no attestation key to be named after.
    ///
    /// # Errors
    /// [`Error::Random`] when the system has no random numbers.
    pub fn generate_for(node: Option<&NodeId>, path: &ResourcePath) -> Result<Self, Error> {
        let mut key = Box::new(Zeroizing::new([0; KEY_LENGTH]));
        rand_core::RngCore::try_fill_bytes(&mut rand_core::OsRng, key.as_mut_slice())
            .map_err(|_| Error::Random)?;
        let binding = Binding {
            node: node.map(ToString::to_string),
            path: Some(path.to_string()),
            vk_id: None,
        };
        Ok(Self { key, binding })
    }

    /// The bytes to store in the KBS, in the second form.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the members cannot be written as JSON, which no value of this type causes.
    pub fn to_json(&self) -> Result<Secret, Error> {
        let wire = Wire {
            key_type: KEY_TYPE.to_owned(),
            key: Zeroizing::new(b64u::encode(self.key.as_slice())),
            enc: Some(ENC_B64URL.to_owned()),
            v: Some(2),
            node: self.binding.node.clone(),
            path: self.binding.path.clone(),
            vk_id: self.binding.vk_id.clone(),
        };
        // Written into room for all of it: a buffer that grows leaves copies of the key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(room(&self.binding)));
        serde_json::to_writer(&mut *bytes, &wire)
            .map_err(|_| Error::malformed(RESOURCE_SECRET, "it cannot be written as JSON"))?;
        Ok(Secret::from(bytes))
    }

    /// The 256-bit key.
    pub fn key(&self) -> &[u8; KEY_LENGTH] {
        &self.key
    }

    /// What the secret says about its owner.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Checks that the secret is for this node and path. `required` refuses one that does not say.
    ///
    /// # Errors
    /// [`Error::WrongBinding`] when it names another node or path, [`Error::Unbound`] when it must name
    /// one and does not.
    pub fn check(&self, node: &NodeId, path: &ResourcePath, required: bool) -> Result<(), Error> {
        let claims = [
            ("node", &self.binding.node, node.to_string()),
            ("path", &self.binding.path, path.to_string()),
        ];
        for (what, named, expected) in claims {
            match named {
                Some(named) if *named != expected => {
                    return Err(Error::WrongBinding {
                        what,
                        named: named.chars().take(NAME_LIMIT).collect(),
                        expected,
                    });
                }
                None if required => return Err(Error::Unbound { what }),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The JSON form. Members that later versions add are ignored, as the older pin does.
#[derive(Serialize, Deserialize)]
struct Wire {
    key_type: String,
    #[serde(deserialize_with = "read_wiped", serialize_with = "write_wiped")]
    key: Zeroizing<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    v: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vk_id: Option<String>,
}

/// Wraps the key at once: another member may be refused after it, and then only this is dropped.
fn read_wiped<'de, D: Deserializer<'de>>(reader: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(reader).map(Zeroizing::new)
}

fn write_wiped<S: Serializer>(key: &Zeroizing<String>, writer: S) -> Result<S::Ok, S::Error> {
    writer.serialize_str(key)
}

/// An algorithm's name for a message. What is too long for one may be a key that somebody stored in the wrong
/// member, so it is not shown.
fn name_of_algorithm(found: &str) -> String {
    if found.len() <= ALGORITHM_LIMIT {
        found.to_owned()
    } else {
        format!("({} bytes, not shown)", found.len())
    }
}

/// Enough for the JSON form: JSON writes a byte in at most six.
fn room(binding: &Binding) -> usize {
    [&binding.node, &binding.path, &binding.vk_id]
        .into_iter()
        .flatten()
        .fold(FIXED_PART, |sum, text| {
            sum.saturating_add(text.len().saturating_mul(6))
        })
}

const KEY_LENGTH: usize = 32;
const KEY_TYPE: &str = "oct";
const ENC_B64URL: &str = "b64url";
/// The members' names, the key and the version are under 128 bytes.
const FIXED_PART: usize = 192;
/// The longest name that is no key: a key has 32 characters or more.
const ALGORITHM_LIMIT: usize = 16;
/// As long as a segment of a path may be, times three.
const NAME_LIMIT: usize = 384;

#[cfg(test)]
mod tests {
    use super::ResourceSecret;
    use crate::error::Error;
    use crate::node_id::NodeId;
    use crate::resource::ResourcePath;
    use crate::secret::Secret;

    fn read(json: &str) -> Result<ResourceSecret, Error> {
        ResourceSecret::parse(&Secret::new(json.as_bytes().to_vec()))
    }

    fn refusal(json: &str) -> String {
        read(json).err().expect(json).to_string()
    }

    #[test]
    fn the_older_form_is_its_own_characters() {
        let secret =
            read(r#"{"key_type":"oct","key":"0123456789abcdef0123456789abcdef"}"#).unwrap();
        assert_eq!(secret.key(), b"0123456789abcdef0123456789abcdef");
    }

    #[test]
    fn the_extended_form_round_trips() {
        let (node, path) = (
            NodeId::from_spki_der(b"a"),
            "default/a/root".parse().unwrap(),
        );
        let made = ResourceSecret::generate(&node, &path).unwrap();
        let read = ResourceSecret::parse(&made.to_json().unwrap()).unwrap();
        assert_eq!(read.key(), made.key());
        assert_eq!(read.binding(), made.binding());
        assert!(read.check(&node, &path, true).is_ok());
        assert_ne!(
            made.key(),
            ResourceSecret::generate(&node, &path).unwrap().key()
        );
    }

    #[test]
    fn the_written_form_never_outgrows_its_buffer() {
        let (node, path) = (
            NodeId::from_spki_der(b"a"),
            "default/a/root".parse().unwrap(),
        );
        let mut made = ResourceSecret::generate(&node, &path).unwrap();
        for awkward in ["", "\u{1}", "\u{fc}", "\"\\"] {
            made.binding.vk_id = Some(awkward.repeat(1000));
            let length = made.to_json().unwrap().len();
            assert!(length <= super::room(&made.binding), "{length}");
        }
    }

    #[test]
    fn a_foreign_name_is_not_endless() {
        let secret = format!(
            r#"{{"key_type":"oct","key":"0123456789abcdef0123456789abcdef","node":"{}"}}"#,
            "n".repeat(9000)
        );
        let path = "default/a/root".parse().unwrap();
        let error = read(&secret)
            .unwrap()
            .check(&NodeId::from_spki_der(b"a"), &path, false);
        assert!(error.unwrap_err().to_string().len() < 1000);
    }

    #[test]
    fn a_secret_of_another_node_or_path_is_refused() {
        let (node, path): (_, ResourcePath) = (
            NodeId::from_spki_der(b"a"),
            "default/a/root".parse().unwrap(),
        );
        let made = ResourceSecret::generate(&node, &path).unwrap();
        let other = NodeId::from_spki_der(b"b");
        assert!(matches!(
            made.check(&other, &path, false),
            Err(Error::WrongBinding { what: "node", .. })
        ));
        let elsewhere = "default/b/root".parse().unwrap();
        assert!(matches!(
            made.check(&node, &elsewhere, false),
            Err(Error::WrongBinding { what: "path", .. })
        ));
        let unbound =
            read(r#"{"key_type":"oct","key":"0123456789abcdef0123456789abcdef"}"#).unwrap();
        assert!(unbound.check(&node, &path, false).is_ok());
        assert!(matches!(
            unbound.check(&node, &path, true),
            Err(Error::Unbound { what: "node" })
        ));
    }

    #[test]
    fn other_contents_are_refused_without_being_quoted() {
        let key = "s3cr3t-s3cr3t-s3cr3t-s3cr3t-s3cr";
        assert!(refusal(&format!(r#"{{"key_type":"RSA","key":"{key}"}}"#)).contains("RSA"));
        for bad in [
            key.to_owned(),
            format!(r#""{key}""#),
            format!(r#"{{"key":"{key}"}}"#),
            format!(r#"{{"key_type":"oct","key":"{key}!"}}"#),
            format!(r#"{{"key_type":"oct","key":["{key}"]}}"#),
            format!(r#"{{"key_type":"oct","enc":"b64url","key":"{key}"}}"#),
            format!(r#"{{"key_type":"oct","enc":"hex","key":"{key}"}}"#),
            format!(r#"{{"key_type":"oct","key":"{key}""#),
            format!(r#"{{"key_type":"{key}","key":""}}"#),
            format!(r#"{{"key_type":"oct","key":"","enc":"{key}"}}"#),
        ] {
            assert!(!refusal(&bad).contains("s3cr3t"), "{bad}");
        }
    }
}

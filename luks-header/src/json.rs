// SPDX-License-Identifier: Apache-2.0

//! The JSON metadata (specification section 3), read into types that have a place for what we allow and for
//! nothing else: an unknown member, a member that appears twice or a number that is not written the one way
//! is an error. The same types write the metadata that libcryptsetup gets to see.

use crate::error::{Refusal, quoted, refused};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    pub(crate) keyslots: Table<Keyslot>,
    pub(crate) tokens: Table<Token>,
    pub(crate) segments: Table<Segment>,
    pub(crate) digests: Table<Digest>,
    pub(crate) config: Config,
}

/// Objects by their number, which is the name of the member.
#[derive(Debug, Clone)]
pub(crate) struct Table<T>(pub(crate) BTreeMap<u32, T>);

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keyslot {
    pub(crate) r#type: String,
    pub(crate) key_size: u32,
    pub(crate) af: Af,
    pub(crate) area: Area,
    pub(crate) kdf: Kdf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u8>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Af {
    pub(crate) r#type: String,
    pub(crate) stripes: u32,
    pub(crate) hash: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Area {
    pub(crate) r#type: String,
    pub(crate) offset: Decimal,
    pub(crate) size: Decimal,
    pub(crate) encryption: String,
    pub(crate) key_size: u32,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Kdf {
    Pbkdf2 {
        hash: String,
        iterations: u32,
        salt: String,
    },
    Argon2i {
        time: u32,
        memory: u32,
        cpus: u32,
        salt: String,
    },
    Argon2id {
        time: u32,
        memory: u32,
        cpus: u32,
        salt: String,
    },
}

/// A token keeps what it says: some are other programs'.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Token {
    pub(crate) r#type: String,
    pub(crate) keyslots: Vec<Number>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Segment {
    pub(crate) r#type: String,
    pub(crate) offset: Decimal,
    pub(crate) size: String,
    pub(crate) iv_tweak: Decimal,
    pub(crate) encryption: String,
    pub(crate) sector_size: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) integrity: Option<SegmentIntegrity>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SegmentIntegrity {
    pub(crate) r#type: String,
    pub(crate) journal_encryption: String,
    pub(crate) journal_integrity: String,
    /// Written by cryptsetup 2.8 and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_size: Option<u32>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Digest {
    pub(crate) r#type: String,
    pub(crate) keyslots: Vec<Number>,
    pub(crate) segments: Vec<Number>,
    pub(crate) hash: String,
    pub(crate) iterations: u32,
    pub(crate) salt: String,
    pub(crate) digest: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) json_size: Decimal,
    pub(crate) keyslots_size: Decimal,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) flags: Vec<String>,
}

/// A number that is the name of an object: a string of digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number(pub(crate) u32);

/// A 64-bit number, which this format writes as a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Decimal(pub(crate) u64);

impl Document {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Refusal> {
        // First what deserves a better sentence than "unknown field".
        if let Ok(outline) = serde_json::from_slice::<Outline>(text) {
            outline.judge()?;
        }
        serde_json::from_slice(text).map_err(|error| Refusal::Malformed(error.to_string()))
    }
}

/// As much of the metadata as shows that somebody is at work on the volume, or was said to be.
#[derive(Deserialize)]
struct Outline {
    keyslots: BTreeMap<String, Kind>,
    segments: BTreeMap<String, Kind>,
    config: Requirements,
}

#[derive(Deserialize)]
struct Kind {
    r#type: String,
}

#[derive(Deserialize)]
struct Requirements {
    requirements: Option<IgnoredAny>,
}

impl Outline {
    fn judge(&self) -> Result<(), Refusal> {
        if self
            .keyslots
            .values()
            .any(|slot| slot.r#type == "reencrypt")
        {
            return refused(
                "a re-encryption is under way or was made to look so (key slot of type reencrypt)",
            );
        }
        if self.config.requirements.is_some() {
            return refused("it has requirements, as during a re-encryption");
        }
        if let Some(other) = self.segments.values().find(|s| s.r#type != "crypt") {
            return refused(format!(
                "a segment of type {}, expected crypt: part of the volume would not be encrypted",
                quoted(&other.r#type)
            ));
        }
        Ok(())
    }
}

/// The one way to write a number: no sign, no leading zero.
fn canonical<T: std::str::FromStr + ToString>(text: &str) -> Result<T, String> {
    text.parse()
        .ok()
        .filter(|number: &T| number.to_string() == text)
        .ok_or_else(|| format!("{} is not a number in decimal digits", quoted(text)))
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        canonical(&text).map(Self).map_err(D::Error::custom)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        canonical(&text).map(Self).map_err(D::Error::custom)
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<T: Serialize> Serialize for Table<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(
            self.0
                .iter()
                .map(|(number, value)| (number.to_string(), value)),
        )
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(TableVisitor(PhantomData))
    }
}

struct TableVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
    type Value = Table<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of numbered members")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table<T>, A::Error> {
        let mut table = BTreeMap::new();
        while let Some((Number(number), value)) = map.next_entry()? {
            if table.insert(number, value).is_some() {
                return Err(A::Error::custom(format!("two members {number:?}")));
            }
        }
        Ok(Table(table))
    }
}

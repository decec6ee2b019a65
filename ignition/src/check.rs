// SPDX-License-Identifier: Apache-2.0

//! Reads a config once, from front to back, and keeps nothing of it but what must be judged.
//!
//! Ignition fetches whatever an object names as its `source`: files, what is appended to them, key files of
//! volumes, certificate authorities, further configs. So every object with a `source` is judged, wherever it
//! stands, and a specification that adds a place adds no hole. Ignition reads JSON with Go's library, for which
//! `Source` is the same word as `source` and the last of two equal names counts: names are folded here as they
//! are there, and two equal ones are refused.

use super::Error;
use super::LIMIT;
use super::source::{Reference, fold};
use kbs_protocol::Secret;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;
use zeroize::Zeroizing;

/// What a config says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its `ignition.version`.
    pub version: &'static str,
    /// Whether `ignition.config.replace` takes its place: then Ignition reads nothing else in it.
    pub replaced: bool,
}

/// Whether Ignition may have this config: JSON, of a specification that we know (Ignition configuration
/// specification 3.0 to 3.6), and complete in itself.
///
/// # Errors
/// [`Error`], with the place in the config and none of its content.
pub fn check(config: &Secret) -> Result<Facts, Error> {
    if config.len() > LIMIT {
        return Err(Error::TooLarge {
            bytes: config.len(),
        });
    }
    read(config.expose(), "")
}

/// `within` is the place of a config inside another one, empty for the outermost.
pub(super) fn read(text: &[u8], within: &str) -> Result<Facts, Error> {
    let mut found = Findings {
        within: within.to_owned(),
        ..Findings::default()
    };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let outcome = Value {
        path: String::new(),
        wanted: false,
        found: &mut found,
    }
    .deserialize(&mut reader)
    .and_then(|_| reader.end());
    if let Some(first) = found.first {
        return Err(first);
    }
    if let Err(error) = outcome {
        return Err(Error::NotJson {
            within: within.to_owned(),
            line: error.line(),
            column: error.column(),
        });
    }
    let known = |version: &str| VERSIONS.into_iter().find(|known| *known == version);
    match found.version.as_deref().and_then(|version| known(version)) {
        Some(version) => Ok(Facts {
            version,
            replaced: found.replaced,
        }),
        None => Err(Error::Version {
            within: within.to_owned(),
            found: found
                .version
                .filter(|version| is_version(version))
                .map(|v| v.to_string()),
        }),
    }
}

/// What was seen of a config.
#[derive(Default)]
struct Findings {
    within: String,
    version: Option<Zeroizing<String>>,
    replaced: bool,
    first: Option<Error>,
}

impl Findings {
    fn note(&mut self, finding: Result<(), Error>) {
        if let Err(error) = finding {
            self.first.get_or_insert(error);
        }
    }
}

/// Any value of the config, about to be read.
struct Value<'f> {
    /// Where it stands: `storage.files[0].contents`.
    path: String,
    /// Whether its text is looked at.
    wanted: bool,
    found: &'f mut Findings,
}

/// What is kept of a value for the object that holds it.
#[derive(Default)]
struct Seen {
    /// The text, if it was wanted.
    text: Option<Zeroizing<String>>,
    /// The member `hash` of an object.
    hash: Option<Zeroizing<String>>,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Seen;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Seen, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Seen, E> {
        Ok(Seen::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Seen, E> {
        Ok(Seen::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Seen, E> {
        Ok(Seen::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Seen, E> {
        Ok(Seen::default())
    }

    fn visit_unit<E>(self) -> Result<Seen, E> {
        Ok(Seen::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<Seen, E> {
        Ok(Seen {
            text: self.wanted.then(|| Zeroizing::new(text.to_owned())),
            hash: None,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Seen, A::Error> {
        let mut number: usize = 0;
        loop {
            let item = Value {
                path: format!("{}[{number}]", self.path),
                wanted: false,
                found: &mut *self.found,
            };
            if items.next_element_seed(item)?.is_none() {
                return Ok(Seen::default());
            }
            number = number.saturating_add(1);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Seen, A::Error> {
        let mut names = BTreeSet::new();
        let mut object = Seen::default();
        let (mut source, mut hash, mut compression) = (None, None, None);
        while let Some(name) = members.next_key::<String>()? {
            let name = fold(&name);
            let path = match self.path.as_str() {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            let seen = members.next_value_seed(Value {
                path: path.clone(),
                wanted: WANTED.contains(&name.as_str()),
                found: &mut *self.found,
            })?;
            match name.as_str() {
                "source" => source = seen.text,
                "compression" => compression = seen.text,
                "verification" => hash = seen.hash,
                "hash" => object.hash = seen.text,
                "version" if path == "ignition.version" => self.found.version = seen.text,
                _ => {}
            }
            if !names.insert(name) {
                // Which of the two counts would be Ignition's choice.
                self.found.note(Err(Error::Twice {
                    place: joined(&self.found.within, &path),
                }));
                return Err(A::Error::custom("a name twice"));
            }
        }
        if let Some(source) = source {
            self.found.replaced |= self.path == REPLACE && !source.is_empty();
            let reference = Reference {
                source: &source,
                hash: hash.as_deref().map(String::as_str),
                compression: compression.as_deref().map(String::as_str),
                place: joined(&self.found.within, &self.path),
                is_config: is_config(&self.path),
            };
            self.found.note(reference.check());
        }
        Ok(object)
    }
}

/// The places where a further config stands.
fn is_config(path: &str) -> bool {
    path == REPLACE || path.starts_with("ignition.config.merge[")
}

fn joined(within: &str, path: &str) -> String {
    match within {
        "" => path.to_owned(),
        within => format!("{within}: {path}"),
    }
}

/// Whether a text looks like a version, so that it may be shown: anything else stays unsaid.
fn is_version(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_digit() || c == '.';
    let number = text.strip_suffix("-experimental").unwrap_or(text);
    (1..=20).contains(&number.len()) && number.chars().all(legal)
}

const REPLACE: &str = "ignition.config.replace";
/// Members whose text is looked at.
const WANTED: [&str; 4] = ["source", "compression", "hash", "version"];

/// The specifications whose places for a `source` were read; one that is newer may have another way to fetch.
const VERSIONS: [&str; 8] = [
    "3.0.0",
    "3.1.0",
    "3.2.0",
    "3.3.0",
    "3.4.0",
    "3.5.0",
    "3.6.0-experimental",
    "3.6.0",
];

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! A reference value as a set of entries, so that two versions of it can be compared entry by entry while
//! only digests of the older one are kept.

use crate::model::NodeName;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// How the entries make up the JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// An object; an entry is a key with its value.
    Map,
    /// An array; the order means nothing.
    List,
    /// One object that counts whole.
    Atom,
}

/// A reference value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    shape: Shape,
    /// By digest: the key (maps only) and the value.
    entries: BTreeMap<EntryId, (String, Value)>,
}

/// Digest of an entry: 128 bits of SHA-256 over its JSON, in hexadecimal.
pub(super) type EntryId = String;

impl Entries {
    /// Nothing: `{}` or `[]`, which match as little as a value that does not exist.
    pub fn empty(shape: Shape) -> Self {
        Self {
            shape,
            entries: BTreeMap::new(),
        }
    }

    /// A list.
    pub fn list(values: impl IntoIterator<Item = Value>) -> Self {
        let mut list = Self::empty(Shape::List);
        values
            .into_iter()
            .for_each(|value| list.insert(String::new(), value));
        list
    }

    /// An object that counts whole.
    pub fn atom(value: Value) -> Self {
        let mut atom = Self::empty(Shape::Atom);
        atom.insert(String::new(), value);
        atom
    }

    /// Adds a key to a map of nodes.
    pub fn add_node(&mut self, key: String, node: &NodeName) {
        self.insert(key, json!(node));
    }

    /// The value as it goes to the KBS.
    pub fn to_value(&self) -> Value {
        let entries = self.entries.values();
        match self.shape {
            Shape::Map => Value::Object(entries.cloned().collect::<Map<_, _>>()),
            Shape::List => entries.map(|(_, value)| value.clone()).collect(),
            Shape::Atom => entries
                .map(|(_, value)| value.clone())
                .next()
                .unwrap_or_else(|| json!({})),
        }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Those of our entries that are among these.
    pub(super) fn common(&self, ids: &BTreeSet<EntryId>) -> Self {
        let kept = self.entries.iter().filter(|(id, _)| ids.contains(*id));
        Self {
            shape: self.shape,
            entries: kept
                .map(|(id, entry)| (id.clone(), entry.clone()))
                .collect(),
        }
    }

    /// Those of our entries that are not among these: the key (maps only) and the value.
    pub(super) fn without(&self, ids: &BTreeSet<EntryId>) -> Vec<(String, Value)> {
        let new = self.entries.iter().filter(|(id, _)| !ids.contains(*id));
        new.map(|(_, entry)| entry.clone()).collect()
    }

    pub(super) fn ids(&self) -> BTreeSet<EntryId> {
        self.entries.keys().cloned().collect()
    }

    fn insert(&mut self, key: String, value: Value) {
        let digest = Sha256::digest(json!([key, value]).to_string());
        let id = digest
            .iter()
            .take(ID_LENGTH)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.entries.insert(id, (key, value));
    }
}

/// Bytes of an [`EntryId`] before it is written in hexadecimal. Administrators choose entries, not
/// attackers, and two that collide cost a write that is missing, so 128 bits are plenty.
const ID_LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::{Entries, Shape};
    use serde_json::json;

    #[test]
    fn shapes() {
        let mut map = Entries::empty(Shape::Map);
        map.add_node("k".to_owned(), &"n".parse().unwrap());
        assert_eq!(map.to_value(), json!({"k": "n"}));
        assert_eq!(
            Entries::list([json!("a"), json!("a")]).to_value(),
            json!(["a"])
        );
        assert_eq!(Entries::atom(json!({"a": 1})).to_value(), json!({"a": 1}));
        for (shape, empty) in [(Shape::Map, "{}"), (Shape::List, "[]"), (Shape::Atom, "{}")] {
            assert_eq!(Entries::empty(shape).to_value().to_string(), empty);
        }
    }

    #[test]
    fn common_entries_need_the_same_key_and_value() {
        let map = |pairs: &[(&str, &str)]| {
            let mut map = Entries::empty(Shape::Map);
            pairs
                .iter()
                .for_each(|(k, v)| map.add_node((*k).to_owned(), &v.parse().unwrap()));
            map
        };
        let old = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let new = map(&[("b", "2"), ("c", "4"), ("d", "5")]);
        assert_eq!(new.common(&old.ids()), map(&[("b", "2")]));
        let whole = Entries::atom(json!({"a": 1, "b": 2}));
        assert!(
            Entries::atom(json!({"a": 1}))
                .common(&whole.ids())
                .is_empty()
        );
    }
}

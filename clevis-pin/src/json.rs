// SPDX-License-Identifier: Apache-2.0

//! Strict JSON (RFC 8259) for configurations and token headers.
//!
//! Two programs read every token, this one and `jose`. A member that appears twice could mean one thing to
//! each, so it is an error here, at any depth. Messages quote foreign text escaped and cut short.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads one JSON object with nothing but white space around it.
pub(crate) fn parse_object(text: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice::<Strict>(text) {
        Ok(Strict(Value::Object(members))) => Ok(members),
        Ok(Strict(other)) => Err(format!("expected a JSON object, found {}", kind(&other))),
        Err(error) => Err(format!("expected a JSON object: {error}")),
    }
}

/// One JSON object and where it stands, for messages. A member whose value is `null` counts as absent.
#[derive(Clone, Copy)]
pub(crate) struct Members<'a> {
    place: &'a str,
    members: &'a Map<String, Value>,
}

impl<'a> Members<'a> {
    pub(crate) fn new(place: &'a str, members: &'a Map<String, Value>) -> Self {
        Self { place, members }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    /// Whether the member is there at all, `null` included.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&'a str>, String> {
        self.typed(name, "a string", Value::as_str)
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, String> {
        self.typed(name, "an object", Value::as_object)
    }

    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a Vec<Value>>, String> {
        self.typed(name, "a list", Value::as_array)
    }

    /// A member that must be there.
    pub(crate) fn required<T>(&self, name: &str, found: Option<T>) -> Result<T, String> {
        found.ok_or_else(|| format!("{} is missing", self.at(name)))
    }

    /// How messages call this member.
    pub(crate) fn at(&self, name: &str) -> String {
        if self.place.is_empty() {
            format!("`{name}`")
        } else {
            format!("`{}.{name}`", self.place)
        }
    }

    /// Names of the members that are not in `known`, escaped for printing.
    pub(crate) fn unknown(&self, known: &[&str]) -> impl Iterator<Item = String> {
        self.members
            .keys()
            .filter(move |name| !known.contains(&name.as_str()))
            .map(|name| quoted(name))
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(format!(
                "{} is {}, expected {expected}",
                self.at(name),
                kind(value)
            )),
        }
    }
}

/// Foreign text for a message: escaped, in quotes, and cut after [`QUOTE_LIMIT`] characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTE_LIMIT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// What a value is, without showing it.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A JSON value in which no object has two members of one name.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = access.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Strict(value))) = access.next_entry::<String, Strict>()? {
            if members.contains_key(&name) {
                return Err(Error::custom(format!(
                    "member {} appears twice",
                    quoted(&name)
                )));
            }
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

const QUOTE_LIMIT: usize = 60;

#[cfg(test)]
mod tests {
    use super::{Members, parse_object, quoted};

    #[test]
    fn a_member_that_appears_twice_is_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":[{"y":{"a":1,"b":2,"a":null}}]}"#,
        ] {
            let error = parse_object(text.as_bytes()).unwrap_err();
            assert!(error.contains(r#"member "a" appears twice"#), "{error}");
        }
    }

    #[test]
    fn values_survive() {
        let text = br#"{"n":null,"t":true,"u":1,"i":-1,"f":1.5,"s":"\u00e9","l":[{}]}"#;
        let ours = serde_json::Value::Object(parse_object(text).unwrap());
        let theirs: serde_json::Value = serde_json::from_slice(text).unwrap();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn anything_but_one_object_is_refused() {
        for text in ["", "[]", "null", "{} {}", "{", "{\"a\":\u{0}}"] {
            assert!(parse_object(text.as_bytes()).is_err(), "{text:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse_object(format!("{{\"a\":{deep}").as_bytes()).is_err());
    }

    #[test]
    fn messages_name_the_place_and_show_no_raw_control_characters() {
        let object = parse_object(br#"{"path":7,"\u001b[31m":1}"#).unwrap();
        let members = Members::new("clevis", &object);
        assert_eq!(
            members.string("path").unwrap_err(),
            "`clevis.path` is a number, expected a string"
        );
        let unknown: Vec<_> = members.unknown(&["path"]).collect();
        assert_eq!(unknown, [r#""\u{1b}[31m""#]);
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), 63);
    }
}

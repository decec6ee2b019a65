// SPDX-License-Identifier: Apache-2.0

//! Where a secret lives in the KBS, and how one template serves every node.

mod template;

pub use template::{PathTemplate, VOLUME_PLACEHOLDER, Volume};

use crate::error::{Error, RESOURCE_PATH};
use crate::node_id::NodeId;
use std::fmt;
use std::str::FromStr;

/// `repository/type/tag`: three segments, each of the alphabet that every storage backend accepts.
///
/// A segment matches `[A-Za-z0-9_-][A-Za-z0-9_.-]*`, so `.` and `..` cannot occur, and is at most 128
/// characters long.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResourcePath(String);

impl ResourcePath {
    /// Fills `{node}` in a text such as `default/{node}/root`. A text without it is a path; for the template of
    /// a whole configuration see [`PathTemplate`].
    ///
    /// # Errors
    /// [`Error::Malformed`] when the result is not a path.
    pub fn expand(text: &str, node: &NodeId) -> Result<Self, Error> {
        text.replace(NODE_PLACEHOLDER, &node.to_string()).parse()
    }

    /// The path as it goes into the URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, as a resource policy sees them in `data["resource-path"]`.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl FromStr for ResourcePath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.split('/').count() != 3 {
            return Err(malformed("expected repository/type/tag", text));
        }
        text.split('/').try_for_each(check_segment)?;
        Ok(Self(text.to_owned()))
    }
}

fn check_segment(segment: &str) -> Result<(), Error> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let legal = segment.starts_with(is_plain)
        && segment.chars().all(|c| is_plain(c) || c == '.')
        && segment.len() <= SEGMENT_LIMIT;
    if legal {
        return Ok(());
    }
    let why = "a segment is 1 to 128 of A-Z a-z 0-9 _ - . and does not begin with a dot";
    Err(malformed(why, segment))
}

fn malformed(why: &str, text: &str) -> Error {
    let shown: String = text.chars().take(SEGMENT_LIMIT).collect();
    Error::malformed(RESOURCE_PATH, format!("{why}, got {shown:?}"))
}

impl fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Stands for the node's own id in a path template.
pub const NODE_PLACEHOLDER: &str = "{node}";
const SEGMENT_LIMIT: usize = 128;

#[cfg(test)]
mod tests {
    use super::ResourcePath;
    use crate::node_id::NodeId;

    #[test]
    fn paths() {
        for good in [
            "default/m1/root",
            "a/b/c",
            "_a/-b/c.d",
            "default/e3b0c442-98fc/r00t",
        ] {
            assert_eq!(good.parse::<ResourcePath>().unwrap().to_string(), good);
        }
        let long = format!("a/{}/c", "b".repeat(129));
        for bad in [
            "",
            "a",
            "a/b",
            "a/b/c/d",
            "/a/b/c",
            "a//c",
            "a/b/",
            "a/../c",
            "a/.b/c",
            "a/b c/d",
            "a/b/c\n",
            "a/é/c",
            "a/b%2f/c",
            "a/{node}/c",
            "a/b/c?x=y",
            &long,
        ] {
            assert!(bad.parse::<ResourcePath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_template_takes_the_node() {
        let node = NodeId::from_spki_der(b"");
        let path = ResourcePath::expand("default/{node}/root", &node).unwrap();
        assert_eq!(
            path.as_str(),
            "default/e3b0c442-98fc-8c14-9afb-f4c8996fb924/root"
        );
        assert_eq!(path.segments().nth(1), Some(node.to_string().as_str()));
        assert_eq!(
            ResourcePath::expand("a/b/c", &node).unwrap().as_str(),
            "a/b/c"
        );
        assert!(ResourcePath::expand("a/{host}/c", &node).is_err());
    }
}

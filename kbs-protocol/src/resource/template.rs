// SPDX-License-Identifier: Apache-2.0

//! `kbs.path` of `agent.toml`: one text that gives every volume of every node its place in the KBS.

use super::{NODE_PLACEHOLDER, ResourcePath};
use crate::error::{Error, RESOURCE_PATH};
use crate::node_id::NodeId;
use std::fmt;
use std::str::FromStr;

/// A resource path in which `{node}` stands for the node id and `{volume}` for the name of a volume, such as
/// `default/{node}/{volume}`. Without `{volume}` it is the path of the node's one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(String);

impl PathTemplate {
    /// The path of a volume of a node. A template without `{volume}` gives the same path for each.
    ///
    /// # Errors
    /// [`Error::Malformed`] when node and volume make a segment too long.
    pub fn expand(&self, node: &NodeId, volume: &Volume) -> Result<ResourcePath, Error> {
        self.of_node(node)
            .replace(VOLUME_PLACEHOLDER, volume.as_str())
            .parse()
    }

    /// The volume whose path of this node this is, or `None` when the template never gives it. A template without
    /// `{volume}` calls its one path `root`.
    pub fn volume(&self, node: &NodeId, path: &str) -> Option<Volume> {
        let own = self.of_node(node);
        let Some((before, after)) = own.split_once(VOLUME_PLACEHOLDER) else {
            return (own == path).then(Volume::default);
        };
        let volume: Volume = path
            .strip_prefix(before)?
            .strip_suffix(after)?
            .parse()
            .ok()?;
        // Each part may be short enough where the segment is not.
        self.expand(node, &volume).ok().map(|_| volume)
    }

    /// Whether volumes have paths of their own.
    pub fn names_volumes(&self) -> bool {
        self.0.contains(VOLUME_PLACEHOLDER)
    }

    /// The template with the node filled in: `default/<node id>/{volume}`.
    pub fn of_node(&self, node: &NodeId) -> String {
        self.0.replace(NODE_PLACEHOLDER, &node.to_string())
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PathTemplate {
    type Err = Error;

    /// # Errors
    /// [`Error::Malformed`] when the template gives no path, or names `{volume}` twice.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text.matches(VOLUME_PLACEHOLDER).count() > 1 {
            let why = format!("expected {VOLUME_PLACEHOLDER} at most once");
            return Err(Error::malformed(RESOURCE_PATH, why));
        }
        let template = Self(text.to_owned());
        // All node ids look alike, so one of them shows whether there is a path.
        template.expand(&NodeId::from_spki_der(b"any"), &Volume::default())?;
        Ok(template)
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a volume: what one segment of a [`ResourcePath`] may be. `root` unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Volume(String);

impl Volume {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Volume {
    fn default() -> Self {
        Self("root".to_owned())
    }
}

impl FromStr for Volume {
    type Err = Error;

    /// # Errors
    /// [`Error::Malformed`] for what cannot be one segment.
    fn from_str(text: &str) -> Result<Self, Error> {
        super::check_segment(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Stands for the name of a volume in a [`PathTemplate`].
pub const VOLUME_PLACEHOLDER: &str = "{volume}";

#[cfg(test)]
mod tests {
    use super::{PathTemplate, Volume};
    use crate::node_id::NodeId;

    const NODE: &str = "e3b0c442-98fc-8c14-9afb-f4c8996fb924";

    fn node() -> NodeId {
        NodeId::from_spki_der(b"")
    }

    fn template(text: &str) -> PathTemplate {
        text.parse().unwrap()
    }

    fn volume(text: &str) -> Volume {
        text.parse().unwrap()
    }

    #[test]
    fn each_volume_of_a_node_has_its_place() {
        let paths = template("default/{node}/{volume}");
        assert!(paths.names_volumes());
        for name in ["root", "data", "a.b", "x-1_y"] {
            let path = paths.expand(&node(), &volume(name)).unwrap();
            assert_eq!(path.as_str(), format!("default/{NODE}/{name}"));
            assert_eq!(paths.volume(&node(), path.as_str()), Some(volume(name)));
        }
        let within = template("{volume}/disk-{node}/key");
        assert_eq!(
            within.volume(&node(), &format!("data/disk-{NODE}/key")),
            Some(volume("data"))
        );
    }

    #[test]
    fn a_template_without_volume_is_the_one_path_of_the_node() {
        let paths = template("default/{node}/disk");
        assert!(!paths.names_volumes());
        let path = format!("default/{NODE}/disk");
        for name in ["root", "data"] {
            let expanded = paths.expand(&node(), &volume(name)).unwrap();
            assert_eq!(expanded.as_str(), path);
        }
        assert_eq!(paths.volume(&node(), &path), Some(Volume::default()));
        assert_eq!(paths.volume(&node(), &format!("default/{NODE}/root")), None);
    }

    #[test]
    fn a_path_that_the_template_never_gives_is_no_volume_of_this_node() {
        let other = NodeId::from_spki_der(b"other");
        let paths = template("default/{node}/{volume}");
        for path in [
            format!("default/{other}/root"),
            format!("default/{NODE}/"),
            format!("default/{NODE}/.hidden"),
            format!("default/{NODE}/a/b"),
            format!("default/{NODE}/../{other}/root"),
            format!("default/{NODE}/{{volume}}"),
            format!("default/{NODE}"),
            format!("other/{NODE}/root"),
            format!("default/{NODE}/{}", "x".repeat(129)),
            String::new(),
        ] {
            assert_eq!(paths.volume(&node(), &path), None, "{path:?}");
        }
        // Before and after the volume must not share letters.
        assert_eq!(
            template("a/b/ab{volume}ba").volume(&node(), "a/b/aba"),
            None
        );
        // Each part may be short enough, the segment is not.
        let long = format!("a/b/{{volume}}{}", "y".repeat(100));
        let path = format!("a/b/{}{}", "x".repeat(100), "y".repeat(100));
        assert_eq!(template(&long).volume(&node(), &path), None);
    }

    #[test]
    fn templates_that_give_no_path() {
        for bad in [
            "",
            "default/{node}",
            "default/{volume}/{volume}",
            "default/{volumes}/x",
            "default/{node}/.{volume}",
            "default/{uuid}/root",
        ] {
            assert!(bad.parse::<PathTemplate>().is_err(), "{bad:?}");
        }
        for bad in ["", ".x", "a/b", "a b", "{volume}", &"x".repeat(129)] {
            assert!(bad.parse::<Volume>().is_err(), "{bad:?}");
        }
    }
}

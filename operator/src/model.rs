// SPDX-License-Identifier: Apache-2.0

//! What is wanted, as values: read from files or from a cluster by others, turned into writes by
//! [`plan`](crate::plan). Everything here has been parsed; an id that is no id does not get this far.

mod boots;
mod identity;
mod options;
mod seals;

pub use boots::{BootTuple, Boots, Measurement, Pcr, TcbFloor, TdxLaunch};
pub(crate) use identity::{AK_SHARD, INIT_SHARD};
pub use identity::{AkPublic, InitDataDigest, NodeName};
pub use options::{Evidence, Identity, Options};

use kbs_protocol::resource::ResourcePath;
use kbs_protocol::{Blame, Owner, Persistence};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// All that one KBS has to serve. A KBS has one resource policy and one set of approved boots, so it serves
/// one cluster; machines of two clusters behind one KBS could boot each other's images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// What the cluster asks of its machines.
    pub options: Options,
    /// What they may have booted.
    pub boots: Boots,
    /// The machines, by name.
    pub machines: BTreeMap<NodeName, Machine>,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its attestation key, proved at enrolment.
    pub ak: Option<AkPublic>,
    /// The digest of the init-data that was issued to it.
    pub init_data: Option<InitDataDigest>,
    /// What an administrator said about it.
    pub state: State,
    /// Its secrets: last segment of the resource path, and which secret lies there.
    pub secrets: BTreeMap<Tag, SecretId>,
    /// What its running system may read: the same, in the repository `runtime`.
    pub runtime: BTreeMap<Tag, SecretId>,
}

/// What an administrator said about a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It gets its secrets when it attests.
    Approved,
    /// It gets nothing for now. What the KBS already keeps for it stays there, out of reach.
    Held,
    /// It gets nothing any more, and the KBS forgets its secrets.
    Revoked,
}

impl Machine {
    /// Puts a secret in place. Each lies in two places from the beginning: at `<tag>`, where the node asks
    /// first, and at `<tag>.<id>`, where it stays when another one takes the first place. A KBS does not let
    /// its administrator read, so a secret that is needed in a second place must be written there while it
    /// is being made.
    ///
    /// # Errors
    /// [`Error::RotationUnderWay`] while a secret other than the present one is kept: the volume may be bound
    /// to either, and only [`Machine::rebound`] tells. [`Error::Malformed`] when there is no room for the id.
    pub fn rotate(&mut self, tag: &Tag, fresh: SecretId) -> Result<(), Error> {
        if self.kept(tag).count() > 1 {
            return Err(Error::RotationUnderWay { tag: tag.clone() });
        }
        self.put(tag, fresh)
    }

    /// As [`Machine::rotate`], whatever is kept.
    ///
    /// # Errors
    /// [`Error::Malformed`] when there is no room for the id.
    pub fn put(&mut self, tag: &Tag, secret: SecretId) -> Result<(), Error> {
        self.secrets.insert(tag.second(&secret)?, secret.clone());
        self.secrets.insert(tag.clone(), secret);
        Ok(())
    }

    /// The node has bound its volume to the present secret: older ones go.
    pub fn rebound(&mut self, tag: &Tag) {
        let present = self.secrets.get(tag).cloned();
        let old: Vec<Tag> = self
            .kept(tag)
            .filter(|(_, id)| Some(*id) != present.as_ref())
            .map(|(second, _)| second.clone())
            .collect();
        old.iter()
            .for_each(|second| drop(self.secrets.remove(second)));
    }

    /// The second places of a volume.
    pub fn kept(&self, tag: &Tag) -> impl Iterator<Item = (&Tag, &SecretId)> {
        self.secrets
            .iter()
            .filter(|(second, id)| tag.second(id).is_ok_and(|own| own == **second))
    }
}

/// The last segment of a resource path: the volume, such as `root`, or what a runtime resource is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Tag {
    /// Where a machine's Ignition config lies, beside its volumes: `default/<node>/ignition`.
    pub fn ignition() -> Self {
        Self(IGNITION.to_owned())
    }

    /// Where a secret of this volume lies as long as it is kept: `<tag>.<id>`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when that is too long.
    pub fn second(&self, secret: &SecretId) -> Result<Self, Error> {
        format!("{}.{}", self.0, secret.0).try_into()
    }

    /// Where the id of this volume's key lies: `<tag>.vk`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when that is too long.
    pub fn volume_key(&self) -> Result<Self, Error> {
        format!("{}.vk", self.0).try_into()
    }

    /// The path of this volume's secret in the KBS: `default/<node>/<volume>`.
    ///
    /// # Errors
    /// None for names and tags that were parsed; the type says so because a path checks its own form.
    pub fn path(&self, node: &NodeName) -> Result<ResourcePath, kbs_protocol::Error> {
        format!("{REPOSITORY}/{node}/{}", self.0).parse()
    }

    /// The path of a resource of this name for the running system: `runtime/<node>/<name>`.
    ///
    /// # Errors
    /// As [`Tag::path`].
    pub fn runtime_path(&self, node: &NodeName) -> Result<ResourcePath, kbs_protocol::Error> {
        format!("{RUNTIME}/{node}/{}", self.0).parse()
    }
}

impl TryFrom<String> for Tag {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        match segment(&text) {
            true => Ok(Self(text)),
            false => Err(Error::malformed("the name of a volume", &text, SEGMENT)),
        }
    }
}

impl std::str::FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.to_owned().try_into()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a secret without being one. Another content has another id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretId(pub String);

impl SecretId {
    /// Whether it stands for something that is not made here, and so can be stored again: the id of a volume's key, an
    /// Ignition config, something for the running system.
    pub fn is_made_elsewhere(&self) -> bool {
        MADE_ELSEWHERE
            .iter()
            .any(|prefix| self.0.starts_with(prefix))
    }
}

/// What can be wrong with something that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It has another form.
    #[error("{what} must be {expected}, got {got:?}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// Its beginning.
        got: String,
        /// The form it must have.
        expected: &'static str,
    },
    /// A tuple does not name what it must.
    #[error("{what} must name {missing}, it does not")]
    Incomplete {
        /// Which kind of tuple.
        what: &'static str,
        /// The register.
        missing: String,
    },
    /// The volume has two secrets already.
    #[error("a rotation of {tag} is under way, the node has not bound its volume anew yet")]
    RotationUnderWay {
        /// The volume.
        tag: Tag,
    },
}

impl Error {
    pub(crate) fn malformed(what: &'static str, got: &str, expected: &'static str) -> Self {
        Self::Malformed {
            what,
            got: got.chars().take(SHOWN).collect(),
            expected,
        }
    }
}

impl Blame for Error {
    fn owner(&self) -> Owner {
        match self {
            Self::Malformed { .. } | Self::Incomplete { .. } => Owner::Configuration,
            Self::RotationUnderWay { .. } => Owner::Machine,
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Malformed { .. } | Self::Incomplete { .. } => Persistence::Permanent,
            Self::RotationUnderWay { .. } => Persistence::Temporary,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Malformed { .. } => "correct the value where it was written down".to_owned(),
            Self::Incomplete { .. } => {
                "take the value from the same boot as the others: values of different boots prove nothing"
                    .to_owned()
            }
            Self::RotationUnderWay { .. } => {
                "start the node so that it binds its volume to the new secret, then rotate again".to_owned()
            }
        }
    }
}

/// Whether a text can be one segment of a resource path.
pub(crate) fn segment(text: &str) -> bool {
    !text.contains('/') && format!("a/{text}/b").parse::<ResourcePath>().is_ok()
}

/// The first segment of the paths of disk secrets; `resource.rego` says the same.
pub(crate) const REPOSITORY: &str = "default";
/// The first segment of the paths of what the running system may read, after the seal too.
pub(crate) const RUNTIME: &str = "runtime";
/// As `ignition.path` of the agent's documentation ends.
const IGNITION: &str = "ignition";
pub(crate) const SEGMENT: &str = "1 to 128 of A-Z a-z 0-9 _ - . and not begin with a dot";
/// How ids of such contents begin. Those of secrets are 22 characters of base64url.
pub(crate) const MADE_ELSEWHERE: [&str; 3] = ["vk:", "config-", "runtime-"];
const SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::{Error, Machine, SecretId, State, Tag};
    use std::collections::BTreeMap;

    fn id(text: &str) -> SecretId {
        SecretId(text.to_owned())
    }

    #[test]
    fn rotation_keeps_the_old_secret_until_the_node_has_rebound() {
        let root: Tag = "root".parse().unwrap();
        let mut machine = Machine {
            ak: None,
            init_data: None,
            state: State::Approved,
            secrets: BTreeMap::new(),
            runtime: BTreeMap::new(),
        };
        let secrets = |pairs: &[(&str, &str)]| -> BTreeMap<Tag, SecretId> {
            let pair = |(tag, secret): &(&str, &str)| (tag.parse().unwrap(), id(secret));
            pairs.iter().map(pair).collect()
        };
        machine.rotate(&root, id("1")).unwrap();
        assert_eq!(machine.secrets, secrets(&[("root", "1"), ("root.1", "1")]));
        machine.rotate(&root, id("2")).unwrap();
        let both = secrets(&[("root", "2"), ("root.1", "1"), ("root.2", "2")]);
        assert_eq!(machine.secrets, both);
        let refused = machine.rotate(&root, id("3"));
        assert!(matches!(refused, Err(Error::RotationUnderWay { .. })));
        assert_eq!(machine.secrets, both);
        machine.rebound(&root);
        assert_eq!(machine.secrets, secrets(&[("root", "2"), ("root.2", "2")]));
        machine.rotate(&root, id("3")).unwrap();
    }

    #[test]
    fn tags_are_one_segment() {
        for bad in ["", ".", "a/b", "a b", "é", &"x".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
        let longest: Tag = "x".repeat(128).parse().unwrap();
        assert!(
            longest.second(&id("1")).is_err(),
            "there is no room for the second place"
        );
    }

    #[test]
    fn the_policy_and_the_paths_agree_on_the_repository() {
        for (rule, repository) in [
            ("disk_secrets", super::REPOSITORY),
            ("runtime", super::RUNTIME),
        ] {
            let line = format!("{rule} := \"{repository}\"\n");
            assert!(crate::policy::RESOURCE.contains(&line), "{line}");
        }
    }
}

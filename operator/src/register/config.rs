// SPDX-License-Identifier: Apache-2.0

//! The registrar's configuration: whom to let in, where to listen, how much to bear. `docs/enrolment.md`
//! describes each key. [`Config::parse`] takes text; [`Config::load`] also reads the files it names.

use super::certificate::Roots;
use super::identity::Identity;
use super::ignition::{self, Fragments};
use super::keys::EkDigest;
use kbs_protocol::encoding::hex;
use kbs_protocol::{Blame, Owner, Persistence};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// PEM text of the server's certificate chain and key.
    pub tls: Tls,
    /// Who is let in.
    pub identity: Identity,
    /// Where the list of nodes is kept.
    pub list: List,
    /// What nodes are told to encrypt.
    pub fragments: Option<Fragments>,
    /// How much to bear.
    pub limits: Limits,
}

/// Where the list of nodes is kept.
#[derive(Debug, PartialEq, Eq)]
pub enum List {
    /// A directory.
    Files(PathBuf),
    /// Objects of a namespace of Kubernetes; `None`: that of the service account, or of KUBECONFIG's context.
    Objects(Option<String>),
}

/// PEM texts.
pub struct Tls {
    /// The certificate and what is between it and its root.
    pub chain: String,
    /// Its key, PKCS#8 or older.
    pub key: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// `[limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests a minute from one address (IPv6: /64 network).
    pub requests_per_minute: u32,
    /// Unfinished enrolments.
    pub pending: usize,
    /// Of these, from one address.
    pub pending_per_address: usize,
    /// How long a node may take between its two requests; in the file in whole seconds.
    #[serde(rename = "pending_seconds", deserialize_with = "seconds")]
    pub pending_time: Duration,
    /// Open connections.
    pub connections: usize,
    /// Of these, from one address.
    pub connections_per_address: usize,
    /// TPMs on the list.
    pub machines: usize,
}

impl Default for Limits {
    /// For a few racks that power on together.
    fn default() -> Self {
        Self {
            requests_per_minute: 120,
            pending: 1024,
            pending_per_address: 64,
            pending_time: Duration::from_secs(120),
            connections: 256,
            connections_per_address: 64,
            machines: 100_000,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    listen: SocketAddr,
    tls_certificate_file: PathBuf,
    tls_key_file: PathBuf,
    identity: String,
    ek_roots_file: Option<PathBuf>,
    ek_intermediates_file: Option<PathBuf>,
    #[serde(default)]
    ek_sha256: Vec<String>,
    state_directory: Option<PathBuf>,
    kubernetes: Option<Kubernetes>,
    ignition: Option<ignition::Wishes>,
    #[serde(default)]
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kubernetes {
    namespace: Option<String>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("the configuration is not understood: {0}")]
    Syntax(String),
    /// A value that cannot be right.
    #[error("{key}: {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was expected.
        problem: String,
    },
}

impl ConfigError {
    pub(super) fn value(key: &'static str, problem: impl Into<String>) -> Self {
        Self::Value {
            key,
            problem: problem.into(),
        }
    }
}

impl Blame for ConfigError {
    fn owner(&self) -> Owner {
        Owner::Configuration
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        "docs/enrolment.md lists the keys and how to get root certificates".to_owned()
    }
}

impl Config {
    /// Reads the file and the files it names; relative names start at its directory.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&read(path)?, |file| read(&directory.join(file)))
    }

    /// Checks the text; `read` gives the text of a file that it names.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(
        text: &str,
        read: impl Fn(&Path) -> Result<String, ConfigError>,
    ) -> Result<Self, ConfigError> {
        let raw: Raw =
            toml::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let optional = |file: &Option<PathBuf>| file.as_deref().map(&read).transpose();
        let limits = raw.limits;
        for (key, value) in [
            (
                "limits.requests_per_minute",
                usize::try_from(limits.requests_per_minute).ok(),
            ),
            ("limits.pending", Some(limits.pending)),
            (
                "limits.pending_per_address",
                Some(limits.pending_per_address),
            ),
            (
                "limits.pending_seconds",
                usize::try_from(limits.pending_time.as_secs()).ok(),
            ),
            ("limits.connections", Some(limits.connections)),
            (
                "limits.connections_per_address",
                Some(limits.connections_per_address),
            ),
            ("limits.machines", Some(limits.machines)),
        ] {
            if value == Some(0) {
                return Err(ConfigError::value(key, "0 would let nobody in"));
            }
        }
        Ok(Self {
            listen: raw.listen,
            tls: Tls {
                chain: read(&raw.tls_certificate_file)?,
                key: read(&raw.tls_key_file)?,
            },
            identity: identity(
                &raw.identity,
                optional(&raw.ek_roots_file)?,
                optional(&raw.ek_intermediates_file)?,
                digests(&raw.ek_sha256)?,
            )?,
            list: match (raw.state_directory, raw.kubernetes) {
                (Some(directory), None) => List::Files(directory),
                (None, Some(kubernetes)) => List::Objects(kubernetes.namespace),
                _ => {
                    let problem = "say either where the list of nodes lies, or [kubernetes]";
                    return Err(ConfigError::value("state_directory", problem));
                }
            },
            fragments: raw.ignition.map(Fragments::new).transpose()?,
            limits,
        })
    }
}

/// A key that the rule would not look at is an error: somebody believes that it protects him.
fn identity(
    word: &str,
    roots: Option<String>,
    intermediates: Option<String>,
    listed: BTreeSet<EkDigest>,
) -> Result<Identity, ConfigError> {
    let certificates = roots.is_some() || intermediates.is_some();
    match word {
        "ek-certificate" => {
            let Some(roots) = roots else {
                let problem = "identity = \"ek-certificate\" needs the certificates of TPM makers";
                return Err(ConfigError::value("ek_roots_file", problem));
            };
            Ok(Identity::EkCertificate {
                roots: Roots::parse(&roots, &intermediates.unwrap_or_default())?,
                also_listed: listed,
            })
        }
        "ek-allow-list" if listed.is_empty() => Err(ConfigError::value(
            "ek_sha256",
            "identity = \"ek-allow-list\" needs digests of endorsement keys",
        )),
        "ek-allow-list" if !certificates => Ok(Identity::EkAllowList(listed)),
        "trust-on-first-use" if !certificates && listed.is_empty() => Ok(Identity::TrustOnFirstUse),
        "ek-allow-list" | "trust-on-first-use" => Err(ConfigError::value(
            "identity",
            format!(
                "{word:?} looks at no certificates, and trust-on-first-use at no digests either"
            ),
        )),
        other => Err(ConfigError::value(
            "identity",
            format!(
                "{other:?}, expected \"ek-certificate\", \"ek-allow-list\" or \"trust-on-first-use\""
            ),
        )),
    }
}

fn digests(texts: &[String]) -> Result<BTreeSet<EkDigest>, ConfigError> {
    texts
        .iter()
        .map(|text| {
            hex::decode(text)
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| {
                    ConfigError::value(
                        "ek_sha256",
                        format!("{text:?}, expected 64 hexadecimal digits"),
                    )
                })
        })
        .collect()
}

fn seconds<'d, D: serde::Deserializer<'d>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_secs)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::{Config, List};
    use crate::register::identity::Identity;
    use std::path::Path;
    use std::time::Duration;

    fn parse(rest: &str) -> Result<Config, String> {
        let text = format!(
            "listen = \"127.0.0.1:0\"\ntls_certificate_file = \"c\"\ntls_key_file = \"k\"\n\
             state_directory = \"s\"\n{rest}"
        );
        Config::parse(&text, |file: &Path| Ok(file.display().to_string()))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_rule_is_chosen_by_name() {
        let digest = "ab".repeat(32);
        let list = parse(&format!(
            "identity = \"ek-allow-list\"\nek_sha256 = [\"{digest}\"]"
        ))
        .unwrap();
        assert!(matches!(list.identity, Identity::EkAllowList(list) if list.contains(&[0xab; 32])));
        assert!(matches!(
            parse("identity = \"trust-on-first-use\"").unwrap().identity,
            Identity::TrustOnFirstUse
        ));
        let limits = parse("identity = \"trust-on-first-use\"\n[limits]\npending_seconds = 7")
            .unwrap()
            .limits;
        assert_eq!(
            (limits.pending_time, limits.pending),
            (Duration::from_secs(7), 1024)
        );
    }

    #[test]
    fn the_list_is_in_one_place() {
        let text = "listen = \"127.0.0.1:0\"\ntls_certificate_file = \"c\"\ntls_key_file = \"k\"\n\
                    identity = \"trust-on-first-use\"\n";
        let parse = |rest: &str| {
            let config = Config::parse(&format!("{text}{rest}"), |_| Ok(String::new()));
            config
                .map(|config| config.list)
                .map_err(|error| error.to_string())
        };
        let objects = List::Objects(Some("n".to_owned()));
        assert_eq!(parse("[kubernetes]\nnamespace = \"n\""), Ok(objects));
        assert_eq!(parse("[kubernetes]"), Ok(List::Objects(None)));
        assert_eq!(
            parse("state_directory = \"s\""),
            Ok(List::Files("s".into()))
        );
        for both_or_none in ["", "state_directory = \"s\"\n[kubernetes]"] {
            assert!(parse(both_or_none).unwrap_err().contains("say either"));
        }
    }

    #[test]
    fn nothing_is_lost_in_silence() {
        let listed = format!("ek_sha256 = [\"{}\"]", "ab".repeat(32));
        for (rest, reason) in [
            (String::new(), "identity"),
            (
                "identity = \"tofu\"".to_owned(),
                "expected \"ek-certificate\"",
            ),
            ("identity = \"ek-certificate\"".to_owned(), "ek_roots_file"),
            (
                "identity = \"ek-certificate\"\nek_roots_file = \"none\"".to_owned(),
                "no certificate",
            ),
            ("identity = \"ek-allow-list\"".to_owned(), "ek_sha256"),
            (
                "identity = \"ek-allow-list\"\nek_sha256 = [\"abcd\"]".to_owned(),
                "64 hexadecimal digits",
            ),
            (
                format!("identity = \"ek-allow-list\"\n{listed}\nek_roots_file = \"r\""),
                "looks at no",
            ),
            (
                format!("identity = \"trust-on-first-use\"\n{listed}"),
                "looks at no",
            ),
            (
                "identity = \"trust-on-first-use\"\nroots = 1".to_owned(),
                "unknown field",
            ),
            (
                "identity = \"trust-on-first-use\"\n[ignition]\nvolumes = []".to_owned(),
                "names none",
            ),
            (
                "identity = \"trust-on-first-use\"\n[limits]\npending = 0".to_owned(),
                "limits.pending",
            ),
        ] {
            let error = parse(&rest).unwrap_err();
            assert!(error.contains(reason), "{rest}: {error}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! `/etc/trustee/agent.toml`: what this node trusts and where it looks.
//!
//! The file is part of the measured initramfs, so nothing outside it (a LUKS header, an environment
//! variable, the machine's certificate store) widens it. Every subcommand loads it first. [`Config::parse`]
//! takes text and touches no file; [`Config::load`] takes a path and also reads the files the text names.

mod anchors;
mod boot;
mod check;
mod duration;
mod enroll;
mod error;
mod evidence;
mod ignition;
mod server;
mod unlock;

pub use anchors::Anchors;
pub use boot::{Boot, Seal};
pub use enroll::Enroll;
pub use error::ConfigError;
pub use evidence::Sources;
pub use ignition::Ignition;
pub use server::ServerUrl;
pub use unlock::{Unlock, UnlockMode, VkId};

pub(crate) use anchors::{certificates, sha256_hex};
pub(crate) use error::Problem;

use kbs_protocol::NodeId;
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::resource::PathTemplate;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the KBS is, how it is recognised and what is asked of it.
    pub kbs: Kbs,
    /// Where this node enrols, if it does that itself.
    pub enroll: Option<Enroll>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// What this machine proves itself with.
    pub evidence: Sources,
    /// Which TPM, and where its attestation key lives.
    pub tpm: Tpm,
    /// Whether this file or a LUKS token decides whom to trust.
    pub mode: Mode,
    /// Whether a secret must say which node and path it is for.
    pub binding: Binding,
    /// How strict the initramfs is, and how it ends.
    pub boot: Boot,
    /// Where this node's Ignition config lies, if it comes out of an attestation.
    pub ignition: Option<Ignition>,
    /// Which volumes the node opens, and how.
    pub unlock: Unlock,
    files: Files,
}

/// `[kbs]`.
#[derive(Debug, Clone)]
pub struct Kbs {
    /// 1 to 16 servers in order of preference, without duplicates.
    pub servers: Vec<ServerUrl>,
    /// What an `https` server must prove.
    pub anchors: Anchors,
    /// Where the secrets of this node's volumes live.
    pub path: PathTemplate,
    /// Init-data, sent byte for byte.
    pub init_data: Option<String>,
    /// Whether `http` servers are allowed.
    pub insecure_http: bool,
}

/// `[timeouts]`. `None` is written `"0s"` and means no deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Name lookup, TCP and TLS of one connection.
    pub connect: Duration,
    /// One request with its answer.
    pub request: Duration,
    /// How long a server may stay silent before the next one is asked as well.
    pub hedge: Duration,
    /// `trustee-agent fetch` and `attest`, all attempts together.
    pub fetch: Option<Duration>,
    /// `trustee-agent unlock` at boot, all attempts together.
    pub unlock: Option<Duration>,
    /// `clevis decrypt`, all attempts together.
    pub decrypt: Option<Duration>,
    /// `clevis encrypt`, all attempts together; it also waits for the network of a first boot.
    pub encrypt: Option<Duration>,
    /// `trustee-agent fetch-config`, all attempts together; a first boot waits for ever.
    pub config: Option<Duration>,
}

/// `[tpm]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tpm {
    /// `device:` and a path, or `swtpm:` and its parameters where the build has software TPMs.
    pub tcti: String,
    /// Persistent handle of the attestation key, in the owner's range 0x81000000 to 0x817fffff.
    pub ak_handle: u32,
}

/// `[trust] mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Only this file says whom to trust; a token that says otherwise is refused.
    Measured,
    /// Servers, certificates and path come from the token, as the older pin wrote it.
    Header,
}

/// `[secret] binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binding {
    /// Check node and path where the secret names them.
    IfPresent,
    /// Refuse a secret that does not name them.
    Required,
}

impl Mode {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Header => "header",
        }
    }
}

impl Binding {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfPresent => "if-present",
            Self::Required => "required",
        }
    }
}

impl Config {
    /// Reads the file, and the certificate and init-data files it names. Relative names start at the
    /// directory of the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, the key, the value and the cure.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let within = |error| ConfigError::In {
            path: path.to_owned(),
            error: Box::new(error),
        };
        let text = read_text("the configuration", path, TEXT_LIMIT)?;
        let mut config = Self::parse(&text).map_err(within)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        config.read_files(directory).map_err(within)?;
        Ok(config)
    }

    /// Checks the text. Files that it names (`ca_file`, `init_data_file`) are left to [`Config::load`]:
    /// until they are read, their certificates vouch for nobody.
    ///
    /// # Errors
    /// [`ConfigError`] with the key, the value and the cure.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.len() > TEXT_LIMIT {
            return Err(ConfigError::TooLarge {
                what: "the configuration".into(),
                limit: TEXT_LIMIT,
            });
        }
        let raw: raw::Config = toml::from_str(text).map_err(|e| ConfigError::syntax(text, &e))?;
        let servers = server::list(&raw.kbs.servers, raw.kbs.insecure_http)?;
        let anchors = Anchors::parse(
            &anchors::KBS,
            raw.kbs.ca_pem.as_deref(),
            &raw.kbs.spki_sha256,
        )?;
        if servers.iter().any(ServerUrl::is_https)
            && anchors.is_empty()
            && raw.kbs.ca_file.is_none()
        {
            return Err(ConfigError::value(
                "kbs.ca_file",
                "",
                Problem::new(
                    "an https server is configured and nothing says how to recognise it",
                    "set kbs.ca_file, kbs.ca_pem or kbs.spki_sha256: the certificate store of the \
                     machine is never used",
                ),
            ));
        }
        let kbs_anchors = (!anchors.is_empty() || raw.kbs.ca_file.is_some()).then_some(&anchors);
        let enroll = raw.enroll.map(|enroll| Enroll::parse(enroll, kbs_anchors));
        check::tcti(&raw.tpm.tcti)?;
        check::handle(raw.tpm.ak_handle)?;
        let evidence = Sources::parse(raw.evidence)?;
        Ok(Self {
            kbs: Kbs {
                servers,
                anchors,
                path: check::path(&raw.kbs.path)?,
                init_data: None,
                insecure_http: raw.kbs.insecure_http,
            },
            enroll: enroll.transpose()?,
            timeouts: Timeouts {
                connect: duration::positive("timeouts.connect", &raw.timeouts.connect)?,
                request: duration::positive("timeouts.request", &raw.timeouts.request)?,
                hedge: duration::parse("timeouts.hedge", &raw.timeouts.hedge)?,
                fetch: duration::deadline("timeouts.fetch", &raw.timeouts.fetch)?,
                unlock: duration::deadline("timeouts.unlock", &raw.timeouts.unlock)?,
                decrypt: duration::deadline("timeouts.decrypt", &raw.timeouts.decrypt)?,
                encrypt: duration::deadline("timeouts.encrypt", &raw.timeouts.encrypt)?,
                config: duration::deadline("timeouts.config", &raw.timeouts.config)?,
            },
            tpm: Tpm {
                tcti: raw.tpm.tcti,
                ak_handle: raw.tpm.ak_handle,
            },
            mode: raw.trust.mode,
            binding: raw.secret.binding,
            unlock: Unlock::parse(raw.unlock, raw.boot.confidential)?,
            boot: Boot::parse(raw.boot, &evidence)?,
            evidence,
            ignition: raw.ignition.map(Ignition::parse).transpose()?,
            files: Files {
                ca: raw.kbs.ca_file,
                init_data: raw.kbs.init_data_file,
            },
        })
    }

    /// The id that init-data assigns to this node, if it does.
    pub fn assigned_id(&self) -> Option<NodeId> {
        let init_data = InitDataToml::parse(self.kbs.init_data.as_ref()?).ok()?;
        init_data.node_id().ok()?
    }

    /// A digest of what decides whom this node trusts: servers, anchors, path template and mode.
    ///
    /// SHA-256 over compact JSON with sorted members and sorted lists. The pin
    /// writes it into its tokens as `cfg`, so that a person can see which configuration made them.
    pub fn pinned_digest(&self) -> [u8; 32] {
        let mut servers: Vec<&str> = self.kbs.servers.iter().map(ServerUrl::as_str).collect();
        servers.sort_unstable();
        // serde_json writes the members of a struct in the order of this macro: alphabetical.
        let canonical = serde_json::json!({
            "ca": self.kbs.anchors.ca_digests(),
            "mode": self.mode.as_str(),
            "path": self.kbs.path.as_str(),
            "servers": servers,
            "spki": self.kbs.anchors.spki_digests(),
        });
        Sha256::digest(canonical.to_string()).into()
    }

    fn read_files(&mut self, directory: &Path) -> Result<(), ConfigError> {
        if let Some(file) = &self.files.ca {
            let path = directory.join(file);
            read_anchors(&anchors::KBS, &path, &mut self.kbs.anchors)?;
        }
        if let Some(enroll) = &mut self.enroll {
            enroll.read_files(directory, &self.kbs.anchors)?;
        }
        if let Some(file) = &self.files.init_data {
            let path = directory.join(file);
            let text = read_text("kbs.init_data_file", &path, TEXT_LIMIT)?;
            if let Err(error) = InitDataToml::parse(&text).and_then(|read| read.node_id()) {
                let cure = "write version, algorithm and a [data] table of strings; uuid, if it is there, is a UUID";
                return Err(ConfigError::value(
                    "kbs.init_data_file",
                    &path.display().to_string(),
                    Problem::new(error.to_string(), cure),
                ));
            }
            self.kbs.init_data = Some(text);
        }
        Ok(())
    }
}

/// Files that the text names and [`Config::load`] reads.
#[derive(Debug, Clone, Default)]
struct Files {
    ca: Option<PathBuf>,
    init_data: Option<PathBuf>,
}

fn read_anchors(keys: &anchors::Keys, path: &Path, to: &mut Anchors) -> Result<(), ConfigError> {
    let pem = read_text(keys.ca_file, path, CA_LIMIT)?;
    to.add_pem(keys.ca_file, &path.display().to_string(), &pem)
}

/// Reads a text file up to a limit; what is larger is refused before it fills the memory.
fn read_text(key: &'static str, path: &Path, limit: usize) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        key,
        path: path.to_owned(),
        source: std::sync::Arc::new(source),
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() > limit {
        return Err(ConfigError::TooLarge {
            what: format!("{key} ({})", path.display()),
            limit,
        });
    }
    Ok(text)
}

/// The file as written, before any check.
mod raw;

/// An honest configuration is under 2 KiB, with a certificate chain inside under 16 KiB.
const TEXT_LIMIT: usize = 64 * 1024;
/// A whole public certificate store fits, although naming one is rarely wise.
const CA_LIMIT: usize = 1024 * 1024;

#[cfg(test)]
mod tests;

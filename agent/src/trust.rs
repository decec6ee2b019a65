// SPDX-License-Identifier: Apache-2.0

//! Who decides where a secret may come from: the measured configuration, not the LUKS header.
//!
//! The header lies on a disk that belongs to the host. If it could name the server, the host would name
//! its own, give the node a key the host knows, and read everything the node writes. So what a token says
//! is a hint that must agree with `agent.toml`; [`admit`] compares. The pin calls it with each token,
//! before anything is sent.

use crate::config::{Anchors, Config, Mode, ServerUrl, certificates, sha256_hex};
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::message::InitData;
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::{Blame, NodeId, Owner, Persistence};
use std::fmt;

/// Who says what is compared with the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// A token, from a disk.
    #[default]
    Token,
    /// The configuration given to `clevis encrypt trustee`, from an administrator.
    PinConfig,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "the token",
            Self::PinConfig => "the pin configuration",
        })
    }
}

/// What a token says about itself, or the pin's configuration about a token to be made.
#[derive(Debug, Clone, Default)]
pub struct Hint<'h> {
    /// Whose words these are.
    pub origin: Origin,
    /// Address and certificate of each server. The certificate is empty, PEM, or the SHA-256 of a
    /// certificate's DER form in hexadecimal.
    pub servers: Vec<(&'h str, &'h str)>,
    /// Resource path.
    pub path: &'h str,
    /// Init-data in TOML.
    pub init_data: Option<&'h str>,
}

/// Where to ask, how to recognise it, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// In order of preference.
    pub servers: Vec<Server>,
    /// The resource.
    pub path: ResourcePath,
    /// Sent with the evidence.
    pub init_data: Option<InitData>,
}

/// One server with its own trust anchors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its address.
    pub url: ServerUrl,
    /// What it must prove, if it is an `https` server.
    pub anchors: Anchors,
}

/// Why a token is not followed. Always permanent: the same token says the same again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The token names a server that the configuration does not.
    #[error("{origin} names the server {named:?}, agent.toml allows {}", .allowed.join(", "))]
    Server {
        /// Who names it.
        origin: Origin,
        /// What the token says.
        named: String,
        /// The configured servers.
        allowed: Vec<String>,
    },
    /// The token names a certificate that the configuration does not trust.
    #[error("{origin} names a certificate {named:?} for {server:?} that agent.toml does not trust")]
    Certificate {
        /// Who names it.
        origin: Origin,
        /// The server, as the token names it.
        server: String,
        /// SHA-256 of the certificate, or the beginning of what stands in its place.
        named: String,
    },
    /// The token names another resource than this node's.
    #[error("{origin} names the resource {named:?}, this node's is {expected:?}")]
    Path {
        /// Who names it.
        origin: Origin,
        /// What the token says.
        named: String,
        /// The configured template with this node's id.
        expected: String,
    },
    /// The token carries other init-data than the configuration.
    #[error("{origin} carries init-data {named}, agent.toml {configured}")]
    InitData {
        /// Who carries it.
        origin: Origin,
        /// SHA-256 of what the token says.
        named: String,
        /// SHA-256 of what is configured, or that there is none.
        configured: String,
    },
    /// In header mode: the token cannot be followed either.
    #[error("{origin} does not say where to ask: {why}")]
    Unusable {
        /// Who does not.
        origin: Origin,
        /// What is missing or wrong.
        why: String,
    },
    /// The path template of the configuration gives no path.
    #[error("{0}")]
    Template(String),
}

impl TrustError {
    fn origin(&self) -> Option<Origin> {
        match self {
            Self::Server { origin, .. }
            | Self::Certificate { origin, .. }
            | Self::Path { origin, .. }
            | Self::InitData { origin, .. }
            | Self::Unusable { origin, .. } => Some(*origin),
            Self::Template(_) => None,
        }
    }
}

impl Blame for TrustError {
    fn owner(&self) -> Owner {
        match self.origin() {
            Some(Origin::Token) => Owner::Data,
            Some(Origin::PinConfig) | None => Owner::Configuration,
        }
    }

    fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }

    fn advice(&self) -> String {
        if self.origin() == Some(Origin::PinConfig) {
            return "leave it out of the pin configuration, so that agent.toml decides, or change \
                    agent.toml of the image first"
                .to_owned();
        }
        match self {
            Self::Server { .. } | Self::Certificate { .. } => {
                "whoever can write to the disk can write this. If the token is yours, add the server or \
                 certificate to agent.toml of the image, or bind the volume again; if not, the disk was \
                 tampered with"
            }
            Self::Path { .. } => {
                "this is another node's volume, the node's attestation key is a new one, or kbs.path was \
                 changed: bind the volume again, or set kbs.path back"
            }
            Self::InitData { .. } => {
                "put the init-data of the token into kbs.init_data_file, byte for byte, or bind the \
                 volume again"
            }
            Self::Unusable { .. } => "bind the volume again",
            Self::Template(_) => "correct kbs.path in agent.toml",
        }
        .to_owned()
    }
}

/// The target that the configuration alone describes.
///
/// # Errors
/// [`TrustError::Template`], which [`Config::parse`] rules out.
pub fn configured(config: &Config, node: &NodeId) -> Result<Target, TrustError> {
    let path = config
        .resource_path(node)
        .map_err(|e| TrustError::Template(e.to_string()))?;
    let servers = config
        .kbs
        .servers
        .iter()
        .map(|url| Server {
            url: url.clone(),
            anchors: config.kbs.anchors.clone(),
        })
        .collect();
    let init_data = config.kbs.init_data.as_ref();
    let init_data = init_data.map(|body| InitData {
        format: "toml".to_owned(),
        body: body.clone(),
    });
    Ok(Target {
        servers,
        path,
        init_data,
    })
}

/// The target for a token: the configured one if the token agrees with it. All configured servers stay in
/// it, so that a server added after the volume was bound helps.
///
/// # Errors
/// [`TrustError`] naming the first thing that differs.
pub fn admit(config: &Config, node: &NodeId, hint: &Hint<'_>) -> Result<Target, TrustError> {
    if config.mode == Mode::Header {
        log::warn!(
            "trust.mode is \"header\": server, certificate and path come from the disk, and whoever can \
             write to the disk chooses them; move to \"measured\""
        );
        return follow(config, hint);
    }
    let origin = hint.origin;
    let target = configured(config, node)?;
    for (url, certificate) in &hint.servers {
        let known = ServerUrl::parse(url, config.kbs.insecure_http)
            .is_ok_and(|url| config.kbs.servers.contains(&url));
        if !known {
            let allowed = config.kbs.servers.iter().map(ToString::to_string).collect();
            return Err(TrustError::Server {
                origin,
                named: shorten(url),
                allowed,
            });
        }
        check_certificate(origin, &config.kbs.anchors, url, certificate)?;
    }
    if hint.path != target.path.as_str() {
        let expected = target.path.to_string();
        return Err(TrustError::Path {
            origin,
            named: shorten(hint.path),
            expected,
        });
    }
    if let Some(named) = hint.init_data
        && config.kbs.init_data.as_deref() != Some(named)
    {
        let digest = |text: &str| format!("with SHA-256 {}", sha256_hex(text.as_bytes()));
        let configured = config
            .kbs
            .init_data
            .as_deref()
            .map_or("none".to_owned(), digest);
        return Err(TrustError::InitData {
            origin,
            named: digest(named),
            configured,
        });
    }
    Ok(target)
}

/// A certificate in a token says nothing new, or it is refused.
fn check_certificate(
    origin: Origin,
    anchors: &Anchors,
    server: &str,
    certificate: &str,
) -> Result<(), TrustError> {
    let certificate = certificate.trim();
    if certificate.is_empty() {
        return Ok(());
    }
    let trusted = anchors.ca_digests();
    let named = match certificates(certificate) {
        Ok(found) => found.iter().map(|der| sha256_hex(der)).collect(),
        Err(_) => vec![certificate.to_ascii_lowercase()],
    };
    match named.into_iter().find(|digest| !trusted.contains(digest)) {
        None => Ok(()),
        Some(digest) => Err(TrustError::Certificate {
            origin,
            server: shorten(server),
            named: shorten(&digest),
        }),
    }
}

/// Header mode: what the token says. Plain http still needs `insecure_http`, and a server without a
/// certificate is recognised by the configured anchors: nothing is ever trusted without being named.
fn follow(config: &Config, hint: &Hint<'_>) -> Result<Target, TrustError> {
    let origin = hint.origin;
    let unusable = |why: String| TrustError::Unusable { origin, why };
    let mut servers = Vec::new();
    for (url, certificate) in &hint.servers {
        let url = ServerUrl::parse(url, config.kbs.insecure_http)
            .map_err(|problem| unusable(format!("server {:?}: {}", shorten(url), problem.what)))?;
        let anchors = if certificate.trim().is_empty() {
            config.kbs.anchors.clone()
        } else {
            let found = certificates(certificate).map_err(|problem| {
                unusable(format!("the certificate of {url}: {}", problem.what))
            })?;
            Anchors::from_certificates(found)
        };
        if url.is_https() && anchors.is_empty() {
            return Err(unusable(format!("nothing says how to recognise {url}")));
        }
        servers.push(Server { url, anchors });
    }
    if !(1..=MOST_SERVERS).contains(&servers.len()) {
        return Err(unusable(format!(
            "expected 1 to {MOST_SERVERS} servers, got {}",
            servers.len()
        )));
    }
    let path = hint
        .path
        .parse()
        .map_err(|e: kbs_protocol::Error| unusable(e.to_string()))?;
    let init_data = match hint.init_data {
        Some(text) => Some(
            InitDataToml::parse(text)
                .map_err(|e| unusable(e.to_string()))?
                .to_message(),
        ),
        None => None,
    };
    Ok(Target {
        servers,
        path,
        init_data,
    })
}

/// What a stranger wrote goes to a console: enough to recognise it. The messages quote it.
fn shorten(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

const SHOWN: usize = 120;
const MOST_SERVERS: usize = 16;

#[cfg(test)]
mod tests;

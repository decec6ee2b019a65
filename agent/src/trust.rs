// SPDX-License-Identifier: Apache-2.0

//! Who decides where a secret may come from: the measured configuration, not the LUKS header.
//!
//! The header lies on a disk that belongs to the host. If it could name the server, the host would name
//! its own, give the node a key the host knows, and read everything the node writes. So what a token says
//! is a hint that must agree with `agent.toml`; [`admit`] compares. The pin calls it with each token,
//! before anything is sent.

mod error;

pub use error::{Origin, TrustError};

use crate::config::{Anchors, Config, Mode, ServerUrl, certificates, sha256_hex};
use kbs_protocol::NodeId;
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::message::InitData;
use kbs_protocol::resource::{ResourcePath, Volume};

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

/// The target that the configuration alone describes, for one of this node's volumes.
///
/// # Errors
/// [`TrustError::Template`] when `kbs.path` knows one volume only and another is asked for, or gives no path.
pub fn configured(config: &Config, node: &NodeId, volume: &Volume) -> Result<Target, TrustError> {
    let template = &config.kbs.path;
    if !template.names_volumes() && *volume != Volume::default() {
        return Err(TrustError::Template(format!(
            "kbs.path {:?} says nothing of a volume {volume}",
            template.as_str()
        )));
    }
    let path = template
        .expand(node, volume)
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
    let Some(volume) = config.kbs.path.volume(node, hint.path) else {
        return Err(TrustError::Path {
            origin,
            named: shorten(hint.path),
            expected: config.kbs.path.of_node(node),
        });
    };
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
    configured(config, node, &volume)
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

// SPDX-License-Identifier: Apache-2.0

//! Where the Clevis pin gets its key: from the KBS, for this node, under the measured configuration.
//!
//! This is the one place where the rooms meet: evidence, trust, handshake, and the secret that comes back.

use crate::config::{Binding as BindingRule, Config, Mode};
use crate::error::Error;
use crate::kbs::{Client, Patience};
use crate::node::Node;
use crate::report;
use crate::trust::{self, Hint, Origin, Target};
use clevis_pin::{Binding, Cek, Fetched, Purpose, SecretRequest, SecretSource, Server};
use kbs_protocol::encoding::b64u;
use kbs_protocol::resource::{ResourcePath, Volume};
use kbs_protocol::resource_secret::ResourceSecret;
use kbs_protocol::{NodeId, Secret};
use std::path::PathBuf;

/// The KBS as the pin sees it.
pub struct KbsSource {
    config: PathBuf,
}

impl KbsSource {
    /// The source that this configuration file describes. Nothing is opened yet: a malformed token is
    /// refused before the TPM is asked.
    pub fn new(config: PathBuf) -> Self {
        Self { config }
    }
}

impl SecretSource for KbsSource {
    type Error = Error;

    fn fetch(&mut self, request: &SecretRequest<'_>) -> Result<Fetched, Error> {
        let mut node = Node::open(&self.config)?;
        let target = target(&node.config, &node.id, request)?;
        let deadline = match request.purpose {
            Purpose::Encrypt => node.config.timeouts.encrypt,
            Purpose::Decrypt => node.config.timeouts.decrypt,
        };
        let client = Client::new(&target, &node.config.timeouts)?;
        let fetched = client.fetch(
            &mut node,
            &target.path,
            Patience::from(deadline),
            &mut report::waiting(),
        )?;
        let secret = read_secret(&fetched.secret, &node.config, &node.id, &target.path)?;
        let mut cek = Cek::new(secret.key());
        if let Some(kid) = request.kid.filter(|kid| cek.id() != **kid)
            && let Some(kept) = fetch_kept(&client, &mut node, &target.path, kid)?
        {
            cek = kept;
        }
        Ok(Fetched {
            cek,
            binding: Binding {
                servers: named_servers(&target, request),
                path: target.path.to_string(),
                init_data: target.init_data.map(|init_data| init_data.body),
                cfg: node.config.pinned_digest(),
            },
        })
    }
}

/// The key that a rotation has moved aside. Between a rotation and the rebinding of the volume the token on
/// the disk still wants the old key, which the operator keeps at `<path>.<kid>`. `None` when the server has none
/// there; the pin then says that the secret was replaced.
fn fetch_kept(
    client: &Client,
    node: &mut Node,
    path: &ResourcePath,
    kid: &[u8; 16],
) -> Result<Option<Cek>, Error> {
    let kept: ResourcePath = format!("{path}.{}", b64u::encode(kid)).parse()?;
    match client.fetch(node, &kept, Patience::Once, &mut report::waiting()) {
        Ok(fetched) => {
            log::warn!(
                "the secret was rotated and this volume still uses the old one: bind it again"
            );
            // It names the path it was made for, not the one it is kept at.
            let secret = read_secret(&fetched.secret, &node.config, &node.id, path)?;
            Ok(Some(Cek::new(secret.key())))
        }
        Err(error) if error.refusal().is_some() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the request may ask for: exactly what the configuration says, unless the mode is `header`.
fn target(config: &Config, node: &NodeId, request: &SecretRequest<'_>) -> Result<Target, Error> {
    let path = match request.path {
        // A pin configuration may leave the node open; a token never does.
        Some(path) if request.purpose == Purpose::Encrypt => {
            ResourcePath::expand(path, node)?.to_string()
        }
        Some(path) => path.to_owned(),
        None => config
            .kbs
            .path
            .expand(node, &Volume::default())?
            .to_string(),
    };
    let nothing_named = request.servers.is_empty();
    if nothing_named && request.purpose == Purpose::Encrypt && config.mode == Mode::Header {
        // Nobody has written a token yet, so there is none to follow.
        let target = trust::configured(config, node, &Volume::default())?;
        return Ok(Target {
            path: path.parse()?,
            ..target
        });
    }
    let hint = Hint {
        origin: match request.purpose {
            Purpose::Encrypt => Origin::PinConfig,
            Purpose::Decrypt => Origin::Token,
        },
        servers: request
            .servers
            .iter()
            .map(|s| (s.url.as_str(), s.cert.as_str()))
            .collect(),
        path: &path,
        init_data: request.init_data,
    };
    Ok(trust::admit(config, node, &hint)?)
}

/// Reads what the KBS stores, and insists that it is for this node and path. In `header` mode the path is
/// the token's, so only a secret that names a node can contradict it.
pub(crate) fn read_secret(
    content: &Secret,
    config: &Config,
    node: &NodeId,
    path: &ResourcePath,
) -> Result<ResourceSecret, Error> {
    let secret = ResourceSecret::parse(content)?;
    secret.check(node, path, config.binding == BindingRule::Required)?;
    Ok(secret)
}

/// The servers that a new token names: the ones the pin's configuration names, with their certificates as
/// given, else the measured ones. The older pin needs both members in each.
fn named_servers(target: &Target, request: &SecretRequest<'_>) -> Vec<Server> {
    if !request.servers.is_empty() {
        return request.servers.to_vec();
    }
    let server = |url: &crate::config::ServerUrl| Server {
        url: url.to_string(),
        cert: String::new(),
    };
    target
        .servers
        .iter()
        .map(|target| server(&target.url))
        .collect()
}

// SPDX-License-Identifier: Apache-2.0

//! Where the Clevis pin gets its key: from the KBS, for this node, under the measured configuration.
//!
//! This is the one place where the rooms meet: evidence, trust, handshake, and the secret that comes back.

use crate::config::{Binding as BindingRule, Config, Mode};
use crate::error::Error;
use crate::kbs::{Client, Patience, Session};
use crate::node::Node;
use crate::report;
use crate::trust::{self, Hint, Origin, Target};
use clevis_pin::{Binding, Cek, Fetched, Purpose, SecretRequest, SecretSource, Server};
use kbs_protocol::encoding::b64u;
use kbs_protocol::resource::{ResourcePath, Volume};
use kbs_protocol::resource_secret::ResourceSecret;
use kbs_protocol::volume_record::{RecordedVolume, SignedRecord};
use kbs_protocol::{NodeId, Secret};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The KBS as the pin sees it. One source attests once, however many secrets it is asked for.
pub struct KbsSource {
    config: PathBuf,
    patience: Option<Patience>,
    opened: Option<Opened>,
}

/// What the first request opens.
struct Opened {
    node: Node,
    /// With the servers and the init-data that it was made for.
    session: Option<(Target, Session)>,
    /// Ids of volume keys that came with secrets, by the secret's path.
    vk_ids: BTreeMap<String, String>,
    /// Paths whose secret was rotated since the token was made that asked for it.
    rotated: BTreeSet<String>,
}

impl KbsSource {
    /// The source that this configuration file describes. Nothing is opened yet: a malformed token is
    /// refused before the TPM is asked.
    pub fn new(config: PathBuf) -> Self {
        Self {
            config,
            patience: None,
            opened: None,
        }
    }

    /// The same with a patience of its own, instead of the one that `[timeouts]` has for the pin.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self {
            patience: Some(patience),
            ..self
        }
    }

    /// The measured configuration.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub fn config(&mut self) -> Result<&Config, Error> {
        Ok(&self.open()?.node.config)
    }

    /// The path of this volume's secret, if the configuration has one for each volume.
    ///
    /// # Errors
    /// As [`Node::open`], or the name cannot stand in a path.
    pub fn path_of(&mut self, volume: &str) -> Result<Option<String>, Error> {
        let node = &self.open()?.node;
        if node.config.mode == Mode::Header || !node.config.kbs.path.names_volumes() {
            return Ok(None);
        }
        let path = node.config.kbs.path.expand(&node.id, &volume.parse()?)?;
        Ok(Some(path.to_string()))
    }

    /// The id of the volume key that belongs to the secret at this path, which was fetched before: from the secret
    /// itself, else from the record beside it. `None` if the server has neither.
    ///
    /// # Errors
    /// As a fetch; a server that refuses the record has none for this node.
    pub fn vk_id(&mut self, path: &str) -> Result<Option<String>, Error> {
        let patience = self.patience;
        let opened = self.open()?;
        if let Some(known) = opened.vk_ids.get(path) {
            return Ok(Some(known.clone()));
        }
        let record: ResourcePath = format!("{path}.{VK_RECORD}").parse()?;
        let Some((_, session)) = &mut opened.session else {
            return Ok(None);
        };
        let patience = patience.unwrap_or(Patience::Once);
        match session.fetch(
            &mut opened.node,
            &record,
            patience,
            &mut report::waiting(path),
        ) {
            Ok(fetched) => Ok(VkRecord::parse(&fetched.secret)?.vk_id),
            Err(error) if error.refusal().is_some() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The passphrase for people that the KBS keeps beside the secret at this path, which was fetched before. `None` if the
    /// server has none for this node.
    ///
    /// # Errors
    /// As a fetch.
    pub fn recovery(&mut self, path: &str) -> Result<Option<ResourceSecret>, Error> {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let at: ResourcePath = format!("{directory}/{RECOVERY}").parse()?;
        let opened = self.open()?;
        let Some((made_for, _)) = &opened.session else {
            return Ok(None);
        };
        let target = Target {
            path: at.clone(),
            ..made_for.clone()
        };
        opened.fetch_if_kept(&target, &at)
    }

    /// Whether the last token for this path needed the secret that was there before a rotation.
    pub fn is_rotated(&self, path: &str) -> bool {
        let opened = self.opened.as_ref();
        opened.is_some_and(|opened| opened.rotated.contains(path))
    }

    /// Has this node's TPM sign which volume keys it has; `None` without one.
    ///
    /// # Errors
    /// As [`Node::open`] and [`Node::record`].
    pub fn record(&mut self, volumes: Vec<RecordedVolume>) -> Result<Option<SignedRecord>, Error> {
        self.open()?.node.record(volumes)
    }

    fn open(&mut self) -> Result<&mut Opened, Error> {
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => Opened {
                node: Node::open(&self.config)?,
                session: None,
                vk_ids: BTreeMap::new(),
                rotated: BTreeSet::new(),
            },
        };
        Ok(self.opened.insert(opened))
    }
}

impl SecretSource for KbsSource {
    type Error = Error;

    fn fetch(&mut self, request: &SecretRequest<'_>) -> Result<Fetched, Error> {
        let patience = self.patience;
        let opened = self.open()?;
        let target = target(&opened.node.config, &opened.node.id, request)?;
        let timeouts = &opened.node.config.timeouts;
        let deadline = match request.purpose {
            Purpose::Encrypt => timeouts.encrypt,
            Purpose::Decrypt => timeouts.decrypt,
        };
        let patience = patience.unwrap_or(Patience::from(deadline));
        let secret = opened.fetch(&target, &target.path, patience)?;
        let path = target.path.to_string();
        let mut cek = Cek::new(secret.key());
        if let Some(vk_id) = &secret.binding().vk_id {
            opened.vk_ids.insert(path.clone(), vk_id.clone());
        }
        if let Some(kid) = request.kid.filter(|kid| cek.id() != **kid)
            && let Some(kept) = opened.fetch_kept(&target, kid)?
        {
            cek = kept;
            opened.rotated.insert(path.clone());
        }
        Ok(Fetched {
            cek,
            binding: Binding {
                servers: named_servers(&target, request),
                path,
                cfg: opened.node.config.pinned_digest(),
                init_data: target.init_data.map(|init_data| init_data.body),
            },
        })
    }
}

impl Opened {
    /// The secret at `at`, which names the target's path.
    fn fetch(
        &mut self,
        target: &Target,
        at: &ResourcePath,
        patience: Patience,
    ) -> Result<ResourceSecret, Error> {
        let same = |made_for: &Target| {
            made_for.servers == target.servers && made_for.init_data == target.init_data
        };
        let session = match self.session.take() {
            Some((made_for, session)) if same(&made_for) => session,
            _ => Session::new(Client::new(target, &self.node.config.timeouts)?),
        };
        let (_, session) = self.session.insert((target.clone(), session));
        let fetched = session.fetch(
            &mut self.node,
            at,
            patience,
            &mut report::waiting(at.as_str()),
        )?;
        self.node
            .answered(&fetched.server.to_string(), &fetched.token)?;
        read_secret(
            &fetched.secret,
            &self.node.config,
            &self.node.id,
            &target.path,
        )
    }

    /// The key that a rotation has moved aside. Between a rotation and the rebinding of the volume the token on
    /// the disk still wants the old key, which the operator keeps at `<path>.<kid>`. `None` when the server has
    /// none there; the pin then says that the secret was replaced.
    fn fetch_kept(&mut self, target: &Target, kid: &[u8; 16]) -> Result<Option<Cek>, Error> {
        let kept: ResourcePath = format!("{}.{}", target.path, b64u::encode(kid)).parse()?;
        // It names the path it was made for, not the one it is kept at.
        let secret = self.fetch_if_kept(target, &kept)?;
        if secret.is_some() {
            log::warn!(
                "the secret was rotated and this volume still uses the old one: bind it again with `trustee-agent rebind`"
            );
        }
        Ok(secret.map(|secret| Cek::new(secret.key())))
    }

    /// As [`Opened::fetch`], of what need not be there. No node waits for it: the next boot asks again.
    fn fetch_if_kept(
        &mut self,
        target: &Target,
        at: &ResourcePath,
    ) -> Result<Option<ResourceSecret>, Error> {
        match self.fetch(target, at, Patience::Once) {
            Ok(secret) => Ok(Some(secret)),
            Err(Error::Kbs(error)) if error.refusal().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What the KBS keeps beside a secret, at `<path>.vk`: the id of the volume key that the secret opens. A resource of
/// its own, because whoever records the id cannot read the secret to write it anew.
#[derive(serde::Deserialize)]
struct VkRecord {
    /// None where an administrator has said that the volume will be made anew.
    vk_id: Option<String>,
}

impl VkRecord {
    fn parse(content: &Secret) -> Result<Self, Error> {
        serde_json::from_slice(content.expose()).map_err(|error| Error::VkRecord(error.to_string()))
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
    let required = config.binding == BindingRule::Required;
    let read = ResourceSecret::parse(content).and_then(|secret| {
        secret.check(node, path, required)?;
        Ok(secret)
    });
    read.map_err(|error| Error::Secret {
        path: Box::new(path.clone()),
        error,
    })
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

/// Ends the path of the record; a kept key ends with its `kid`, which is longer.
const VK_RECORD: &str = "vk";
/// The last part of the path of a recovery passphrase.
const RECOVERY: &str = "recovery";

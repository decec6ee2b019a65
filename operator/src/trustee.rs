// SPDX-License-Identifier: Apache-2.0

//! A Trustee that the operator runs: pure, from what a cluster asks for to the objects that make it so.
//!
//! 1. [`Wanted`] is what `TrustedExecutionCluster` says, checked.
//! 2. [`keys`] makes what only the operator can: its own key, the token signer's, and TLS where nobody gave it.
//! 3. [`tls`] reads a Secret as cert-manager makes it, and says by which name its certificate is known.
//! 4. [`render`] writes the objects: configuration, volume, network policy, disruption budget, Service, Deployment.
//!
//! [`controllers::deploy`](crate::controllers::deploy) brings them into the API server and keeps them there.

pub mod keys;
pub mod render;
pub mod tls;

#[cfg(test)]
mod tests;

use crate::controllers::api::{
    ServiceType, StorageKind, TrustedExecutionClusterSpec, TrusteeRelease,
};
use crate::kbs_admin::config::{Storage as ConfigStorage, Version};
use crate::model::Evidence;
use std::net::IpAddr;

/// What a cluster asks of the Trustee that is run for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The image.
    pub image: String,
    /// Its release.
    pub version: Version,
    /// How many.
    pub replicas: i32,
    /// The port of the Service.
    pub port: u16,
    /// The type of the Service.
    pub service_type: ServiceType,
    /// Where it keeps everything.
    pub storage: Storage,
    /// The Secret that somebody made for its TLS.
    pub tls_secret: Option<String>,
    /// The host at which nodes reach it: a name, or an address.
    pub public_host: Option<String>,
    /// Whether it asks the makers of processors for certificates and lists of what is outdated.
    pub collateral: bool,
}

/// Where a Trustee keeps everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// A volume.
    LocalFs {
        /// As a Kubernetes quantity.
        size: String,
        /// None: the usual one of this Kubernetes.
        class: Option<String>,
    },
    /// A database.
    Database {
        /// Which.
        kind: Database,
        /// The Secret whose entry `url` says where.
        url_secret: String,
        /// Its port.
        port: u16,
    },
}

/// A database that a Trustee knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
}

impl Wanted {
    /// What this cluster asks for; `None` when it names a KBS that somebody else runs, or none at all. The rules
    /// of the definition are enforced here too: an API server before 1.25 does not.
    ///
    /// # Errors
    /// A sentence: which field contradicts what.
    pub fn of(spec: &TrustedExecutionClusterSpec) -> Result<Option<Self>, String> {
        let (None, Some(image)) = (&spec.kbs, &spec.trustee_image) else {
            return Ok(None);
        };
        let more = spec.trustee.clone().unwrap_or_default();
        let version = match more.release {
            Some(TrusteeRelease::V0_20) => Version::V0_20,
            Some(TrusteeRelease::V0_21) => Version::V0_21,
            Some(TrusteeRelease::Main) => Version::Main,
            None => tagged(image)?,
        };
        let storage = more.storage.unwrap_or_default();
        let database = |kind: Database, usual: u16| {
            let url_secret = storage.url_secret.clone().ok_or_else(|| {
                "spec.trustee.storage.urlSecret is needed: a Secret whose entry url says where the database is"
                    .to_owned()
            })?;
            let port = port("spec.trustee.storage.port", storage.port, usual)?;
            Ok::<_, String>(Storage::Database {
                kind,
                url_secret,
                port,
            })
        };
        let storage = match storage.kind {
            StorageKind::LocalFs => Storage::LocalFs {
                size: storage.size.clone().unwrap_or_else(|| SIZE.to_owned()),
                class: storage.storage_class_name.clone(),
            },
            StorageKind::Postgres => database(Database::Postgres, 5432)?,
            StorageKind::Redis if version != Version::Main => {
                return Err(format!(
                    "Redis takes its address from the environment only in a Trustee after 0.21, this one is \
                     {version}: say spec.trustee.release: main"
                ));
            }
            StorageKind::Redis => database(Database::Redis, 6379)?,
        };
        let replicas = more.replicas.unwrap_or(1);
        match (&storage, replicas) {
            (_, ..=0) => return Err("spec.trustee.replicas must be 1 or more".to_owned()),
            (Storage::LocalFs { .. }, 2..) => {
                return Err(
                    "several replicas need a storage that they share: Postgres or Redis in spec.trustee.storage"
                        .to_owned(),
                );
            }
            _ => {}
        }
        let confidential = |kind: &Evidence| kind.is_confidential();
        Ok(Some(Self {
            image: image.clone(),
            version,
            replicas,
            port: port("spec.trusteeKbsPort", spec.trustee_kbs_port, PORT)?,
            service_type: more.service_type.unwrap_or_default(),
            storage,
            tls_secret: spec.trustee_secret.clone(),
            public_host: spec.public_trustee_addr.as_deref().map(host).transpose()?,
            collateral: spec.evidence.iter().flatten().any(confidential),
        }))
    }

    /// What its configuration says about its storage.
    pub fn config_storage(&self) -> ConfigStorage {
        match &self.storage {
            Storage::LocalFs { .. } => ConfigStorage::LocalFs {
                dir: render::STORAGE_DIR.to_owned(),
            },
            Storage::Database { kind, .. } => match kind {
                Database::Postgres => ConfigStorage::Postgres,
                Database::Redis => ConfigStorage::Redis,
            },
        }
    }
}

impl Database {
    /// The variable in which a Trustee looks for the address.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "POSTGRES_URL",
            Self::Redis => "REDIS_URL",
        }
    }
}

/// The names by which the Service is known inside of the cluster, the first one preferred.
pub fn service_names(namespace: &str) -> [String; 2] {
    let short = format!("{}.{namespace}.svc", render::SERVICE);
    let long = format!("{short}.cluster.local");
    [short, long]
}

/// The release that an image's tag names. Tags that name none (`latest`, a date) are taken for 0.21, whose
/// configuration the branch after it reads too.
fn tagged(image: &str) -> Result<Version, String> {
    let name = image.split('@').next().unwrap_or_default();
    let last = name.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map_or("", |(_, tag)| tag);
    let mut numbers = tag.trim_start_matches('v').split(['.', '-']);
    let minor = match (numbers.next(), numbers.next().map(str::parse::<u32>)) {
        (Some("0"), Some(Ok(minor))) => minor,
        _ => return Ok(Version::V0_21),
    };
    match minor {
        ..=19 => Err(format!(
            "spec.trusteeImage is Trustee 0.{minor}: 0.20 is the oldest that can be managed"
        )),
        20 => Ok(Version::V0_20),
        21 => Ok(Version::V0_21),
        _ => Ok(Version::Main),
    }
}

/// The host of `host:port`; an IPv6 address stands in brackets there.
fn host(address: &str) -> Result<String, String> {
    let host = match address.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) => host,
        _ => address,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_name = !host.is_empty()
        && host
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'.');
    match is_name || host.parse::<IpAddr>().is_ok() {
        true => Ok(host.to_owned()),
        false => Err(format!(
            "spec.publicTrusteeAddr must be host:port, got {address:?}"
        )),
    }
}

fn port(field: &str, wanted: Option<i32>, usual: u16) -> Result<u16, String> {
    let Some(wanted) = wanted else {
        return Ok(usual);
    };
    u16::try_from(wanted)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{field} must be a port (1 to 65535), got {wanted}"))
}

/// Of a volume, unless somebody says otherwise. Ten thousand machines take some megabytes.
const SIZE: &str = "1Gi";
/// Of the Service.
const PORT: u16 = 8080;

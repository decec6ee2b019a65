// SPDX-License-Identifier: Apache-2.0

//! `agent.toml` as serde sees it: names, types and defaults, nothing checked. Only `config` reads this.

use super::{Binding, Mode, Seal, UnlockMode, VkId};
use crate::evidence::{DEFAULT_AK_HANDLE, DEFAULT_TCTI};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) kbs: Kbs,
    pub(super) enroll: Option<Enroll>,
    #[serde(default)]
    pub(super) timeouts: Timeouts,
    #[serde(default)]
    pub(super) evidence: Evidence,
    #[serde(default)]
    pub(super) tpm: Tpm,
    #[serde(default)]
    pub(super) trust: Trust,
    #[serde(default)]
    pub(super) secret: Secret,
    #[serde(default)]
    pub(super) boot: Boot,
    pub(super) ignition: Option<Ignition>,
    #[serde(default)]
    pub(super) unlock: Unlock,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kbs {
    pub(super) servers: Vec<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) ca_pem: Option<String>,
    #[serde(default)]
    pub(super) spki_sha256: Vec<String>,
    #[serde(default = "default_path")]
    pub(super) path: String,
    pub(super) init_data_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) insecure_http: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Enroll {
    pub(super) registrar: String,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) ca_pem: Option<String>,
    #[serde(default)]
    pub(super) spki_sha256: Vec<String>,
    #[serde(default)]
    pub(super) insecure_http: bool,
    #[serde(default)]
    pub(super) record_boots: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timeouts {
    pub(super) connect: String,
    pub(super) request: String,
    pub(super) hedge: String,
    pub(super) fetch: String,
    pub(super) unlock: String,
    pub(super) decrypt: String,
    pub(super) encrypt: String,
    pub(super) config: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Evidence {
    pub(super) primary: String,
    pub(super) additional: Vec<String>,
    pub(super) root: Option<PathBuf>,
    pub(super) metadata: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tpm {
    pub(super) tcti: String,
    pub(super) ak_handle: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Trust {
    pub(super) mode: Mode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Secret {
    pub(super) binding: Binding,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Boot {
    pub(super) confidential: bool,
    pub(super) seal: Seal,
    pub(super) allow_arguments: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ignition {
    pub(super) path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Unlock {
    pub(super) mode: UnlockMode,
    pub(super) ciphers: Vec<String>,
    pub(super) integrity: String,
    pub(super) discard: bool,
    pub(super) other_keyslots: bool,
    pub(super) pbkdf2_iterations: [u32; 2],
    pub(super) argon2_memory: u32,
    pub(super) argon2_time: u32,
    pub(super) vk_id: VkId,
    pub(super) rebind: bool,
    pub(super) recovery: bool,
}

impl Default for Unlock {
    fn default() -> Self {
        let limits = luks_header::KdfLimits::default();
        Self {
            mode: UnlockMode::Native,
            ciphers: Vec::new(),
            integrity: "none".to_owned(),
            discard: false,
            other_keyslots: false,
            pbkdf2_iterations: [
                *limits.pbkdf2_iterations.start(),
                *limits.pbkdf2_iterations.end(),
            ],
            argon2_memory: limits.argon2_memory,
            argon2_time: limits.argon2_time,
            vk_id: VkId::IfPresent,
            rebind: false,
            recovery: false,
        }
    }
}

fn default_path() -> String {
    "default/{node}/root".to_owned()
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: "5s".to_owned(),
            request: "30s".to_owned(),
            hedge: "1s".to_owned(),
            fetch: "60s".to_owned(),
            unlock: "0s".to_owned(),
            decrypt: "90s".to_owned(),
            encrypt: "10m".to_owned(),
            config: "0s".to_owned(),
        }
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            primary: "tpm".to_owned(),
            additional: Vec::new(),
            root: None,
            metadata: None,
        }
    }
}

impl Default for Tpm {
    fn default() -> Self {
        Self {
            tcti: DEFAULT_TCTI.to_owned(),
            ak_handle: DEFAULT_AK_HANDLE,
        }
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            mode: Mode::Measured,
        }
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self {
            binding: Binding::IfPresent,
        }
    }
}

impl Default for Boot {
    fn default() -> Self {
        Self {
            confidential: true,
            seal: Seal::Pcr11,
            allow_arguments: Vec::new(),
        }
    }
}

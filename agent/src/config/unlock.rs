// SPDX-License-Identifier: Apache-2.0

//! `[unlock]`: which volumes this node opens, and how. Read by `unlock`.

use super::{ConfigError, Problem, raw};
use luks_header::{Cipher, Integrity, KdfLimits, Rules};
use serde::Deserialize;

/// `[unlock]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlock {
    /// Who opens volumes at boot.
    pub mode: UnlockMode,
    /// What a LUKS2 header may say.
    pub rules: Rules,
    /// Whether the KBS must say which volume key belongs to this node.
    pub vk_id: VkId,
    /// Bind a volume to the present secret when it opened with one that was rotated.
    pub rebind: bool,
    /// Keep a key slot for the recovery passphrase that the KBS has.
    pub recovery: bool,
}

/// `[unlock] mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnlockMode {
    /// This agent, from a header that it has judged.
    Native,
    /// systemd-cryptsetup, which asks Clevis; nobody judges the header.
    Clevis,
    /// systemd-cryptsetup, which asks this agent; the header is judged, and then read once more by systemd.
    Socket,
}

/// `[unlock] vk_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VkId {
    /// Compare it where the KBS knows one.
    IfPresent,
    /// Open nothing whose volume key the KBS does not know.
    Required,
}

impl UnlockMode {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Clevis => "clevis",
            Self::Socket => "socket",
        }
    }
}

impl Unlock {
    pub(super) fn parse(raw: raw::Unlock, confidential: bool) -> Result<Self, ConfigError> {
        let integrity = integrity(&raw.integrity)?;
        let ciphers = ciphers(&raw.ciphers, integrity)?;
        let [least, most] = raw.pbkdf2_iterations;
        if least < LEAST_ITERATIONS || least > most {
            let problem = Problem::new(
                format!("expected two numbers in order, the first {LEAST_ITERATIONS} or more"),
                "write [1000, 10000000]: Clevis makes key slots with 1000 iterations",
            );
            let value = format!("{:?}", raw.pbkdf2_iterations);
            return Err(ConfigError::value(
                "unlock.pbkdf2_iterations",
                &value,
                problem,
            ));
        }
        if raw.other_keyslots && confidential && raw.mode != UnlockMode::Clevis {
            let problem = Problem::new(
                "a confidential node has one way to its disk, and that leads through the KBS",
                "remove the other key slots, or say boot.confidential = false",
            );
            return Err(ConfigError::value("unlock.other_keyslots", "true", problem));
        }
        if raw.recovery && !(raw.other_keyslots && raw.mode == UnlockMode::Native) {
            let problem = Problem::new(
                "a recovery passphrase has a key slot of its own, which the agent makes when it opens the volume",
                "say unlock.mode = \"native\", unlock.other_keyslots = true and boot.confidential = false besides",
            );
            return Err(ConfigError::value("unlock.recovery", "true", problem));
        }
        Ok(Self {
            mode: raw.mode,
            rules: Rules {
                ciphers,
                integrity,
                discard: raw.discard,
                other_keyslots: raw.other_keyslots,
                kdf: KdfLimits {
                    pbkdf2_iterations: least..=most,
                    argon2_memory: raw.argon2_memory,
                    argon2_time: raw.argon2_time,
                },
            },
            vk_id: raw.vk_id,
            rebind: raw.rebind,
            recovery: raw.recovery,
        })
    }
}

fn integrity(name: &str) -> Result<Integrity, ConfigError> {
    let found = Integrity::ALL
        .into_iter()
        .find(|kind| kind.as_str() == name);
    found.ok_or_else(|| {
        let problem = Problem::new(
            "expected \"none\", \"hmac-sha256\" or \"aead\"",
            "write what the volume was formatted with",
        );
        ConfigError::value("unlock.integrity", name, problem)
    })
}

/// The list, or the one cipher that everybody takes.
fn ciphers(names: &[String], integrity: Integrity) -> Result<Vec<Cipher>, ConfigError> {
    let aead = integrity == Integrity::Aead;
    if names.is_empty() {
        return Ok(vec![if aead { Cipher::AesGcm } else { Cipher::AesXts }]);
    }
    let all = || Cipher::ALL.map(Cipher::as_str).join(", ");
    let mut ciphers = Vec::new();
    for name in names {
        let cipher = Cipher::named(name).ok_or_else(|| {
            let problem = Problem::new("unknown or too weak", format!("use some of {}", all()));
            ConfigError::value("unlock.ciphers", name, problem)
        })?;
        if cipher.is_aead() != aead {
            let problem = Problem::new(
                format!(
                    "it does not go with unlock.integrity = {:?}",
                    integrity.as_str()
                ),
                "use aes-gcm-random or aegis128-random with \"aead\", the others without",
            );
            return Err(ConfigError::value("unlock.ciphers", name, problem));
        }
        ciphers.push(cipher);
    }
    Ok(ciphers)
}

const LEAST_ITERATIONS: u32 = 1000;

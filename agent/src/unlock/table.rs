// SPDX-License-Identifier: Apache-2.0

//! The table of an open volume, as the kernel holds it, against the header that was judged.
//!
//! What libcryptsetup was told is one thing, what dm-crypt does another; and on first boot it was not even this agent
//! that opened the volume. So cipher, key, integrity, place and device are read back before anything rests on them.
//! The format is that of the kernel's dm-crypt documentation: `CIPHER KEY IV_OFFSET DEVICE OFFSET [COUNT OPTION…]`.

use super::UnlockError;
use devicemapper::{DM, DevId, DmFlags, DmName, DmOptions};
use luks_header::{Cipher, Integrity, Rules, Volume};
use serde::{Deserialize, Serialize};

/// One target of a table: its type and its parameters.
pub type Target = (String, String);

/// The targets of the active volume `name`, as the kernel has them.
///
/// # Errors
/// There is no such volume, or no device mapper.
pub(super) fn of_kernel(name: &str) -> std::io::Result<Vec<Target>> {
    let failed = |error: devicemapper::DmError| std::io::Error::other(error.to_string());
    let id = DevId::Name(DmName::new(name).map_err(failed)?);
    let options = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE);
    let (_, targets) = DM::new()
        .and_then(|dm| dm.table_status(&id, options))
        .map_err(failed)?;
    let target = |(_, _, kind, line)| (kind, line);
    Ok(targets.into_iter().map(target).collect())
}

/// What a volume's table must say once it is open, as its judged header and `agent.toml` have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meant {
    /// Of the header: 36 characters.
    pub luks_uuid: String,
    /// What sectors are encrypted with.
    pub cipher: Cipher,
    /// What authenticates them.
    pub integrity: Integrity,
    /// Length of the volume key in bytes.
    pub key_size: u32,
    /// In bytes.
    pub sector_size: u32,
    /// Where the payload begins on the disk, in bytes.
    pub payload: u64,
    /// Whether discards may reach the disk.
    pub discard: bool,
}

impl Meant {
    /// By this header, under these rules.
    pub fn by(volume: &Volume, rules: &Rules) -> Self {
        Self {
            luks_uuid: volume.uuid.clone(),
            cipher: volume.cipher,
            integrity: volume.integrity,
            key_size: volume.key_size,
            sector_size: volume.sector_size,
            payload: volume.payload,
            discard: rules.discard && volume.integrity == Integrity::None,
        }
    }

    /// Compares the targets of an active volume. `below` are the numbers of the device that it must lie on: the disk, or
    /// dm-integrity's.
    ///
    /// # Errors
    /// [`UnlockError::Disagrees`] for the first thing that differs.
    pub(super) fn is(&self, targets: &[Target], below: &str) -> Result<(), UnlockError> {
        match targets {
            [(kind, line)] if kind == "crypt" => compare(line, self, below),
            other => {
                let kinds: Vec<&str> = other.iter().map(|(kind, _)| &**kind).collect();
                disagrees("the table of the active volume", &kinds.join(", "), "crypt")
            }
        }
    }

    /// The cipher as the table names it: as in the header, or in the words of the kernel's crypto API where sectors are
    /// authenticated.
    fn cipher(&self) -> String {
        let mode = match self.cipher {
            Cipher::AesXts => "xts(aes)",
            Cipher::SerpentXts => "xts(serpent)",
            Cipher::TwofishXts => "xts(twofish)",
            Cipher::AesGcm => "gcm(aes)",
            Cipher::Aegis128 => "aegis128",
        };
        match self.integrity {
            Integrity::None => self.cipher.to_string(),
            Integrity::HmacSha256 => format!("capi:authenc(hmac(sha256),{mode})-plain64"),
            Integrity::Aead => format!("capi:{mode}-random"),
        }
    }

    /// Where the payload begins on the device below, in sectors of the device mapper.
    fn begins(&self) -> u64 {
        match self.integrity {
            Integrity::None => self.payload / SECTOR,
            // dm-integrity has taken the beginning away.
            Integrity::HmacSha256 | Integrity::Aead => 0,
        }
    }

    /// Options that make the volume what it is.
    fn options(&self) -> Vec<String> {
        // A tag beside each sector, and the IV where it is a random one.
        let bytes = match (self.integrity, self.cipher) {
            (Integrity::None, _) => None,
            (Integrity::HmacSha256, _) => Some(32),
            (Integrity::Aead, Cipher::AesGcm) => Some(16 + 12),
            (Integrity::Aead, _) => Some(16 + 16),
        };
        let tag = bytes.map(|bytes| format!("integrity:{bytes}:aead"));
        let size = self.sector_size;
        let sector = (u64::from(size) != SECTOR).then(|| format!("sector_size:{size}"));
        tag.into_iter().chain(sector).collect()
    }
}

/// The parameters of a crypt target against what they must be. The key is never in them: it is in the keyring.
fn compare(line: &str, meant: &Meant, below: &str) -> Result<(), UnlockError> {
    let mut words = line.split_ascii_whitespace();
    let mut word = || words.next().unwrap_or_default();
    let (cipher, key, iv_offset, device, offset) = (word(), word(), word(), word(), word());
    // libcryptsetup puts the number of the digest behind it.
    let name = format!(":{}:logon:cryptsetup:{}-d", meant.key_size, meant.luks_uuid);
    let key = match key.strip_prefix(':') {
        Some(_) if key.starts_with(&name) => &name,
        Some(_) => key,
        // Not for a message.
        None => "in the table itself",
    };
    for (what, found, expected) in [
        ("the active cipher", cipher, &*meant.cipher()),
        ("the active key", key, &name),
        ("the active offset of IVs", iv_offset, "0"),
        ("the device below the active volume", device, below),
        ("the active offset", offset, &meant.begins().to_string()),
    ] {
        if found != expected {
            return disagrees(what, found, expected);
        }
    }
    // Their number.
    word();
    let mut missing = meant.options();
    for found in words {
        match missing.iter().position(|option| option == found) {
            Some(at) => drop(missing.swap_remove(at)),
            None if found == "allow_discards" && meant.discard => {}
            None => return disagrees(OPTION, found, &format!("only {:?}", meant.options())),
        }
    }
    match missing.first() {
        None => Ok(()),
        Some(option) => disagrees(OPTION, "missing", option),
    }
}

fn disagrees(what: &'static str, found: &str, expected: &str) -> Result<(), UnlockError> {
    Err(UnlockError::Disagrees {
        what,
        found: found.chars().take(SHOWN).collect(),
        expected: expected.to_owned(),
    })
}

const OPTION: &str = "an option of the active volume";
/// The unit of the device mapper, in bytes.
const SECTOR: u64 = 512;
const SHOWN: usize = 120;

#[cfg(test)]
mod tests;

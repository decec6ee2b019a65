// SPDX-License-Identifier: Apache-2.0

//! Binds a volume anew after its secret was rotated: a new passphrase in a new key slot, a new token for it, and then the
//! old ones go. The subcommands `rebind` and `unlock` call this.
//!
//! The header is changed in memory, where it was judged, and [written back](super::rewrite) in two turns: first with both
//! bindings, and once the new one has opened the volume from the device, without the old one. Key slots and tokens of others stay as they are. What an interrupted turn leaves behind, the next one removes.

use super::rewrite::{add_slot, is_same_key, remove_slots};
use super::{Candidate, Luks, Opened};
use crate::config::{Config, VkId as VkIdRule};
use crate::error::Error;
use crate::source::KbsSource;
use kbs_protocol::Secret;
use kbs_protocol::encoding::b64u;
use luks_header::Extent;
use rand_core::{OsRng, RngCore as _};
use serde_json::{Value, json};
use std::path::Path;
use zeroize::Zeroizing;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebound {
    /// The new key slot.
    pub keyslot: u32,
    /// The key slots that went.
    pub removed: Vec<u32>,
}

/// Binds the volume on `device` to the secret that the KBS has now.
///
/// # Errors
/// Whatever keeps the volume from being opened by its old or by its new binding. It opens with one of them all the same.
pub fn rebind(
    name: &str,
    device: &Path,
    config: &Config,
    source: &mut KbsSource,
) -> Result<Rebound, Error> {
    let old = Candidate::find(name, device, config, Extent::Everything)?;
    let header = &old.header;
    let mut luks = Luks::load(header)?;
    let Opened {
        key, vk_id, path, ..
    } = old.open(&mut luks, source, config.unlock.vk_id)?;

    let passphrase = passphrase()?;
    let pin = clevis_pin::Config::parse(&json!({ "path": path }).to_string())?;
    let jwe = clevis_pin::encrypt(&pin, passphrase.expose(), source)?;
    let keyslot = add_slot(header, &mut luks, &key, &passphrase, |keyslot| {
        token(keyslot, &jwe)
    })?;
    drop((passphrase, key));

    // As at the next boot: from the device, with the new token.
    let mut new = Candidate::find(name, device, config, Extent::Unlocking)?;
    new.bindings
        .retain(|binding| binding.token.keyslot == keyslot);
    let opened = new.open(&mut Luks::load(&new.header)?, source, VkIdRule::IfPresent)?;
    let what = "the volume key behind the new key slot";
    is_same_key(what, &opened.vk_id, &vk_id)?;

    let stale = old.bindings.iter().filter(|binding| binding.path == path);
    let stale: Vec<(u32, u32)> = stale
        .map(|binding| (binding.token.id, binding.token.keyslot))
        .collect();
    remove_slots(header, &mut luks, config, &stale)?;
    let removed = stale.into_iter().map(|(_, keyslot)| keyslot).collect();
    Ok(Rebound { keyslot, removed })
}

/// As Clevis makes one: random bytes in base64url.
fn passphrase() -> Result<Secret, Error> {
    let mut bytes = Zeroizing::new([0_u8; RANDOM]);
    OsRng
        .try_fill_bytes(bytes.as_mut())
        .map_err(|error| clevis_pin::Fault::Random(error.to_string()))?;
    Ok(Secret::new(b64u::encode(bytes.as_slice()).into_bytes()))
}

/// A token of Clevis: the JWE in flattened form.
fn token(keyslot: u32, jwe: &str) -> Value {
    let mut parts = jwe.split('.');
    let mut part = || parts.next().unwrap_or_default();
    json!({
        "type": "clevis",
        "keyslots": [keyslot.to_string()],
        "jwe": {
            "protected": part(), "encrypted_key": part(), "iv": part(), "ciphertext": part(), "tag": part(),
        },
    })
}

/// Bytes of a passphrase.
const RANDOM: usize = 40;

#[cfg(test)]
mod tests;

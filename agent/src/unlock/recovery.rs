// SPDX-License-Identifier: Apache-2.0

//! A key slot for people: its passphrase lies in the KBS beside the node's secret, and whoever runs the KBS can read it
//! there. For nodes whose host is not the enemy; `unlock.recovery` of `agent.toml` asks for it.
//!
//! A token beside the slot says which passphrase it is for. Where that is not the one that the KBS keeps now, the slot is
//! made anew. What opens the volume at boot is not touched.

use super::rewrite::{add_slot, is_same_key, remove_slots};
use super::{Header, Luks, Opened, UnlockError, VkId};
use crate::config::Config;
use crate::error::Error;
use crate::source::KbsSource;
use clevis_pin::Cek;
use kbs_protocol::Secret;
use kbs_protocol::encoding::b64u;
use luks_header::Extent;
use serde_json::{Value, json};
use std::path::Path;

/// Makes sure that the volume on `device`, which has just been opened, opens with the recovery passphrase too. Returns the
/// number of the key slot that was made, if it was not there.
///
/// # Errors
/// [`UnlockError::NoRecovery`], or whatever keeps the header from being written. The volume opens as before all the same.
pub fn ensure_recovery(
    name: &str,
    device: &Path,
    opened: &Opened,
    config: &Config,
    source: &mut KbsSource,
) -> Result<Option<u32>, Error> {
    let secret = source.recovery(&opened.path)?;
    let secret = secret.ok_or(UnlockError::NoRecovery)?;
    let id = b64u::encode(Cek::new(secret.key()).id());
    let header = Header::read(device, &config.unlock.rules, Extent::Everything)?;
    let mut luks = Luks::load(&header)?;
    let (present, stale): (Vec<Slot>, Vec<Slot>) = slots(&mut luks)
        .into_iter()
        .partition(|slot| slot.passphrase == id);

    let mut added = None;
    if present.is_empty() {
        // What a person copies out of the resource: the member `key`, as it stands there.
        let passphrase = Secret::new(b64u::encode(secret.key().as_slice()).into_bytes());
        let token = |keyslot| token(keyslot, &id);
        let keyslot = add_slot(&header, &mut luks, &opened.key, &passphrase, token)?;
        // As that person would open it.
        let written = Header::read(device, &config.unlock.rules, Extent::Everything)?;
        let key = Luks::load(&written)?.volume_key(keyslot, passphrase.expose())?;
        let found = VkId::of(key.expose(), name, &written.volume.uuid);
        let what = "the volume key behind the recovery key slot";
        is_same_key(what, &found, &opened.vk_id)?;
        added = Some(keyslot);
    }
    if !stale.is_empty() {
        let stale: Vec<(u32, u32)> = stale
            .iter()
            .map(|slot| (slot.token, slot.keyslot))
            .collect();
        remove_slots(&header, &mut luks, config, &stale)?;
    }
    Ok(added)
}

/// A key slot of this kind.
struct Slot {
    token: u32,
    keyslot: u32,
    /// Which passphrase opens it.
    passphrase: String,
}

/// Those that the volume has.
fn slots(luks: &mut Luks<'_>) -> Vec<Slot> {
    let read = |(token, json): (u32, Value)| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let ours = json.get("type")?.as_str()? == TYPE;
        let keyslot = json.pointer("/keyslots/0")?.as_str()?.parse().ok()?;
        let passphrase = json.get(KID).and_then(text).unwrap_or_default();
        ours.then_some(Slot {
            token,
            keyslot,
            passphrase,
        })
    };
    luks.tokens().into_iter().filter_map(read).collect()
}

fn token(keyslot: u32, id: &str) -> Value {
    json!({ "type": TYPE, "keyslots": [keyslot.to_string()], KID: id })
}

/// The type of its token (LUKS2 On-Disk Format Specification, section 3.5: whoever knows no such type leaves it alone).
const TYPE: &str = "sheepfold-recovery";
/// What tells passphrases apart: [`Cek::id`].
const KID: &str = "kid";

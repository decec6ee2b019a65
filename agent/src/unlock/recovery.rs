// SPDX-License-Identifier: Apache-2.0

//! A key slot for people: its passphrase lies in the KBS beside the node's secret, and whoever runs the KBS can read it
//! there. For nodes whose host is not the enemy; `unlock.recovery` of `agent.toml` asks for it.
//!
//! A token beside the slot says which passphrase it is for. Where that is not the one that the KBS keeps now, the slot is
//! made anew. What opens the volume at boot is not touched.

use super::rewrite::{adding, removing, used, write};
use super::{Candidate, Header, Luks, Opened, UnlockError, VkId};
use crate::config::Config;
use crate::error::Error;
use crate::source::KbsSource;
use clevis_pin::Cek;
use kbs_protocol::Secret;
use kbs_protocol::encoding::b64u;
use kbs_protocol::resource_secret::ResourceSecret;
use luks_header::Extent;
use serde_json::{Value, json};
use std::path::Path;

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// The volume had this passphrase's key slot already.
    Present,
    /// It has one now, with this number.
    Added(u32),
    /// The KBS keeps no such passphrase for this node.
    NotKept,
}

/// Makes sure that the volume on `device` opens with the recovery passphrase too.
///
/// # Errors
/// Whatever keeps the volume from being opened, or its header from being written. It opens as before all the same.
pub fn ensure_recovery(
    name: &str,
    device: &Path,
    config: &Config,
    source: &mut KbsSource,
) -> Result<Recovery, Error> {
    let candidate = Candidate::find(name, device, config, Extent::Everything)?;
    let header = &candidate.header;
    let mut luks = Luks::load(header)?;
    let opened = candidate.open(&mut luks, source, config.unlock.vk_id)?;
    let Some(secret) = source.recovery(&opened.path)? else {
        return Ok(Recovery::NotKept);
    };
    let id = b64u::encode(Cek::new(secret.key()).id());
    let (present, stale): (Vec<Slot>, Vec<Slot>) = slots(&mut luks)
        .into_iter()
        .partition(|slot| slot.passphrase == id);
    let recovery = match present.is_empty() {
        true => Recovery::Added(add(&candidate, &mut luks, &opened, &secret, &id, config)?),
        false => Recovery::Present,
    };
    if !stale.is_empty() {
        for slot in stale {
            luks.unbind(slot.token, slot.keyslot)?;
        }
        let after = header.bytes()?;
        let used = used(header, config, &after)?;
        write(device, &removing(&after, header.copy(), &used))?;
    }
    Ok(recovery)
}

/// Makes the key slot, on the device too, and opens it as a person would.
fn add(
    candidate: &Candidate,
    luks: &mut Luks<'_>,
    opened: &Opened,
    secret: &ResourceSecret,
    id: &str,
    config: &Config,
) -> Result<u32, Error> {
    let header = &candidate.header;
    // What a person copies out of the resource: the member `key`, as it stands there.
    let passphrase = Secret::new(b64u::encode(secret.key().as_slice()).into_bytes());
    let before = header.bytes()?;
    let keyslot = luks.bind(&opened.key, passphrase.expose(), |slot| token(slot, id))?;
    let both = header.bytes()?;
    write(&header.device, &adding(&before, &both, header.copy()))?;

    let written = Header::read(&header.device, &config.unlock.rules, Extent::Everything)?;
    let key = Luks::load(&written)?.volume_key(keyslot, passphrase.expose())?;
    let found = VkId::of(key.expose(), &candidate.name, &written.volume.uuid);
    if found != opened.vk_id {
        return Err(UnlockError::Disagrees {
            what: "the volume key behind the recovery key slot",
            found: found.as_str().to_owned(),
            expected: opened.vk_id.as_str().to_owned(),
        }
        .into());
    }
    Ok(keyslot)
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

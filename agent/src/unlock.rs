// SPDX-License-Identifier: Apache-2.0

//! Opens volumes without believing the disk.
//!
//! For each volume, in this order: [`place`] finds a device, [`header`] reads its header once into memory, has
//! `luks-header` judge it and writes it anew. Only when all of them have passed is a server asked: one attestation,
//! and one request for each secret. The token's passphrase unwraps the volume key through [`luks`], its id
//! ([`vk_id`]) is compared with what the KBS keeps, and the volume is activated with the key itself. Nobody reads
//! the device's own header a second time; [`active`] and [`table`] read back what the kernel made of it. The
//! subcommands `unlock` and `verify-binding` call this.

mod active;
mod error;
mod header;
mod luks;
mod place;
mod table;
mod vk_id;

pub use active::{Numbers, active_volumes, numbers};
pub use error::UnlockError;
pub use header::Header;
pub use luks::{Luks, VolumeKey, is_active};
pub use place::of_volume;
pub use vk_id::VkId;

use crate::config::{Config, VkId as VkIdRule};
use crate::error::Error;
use crate::source::KbsSource;
use clevis_pin::Token;
use luks_header::{ClevisToken, Extent};
use std::path::Path;

/// A volume that was found and whose header may be opened.
pub struct Candidate {
    /// Its device-mapper name.
    pub name: String,
    /// Its header in memory.
    pub header: Header,
    token: ClevisToken,
    path: String,
}

/// What opening a volume has shown.
pub struct Opened {
    /// The key that was in it.
    pub key: VolumeKey,
    /// The name of that key.
    pub vk_id: VkId,
    /// Whether the KBS knew it.
    pub known: bool,
}

impl Candidate {
    /// Reads and judges a volume. Asks nobody.
    ///
    /// # Errors
    /// [`UnlockError`], also when the header has no token that is meant for this pin.
    pub fn find(
        name: &str,
        device: &Path,
        config: &Config,
        extent: Extent,
    ) -> Result<Self, UnlockError> {
        let header = Header::read(device, &config.unlock.rules, extent)?;
        let mut why = "it has none".to_owned();
        for token in &header.volume.tokens {
            let compact = token.jwe.compact();
            match Token::parse(compact.as_bytes()) {
                Ok(read) => {
                    let path = read.header().path.clone();
                    let token = token.clone();
                    return Ok(Self {
                        name: name.to_owned(),
                        header,
                        token,
                        path,
                    });
                }
                // Another pin's, beside ours or in its place.
                Err(fault) => why = fault.to_string(),
            }
        }
        Err(UnlockError::NoToken {
            device: device.to_owned(),
            why,
        })
    }

    /// Fetches what opens it, and unwraps its key. Compares the key's id with what the KBS keeps; `rule` says whether it
    /// has to keep one.
    ///
    /// # Errors
    /// Whatever stands between the volume and its key.
    pub fn open(
        &self,
        luks: &mut Luks<'_>,
        source: &mut KbsSource,
        rule: VkIdRule,
    ) -> Result<Opened, Error> {
        let compact = self.token.jwe.compact();
        let token = Token::parse(compact.as_bytes())?;
        self.check_name(source)?;
        let passphrase = token.open(source)?;
        let key = luks.volume_key(self.token.keyslot, passphrase.expose())?;
        drop(passphrase);
        let vk_id = VkId::of(key.expose(), &self.name, &self.header.volume.uuid);
        let expected = source.vk_id(&self.path)?;
        match &expected {
            Some(expected) if !vk_id.is(expected) => Err(UnlockError::OtherKey {
                name: self.name.clone(),
                found: vk_id.as_str().to_owned(),
                expected: expected.chars().take(SHOWN).collect(),
            }
            .into()),
            None if rule == VkIdRule::Required => Err(UnlockError::NoVkId {
                path: self.path.clone(),
            }
            .into()),
            known => Ok(Opened {
                key,
                vk_id,
                known: known.is_some(),
            }),
        }
    }

    /// The resource path of its secret, as its token says; compared with the configuration before it is used.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where each volume has a path of its own, a token for another one is a disk in the wrong place.
    fn check_name(&self, source: &mut KbsSource) -> Result<(), Error> {
        let Some(expected) = source.path_of(&self.name)? else {
            return Ok(());
        };
        if expected == self.path {
            return Ok(());
        }
        Err(UnlockError::OtherVolume {
            name: self.name.clone(),
            path: self.path.chars().take(SHOWN).collect(),
            expected,
        }
        .into())
    }
}

const SHOWN: usize = 120;

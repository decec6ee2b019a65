// SPDX-License-Identifier: Apache-2.0

//! Opens volumes without believing the disk.
//!
//! For each volume, in this order: [`place`] finds a device, [`header`] reads its header once into memory, has
//! `luks-header` judge it and writes it anew. Only when all of them have passed is a server asked: one attestation,
//! and one request for each secret. The token's passphrase unwraps the volume key through [`luks`], its id
//! ([`vk_id`]) is compared with what the KBS keeps, and the volume is activated with the key itself. Nobody reads
//! the device's own header a second time; [`active`] and [`table`] read back what the kernel made of it. The
//! subcommands `unlock` and `verify-binding` call this; [`rebind`] follows a secret that was rotated, [`recovery`] keeps a
//! key slot for people.

mod active;
mod error;
mod header;
mod luks;
mod place;
mod rebind;
mod recovery;
mod rewrite;
mod table;
mod vk_id;

pub use active::{Active, active_volumes};
pub use error::UnlockError;
pub use header::Header;
pub use luks::{Luks, VolumeKey, is_active};
pub use place::{all_volumes, of_volume};
pub use rebind::{Rebound, rebind};
pub use recovery::ensure_recovery;
pub use table::{Meant, Target};
pub use vk_id::VkId;

use crate::config::{Config, VkId as VkIdRule};
use crate::error::Error;
use crate::source::KbsSource;
use clevis_pin::{Fault, Plaintext, Token};
use luks_header::{ClevisToken, Extent};
use std::path::Path;

/// A volume that was found and whose header may be opened.
pub struct Candidate {
    /// Its device-mapper name.
    pub name: String,
    /// Its header in memory.
    pub header: Header,
    bindings: Vec<Binding>,
}

/// A token that this pin can open, if the secret is at hand.
pub struct Binding {
    token: ClevisToken,
    /// Resource path of the secret.
    path: String,
    /// [`Config::pinned_digest`] of whoever made it, if it says so.
    made_under: Option<[u8; 32]>,
}

impl Binding {
    /// The key slot that the token opens.
    pub fn keyslot(&self) -> u32 {
        self.token.keyslot
    }

    /// The resource path of its secret, as its token says; compared with the configuration before it is used.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the token was made under this configuration; `None` if it does not say.
    pub fn bound_under(&self, config: &Config) -> Option<bool> {
        self.made_under.map(|made| made == config.pinned_digest())
    }
}

/// What opening a volume has shown.
pub struct Opened {
    /// The key that was in it.
    pub key: VolumeKey,
    /// The name of that key.
    pub vk_id: VkId,
    /// Whether the KBS knew it.
    pub known: bool,
    /// The resource path of the secret that opened it; compared with the configuration before it was used.
    pub path: String,
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
        let mut bindings = Vec::new();
        for token in &header.volume.tokens {
            let compact = token.jwe.compact();
            match Token::parse(compact.as_bytes()) {
                Ok(read) => {
                    let said = read.header();
                    bindings.push(Binding {
                        token: token.clone(),
                        path: said.path.clone(),
                        made_under: said.trustee.as_ref().map(|made| made.cfg),
                    });
                }
                // Another pin's, beside ours or in its place.
                Err(fault) => why = fault.to_string(),
            }
        }
        if bindings.is_empty() {
            let device = device.to_owned();
            return Err(UnlockError::NoToken { device, why });
        }
        Ok(Self {
            name: name.to_owned(),
            header,
            bindings,
        })
    }

    /// The tokens for this pin: one, or two while a volume is bound anew.
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// Fetches what opens it, and unwraps its key. Compares the key's id with what the KBS keeps; `rule` says whether it
    /// has to keep one. A volume that was being bound anew when the power went has two bindings, of which one opens.
    ///
    /// # Errors
    /// Whatever stands between the volume and its key.
    pub fn open(
        &self,
        luks: &mut Luks<'_>,
        source: &mut KbsSource,
        rule: VkIdRule,
    ) -> Result<Opened, Error> {
        let opened = self.open_for_another(luks, source, rule);
        opened.map(|(opened, _)| opened)
    }

    /// As [`Candidate::open`]; with it the passphrase, for another program to open the volume.
    ///
    /// # Errors
    /// As [`Candidate::open`].
    pub fn open_for_another(
        &self,
        luks: &mut Luks<'_>,
        source: &mut KbsSource,
        rule: VkIdRule,
    ) -> Result<(Opened, Plaintext), Error> {
        let mut first = None;
        for binding in &self.bindings {
            match self.open_with(binding, luks, source, rule) {
                Err(error) if is_another_binding(&error) => first = first.or(Some(error)),
                opened => return opened,
            }
        }
        // There is one binding at least, and it did not open.
        Err(first.unwrap_or_else(|| {
            let device = self.header.device.clone();
            let why = "it has none".to_owned();
            UnlockError::NoToken { device, why }.into()
        }))
    }

    fn open_with(
        &self,
        binding: &Binding,
        luks: &mut Luks<'_>,
        source: &mut KbsSource,
        rule: VkIdRule,
    ) -> Result<(Opened, Plaintext), Error> {
        let compact = binding.token.jwe.compact();
        let token = Token::parse(compact.as_bytes())?;
        self.check_name(&binding.path, source)?;
        let passphrase = token.open(source)?;
        let key = luks.volume_key(binding.token.keyslot, passphrase.expose())?;
        let vk_id = VkId::of(key.expose(), &self.name, &self.header.volume.uuid);
        let expected = source.vk_id(&binding.path)?;
        match &expected {
            Some(expected) if !vk_id.is(expected) => Err(UnlockError::OtherKey {
                name: self.name.clone(),
                found: vk_id.as_str().to_owned(),
                expected: expected.chars().take(SHOWN).collect(),
            }
            .into()),
            None if rule == VkIdRule::Required => Err(UnlockError::NoVkId {
                path: binding.path.clone(),
            }
            .into()),
            known => {
                let opened = Opened {
                    key,
                    vk_id,
                    known: known.is_some(),
                    path: binding.path.clone(),
                };
                Ok((opened, passphrase))
            }
        }
    }

    /// Where each volume has a path of its own, a token for another one is a disk in the wrong place.
    fn check_name(&self, path: &str, source: &mut KbsSource) -> Result<(), Error> {
        let Some(expected) = source.path_of(&self.name)? else {
            return Ok(());
        };
        if expected == path {
            return Ok(());
        }
        Err(UnlockError::OtherVolume {
            name: self.name.clone(),
            path: path.chars().take(SHOWN).collect(),
            expected,
        }
        .into())
    }
}

/// Whether it says no more than that the secret is not the one for this token.
fn is_another_binding(error: &Error) -> bool {
    matches!(
        error,
        Error::Pin(Fault::KidMismatch { .. }) | Error::Unlock(UnlockError::Passphrase { .. })
    )
}

const SHOWN: usize = 120;

// SPDX-License-Identifier: Apache-2.0

//! What libcryptsetup does for us: it unwraps the volume key from the header in memory, and activates the volume
//! with flags of our own. One thread owns a [`Luks`], because the library is not made for more.

use super::UnlockError;
use super::header::Header;
use libcryptsetup_rs::consts::flags::{CryptActivate, CryptPbkdf, CryptVolumeKey};
use libcryptsetup_rs::consts::vals::{CryptKdf, CryptStatusInfo, EncryptionFormat};
use libcryptsetup_rs::{CryptDevice, CryptInit, CryptPbkdfType, Either, LibcryptErr, TokenInput};
use luks_header::{Integrity, Rules};
use serde_json::Value;
use zeroize::Zeroizing;

/// A judged header, loaded.
pub struct Luks<'h> {
    header: &'h Header,
    device: CryptDevice,
}

/// The key that a volume is encrypted with. Wiped when dropped; has no `Debug`.
pub struct VolumeKey(Zeroizing<Vec<u8>>);

impl VolumeKey {
    /// The bytes, for the two places that need them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl<'h> Luks<'h> {
    /// Loads the header from memory, with the device that it was read from as the one that holds the data.
    ///
    /// # Errors
    /// [`UnlockError::Library`]; [`UnlockError::Disagrees`] if the library understands something else than we did.
    pub fn load(header: &'h Header) -> Result<Self, UnlockError> {
        let failed = library("load the header", header);
        let paths = (&*header.path(), &*header.device);
        let mut device = CryptInit::init_with_data_device(Either::Right(paths)).map_err(&failed)?;
        device
            .context_handle()
            .load::<()>(Some(EncryptionFormat::Luks2), None)
            .map_err(&failed)?;
        let mut status = device.status_handle();
        let volume = &header.volume;
        let cipher = format!(
            "{}-{}",
            status.get_cipher().map_err(&failed)?,
            status.get_cipher_mode().map_err(&failed)?
        );
        let sectors = volume.payload / SECTOR;
        for (what, found, expected) in [
            ("the cipher", cipher, volume.cipher.to_string()),
            (
                "the payload",
                status.get_data_offset().to_string(),
                sectors.to_string(),
            ),
            (
                "the key's length",
                status.get_volume_key_size().to_string(),
                volume.key_size.to_string(),
            ),
            (
                "the UUID",
                status.get_uuid().map_err(&failed)?.to_string(),
                volume.uuid.clone(),
            ),
        ] {
            if found != expected {
                return Err(UnlockError::Disagrees {
                    what,
                    found,
                    expected,
                });
            }
        }
        Ok(Self { header, device })
    }

    /// Unwraps the volume key, and has the library check it against the digest.
    ///
    /// # Errors
    /// [`UnlockError::Passphrase`] if the passphrase does not open this key slot, else [`UnlockError::Library`].
    pub fn volume_key(
        &mut self,
        keyslot: u32,
        passphrase: &[u8],
    ) -> Result<VolumeKey, UnlockError> {
        let failed = library("unwrap the volume key", self.header);
        let length = usize::try_from(self.header.volume.key_size).unwrap_or_default();
        let mut key = Zeroizing::new(vec![0; length]);
        let mut handle = self.device.volume_key_handle();
        let found = handle.get(Some(keyslot), &mut key, Some(passphrase));
        let (_, written) = found.map_err(|error| match &error {
            LibcryptErr::IOError(io) if io.kind() == std::io::ErrorKind::PermissionDenied => {
                UnlockError::Passphrase { keyslot }
            }
            _ => failed(error),
        })?;
        key.truncate(written);
        handle.verify(&key).map_err(&failed)?;
        Ok(VolumeKey(key))
    }

    /// Adds a key slot for this passphrase, and the token that carries it; in memory. Returns the key slot's number.
    ///
    /// # Errors
    /// [`UnlockError::Library`], for example when there is no room.
    pub(super) fn bind(
        &mut self,
        key: &VolumeKey,
        passphrase: &[u8],
        token: impl FnOnce(u32) -> Value,
    ) -> Result<u32, UnlockError> {
        let failed = library("add a key slot", self.header);
        // As Clevis does: the passphrase has 256 random bits, so nobody guesses it.
        let cheap = CryptPbkdfType {
            type_: CryptKdf::Pbkdf2,
            hash: Some("sha256".to_owned()),
            time_ms: 0,
            iterations: ITERATIONS,
            max_memory_kb: 0,
            parallel_threads: 0,
            flags: CryptPbkdf::NO_BENCHMARK,
        };
        let device = &mut self.device;
        device
            .settings_handle()
            .set_pbkdf_type(&cheap)
            .map_err(&failed)?;
        let mut slots = device.keyslot_handle();
        slots
            .set_encryption("aes-xts-plain64", SLOT_KEY)
            .map_err(&failed)?;
        let key = Some(Either::Left(key.expose()));
        let keyslot = slots
            .add_by_key(None, key, passphrase, CryptVolumeKey::empty())
            .map_err(&failed)?;
        let token = token(keyslot);
        device
            .token_handle()
            .json_set(TokenInput::AddToken(&token))
            .map_err(&failed)?;
        Ok(keyslot)
    }

    /// Every token that is there, whosever it is, with its number.
    pub(super) fn tokens(&mut self) -> Vec<(u32, Value)> {
        let mut handle = self.device.token_handle();
        // A number without a token is an error to the library.
        let read = |number| Some((number, handle.json_get(number).ok()?));
        (0..TOKENS).filter_map(read).collect()
    }

    /// Removes a token and its key slot; in memory.
    ///
    /// # Errors
    /// [`UnlockError::Library`].
    pub(super) fn unbind(&mut self, token: u32, keyslot: u32) -> Result<(), UnlockError> {
        let failed = library("remove a key slot", self.header);
        let device = &mut self.device;
        device
            .token_handle()
            .json_set(TokenInput::RemoveToken(token))
            .map_err(&failed)?;
        device.keyslot_handle().destroy(keyslot).map_err(&failed)
    }

    /// Activates the volume under `name`: these flags and no other, whatever the header asks for, and the key in the
    /// kernel's keyring instead of the device's table.
    ///
    /// # Errors
    /// [`UnlockError::Library`]; [`UnlockError::Disagrees`] if the kernel holds something else than was asked for.
    pub fn activate(
        &mut self,
        name: &str,
        key: &VolumeKey,
        rules: &Rules,
    ) -> Result<(), UnlockError> {
        let failed = library("activate the volume", self.header);
        self.device
            .context_handle()
            .volume_key_keyring(true)
            .map_err(&failed)?;
        let mut flags = CryptActivate::IGNORE_PERSISTENT;
        let mut wanted = CryptActivate::KEYRING_KEY.bits();
        if rules.discard && rules.integrity == Integrity::None {
            flags |= CryptActivate::ALLOW_DISCARDS;
            wanted |= CryptActivate::ALLOW_DISCARDS.bits();
        }
        self.device
            .activate_handle()
            .activate_by_volume_key(Some(name), Some(key.expose()), flags)
            .map_err(&failed)?;
        let active = self
            .device
            .runtime_handle(name)
            .get_active_device()
            .map_err(&failed)?;
        let seen = active.flags
            & (CryptActivate::ALLOW_DISCARDS
                | CryptActivate::KEYRING_KEY
                | CryptActivate::READONLY);
        // An authenticated volume lies on a device of dm-integrity, and begins where that does.
        let offset = match rules.integrity {
            Integrity::None => self.header.volume.payload / SECTOR,
            Integrity::HmacSha256 | Integrity::Aead => active.offset,
        };
        for (what, found, expected) in [
            (
                "the flags of the active volume",
                u64::from(seen.bits()),
                u64::from(wanted),
            ),
            ("the place of the active volume", active.offset, offset),
        ] {
            if found != expected {
                let (found, expected) = (found.to_string(), expected.to_string());
                return Err(UnlockError::Disagrees {
                    what,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// Takes an active volume away again.
    pub fn deactivate(&mut self, name: &str) {
        let flags = libcryptsetup_rs::consts::flags::CryptDeactivate::empty();
        // Nobody has it open yet; what remains is refused by the guard.
        let _ = self.device.activate_handle().deactivate(name, flags);
    }
}

/// Whether there is an active volume of this name, whoever activated it.
pub fn is_active(name: &str) -> bool {
    matches!(
        libcryptsetup_rs::status(None, name),
        Ok(CryptStatusInfo::Active | CryptStatusInfo::Busy)
    )
}

fn library(action: &'static str, header: &Header) -> impl Fn(LibcryptErr) -> UnlockError {
    let device = header.device.clone();
    move |error| UnlockError::Library {
        action,
        device: device.clone(),
        why: error.to_string(),
    }
}

/// The fewest that `agent.toml` can ask for, and what Clevis takes.
const ITERATIONS: u32 = 1000;
/// The most that a header has (LUKS2_TOKENS_MAX of libcryptsetup).
const TOKENS: u32 = 32;
/// Two keys of AES-256.
const SLOT_KEY: usize = 64;
/// The unit of libcryptsetup and the device mapper, in bytes.
const SECTOR: u64 = 512;

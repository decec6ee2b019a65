// SPDX-License-Identifier: Apache-2.0

//! From wishes to text. The structures mirror the Ignition configuration specification, member for member;
//! serde writes them in this order.

use super::{Error, Existing, Form, Format, Fragment, Integrity, SpecVersion, Volume};
use serde::Serialize;
use std::collections::BTreeSet;

pub(super) fn render(fragment: &Fragment, spec: SpecVersion) -> Result<String, Error> {
    check(fragment, spec)?;
    let volumes = &fragment.volumes;
    let config = Config {
        ignition: Ignition {
            version: spec.as_str(),
        },
        storage: Storage {
            luks: volumes.iter().map(|volume| luks(volume, spec)).collect(),
            filesystems: volumes.iter().filter_map(filesystem).collect(),
        },
    };
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    Ok(text + "\n")
}

fn check(fragment: &Fragment, spec: SpecVersion) -> Result<(), Error> {
    if fragment.volumes.is_empty() {
        return Err(Error::Empty);
    }
    let (mut names, mut devices, mut uuids) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for volume in &fragment.volumes {
        let once = |what, value: &str, new: bool| match new {
            true => Ok(()),
            false => Err(Error::Twice {
                what,
                value: value.to_owned(),
            }),
        };
        let (name, device) = (volume.name.as_str(), volume.device.as_str());
        once("name", name, names.insert(name))?;
        once("device", device, devices.insert(device))?;
        if let Some(uuid) = volume.uuid.as_ref().map(|uuid| uuid.as_str()) {
            once("UUID", uuid, uuids.insert(uuid))?;
        }
        check_words(volume, spec)?;
        check_room(volume, spec.form())?;
        check_label(volume)?;
    }
    Ok(())
}

fn check_words(volume: &Volume, spec: SpecVersion) -> Result<(), Error> {
    let wanted = [
        ("discard", volume.discard),
        ("openOptions", !volume.open_options.is_empty()),
    ];
    for (what, wanted) in wanted {
        if wanted && !spec.has_open_options() {
            return Err(Error::NotInSpec {
                volume: volume.name.as_str().to_owned(),
                what,
                spec,
            });
        }
    }
    if volume.discard && volume.integrity != Integrity::None {
        return Err(Error::NoDiscards {
            volume: volume.name.as_str().to_owned(),
            integrity: volume.integrity,
        });
    }
    Ok(())
}

/// An overflow would show on the day the volume is bound anew, not on the first.
fn check_room(volume: &Volume, form: Form) -> Result<(), Error> {
    let room = volume.metadata.bytes().saturating_sub(NOT_FOR_TOKENS);
    let needed = token_bytes(form).saturating_mul(2);
    if room < needed {
        return Err(Error::MetadataTooSmall {
            volume: volume.name.as_str().to_owned(),
            size: volume.metadata,
            room,
            needed,
        });
    }
    Ok(())
}

fn check_label(volume: &Volume) -> Result<(), Error> {
    let Some(filesystem) = &volume.filesystem else {
        return Ok(());
    };
    let limit = filesystem.format.label_limit();
    match &filesystem.label {
        Some(label) if label.as_str().len() > limit => Err(Error::malformed(
            "the label of a file system",
            label.as_str(),
            match filesystem.format {
                Format::Ext4 => "at most 16 characters for ext4",
                Format::Xfs => "at most 12 characters for xfs",
                Format::Btrfs => "at most 255 characters for btrfs",
            },
        )),
        _ => Ok(()),
    }
}

/// The largest token in the LUKS2 metadata: a protected header as large as the pin makes one, in base64,
/// with passphrase, tag and braces around it; wrapped, all that once more inside the header of `sss`.
pub(super) fn token_bytes(form: Form) -> usize {
    let around = |header: usize| {
        header
            .div_ceil(3)
            .saturating_mul(4)
            .saturating_add(JWE_REST)
    };
    let direct = around(MAX_HEADER);
    match form {
        Form::Direct => direct,
        Form::Wrapped => around(direct.saturating_add(SSS_REST)),
    }
}

fn luks(volume: &Volume, spec: SpecVersion) -> Luks<'_> {
    let (pin, config) = match spec.form() {
        Form::Direct => ("trustee", "{}"),
        Form::Wrapped => ("sss", r#"{"t":1,"pins":{"trustee":{}}}"#),
    };
    Luks {
        name: volume.name.as_str(),
        device: volume.device.as_str(),
        label: volume.label.as_ref().map(|label| label.as_str()),
        uuid: volume.uuid.as_ref().map(|uuid| uuid.as_str()),
        wipe_volume: volume.existing == Existing::Wipe,
        options: format_options(volume),
        discard: volume.discard,
        open_options: volume.open_options.iter().map(|o| o.as_str()).collect(),
        clevis: Clevis {
            custom: Custom {
                pin,
                config,
                needs_network: true,
            },
        },
    }
}

/// What `cryptsetup luksFormat` gets. Cipher and authentication are what the agent expects to find. PBKDF2, because the
/// first key is 8 KiB of random digits and a memory-hard function would protect it from nobody. Authenticated sectors
/// are large, as each has a tag.
fn format_options(volume: &Volume) -> Vec<String> {
    let (cipher, key_size) = match volume.integrity {
        Integrity::None | Integrity::HmacSha256 => ("aes-xts-plain64", "512"),
        Integrity::Aead => ("aes-gcm-random", "256"),
    };
    let mut pairs = vec![
        ("--cipher", cipher.to_owned()),
        ("--key-size", key_size.to_owned()),
    ];
    if volume.integrity != Integrity::None {
        pairs.push(("--integrity", volume.integrity.to_string()));
        pairs.push(("--sector-size", "4096".to_owned()));
    }
    pairs.push(("--pbkdf", "pbkdf2".to_owned()));
    pairs.push(("--luks2-metadata-size", volume.metadata.to_string()));
    pairs
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect()
}

fn filesystem(volume: &Volume) -> Option<FilesystemEntry<'_>> {
    let wanted = volume.filesystem.as_ref()?;
    Some(FilesystemEntry {
        device: format!("/dev/mapper/{}", volume.name.as_str()),
        format: wanted.format.as_str(),
        label: wanted.label.as_ref().map(|label| label.as_str()),
        path: wanted.path.as_ref().map(|path| path.as_str()),
        // The volume is new; what looks like a file system on it is chance.
        wipe_filesystem: true,
    })
}

#[derive(Serialize)]
struct Config<'f> {
    ignition: Ignition,
    storage: Storage<'f>,
}

#[derive(Serialize)]
struct Ignition {
    version: &'static str,
}

#[derive(Serialize)]
struct Storage<'f> {
    luks: Vec<Luks<'f>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filesystems: Vec<FilesystemEntry<'f>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Luks<'f> {
    name: &'f str,
    device: &'f str,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<&'f str>,
    wipe_volume: bool,
    options: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    discard: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    open_options: Vec<&'static str>,
    clevis: Clevis,
}

#[derive(Serialize)]
struct Clevis {
    custom: Custom,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Custom {
    pin: &'static str,
    config: &'static str,
    needs_network: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FilesystemEntry<'f> {
    device: String,
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'f str>,
    wipe_filesystem: bool,
}

/// The binary header (4096 bytes), and a generous share of JSON for key slots, segment, digest and braces.
const NOT_FOR_TOKENS: usize = 4096 + 2048;
/// The pin's own limit for a protected header, in bytes.
const MAX_HEADER: usize = 4 * 1024;
/// Beside the header: initialisation vector, ciphertext of a passphrase or share, tag, member names.
const JWE_REST: usize = 512;
/// What `sss` writes around its share: threshold, prime, member names.
const SSS_REST: usize = 256;

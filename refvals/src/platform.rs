// SPDX-License-Identifier: Apache-2.0

//! Platforms, from wherever their variables can be had: a file of firmware's flash, a directory of efivarfs, the
//! event log of a machine that is trusted, a document made earlier, or one of the [profiles] that come along.
//!
//! Whatever a machine says about itself is a claim. A person looks at the document and approves it.

pub mod profiles;

use crate::Error;
use measured_boot::bank::Bank;
use measured_boot::eventlog::EventLog;
use measured_boot::platform::{KNOWN, PlatformFacts};
use measured_boot::uefi::{VariableData, store, strip_attributes};
use std::path::Path;

/// Loads a platform from `profile:NAME`, or from a path whose content says what it is. `name` replaces the name that
/// the source suggests.
///
/// # Errors
/// [`Error::Io`], [`Error::Reference`] for a profile that does not exist, [`Error::Boot`] for a content that is none
/// of the formats.
pub fn load(source: &str, name: Option<&str>) -> Result<PlatformFacts, Error> {
    let mut facts = match source.strip_prefix("profile:") {
        Some(profile) => profiles::load(profile)?,
        None => from_path(Path::new(source))?,
    };
    if let Some(name) = name {
        name.clone_into(&mut facts.platform);
    }
    Ok(facts)
}

/// Loads platforms, each given as one source or as several separated by commas: then it is one platform whose variables
/// change in this order. Returns them with the changes, from and to.
///
/// # Errors
/// As [`load`].
#[allow(clippy::type_complexity, reason = "the two members of a rollout")]
pub fn load_rows(rows: &[String]) -> Result<(Vec<PlatformFacts>, Vec<(usize, usize)>), Error> {
    load_rows_with(rows, |source| load(source, None))
}

/// The same from wherever this function takes them.
///
/// # Errors
/// As the function.
#[allow(clippy::type_complexity, reason = "the two members of a rollout")]
pub fn load_rows_with<E>(
    rows: &[String],
    mut load: impl FnMut(&str) -> Result<PlatformFacts, E>,
) -> Result<(Vec<PlatformFacts>, Vec<(usize, usize)>), E> {
    let (mut all, mut changes) = (Vec::new(), Vec::new());
    for row in rows {
        for (place, source) in row.split(',').enumerate() {
            let next = all.len();
            if let Some(last) = next.checked_sub(1).filter(|_| place > 0) {
                changes.push((last, next));
            }
            all.push(load(source)?);
        }
    }
    Ok((all, changes))
}

fn from_path(path: &Path) -> Result<PlatformFacts, Error> {
    let name = path
        .file_stem()
        .and_then(|name| name.to_str())
        .unwrap_or("platform");
    if path.is_dir() {
        return from_efivarfs(name, path);
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    from_bytes(name, &path.display().to_string(), &bytes)
}

/// From a content that says what it is: firmware's flash, a document, an event log. `origin` is what messages call it.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(name: &str, origin: &str, bytes: &[u8]) -> Result<PlatformFacts, Error> {
    if store::is_store(bytes) {
        return Ok(PlatformFacts::from_flash(name, bytes)?);
    }
    if bytes.starts_with(QCOW2) {
        return Err(Error::document(
            origin,
            "the flash is in a disk image of QEMU: unpack it with `qemu-img convert -O raw` first",
        ));
    }
    if bytes.trim_ascii_start().starts_with(b"{") {
        let invalid = |error: serde_json::Error| Error::document(origin, error);
        let json: serde_json::Value = serde_json::from_slice(bytes).map_err(invalid)?;
        return match json.get("version") {
            Some(_) => Ok(PlatformFacts::from_variable_store(name, bytes)?),
            None => serde_json::from_value(json).map_err(invalid),
        };
    }
    from_event_log(name, bytes).map_err(|error| {
        let why = format!(
            "it is no flash of firmware and no document of `refvals platform`, and as an event log it does not read: {error}"
        );
        Error::document(origin, why)
    })
}

/// From a directory of efivarfs, or a copy of one: a file `<name>-<vendor's GUID>` for each variable, with four bytes
/// of attributes in front of the content.
///
/// Of shim's own variables, the running system sees a copy of SbatLevel only (`SbatLevelRT`): owners who enrolled
/// keys take the variables from firmware's flash.
///
/// # Errors
/// [`Error::Io`]; [`Error::Boot`] for a file without attributes; [`Error::Document`] when there is no variable.
pub fn from_efivarfs(name: &str, directory: &Path) -> Result<PlatformFacts, Error> {
    let mut variables = Vec::new();
    for (variable, vendor) in KNOWN {
        let names = [
            (variable, variable.to_owned()),
            (variable, format!("{variable}RT")),
        ];
        for (variable, file) in names {
            if file.ends_with("RT") && variable != "SbatLevel" {
                continue;
            }
            let path = directory.join(format!("{file}-{vendor}"));
            match std::fs::read(&path) {
                Ok(content) => {
                    variables.push(VariableData::new(
                        vendor,
                        variable,
                        strip_attributes(&content)?,
                    ));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", &path)(error)),
            }
        }
    }
    match variables.is_empty() {
        true => Err(Error::document(
            directory.display().to_string(),
            "no file in it is a variable that is measured, as they are in /sys/firmware/efi/efivars",
        )),
        false => Ok(PlatformFacts::from_variables(name, "efivarfs", variables)),
    }
}

/// From the event log of a machine that is trusted; the strongest bank that it has.
///
/// # Errors
/// As [`EventLog::parse`] and [`PlatformFacts::from_event_log`].
pub fn from_event_log(name: &str, log: &[u8]) -> Result<PlatformFacts, Error> {
    let log = EventLog::parse(log)?;
    let bank = log.banks().into_iter().max().unwrap_or(Bank::Sha256);
    Ok(PlatformFacts::from_event_log(name, &log, bank)?)
}

/// How a disk image of QEMU begins (docs/interop/qcow2.txt): some distributions pack flash so.
const QCOW2: &[u8] = b"QFI\xfb";

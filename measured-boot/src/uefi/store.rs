// SPDX-License-Identifier: Apache-2.0

//! Variables in a flash image, as EDK II keeps them: a firmware volume whose file system is the variable store
//! (EDK II, `Guid/VariableFormat.h`; the volume: PI 1.8, volume 3, section 3.2.1). For virtual machines it is a file
//! such as `OVMF_VARS_4M.ms.fd`.

use super::Guid;
use super::variable::{MAX_DATA, VariableData};
use crate::bytes::Reader;
use crate::error::Error;

/// Whether a file begins as such a volume does.
pub fn is_store(file: &[u8]) -> bool {
    file.get(SIGNATURE_AT..)
        .is_some_and(|rest| rest.starts_with(b"_FVH"))
}

/// The variables that are valid, in the order of the store.
///
/// # Errors
/// [`Error::TooLarge`] above 16 MiB, [`Error::Truncated`] and [`Error::Malformed`] with structure and offset.
pub fn variables(file: &[u8]) -> Result<Vec<VariableData>, Error> {
    let mut volume = Reader::limited(VOLUME, file, MAX_FILE)?;
    volume.take(16)?;
    let kind = Guid::from_bytes(volume.array()?);
    if kind.to_string() != NV_DATA {
        return volume.wrong(format!(
            "file system {kind}, expected that of variables ({NV_DATA})"
        ));
    }
    let length = volume.long_length(file.len())?;
    if volume.array()? != *b"_FVH" {
        return volume.wrong("no signature _FVH");
    }
    let _attributes = volume.u32()?;
    let header = usize::from(volume.u16()?);
    let mut volume = Reader::new(VOLUME, file.get(..length).unwrap_or(file));
    let header_bytes = volume.take(header)?;
    let words = header_bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|word| u16::from_le_bytes(*word));
    if words.fold(0_u16, u16::wrapping_add) != 0 {
        return volume.wrong("a header with a wrong checksum");
    }
    let left = volume.peek().len();
    let mut store = volume.inner(STORE, left)?;
    let kind = Guid::from_bytes(store.array()?);
    if kind.to_string() != AUTHENTICATED {
        return store.wrong(format!(
            "a store of kind {kind}, expected authenticated variables ({AUTHENTICATED})"
        ));
    }
    let size = store.length(left)?;
    let [format, state, ..] = store.array::<8>()?;
    if (format, state) != (FORMATTED, HEALTHY) {
        return store.wrong(format!(
            "format {format:#04x} and state {state:#04x}: not in use"
        ));
    }
    let Some(size) = size.checked_sub(STORE_HEADER) else {
        return store.wrong(format!("a size of {size}, its header has {STORE_HEADER}"));
    };
    read(store.inner(HEADER, size)?)
}

fn read(mut store: Reader<'_>) -> Result<Vec<VariableData>, Error> {
    let mut added = Vec::new();
    let mut moving = Vec::new();
    while store.peek().starts_with(&START_ID) {
        let _start = store.u16()?;
        let [state, _reserved] = store.array()?;
        let _attributes = store.u32()?;
        // Monotonic count, time stamp, index of the public key.
        store.take(8 + 16 + 4)?;
        let name_size = store.length(MAX_NAME)?;
        let data_size = store.length(MAX_DATA)?;
        let vendor = Guid::from_bytes(store.array()?);
        let units: Vec<u16> = {
            let bytes = store.take(name_size)?;
            let units = bytes.as_chunks::<2>().0.iter();
            units
                .map(|unit| u16::from_le_bytes(*unit))
                .take_while(|unit| *unit != 0)
                .collect()
        };
        let Ok(name) = String::from_utf16(&units) else {
            return store.wrong("a name that is not UTF-16");
        };
        let data = store.take(data_size)?;
        let padding = store
            .offset()
            .next_multiple_of(4)
            .saturating_sub(store.offset());
        store.take(padding.min(store.peek().len()))?;
        let variable = VariableData::new(vendor, &name, data);
        match state {
            ADDED => added.push(variable),
            IN_DELETED_TRANSITION => moving.push(variable),
            _ => {}
        }
    }
    // Cut off while it was being replaced: the old one counts as long as there is no new one.
    let is_replaced = |old: &VariableData| {
        let mut added = added.iter();
        added.any(|new| (new.vendor, &new.name) == (old.vendor, &old.name))
    };
    moving.retain(|old| !is_replaced(old));
    added.extend(moving);
    Ok(added)
}

const VOLUME: &str = "EFI_FIRMWARE_VOLUME_HEADER";
const STORE: &str = "VARIABLE_STORE_HEADER";
const HEADER: &str = "AUTHENTICATED_VARIABLE_HEADER";
const NV_DATA: &str = "fff12b8d-7696-4c8b-a985-2747075b4f50";
const AUTHENTICATED: &str = "aaf32c78-947b-439a-a180-2e144ec37792";
const SIGNATURE_AT: usize = 40;
const START_ID: [u8; 2] = [0xaa, 0x55];
const STORE_HEADER: usize = 28;
const FORMATTED: u8 = 0x5a;
const HEALTHY: u8 = 0xfe;
const ADDED: u8 = 0x3f;
const IN_DELETED_TRANSITION: u8 = 0x3e;
const MAX_NAME: usize = 1024;
const MAX_FILE: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::{ADDED, HEALTHY, IN_DELETED_TRANSITION, is_store, variables};
    use crate::uefi::guid;

    fn entry(state: u8, name: &str, data: &[u8]) -> Vec<u8> {
        let units: Vec<u8> = name
            .encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect();
        let mut bytes = vec![0xaa, 0x55, state, 0];
        bytes.extend([0; 4 + 8 + 16 + 4]);
        bytes.extend(u32::try_from(units.len()).unwrap().to_le_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        bytes.extend(guid::GLOBAL.to_bytes());
        bytes.extend(&units);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0xff);
        bytes
    }

    fn store(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut file = vec![0; 16];
        file.extend([
            0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b,
            0x4f, 0x50,
        ]);
        file.extend(0x1000_u64.to_le_bytes());
        file.extend(b"_FVH");
        file.extend([0; 4]);
        file.extend(72_u16.to_le_bytes());
        file.extend([0; 22]);
        let sum = file
            .as_chunks::<2>()
            .0
            .iter()
            .map(|w| u16::from_le_bytes(*w))
            .fold(0, u16::wrapping_add);
        file[50..52].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
        file.extend([
            0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3,
            0x77, 0x92,
        ]);
        file.extend(0x800_u32.to_le_bytes());
        file.extend([0x5a, HEALTHY, 0, 0, 0, 0, 0, 0]);
        entries.iter().for_each(|entry| file.extend(entry));
        file.resize(0x1000, 0xff);
        file
    }

    #[test]
    fn valid_variables_and_no_deleted_ones() {
        let file = store(&[
            entry(0x3c, "PK", b"deleted"),
            entry(IN_DELETED_TRANSITION, "PK", b"old"),
            entry(ADDED, "PK", b"new"),
            entry(IN_DELETED_TRANSITION, "KEK", b"kept"),
            entry(0x7f, "db", b"half written"),
        ]);
        assert!(is_store(&file));
        let found = variables(&file).unwrap();
        let found: Vec<(&str, &[u8])> = found
            .iter()
            .map(|v| (v.name.as_str(), v.data.as_slice()))
            .collect();
        assert_eq!(found, [("PK", b"new".as_slice()), ("KEK", b"kept")]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let good = store(&[entry(ADDED, "PK", b"x")]);
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            variables(&bad).unwrap_err().to_string()
        };
        assert!(with(16, &[0]).contains("expected that of variables"));
        assert!(with(32, &[0xff; 8]).contains("a length of 18446744073709551615"));
        assert!(with(44, &[1]).contains("wrong checksum"));
        assert!(with(72, &[0]).contains("expected authenticated variables"));
        assert!(with(88, &[1, 0, 0, 0]).contains("a size of 1,"));
        assert!(with(93, &[0]).contains("not in use"));
        let long = with(100 + 36, &[0xff; 4]);
        assert!(
            long.contains("AUTHENTICATED_VARIABLE_HEADER is malformed at offset 140"),
            "{long}"
        );
        for end in [0, 39, 60, 90, 120] {
            assert!(variables(&good[..end]).is_err(), "{end}");
        }
    }
}

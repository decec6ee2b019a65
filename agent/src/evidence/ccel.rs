// SPDX-License-Identifier: Apache-2.0

//! The event log behind TDX's runtime registers: the firmware keeps it in an ACPI table (CCEL, UEFI 2.10
//! section 38.4), in the form of the TCG PC Client Platform Firmware Profile, section 10. Only its end is looked for
//! here; what it says is the verifier's business.

use super::rtmr;
use super::tee_error::TeeError;
use super::tsm::read_limited;
use kbs_protocol::Error;
use std::io::ErrorKind;
use std::path::Path;

/// The log, cut where it ends; after it what this agent has extended, and the log of an Attestation Agent, all in the
/// same form. `None` where the firmware keeps none.
///
/// # Errors
/// It cannot be read, or is no log.
pub(super) fn read(root: &Path) -> Result<Option<Vec<u8>>, TeeError> {
    let Some(table) = optional(&root.join(TABLE))? else {
        return Ok(None);
    };
    let length = used(&table)?;
    let mut log = table;
    log.truncate(length);
    for more in [rtmr::LOG, AGENT_LOG] {
        log.extend(optional(&root.join(more))?.unwrap_or_default());
    }
    // What upstream's attester ends it with, and its parser looks for.
    log.extend([0xff; 8]);
    Ok(Some(log))
}

/// How many bytes of the area the events fill. What was never written is all ones or all zeros.
fn used(area: &[u8]) -> Result<usize, Error> {
    let mut reader = Reader { rest: area };
    let used = |reader: &Reader<'_>| area.len().saturating_sub(reader.rest.len());
    // The first event has the form of TPM 1.2: one SHA-1 digest of zeros, no list.
    reader.skip(4 + 4 + 20)?;
    let header = reader.sized()?;
    let algorithms = algorithms(header)?;
    loop {
        let end = used(&reader);
        match reader.rest.first_chunk::<8>() {
            None | Some([0xff, 0xff, 0xff, 0xff, ..]) => return Ok(end),
            Some([0, 0, 0, 0, 0, 0, 0, 0]) => return Ok(end),
            Some(_) => {}
        }
        reader.skip(8)?;
        for _ in 0..reader.u32()? {
            let algorithm = reader.u16()?;
            let size = algorithms.iter().find(|(id, _)| *id == algorithm);
            let (_, size) =
                size.ok_or_else(|| wrong("a digest of an algorithm that it does not announce"))?;
            reader.skip(usize::from(*size))?;
        }
        reader.sized()?;
    }
}

/// Algorithm and digest size of each bank, from TCG_EfiSpecIdEvent.
fn algorithms(header: &[u8]) -> Result<Vec<(u16, u16)>, Error> {
    let mut reader = Reader { rest: header };
    if !header.starts_with(b"Spec ID Event03\0") {
        return Err(wrong("a first event that is no Spec ID Event03"));
    }
    reader.skip(16 + 4 + 4)?;
    let count = reader.u32()?.min(MOST_BANKS);
    (0..count)
        .map(|_| Ok((reader.u16()?, reader.u16()?)))
        .collect()
}

struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], Error> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| wrong("an event that does not end"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn skip(&mut self, length: usize) -> Result<(), Error> {
        self.take(length).map(drop)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        let bytes = self.take(2)?.try_into().unwrap_or_default();
        Ok(u16::from_le_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32, Error> {
        let bytes = self.take(4)?.try_into().unwrap_or_default();
        Ok(u32::from_le_bytes(bytes))
    }

    fn sized(&mut self) -> Result<&'b [u8], Error> {
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        self.take(length)
    }
}

fn optional(path: &Path) -> Result<Option<Vec<u8>>, TeeError> {
    match read_limited(path, LIMIT) {
        Err(TeeError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn wrong(why: &str) -> Error {
    Error::Malformed {
        what: "the event log (CCEL)",
        why: format!("it has {why}"),
    }
}

const TABLE: &str = "sys/firmware/acpi/tables/data/CCEL";
const AGENT_LOG: &str = "run/attestation-agent/eventlog";
/// Firmware reserves 64 KiB; the whole message to the KBS may have 2 MiB.
const LIMIT: usize = 512 * 1024;
const MOST_BANKS: u32 = 16;

#[cfg(test)]
mod tests {
    use super::{AGENT_LOG, TABLE, read, used};

    fn sized(bytes: &[u8]) -> Vec<u8> {
        [
            &u32::try_from(bytes.len()).unwrap().to_le_bytes()[..],
            bytes,
        ]
        .concat()
    }

    fn log() -> Vec<u8> {
        let mut spec_id = b"Spec ID Event03\0".to_vec();
        spec_id.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0]);
        let first = [&[1, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &sized(&spec_id)].concat();
        let event = |index: u8, data: &[u8]| {
            [
                &[index, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0x0c, 0][..],
                &[0xff; 48],
                &sized(data),
            ]
            .concat()
        };
        [first, event(1, b"one"), event(2, &[0xff; 20])].concat()
    }

    #[test]
    fn the_log_ends_where_nothing_was_written() {
        let log = log();
        assert_eq!(used(&log).unwrap(), log.len());
        for filler in [0xff, 0] {
            let area = [&log[..], &[filler; 4096]].concat();
            assert_eq!(used(&area).unwrap(), log.len(), "{filler}");
        }
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let log = log();
        for length in (1..log.len()).filter(|length| used(&log[..*length]).is_ok()) {
            // Only between events, where it may as well have ended; less than a header is no event.
            assert!(length - used(&log[..length]).unwrap() < 8);
        }
        assert!(used(&[]).is_err() && used(&[0xff; 4096]).is_err() && used(&[0; 4096]).is_err());
        let mut other = log.clone();
        let digest = other.windows(2).rposition(|w| w == [0x0c, 0]).unwrap();
        other[digest] = 0x0b;
        let why = used(&other).unwrap_err().to_string();
        assert!(why.contains("does not announce"), "{why}");
        let mut older = log.clone();
        let version = older.windows(2).position(|w| w == *b"03").unwrap();
        older[version + 1] = b'2';
        let why = used(&older).unwrap_err().to_string();
        assert!(why.contains("no Spec ID Event03"), "{why}");
        // An area whose announcement lies behind its end.
        let mut huge = log;
        huge[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(used(&huge).is_err());
    }

    #[test]
    fn logs_are_joined_and_ended() {
        let root = tempfile::tempdir().unwrap();
        assert!(read(root.path()).unwrap().is_none());
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        put(TABLE, &[&log()[..], &[0xff; 100]].concat());
        assert_eq!(
            read(root.path()).unwrap().unwrap(),
            [&log()[..], &[0xff; 8]].concat()
        );
        put(AGENT_LOG, b"more");
        put(crate::evidence::rtmr::LOG, b"ours");
        let both = [&log()[..], b"ours", b"more", &[0xff; 8]].concat();
        assert_eq!(read(root.path()).unwrap().unwrap(), both);
        put(TABLE, b"short");
        assert!(read(root.path()).is_err());
        put(TABLE, &vec![0; super::LIMIT + 1]);
        assert!(read(root.path()).unwrap_err().to_string().contains("CCEL"));
    }
}

// SPDX-License-Identifier: Apache-2.0

//! `/run/log/systemd/tpm2-measure.log`: what user space has measured, for systemd-pcrlock(8) and for whoever wants to
//! follow a PCR.
//!
//! A sequence of JSON texts (RFC 7464), each a record of the TCG's Canonical Event Log with systemd's content type.
//! The file is locked while it is written. Its sticky bit says that an extend is under way which the log does not
//! have yet, as systemd does it: after a crash in between, readers know that the log is not the whole story.

use crate::evidence::TpmError;
use crate::evidence::tpm_pcr::{Extended, Pcr};
use crate::state::RunDirectory;
use serde_json::json;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

/// The kind of an event, in systemd's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// The boot went from one phase to the next.
    Phase,
    /// A volume was opened.
    VolumeKey,
}

/// The log, wherever it is.
#[derive(Debug, Clone)]
pub struct MeasureLog {
    path: PathBuf,
}

impl MeasureLog {
    /// systemd's log; beside the state where that is not in its usual place, as in tests.
    pub fn of(run: &RunDirectory) -> Self {
        if run.is_default() {
            Self::at(PATH.into())
        } else {
            Self::at(run.path().join("tpm2-measure.log"))
        }
    }

    /// The log at this place.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Extends, and writes down what was extended. A log that cannot be written does not keep a register from
    /// moving: the register decides, the log explains.
    pub(super) fn around(
        &self,
        extend: impl FnOnce() -> Result<Extended, TpmError>,
        record: impl FnOnce(&Extended) -> String,
    ) -> Result<Extended, TpmError> {
        let log = self.begin();
        let extended = extend()?;
        if let Err(error) = log.and_then(|log| end(log, &record(&extended))) {
            log::warn!(
                "a measurement is missing in {}: {error}",
                self.path.display()
            );
        }
        Ok(extended)
    }

    fn begin(&self) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(CLEAN)
            .open(&self.path)?;
        file.lock()?;
        file.set_permissions(Permissions::from_mode(DIRTY))?;
        Ok(file)
    }
}

fn end(mut log: File, record: &str) -> io::Result<()> {
    log.write_all(format!("\u{1e}{record}\n").as_bytes())?;
    log.set_permissions(Permissions::from_mode(CLEAN))
}

/// One record.
pub(super) fn record(pcr: Pcr, words: &str, kind: EventType, digests: &[(&str, String)]) -> String {
    let digests: Vec<_> = digests
        .iter()
        .map(|(bank, digest)| json!({ "hashAlg": bank, "digest": digest }))
        .collect();
    let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
    json!({
        "pcr": pcr.number(),
        "digests": digests,
        "content_type": "systemd",
        "content": {
            "string": words,
            "bootId": boot.trim().replace('-', ""),
            "timestamp": microseconds_since_boot(),
            "eventType": match kind {
                EventType::Phase => "phase",
                EventType::VolumeKey => "volume-key",
            },
        },
    })
    .to_string()
}

/// CLOCK_BOOTTIME, which the host cannot set.
fn microseconds_since_boot() -> u128 {
    crate::clock::since_boot().as_micros()
}

const PATH: &str = "/run/log/systemd/tpm2-measure.log";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const CLEAN: u32 = 0o600;
const DIRTY: u32 = 0o1600;

#[cfg(test)]
mod tests {
    use super::{EventType, MeasureLog, record};
    use crate::evidence::TpmError;
    use crate::evidence::tpm_pcr::{Extended, Pcr};
    use serde_json::{Value, json};
    use std::os::unix::fs::PermissionsExt as _;

    fn extended() -> Result<Extended, TpmError> {
        Ok(Extended {
            before: [0; 32],
            after: [1; 32],
            digests: vec![("sha256", "ab".repeat(32))],
        })
    }

    fn write(extended: &Extended) -> String {
        record(
            Pcr::Eleven,
            "trustee:leave-initrd",
            EventType::Phase,
            &extended.digests,
        )
    }

    #[test]
    fn records_are_those_of_systemd() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log/tpm2-measure.log");
        let mode = || path.metadata().unwrap().permissions().mode() & 0o7777;
        let log = MeasureLog::at(path.clone());
        let during = || {
            assert_eq!(mode(), 0o1600, "an extend is under way");
            extended()
        };
        log.around(during, write).unwrap();
        log.around(during, write).unwrap();
        assert_eq!(mode(), 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let records: Vec<Value> = text
            .split('\u{1e}')
            .skip(1)
            .map(|text| serde_json::from_str(text).unwrap())
            .collect();
        assert_eq!(records.len(), 2);
        let mut first = records.into_iter().next().unwrap();
        let content = first.get_mut("content").unwrap();
        let boot = content.as_object_mut().unwrap().remove("bootId").unwrap();
        assert_eq!(boot.as_str().unwrap().len(), 32);
        let time = content
            .as_object_mut()
            .unwrap()
            .remove("timestamp")
            .unwrap();
        assert!(time.as_u64().unwrap() > 0);
        assert_eq!(
            first,
            json!({
                "pcr": 11,
                "digests": [{ "hashAlg": "sha256", "digest": "ab".repeat(32) }],
                "content_type": "systemd",
                "content": { "string": "trustee:leave-initrd", "eventType": "phase" },
            })
        );
    }

    #[test]
    fn after_a_failure_the_log_says_that_it_is_not_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tpm2-measure.log");
        let failed = MeasureLog::at(path.clone()).around(
            || {
                Err(TpmError::Mute {
                    path: String::new(),
                })
            },
            write,
        );
        assert!(failed.is_err());
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o7777,
            0o1600
        );
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        let log = MeasureLog::at("/proc/no/such/tpm2-measure.log".into());
        assert!(log.around(extended, write).is_ok());
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Evidence from AMD SEV-SNP: an attestation report over the handshake's digest, and the certificates that the
//! host handed to the guest.
//!
//! Through configfs-tsm where the kernel has it (Linux 6.7), else through `/dev/sev-guest`. The older way brings
//! no certificates: the table is the host's, and the library at hand follows its offsets unchecked. A KBS
//! then fetches the certificate by the chip's id.

use super::tee_error::{TeeError, is_busy};
use super::tsm::{DRIVER, Tsm};
use super::{Attester, EvidenceError};
use kbs_protocol::Tee;
use kbs_protocol::encoding::hex;
use kbs_protocol::evidence::{CertTable, SnpEvidence, SnpReport};
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::runtime_data::RuntimeDigest;
use serde_json::{Value, json};
use sev::error::{FirmwareError, UserApiError, VmmError};
use sev::firmware::guest::Firmware;
use std::io;
use std::path::Path;
use std::time::Duration;

/// An SEV-SNP guest that can be asked for reports.
pub struct SnpAttester {
    way: Way,
    init_data: Option<InitDataToml>,
}

enum Way {
    Tsm(Tsm),
    Device,
}

impl SnpAttester {
    /// Finds the way to the firmware. `root` is `/` on a node.
    ///
    /// # Errors
    /// [`TeeError::Missing`] with what is not there, [`TeeError::Provider`] on another kind of machine.
    pub fn open(root: &Path, init_data: Option<InitDataToml>) -> Result<Self, TeeError> {
        let way = match Tsm::find(root) {
            Some(tsm) => {
                tsm.expect(Tee::Snp, PROVIDER)?;
                Way::Tsm(tsm)
            }
            None if root.join(DEVICE).exists() => Way::Device,
            None => return Err(missing(root)),
        };
        Ok(Self { way, init_data })
    }

    /// The report as the firmware signed it, and the host's certificate table.
    fn sign(&self, data: &[u8]) -> Result<(Vec<u8>, Vec<u8>), TeeError> {
        match &self.way {
            Way::Tsm(tsm) => {
                let signed = tsm.sign(Tee::Snp, PROVIDER, data)?;
                Ok((signed.report, signed.auxiliary))
            }
            Way::Device => {
                let failed = |source| TeeError::io("ask", format!("/{DEVICE}"), source);
                let data = data
                    .try_into()
                    .map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
                let report = while_busy(|| ask_device(data)).map_err(failed)?;
                Ok((report, Vec::new()))
            }
        }
    }

    fn evidence(&self, digest: &RuntimeDigest) -> Result<SnpEvidence, TeeError> {
        let data = digest.report_data(Tee::Snp);
        let (report, table) = self.sign(&data)?;
        let report = *SnpReport::parse(&report)?.fields();
        check(&report, &data, self.init_data.as_ref())?;
        let cert_chain = match CertTable::parse(&table) {
            Ok(table) => {
                let chain = table.into_chain();
                if chain.is_none() {
                    log::warn!(
                        "the host handed no certificate of the processor's key along: the KBS needs it from AMD's \
                         service or from its own store, under chip {}",
                        hex::encode(report.chip_id)
                    );
                }
                chain
            }
            // They are a convenience of the host's; the report stands without them.
            Err(error) => {
                log::warn!("{error}; sending the report without certificates");
                None
            }
        };
        Ok(SnpEvidence {
            attestation_report: report,
            cert_chain,
        })
    }
}

fn ask_device(data: [u8; 64]) -> io::Result<Vec<u8>> {
    let report = Firmware::open()?.get_report(Some(MESSAGE_VERSION), Some(data), Some(0));
    report.map_err(|error| {
        // The library leaves out what the kernel said, which is where it was.
        let kernel = io::Error::last_os_error();
        match error {
            UserApiError::VmmError(VmmError::RateLimitRetryRequest) => {
                io::Error::new(io::ErrorKind::ResourceBusy, error.to_string())
            }
            // Neither the host nor the firmware has said anything.
            UserApiError::FirmwareError(FirmwareError::UnknownSevError(0)) => kernel,
            _ => io::Error::other(error.to_string()),
        }
    })
}

/// Asks again, a few times, where the host lets its guests ask now and then only. The kernel has waited for up to a minute
/// before it says so, and a challenge is good for five. Whoever waits longer does it with a new one.
fn while_busy<T>(mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut pauses = BUSY_PAUSES.into_iter();
    loop {
        match (ask(), pauses.next()) {
            (Err(error), Some(pause)) if is_busy(&error) => {
                log::info!("{error}; asking for the report again");
                std::thread::sleep(pause);
            }
            (done, _) => return done,
        }
    }
}

/// Looks at a report as a verifier will, where the reason can be told better here.
fn check(
    report: &sev::firmware::guest::AttestationReport,
    data: &[u8],
    init_data: Option<&InitDataToml>,
) -> Result<(), TeeError> {
    if report.report_data != data {
        return Err(TeeError::Stale { tee: Tee::Snp });
    }
    if report.version < OLDEST_VERSION {
        return Err(TeeError::OldFirmware {
            version: report.version,
        });
    }
    if report.vmpl != 0 {
        return Err(TeeError::Privilege {
            level: report.vmpl.to_string(),
        });
    }
    let expected = init_data.map(InitDataToml::launch_register);
    match expected.filter(|expected| *expected != report.host_data) {
        None => Ok(()),
        Some(expected) => Err(TeeError::InitData {
            register: "HOST_DATA",
            found: hex::encode(report.host_data),
            expected: hex::encode(expected),
        }),
    }
}

impl Attester for SnpAttester {
    fn tee(&self) -> Tee {
        Tee::Snp
    }

    fn detect(&mut self) -> Result<String, EvidenceError> {
        Ok(match self.way {
            Way::Tsm(_) => "SEV-SNP reports with certificates, through configfs-tsm",
            Way::Device => "SEV-SNP reports without certificates, through /dev/sev-guest",
        }
        .to_owned())
    }

    fn node_key(&self) -> Option<&[u8]> {
        None
    }

    fn collect(&mut self, digest: &RuntimeDigest) -> Result<Value, EvidenceError> {
        Ok(json!(self.evidence(digest)?))
    }
}

fn missing(root: &Path) -> TeeError {
    let (why, cure) = match root.join("sys/devices/platform/sev-guest").exists() {
        true => (
            "the firmware is there, the kernel module sev-guest is not loaded".to_owned(),
            DRIVER,
        ),
        false => (
            format!(
                "there is neither /sys/kernel/config/tsm/report nor /dev/sev-guest: {}",
                Tsm::what_is_missing(root)
            ),
            "start the machine as an SEV-SNP guest, with a kernel that has CONFIG_SEV_GUEST and CONFIG_TSM_REPORTS; or \
             set evidence.primary in agent.toml to what this machine is",
        ),
    };
    TeeError::Missing {
        tee: Tee::Snp,
        why,
        cure,
    }
}

const PROVIDER: &str = "sev_guest";
const DEVICE: &str = "dev/sev-guest";
/// Of the guest message, not of the report.
const MESSAGE_VERSION: u32 = 1;
const OLDEST_VERSION: u32 = 3;
/// Between tries of a busy device.
const BUSY_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

#[cfg(test)]
mod tests {
    use super::{DEVICE, SnpAttester};
    use crate::evidence::Attester as _;
    use kbs_protocol::message::RuntimeData;
    use kbs_protocol::runtime_data::RuntimeDigest;
    use kbs_protocol::tee_key::TeeKey;
    use std::path::Path;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// From below: file system, mount, module, driver; each is named while it is the first that is missing.
    #[test]
    fn what_is_missing_is_named_from_below() {
        let root = tempfile::tempdir().unwrap();
        let why = || {
            SnpAttester::open(root.path(), None)
                .err()
                .unwrap()
                .to_string()
        };
        assert!(why().contains("module configfs is not loaded"), "{}", why());
        put(
            root.path(),
            "proc/filesystems",
            "nodev\tsysfs\nnodev\tconfigfs\n",
        );
        assert!(why().contains("configfs is not mounted"), "{}", why());
        put(
            root.path(),
            "proc/self/mounts",
            "configfs /sys/kernel/config configfs rw 0 0\n",
        );
        assert!(why().contains("module tsm_report"), "{}", why());
        std::fs::create_dir_all(root.path().join("sys/devices/platform/sev-guest")).unwrap();
        assert!(
            why().contains("module sev-guest is not loaded"),
            "{}",
            why()
        );
    }

    /// The older way, as far as it goes on a machine without the device: it is taken, said, and fails in words.
    #[test]
    fn without_configfs_the_device_is_asked() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), DEVICE, "");
        let mut attester = SnpAttester::open(root.path(), None).unwrap();
        let what = attester.detect().unwrap();
        assert!(
            what.ends_with("without certificates, through /dev/sev-guest"),
            "{what}"
        );
        if Path::new("/").join(DEVICE).exists() {
            eprintln!("SKIPPED: this machine has /dev/sev-guest, so nothing more was tested here");
            return;
        }
        let data = RuntimeData {
            nonce: "n".to_owned(),
            tee_pubkey: TeeKey::generate().unwrap().public(),
        };
        let error = attester.collect(&RuntimeDigest::primary(&data, "").unwrap());
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("cannot ask /dev/sev-guest: "), "{error}");
    }
}

// SPDX-License-Identifier: Apache-2.0

//! TDX's runtime registers, through the kernel's measurement files
//! (Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest, Linux 6.16): register 3 plays the part that
//! PCR 11 plays on a TPM, and whoever seals a boot moves it.
//!
//! A verifier replays the event log that comes with a quote, so what we extend stands in a log of ours, which `ccel`
//! puts behind the firmware's. The log explains the register and never decides: without it a sealed TD fails to
//! attest, which is no less sealed.

use super::tee_error::TeeError;
use super::tsm::read_limited;
use kbs_protocol::Tee;
use kbs_protocol::encoding::hex;
use sha2::{Digest as _, Sha384};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Register 3, which firmware and boot loaders leave alone.
pub struct Rtmr3 {
    file: PathBuf,
    log: PathBuf,
}

/// An extend that happened.
pub struct Extended {
    /// The value before, SHA-384.
    pub before: [u8; 48],
    /// The value after.
    pub after: [u8; 48],
}

impl Rtmr3 {
    /// Its name in states and messages.
    pub const NAME: &'static str = "rtmr3";

    /// The register, if the kernel lets its guest extend it. `root` is `/` on a node.
    ///
    /// # Errors
    /// [`TeeError::Missing`].
    pub fn find(root: &Path) -> Result<Self, TeeError> {
        let file = root.join(REGISTER);
        match file.exists() {
            true => Ok(Self {
                file,
                log: root.join(LOG),
            }),
            false => Err(TeeError::Missing {
                tee: Tee::Tdx,
                why: format!(
                    "there is no /{REGISTER}, so RTMR 3 cannot be extended to seal a boot"
                ),
                cure: "use Linux 6.16 or newer with CONFIG_TDX_GUEST_DRIVER and CONFIG_TSM_MEASUREMENTS, and have \
                       tdx-guest in the initramfs; or set boot.seal = \"none\" and boot.confidential = false, and what is \
                       booted can fetch the disk's secret again",
            }),
        }
    }

    /// The value, SHA-384.
    ///
    /// # Errors
    /// [`TeeError::Io`].
    pub fn value(&self) -> Result<[u8; 48], TeeError> {
        let bytes = read_limited(&self.file, SIZE)?;
        bytes
            .try_into()
            .map_err(|_| TeeError::io("read", &self.file, ErrorKind::UnexpectedEof.into()))
    }

    /// Extends it with the digest of an event's words, and makes sure that it moved. It moves once for each call: who
    /// calls must know that it did not yet.
    ///
    /// # Errors
    /// [`TeeError::Io`]; [`TeeError::Unmoved`] when the kernel says that it has done it and it has not.
    pub fn extend_by(&self, words: &str) -> Result<Extended, TeeError> {
        let before = self.value()?;
        let digest: [u8; 48] = Sha384::digest(words).into();
        OpenOptions::new()
            .write(true)
            .open(&self.file)
            .and_then(|mut file| file.write_all(&digest))
            .map_err(|error| TeeError::io("write", &self.file, error))?;
        let after = self.value()?;
        if after != extended(&before, &digest) {
            return Err(TeeError::Unmoved {
                before: hex::encode(before),
                after: hex::encode(after),
            });
        }
        if let Err(error) = self.note(words, &digest) {
            log::warn!(
                "an event is missing in {}, and quotes of this boot will not be believed any more: {error}",
                self.log.display()
            );
        }
        Ok(Extended { before, after })
    }

    fn note(&self, words: &str, digest: &[u8]) -> io::Result<()> {
        if let Some(directory) = self.log.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.log)?;
        log.write_all(&event(words, digest))
    }
}

/// The value after an extend (Intel TDX Module, TDG.MR.RTMR.EXTEND).
fn extended(value: &[u8; 48], digest: &[u8; 48]) -> [u8; 48] {
    let both = Sha384::new().chain_update(value).chain_update(digest);
    both.finalize().into()
}

/// TCG_PCR_EVENT2 with one SHA-384 digest, over the words themselves.
fn event(words: &str, digest: &[u8]) -> Vec<u8> {
    // Our words are a line.
    let length = u32::try_from(words.len()).unwrap_or_default();
    [
        &LOG_INDEX.to_le_bytes()[..],
        &EV_IPL.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &TPM_ALG_SHA384.to_le_bytes(),
        digest,
        &length.to_le_bytes(),
        words.as_bytes(),
    ]
    .concat()
}

const REGISTER: &str = "sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";
/// Events of ours, in the form of the firmware's log.
pub(super) const LOG: &str = "run/trustee/rtmr3-eventlog";
const SIZE: usize = 48;
/// Where RTMR 3 stands in a log (UEFI 2.10, section 38.4).
const LOG_INDEX: u32 = 4;
const EV_IPL: u32 = 0xd;
const TPM_ALG_SHA384: u16 = 0x0c;

#[cfg(test)]
mod tests {
    use super::{LOG, REGISTER, Rtmr3, event, extended};
    use crate::evidence::TeeError;
    use kbs_protocol::encoding::hex;

    #[test]
    fn a_register_that_does_not_move_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let missing = Rtmr3::find(root.path()).err().unwrap();
        assert!(missing.to_string().contains("rtmr3:sha384"), "{missing}");
        let file = root.path().join(REGISTER);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, [0; 48]).unwrap();
        let register = Rtmr3::find(root.path()).unwrap();
        assert_eq!(register.value().unwrap(), [0; 48]);
        // A plain file keeps what is written and extends nothing.
        let error = register.extend_by("words").err().unwrap();
        assert!(matches!(error, TeeError::Unmoved { .. }), "{error}");
        assert!(!root.path().join(LOG).exists());
        for wrong in [47, 49] {
            std::fs::write(&file, vec![0; wrong]).unwrap();
            assert!(register.value().is_err(), "{wrong}");
        }
    }

    /// As `sha384sum` gives it, over 48 zeros and the digest of the words.
    #[test]
    fn values_and_events_are_those_of_other_programs() {
        let digest: [u8; 48] = hex::decode(WORDS).unwrap().try_into().unwrap();
        assert_eq!(hex::encode(extended(&[0; 48], &digest)), SEALED);
        let event = hex::encode(event("trustee:leave-initrd", &digest));
        let head = "040000000d000000010000000c00";
        assert_eq!(
            event,
            format!("{head}{WORDS}14000000747275737465653a6c656176652d696e69747264")
        );
    }

    const WORDS: &str = "773faad3f28a4d02f26c5fe9541e49f0ceca6c85247eaef909e5a598c0c46d5ca0ec73e73df10ed5d8238e8a6e86ae7a";
    const SEALED: &str = "a8ee4d94fa0fd73a8485ca170bc0ed9b18da11a405c16cd32b28c2ac14fa0a3cbf9b09bd90f502ea53325c14b89e1ffd";
}

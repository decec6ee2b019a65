// SPDX-License-Identifier: Apache-2.0

//! TDX's runtime registers, through the kernel's measurement files
//! (Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest, Linux 6.16): register 3 plays the part that
//! PCR 11 plays on a TPM, and whoever seals a boot moves it.

use super::tee_error::TeeError;
use super::tsm::read_limited;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Register 3, which firmware and boot loaders leave alone.
pub struct Rtmr3(PathBuf);

impl Rtmr3 {
    /// The register, if this is a TD whose kernel lets its guest extend it. `root` is `/` on a node.
    pub fn find(root: &Path) -> Option<Self> {
        let path = root.join(REGISTER);
        path.exists().then_some(Self(path))
    }

    /// The value, SHA-384.
    ///
    /// # Errors
    /// [`TeeError::Io`].
    pub fn value(&self) -> Result<[u8; 48], TeeError> {
        let bytes = read_limited(&self.0, SIZE)?;
        bytes
            .try_into()
            .map_err(|_| TeeError::io("read", &self.0, ErrorKind::UnexpectedEof.into()))
    }

    /// Extends it with a digest. A register moves once for each call: who calls must know that it did not yet.
    ///
    /// # Errors
    /// [`TeeError::Io`]: the register may or may not have moved; its value tells.
    pub fn extend(&self, digest: &[u8; 48]) -> Result<(), TeeError> {
        OpenOptions::new()
            .write(true)
            .open(&self.0)
            .and_then(|mut file| file.write_all(digest))
            .map_err(|error| TeeError::io("write", &self.0, error))
    }
}

const REGISTER: &str = "sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";
const SIZE: usize = 48;

#[cfg(test)]
mod tests {
    use super::{REGISTER, Rtmr3};

    #[test]
    fn the_register_is_one_file_with_48_bytes() {
        let root = tempfile::tempdir().unwrap();
        assert!(Rtmr3::find(root.path()).is_none());
        let file = root.path().join(REGISTER);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, [0; 48]).unwrap();
        let register = Rtmr3::find(root.path()).unwrap();
        assert_eq!(register.value().unwrap(), [0; 48]);
        register.extend(&[7; 48]).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), [7; 48]);
        for wrong in [47, 49] {
            std::fs::write(&file, vec![0; wrong]).unwrap();
            assert!(register.value().is_err(), "{wrong}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! What a register shows once its node has left the initramfs, computed from what it shows inside. The policies cannot
//! hash, so each pair of values is a reference value; by it they know a sealed node from one that booted something else.

use kbs_protocol::encoding::hex;
use kbs_protocol::seal::{LEAVE, SYSTEMD_LATER, SYSTEMD_LEAVE};
use measured_boot::bank::{Bank, Digest};

/// PCR 11 after the seal. Where nothing had been measured (GRUB) nobody but the agent does. On a unified kernel image it
/// is the agent or systemd who ends the phase, and systemd measures two more until the system is up.
pub(super) fn of_pcr11(inside: &str) -> Vec<String> {
    let register = Digest::new(hex::decode(inside).unwrap_or_default());
    if register == Bank::Sha256.zero() {
        return vec![hex::encode(
            after(Bank::Sha256, &register, LEAVE).as_bytes(),
        )];
    }
    let mut values = Vec::new();
    for first in [LEAVE, SYSTEMD_LEAVE] {
        let mut value = register.clone();
        for words in [first].into_iter().chain(SYSTEMD_LATER) {
            value = after(Bank::Sha256, &value, words);
            values.push(hex::encode(value.as_bytes()));
        }
    }
    values
}

/// RTMR 3 after the seal, which nobody but the agent extends.
pub(super) fn of_rtmr3(inside: &str) -> String {
    let register = Digest::new(hex::decode(inside).unwrap_or_default());
    hex::encode(after(Bank::Sha384, &register, LEAVE).as_bytes())
}

fn after(bank: Bank, register: &Digest, words: &str) -> Digest {
    bank.extend(register, &bank.hash(words.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{of_pcr11, of_rtmr3};

    /// As `sha256sum` and `sha384sum` give them.
    #[test]
    fn values_are_those_of_other_programs() {
        assert_eq!(of_pcr11(&"0".repeat(64)), [GRUB]);
        assert_eq!(of_rtmr3(&"0".repeat(96)), TD);
        let image = of_pcr11(&"2".repeat(64));
        assert_eq!(
            (image.len(), &*image[0], &*image[5]),
            (6, IMAGE_OURS, IMAGE_READY)
        );
    }

    const GRUB: &str = "e7e7e69e789eca2dd33f829c335bb6e92d6ee30af616db4b3cefab6fc4d80942";
    const TD: &str = "a8ee4d94fa0fd73a8485ca170bc0ed9b18da11a405c16cd32b28c2ac14fa0a3cbf9b09bd90f502ea53325c14b89e1ffd";
    /// Over 32 bytes 0x22: `trustee:leave-initrd`.
    const IMAGE_OURS: &str = "b7e9847e7e90e88a57adb0de07c8ce83495b8177f508d5cc09a8445df52f527b";
    /// Over the same: `leave-initrd`, `sysinit`, `ready`.
    const IMAGE_READY: &str = "0d6ebf6505c762790db2ce64d9cf73f2d4efe6e605020ada485b96b90243119b";
}

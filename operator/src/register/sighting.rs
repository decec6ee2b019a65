// SPDX-License-Identifier: Apache-2.0

//! What is known of a node's last boot. A KBS tells nobody who attested, but a node that has opened its volumes signs a
//! record of them in its TPM (`trustee-agent verify-binding` on a first boot, `record-boot` on each), and the quote
//! shows which boot that was. The registrar writes down when it came; the operator compares it with the approved images.
//!
//! A copy of an old record says nothing new: the TPM's own count tells which of two is the younger.

use kbs_protocol::encoding::hex;
use kbs_protocol::volume_record::VerifiedRecord;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One signed record, seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sighting {
    /// When it came, by the registrar's clock, seconds since 1970.
    pub at: u64,
    /// Resets of the TPM, and milliseconds of its clock.
    order: (u32, u64),
    /// Registers that are not zero, by number, in hexadecimal.
    pcrs: BTreeMap<usize, String>,
}

impl Sighting {
    /// Of a record that was verified.
    pub fn new(record: &VerifiedRecord, now: SystemTime) -> Self {
        let registers = record.pcrs.iter().enumerate();
        let used = registers.filter(|(_, value)| **value != [0; LENGTH]);
        Self {
            at: now
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO)
                .as_secs(),
            order: record.order,
            pcrs: used
                .map(|(number, value)| (number, hex::encode(value)))
                .collect(),
        }
    }

    /// Reads what was kept. What is damaged counts as nothing: it is for people to see.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The text to keep.
    pub fn to_text(&self) -> String {
        // Numbers and texts always have a form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether the TPM signed this one later.
    pub fn is_younger_than(&self, other: &Self) -> bool {
        self.order > other.order
    }

    /// PCR 0 to 23.
    pub fn pcrs(&self) -> [[u8; LENGTH]; 24] {
        let mut pcrs = [[0; LENGTH]; 24];
        for (value, number) in pcrs.iter_mut().zip(0_usize..) {
            let text = self.pcrs.get(&number);
            let bytes = text.and_then(|text| hex::decode(text));
            if let Some(Ok(bytes)) = bytes.map(<[u8; LENGTH]>::try_from) {
                *value = bytes;
            }
        }
        pcrs
    }
}

/// On an AttestationKey: the youngest [`Sighting`] of its node.
pub const ANNOTATION: &str = "trusted-execution-clusters.io/last-seen";
const LENGTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::Sighting;
    use kbs_protocol::NodeId;
    use kbs_protocol::volume_record::{RecordedVolume, VerifiedRecord, VolumeRecord};
    use std::time::{Duration, UNIX_EPOCH};

    fn record(order: (u32, u64)) -> VerifiedRecord {
        let volume = RecordedVolume {
            name: "root".to_owned(),
            path: "default/n/root".to_owned(),
            luks_uuid: "3c2f9a1e-8f7d-4d09-9a30-3a1f6f2c0e11".to_owned(),
            vk_id: "0a".repeat(32),
        };
        let mut pcrs = vec![[0; 32]; 24];
        (pcrs[4], pcrs[14]) = ([4; 32], [14; 32]);
        VerifiedRecord {
            record: VolumeRecord::new(&NodeId::from_spki_der(b"key"), vec![volume]).unwrap(),
            ak_public: String::new(),
            pcrs,
            order,
        }
    }

    #[test]
    fn what_is_kept_reads_back_and_is_short() {
        let at = UNIX_EPOCH + Duration::from_secs(77);
        let seen = Sighting::new(&record((3, 9)), at);
        let text = seen.to_text();
        assert!(text.len() < 300, "{text}");
        assert_eq!(Sighting::parse(&text), Some(seen.clone()));
        assert_eq!(seen.pcrs()[14], [14; 32]);
        assert_eq!(seen.pcrs().to_vec(), record((0, 0)).pcrs);
        assert_eq!(seen.at, 77);
        for bad in ["", "{}", "nonsense"] {
            assert_eq!(Sighting::parse(bad), None);
        }
    }

    #[test]
    fn a_copy_is_not_younger() {
        let seen = |order| Sighting::new(&record(order), UNIX_EPOCH);
        assert!(!seen((3, 9)).is_younger_than(&seen((3, 9))));
        assert!(!seen((3, 8)).is_younger_than(&seen((3, 9))));
        assert!(seen((4, 1)).is_younger_than(&seen((3, 9))));
    }
}

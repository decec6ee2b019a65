// SPDX-License-Identifier: Apache-2.0

//! Which volume keys belong to a node: what it says of its volumes when they are made, signed by its TPM.
//!
//! A KBS lets nobody but its administrator write, so a node cannot store the ids of its volume keys there itself. It
//! writes them into a [`VolumeRecord`], has its TPM quote the PCRs over the digest of that text with its attestation
//! key, and hands both over as a [`SignedRecord`]: to the registrar (`POST` [`VOLUMES_PATH`]), or as a file. Whoever
//! verifies it knows which TPM said so, in which boot, whether that boot was still in its initramfs, and in which order
//! two such records were made. No secret is in it.

use crate::NodeId;
use crate::encoding::hex;
use crate::error::Error;
use crate::evidence::TpmEvidence;
use crate::message::parse;
use crate::resource::ResourcePath;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// `POST` to a registrar: a [`SignedRecord`] in, a [`Receipt`] out.
pub const VOLUMES_PATH: &str = "/v1/volumes";

/// What a node says of its volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRecord {
    version: u32,
    /// The node, as its text.
    node: String,
    volumes: Vec<RecordedVolume>,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedVolume {
    /// Its device-mapper name.
    pub name: String,
    /// Resource path of the secret that opens it.
    pub path: String,
    /// UUID of its LUKS2 header.
    pub luks_uuid: String,
    /// The id of its volume key: 64 lower-case hexadecimal digits.
    pub vk_id: String,
}

impl VolumeRecord {
    /// A record of these volumes, in the order of their paths: the same volumes make the same text.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what [`VolumeRecord::parse`] would refuse.
    pub fn new(node: &NodeId, mut volumes: Vec<RecordedVolume>) -> Result<Self, Error> {
        volumes.sort_by(|a, b| a.path.cmp(&b.path));
        let record = Self {
            version: VERSION,
            node: node.to_string(),
            volumes,
        };
        record.check().map(|()| record)
    }

    /// Reads the signed text.
    ///
    /// # Errors
    /// [`Error::Malformed`]: not JSON, another version, no volume or too many, two for one path, or a member of another
    /// form.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let record: Self = parse(RECORD, text.as_bytes(), TEXT_LIMIT)?;
        record.check().map(|()| record)
    }

    /// The text that is signed.
    pub fn to_text(&self) -> String {
        // It is made of texts and a number, which always have a form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a TPM signs beside its PCRs: SHA-256 over the purpose and the text. A quote for a KBS carries a digest over
    /// other words, so neither can be shown in the place of the other.
    pub fn extra_data(text: &str) -> [u8; 32] {
        Sha256::new()
            .chain_update(PURPOSE)
            .chain_update(text)
            .finalize()
            .into()
    }

    /// The node, as it names itself.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its volumes.
    pub fn volumes(&self) -> &[RecordedVolume] {
        &self.volumes
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |why: String| Err(Error::malformed(RECORD, why));
        if self.version != VERSION {
            return wrong(format!("version {}, expected {VERSION}", self.version));
        }
        if self.volumes.is_empty() || self.volumes.len() > MOST_VOLUMES {
            return wrong(format!(
                "{} volumes, expected 1 to {MOST_VOLUMES}",
                self.volumes.len()
            ));
        }
        let mut paths = BTreeSet::new();
        for volume in &self.volumes {
            let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
            if volume.name.is_empty() || volume.name.len() > NAME_LIMIT || !printable(&volume.name)
            {
                return wrong("the name of a volume is not one".to_owned());
            }
            if volume.path.parse::<ResourcePath>().is_err() {
                return wrong("the path of a volume is not one".to_owned());
            }
            if volume.luks_uuid.len() != UUID_LENGTH || !printable(&volume.luks_uuid) {
                return wrong("a LUKS UUID is not one".to_owned());
            }
            if !is_vk_id(&volume.vk_id) {
                return wrong("the id of a volume key is not 64 hexadecimal digits".to_owned());
            }
            if !paths.insert(&volume.path) {
                return wrong("two volumes have one path".to_owned());
            }
        }
        Ok(())
    }
}

/// Whether a text has the form of a volume key's id.
pub fn is_vk_id(text: &str) -> bool {
    text.len() == VK_ID_LENGTH && hex::decode(text).is_some() && !text.contains(char::is_uppercase)
}

/// A [`VolumeRecord`] and the quote over it, as they travel and are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRecord {
    /// The text of the record, to the byte.
    pub record: String,
    /// The quote, its PCRs and the key: extra data is [`VolumeRecord::extra_data`].
    pub evidence: TpmEvidence,
}

impl SignedRecord {
    /// Reads one. What it says is not believed before [`SignedRecord::verify`].
    ///
    /// # Errors
    /// Too large, not JSON, or a member missing.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        parse(SIGNED, bytes, SIGNED_LIMIT)
    }

    /// Writes it.
    pub fn to_json(&self) -> Vec<u8> {
        // As above.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A record whose signature holds. Whether the key is a known one, and the boot an approved one, is for the caller.
#[cfg(feature = "server")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRecord {
    /// What was said.
    pub record: VolumeRecord,
    /// By which attestation key: base64 of its DER SubjectPublicKeyInfo.
    pub ak_public: String,
    /// PCR 0 to 23 at that moment.
    pub pcrs: Vec<[u8; 32]>,
    /// When, by the TPM's own count: of two records of one TPM the greater is the younger.
    pub order: (u32, u64),
}

#[cfg(feature = "server")]
impl SignedRecord {
    /// Checks the signature, the quote and the form of what was signed.
    ///
    /// # Errors
    /// As [`crate::verify::tpm_quote`] and [`VolumeRecord::parse`].
    pub fn verify(&self) -> Result<VerifiedRecord, Error> {
        let extra_data = VolumeRecord::extra_data(&self.record);
        let quote = crate::verify::tpm_quote(&self.evidence, &extra_data)?;
        Ok(VerifiedRecord {
            record: VolumeRecord::parse(&self.record)?,
            ak_public: self.evidence.ak_public.clone(),
            pcrs: quote.pcrs,
            order: (quote.attest.reset_count, quote.attest.clock),
        })
    }
}

/// What a registrar answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Whether it had this record already.
    pub known: bool,
}

impl Receipt {
    /// Reads the answer (the node's side).
    ///
    /// # Errors
    /// Too large, not JSON, or a member missing.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        parse(RECEIPT, bytes, RECEIPT_LIMIT)
    }

    /// Writes the answer (the registrar's side).
    pub fn to_json(self) -> Vec<u8> {
        serde_json::to_vec(&self).unwrap_or_default()
    }
}

const RECORD: &str = "the record of volumes";
const SIGNED: &str = "the signed record of volumes";
const RECEIPT: &str = "the registrar's receipt";
const PURPOSE: &[u8] = b"sheepfold volume record v1\0";
const VERSION: u32 = 1;
/// A node has a root and a few data disks.
const MOST_VOLUMES: usize = 16;
const NAME_LIMIT: usize = 128;
const UUID_LENGTH: usize = 36;
const VK_ID_LENGTH: usize = 64;
const TEXT_LIMIT: usize = 16 * 1024;
const SIGNED_LIMIT: usize = 32 * 1024;
const RECEIPT_LIMIT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::{Receipt, RecordedVolume, SignedRecord, VolumeRecord};
    use crate::NodeId;
    use crate::evidence::{TpmEvidence, TpmQuote};
    use serde_json::{Value, json};

    fn volume(name: &str) -> RecordedVolume {
        RecordedVolume {
            name: name.to_owned(),
            path: format!("default/node/{name}"),
            luks_uuid: "3c2f9a1e-8f7d-4d09-9a30-3a1f6f2c0e11".to_owned(),
            vk_id: "0a".repeat(32),
        }
    }

    fn good() -> Value {
        let node = NodeId::from_spki_der(b"key");
        let record = VolumeRecord::new(&node, vec![volume("root"), volume("data")]).unwrap();
        let other = VolumeRecord::new(&node, vec![volume("data"), volume("root")]).unwrap();
        assert_eq!(record.to_text(), other.to_text());
        serde_json::from_str(&record.to_text()).unwrap()
    }

    #[test]
    fn a_record_reads_back_and_nothing_else_does() {
        let text = good().to_string();
        let record = VolumeRecord::parse(&text).unwrap();
        assert_eq!(record.node(), NodeId::from_spki_der(b"key").to_string());
        assert_eq!(record.volumes(), [volume("data"), volume("root")]);
        assert_eq!(VolumeRecord::parse(&record.to_text()).unwrap(), record);
        let many: Vec<Value> = (0..17).map(|n| json!(volume(&n.to_string()))).collect();
        for (at, value) in [
            ("/version", json!(2)),
            ("/volumes", json!([])),
            ("/volumes", json!(many)),
            ("/volumes/1/path", json!("default/node/data")),
            ("/volumes/0/path", json!("../x/y")),
            ("/volumes/0/name", json!("")),
            ("/volumes/0/name", json!("a b")),
            ("/volumes/0/luks_uuid", json!("3c2f")),
            ("/volumes/0/vk_id", json!("0a".repeat(31))),
            ("/volumes/0/vk_id", json!("0A".repeat(32))),
            ("/volumes/0/vk_id", json!("xy".repeat(32))),
            ("/node", json!(null)),
        ] {
            let mut bad = good();
            *bad.pointer_mut(at).unwrap() = value;
            assert!(VolumeRecord::parse(&bad.to_string()).is_err(), "{bad}");
        }
        let mut more = good();
        more["further"] = json!(1);
        assert!(VolumeRecord::parse(&more.to_string()).is_err());
        assert!(VolumeRecord::parse(&format!("{text}{}", " ".repeat(16 << 10))).is_err());
    }

    #[test]
    fn what_is_signed_is_the_text_and_its_purpose() {
        let digest = VolumeRecord::extra_data("x");
        assert_ne!(digest, VolumeRecord::extra_data("y"));
        let bare: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest("x").into();
        assert_ne!(digest, bare);
    }

    #[test]
    fn both_ends_understand_each_other() {
        let signed = SignedRecord {
            record: good().to_string(),
            evidence: TpmEvidence {
                ak_public: "a".to_owned(),
                tpm_quote: TpmQuote {
                    message: "b".to_owned(),
                    signature: "c".to_owned(),
                    pcrs: vec!["0".repeat(64); 24],
                },
            },
        };
        assert_eq!(SignedRecord::parse(&signed.to_json()).unwrap(), signed);
        let receipt = Receipt { known: true };
        assert_eq!(Receipt::parse(&receipt.to_json()).unwrap(), receipt);
        for bad in ["", "{}", "[]", "{\"record\": 1}"] {
            assert!(SignedRecord::parse(bad.as_bytes()).is_err());
            assert!(Receipt::parse(bad.as_bytes()).is_err());
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The list of nodes: which attestation key belongs to which TPM, and who approved it.
//!
//! [`Tpm::admit`] and [`Tpm::approve`] are the rules, pure; a [`Registry`] keeps what they say. Files do so
//! ([`super::files`]), or objects of Kubernetes ([`super::objects`]).

use super::keys::EkDigest;
use super::sighting::Sighting;
use kbs_protocol::NodeId;
use kbs_protocol::encoding::{b64, hex};
use kbs_protocol::enroll::{Refusal, RefusalKind, State};
use kbs_protocol::volume_record::SignedRecord;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the list is kept.
pub trait Registry: Send + Sync {
    /// Applies [`Tpm::admit`] to the record of this endorsement key and keeps the result, all or nothing,
    /// before it returns. Two calls at once must not both see an unknown TPM.
    ///
    /// # Errors
    /// As [`Tpm::admit`], or [`RefusalKind::Failure`] when it cannot be kept.
    fn admit(&self, key: &NewKey<'_>) -> Result<State, Refusal>;

    /// Applies [`Tpm::record`] to the TPM that has shown this node's key. Returns whether it was known already. A list in
    /// a cluster also remembers when, and in which boot, the node was seen last.
    ///
    /// # Errors
    /// [`RefusalKind::UnknownNode`], as [`Tpm::record`], or [`RefusalKind::Failure`] when it cannot be kept.
    fn record(&self, node: NodeId, record: &SignedRecord, seen: &Sighting)
    -> Result<bool, Refusal>;
}

/// An attestation key that has just been proved.
#[derive(Debug)]
pub struct NewKey<'k> {
    /// The endorsement key of the TPM it lives in.
    pub ek_sha256: EkDigest,
    /// DER SubjectPublicKeyInfo.
    pub ak_spki: &'k [u8],
    /// The rule by which the endorsement key was known.
    pub basis: &'static str,
    /// What the machine calls itself.
    pub product: Option<&'k str>,
    /// When.
    pub now: SystemTime,
}

/// One TPM and the attestation keys that it has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tpm {
    /// SHA-256 of its endorsement key's SubjectPublicKeyInfo, in hexadecimal.
    pub ek_sha256: String,
    /// In the order in which they came; at most one of them is approved.
    pub keys: Vec<Key>,
}

/// One attestation key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The node id derived from it.
    pub node_id: String,
    /// DER SubjectPublicKeyInfo in base64: what reference values compare.
    pub ak_public: String,
    /// Whether its node may attest.
    pub state: State,
    /// The rule by which the endorsement key was known when the key came.
    pub basis: String,
    /// What the machine calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// When it came, in seconds since 1970.
    pub since: u64,
    /// What its node said of its volumes, in the order in which it came. Which of them counts, `provision` decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<SignedRecord>,
}

impl Tpm {
    /// The record of a TPM that was never seen.
    pub fn new(ek_sha256: &EkDigest) -> Self {
        Self {
            ek_sha256: hex::encode(ek_sha256),
            keys: Vec::new(),
        }
    }

    /// One attestation key for each endorsement key: the first one is approved, a known one keeps what was
    /// decided about it, any other one is held. Returns the state, and whether the record changed.
    ///
    /// # Errors
    /// [`RefusalKind::TooManyKeys`], so that one TPM cannot fill the disk.
    pub fn admit(&mut self, key: &NewKey<'_>) -> Result<(State, bool), Refusal> {
        let ak_public = b64::encode(key.ak_spki);
        if let Some(known) = self.keys.iter().find(|known| known.ak_public == ak_public) {
            return Ok((known.state, false));
        }
        if self.keys.len() >= MOST_KEYS {
            let detail = format!("{} attestation keys are kept for this TPM", self.keys.len());
            return Err(Refusal::new(RefusalKind::TooManyKeys, detail));
        }
        let state = match self.keys.is_empty() {
            true => State::Approved,
            false => State::Held,
        };
        self.keys.push(Key {
            node_id: NodeId::from_spki_der(key.ak_spki).to_string(),
            ak_public,
            state,
            basis: key.basis.to_owned(),
            product: key.product.map(ToOwned::to_owned),
            since: key
                .now
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO)
                .as_secs(),
            volumes: Vec::new(),
        });
        Ok((state, true))
    }

    /// Keeps what the node with this key said of its volumes, beside what it said before: the first record and a
    /// later one are told apart by whoever uses them. Returns whether it was known already.
    ///
    /// # Errors
    /// [`RefusalKind::UnknownNode`] for a key that is not approved, [`RefusalKind::TooManyRecords`].
    pub fn record(&mut self, record: &SignedRecord) -> Result<bool, Refusal> {
        let ours = |key: &&mut Key| {
            key.state == State::Approved && key.ak_public == record.evidence.ak_public
        };
        let Some(key) = self.keys.iter_mut().find(ours) else {
            let detail = "its attestation key is not approved";
            return Err(Refusal::new(RefusalKind::UnknownNode, detail));
        };
        if key
            .volumes
            .iter()
            .any(|known| known.record == record.record)
        {
            return Ok(true);
        }
        if key.volumes.len() >= MOST_RECORDS {
            let detail = format!("{} records are kept for this node", key.volumes.len());
            return Err(Refusal::new(RefusalKind::TooManyRecords, detail));
        }
        key.volumes.push(record.clone());
        Ok(false)
    }

    /// Approves this node's key, and holds the one that was approved before. Returns whether the TPM has
    /// such a key.
    pub fn approve(&mut self, node: NodeId) -> bool {
        let node = node.to_string();
        if !self.keys.iter().any(|key| key.node_id == node) {
            return false;
        }
        for key in &mut self.keys {
            key.state = match key.node_id == node {
                true => State::Approved,
                false => State::Held,
            };
        }
        true
    }
}

/// A machine that was installed again a few times is honest.
pub(super) const MOST_KEYS: usize = 8;
/// So is one whose first boot was repeated.
pub(super) const MOST_RECORDS: usize = 8;

#[cfg(test)]
mod tests {
    use super::{MOST_KEYS, MOST_RECORDS, NewKey, Tpm};
    use kbs_protocol::NodeId;
    use kbs_protocol::encoding::b64;
    use kbs_protocol::enroll::{RefusalKind, State};
    use kbs_protocol::evidence::{TpmEvidence, TpmQuote};
    use kbs_protocol::volume_record::SignedRecord;
    use std::time::SystemTime;

    fn key(spki: &[u8]) -> NewKey<'_> {
        NewKey {
            ek_sha256: [7; 32],
            ak_spki: spki,
            basis: "ek-certificate",
            product: None,
            now: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_first_key_is_approved_and_others_wait() {
        let mut tpm = Tpm::new(&[7; 32]);
        assert_eq!(tpm.admit(&key(b"one")).unwrap(), (State::Approved, true));
        assert_eq!(
            tpm.admit(&key(b"one")).unwrap(),
            (State::Approved, false),
            "idempotent"
        );
        assert_eq!(tpm.admit(&key(b"two")).unwrap(), (State::Held, true));
        assert_eq!(
            tpm.admit(&key(b"two")).unwrap(),
            (State::Held, false),
            "asking again does not help"
        );
        assert_eq!(tpm.admit(&key(b"one")).unwrap().0, State::Approved);
    }

    #[test]
    fn approving_one_holds_the_other() {
        let mut tpm = Tpm::new(&[7; 32]);
        tpm.admit(&key(b"one")).unwrap();
        tpm.admit(&key(b"two")).unwrap();
        assert!(tpm.approve(NodeId::from_spki_der(b"two")));
        assert_eq!(tpm.admit(&key(b"two")).unwrap().0, State::Approved);
        assert_eq!(tpm.admit(&key(b"one")).unwrap().0, State::Held);
        let before = tpm.clone();
        assert!(!tpm.approve(NodeId::from_spki_der(b"three")));
        assert_eq!(tpm, before);
    }

    /// Whether it is signed was looked at before.
    fn record(spki: &[u8], text: &str) -> SignedRecord {
        SignedRecord {
            record: text.to_owned(),
            evidence: TpmEvidence {
                ak_public: b64::encode(spki),
                tpm_quote: TpmQuote {
                    message: String::new(),
                    signature: String::new(),
                    pcrs: Vec::new(),
                },
            },
        }
    }

    #[test]
    fn what_an_approved_node_says_of_its_volumes_is_kept_beside_what_it_said() {
        let mut tpm = Tpm::new(&[7; 32]);
        tpm.admit(&key(b"one")).unwrap();
        tpm.admit(&key(b"held")).unwrap();
        assert_eq!(tpm.record(&record(b"one", "first")), Ok(false));
        assert_eq!(tpm.record(&record(b"one", "first")), Ok(true));
        for number in 1..MOST_RECORDS {
            let next = record(b"one", &number.to_string());
            assert_eq!(tpm.record(&next), Ok(false));
        }
        let texts: Vec<&str> = tpm.keys[0].volumes.iter().map(|r| &*r.record).collect();
        assert_eq!(texts[..2], ["first", "1"]);
        let before = tpm.clone();
        for (spki, why) in [
            (&b"one"[..], RefusalKind::TooManyRecords),
            (b"held", RefusalKind::UnknownNode),
            (b"never seen", RefusalKind::UnknownNode),
        ] {
            let refusal = tpm.record(&record(spki, "one more")).unwrap_err();
            assert_eq!(refusal.error, why);
        }
        assert_eq!(tpm, before);
    }

    #[test]
    fn a_tpm_cannot_fill_the_disk() {
        let mut tpm = Tpm::new(&[7; 32]);
        for number in 0..MOST_KEYS {
            tpm.admit(&key(&[u8::try_from(number).unwrap()])).unwrap();
        }
        let refusal = tpm.admit(&key(b"one more")).unwrap_err();
        assert_eq!(refusal.error, RefusalKind::TooManyKeys);
        assert_eq!(
            tpm.admit(&key(&[0])).unwrap().0,
            State::Approved,
            "known ones still come in"
        );
    }
}

// SPDX-License-Identifier: Apache-2.0

//! This machine as an attester: its configuration, its evidence and its name. Every command that talks to
//! a KBS starts here.

use crate::clock;
use crate::config::Config;
use crate::error::Error;
use crate::evidence::{self, Evidence};
use crate::kbs::{Attest, EvidenceFailure, Token};
use crate::state::{Attested, RunDirectory, StateError};
use kbs_protocol::ear::Ear;
use kbs_protocol::message::{CompositeEvidence, RuntimeData};
use kbs_protocol::volume_record::{RecordedVolume, SignedRecord, VolumeRecord};
use kbs_protocol::{NodeId, Tee};
use serde_json::Value;
use std::path::Path;

/// A machine that is ready to attest.
pub struct Node {
    /// The measured configuration.
    pub config: Config,
    /// The name derived from the attestation key, or assigned by init-data.
    pub id: NodeId,
    evidence: Evidence,
}

impl Node {
    /// Reads the configuration, opens the sources of evidence, and makes its attestation key if there is none. All of it
    /// before the first request: a session lives five minutes, and a slow TPM takes one of them for a key.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Evidence`].
    pub fn open(config: &Path) -> Result<Self, Error> {
        let config = Config::load(config)?;
        let evidence = evidence::open(&config)?;
        let id = evidence.node_id()?;
        Ok(Self {
            config,
            id,
            evidence,
        })
    }

    /// Notes what a server said of this boot. The verdict is for people: the server alone acts on it.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn answered(&self, server: &str, token: &Token) -> Result<(), StateError> {
        let Some(run) = RunDirectory::of_boot()? else {
            return Ok(());
        };
        let verdict = Ear::read(token.as_str())
            .ok()
            .and_then(|ear| ear.primary()?.status.clone())
            .unwrap_or_default();
        run.update(|state| {
            if let Some(attested) = &mut state.attested {
                server.clone_into(&mut attested.server);
                attested.verdict = verdict;
            }
            Ok(())
        })
    }

    /// Signs the record of this node's volumes; `None` without a TPM to sign with.
    ///
    /// # Errors
    /// [`Error::Protocol`] for what cannot stand in a record, or whatever keeps the TPM from signing.
    pub fn record(&mut self, volumes: Vec<RecordedVolume>) -> Result<Option<SignedRecord>, Error> {
        let record = VolumeRecord::new(&self.id, volumes)?.to_text();
        let run = RunDirectory::of_boot()?;
        let _lock = run
            .as_ref()
            .map(RunDirectory::attestation_lock)
            .transpose()?;
        let signed = self.evidence.sign(&VolumeRecord::extra_data(&record));
        let evidence = signed.transpose()?;
        Ok(evidence.map(|evidence| SignedRecord { record, evidence }))
    }

    /// One quote at a time, and none while a register moves; notes the value that the seal will have to change.
    fn collect(&mut self, data: &RuntimeData) -> Result<CompositeEvidence, Error> {
        let run = RunDirectory::of_boot()?;
        let _lock = run
            .as_ref()
            .map(RunDirectory::attestation_lock)
            .transpose()?;
        let evidence = self.evidence.collect(data)?;
        if let Some(run) = run {
            let pcr11 = pcr11(&evidence);
            run.update(|state| {
                state.attested = Some(Attested {
                    at_ms: clock::since_boot()
                        .as_millis()
                        .try_into()
                        .unwrap_or(u64::MAX),
                    server: String::new(),
                    verdict: String::new(),
                    pcr11,
                });
                Ok::<_, StateError>(())
            })?;
        }
        Ok(evidence)
    }
}

/// PCR 11 in the evidence of a TPM, whether it speaks for the machine or beside a TEE.
fn pcr11(evidence: &CompositeEvidence) -> Option<String> {
    let value = |evidence: &Value, at: &str| Some(evidence.pointer(at)?.as_str()?.to_owned());
    value(&evidence.primary_evidence, "/tpm_quote/pcrs/11").or_else(|| {
        let additional = serde_json::from_str(&evidence.additional_evidence).ok()?;
        value(&additional, "/tpm/tpm_quote/pcrs/11")
    })
}

impl Attest for Node {
    fn tee(&self) -> Tee {
        self.evidence.tee()
    }

    fn evidence(&mut self, data: &RuntimeData) -> Result<CompositeEvidence, EvidenceFailure> {
        self.collect(data)
            .map_err(|error| -> EvidenceFailure { Box::new(error) })
    }
}

#[cfg(test)]
mod tests {
    use super::pcr11;
    use kbs_protocol::message::CompositeEvidence;
    use serde_json::json;

    #[test]
    fn the_seals_register_is_found_wherever_the_tpm_stands() {
        let pcrs: Vec<String> = (0..24).map(|number| format!("{number:064x}")).collect();
        let tpm = json!({ "tpm_quote": { "pcrs": pcrs } });
        let of = |primary_evidence, additional_evidence: String| {
            pcr11(&CompositeEvidence {
                primary_evidence,
                additional_evidence,
            })
        };
        let eleven = Some(format!("{:064x}", 11));
        assert_eq!(of(tpm.clone(), String::new()), eleven);
        let beside = json!({ "tpm": tpm }).to_string();
        assert_eq!(of(json!({ "attestation_report": {} }), beside), eleven);
        assert_eq!(of(json!({}), String::new()), None);
    }
}

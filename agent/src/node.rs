// SPDX-License-Identifier: Apache-2.0

//! This machine as an attester: its configuration, its evidence and its name. Every command that talks to
//! a KBS starts here.

use crate::config::Config;
use crate::error::Error;
use crate::evidence::{self, Evidence};
use crate::kbs::{Attest, EvidenceFailure};
use kbs_protocol::message::{CompositeEvidence, RuntimeData};
use kbs_protocol::{NodeId, Tee};
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
}

impl Attest for Node {
    fn tee(&self) -> Tee {
        self.evidence.tee()
    }

    fn evidence(&mut self, data: &RuntimeData) -> Result<CompositeEvidence, EvidenceFailure> {
        self.evidence
            .collect(data)
            .map_err(|error| -> EvidenceFailure { Box::new(error) })
    }
}

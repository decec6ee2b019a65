// SPDX-License-Identifier: Apache-2.0

//! Evidence of what this machine is and what it booted; the KBS client asks for it once per handshake.
//!
//! One place, [`open`], turns the configured kind of TEE into an attester. There is no detection by
//! trial and no fall-back: an attester that cannot be opened is an error, never `sample`.

pub mod tcti;
pub mod tpm;
pub mod tpm_enrol;
mod tpm_error;
mod tpm_key;
mod tpm_nv;
pub mod tpm_pcr;
mod tpm_rc;
pub mod tpm_status;

use kbs_protocol::message::{CompositeEvidence, RuntimeData};
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::{Blame, NodeId, Owner, Persistence, Tee};
use serde_json::{Map, Value};

pub use tcti::DEFAULT_TCTI;
pub use tpm::TpmAttester;
pub use tpm_enrol::TpmEnroller;
pub use tpm_error::TpmError;
pub use tpm_key::Weakness;
pub use tpm_rc::{Meaning, Step};

/// Where a machine's attestation key usually lives, and where upstream's attester looks for it.
pub const DEFAULT_AK_HANDLE: u32 = 0x8101_0002;

/// One source of evidence: a TPM, a TEE.
pub trait Attester {
    /// The kind, as the KBS names it.
    fn tee(&self) -> Tee;

    /// DER SubjectPublicKeyInfo of the key that names this node, where the source has such a key.
    fn node_key(&self) -> Option<&[u8]>;

    /// Evidence whose signed part carries `digest`, cut or padded as the KBS protocol has it for this
    /// kind. The value is the JSON object that the KBS hands to its verifier.
    ///
    /// # Errors
    /// The source did not answer, or what it answered would not convince a verifier.
    fn collect(&mut self, digest: &RuntimeDigest) -> Result<Value, EvidenceError>;
}

/// Opens the attester for this kind of TEE.
///
/// # Errors
/// [`EvidenceError::Unsupported`] for a kind this build cannot attest, `sample` included; otherwise what
/// kept the source from opening.
pub fn open(tee: Tee, tcti: &str, ak_handle: u32) -> Result<Evidence, EvidenceError> {
    let primary: Box<dyn Attester> = match tee {
        Tee::Tpm => Box::new(TpmAttester::open(tcti, ak_handle)?),
        Tee::Snp | Tee::Tdx | Tee::AzSnpVtpm | Tee::AzTdxVtpm | Tee::Sample => {
            return Err(EvidenceError::Unsupported { tee });
        }
    };
    Ok(Evidence {
        primary,
        additional: Vec::new(),
    })
}

/// All sources of one machine: the primary one, named in the request, and those that accompany it.
pub struct Evidence {
    primary: Box<dyn Attester>,
    additional: Vec<Box<dyn Attester>>,
}

impl Evidence {
    /// The kind to name in the request.
    pub fn tee(&self) -> Tee {
        self.primary.tee()
    }

    /// The node's id, from the first source that has a key to derive it from.
    pub fn node_id(&self) -> Option<NodeId> {
        self.node_key().map(NodeId::from_spki_der)
    }

    /// DER SubjectPublicKeyInfo of the key behind [`Evidence::node_id`].
    pub fn node_key(&self) -> Option<&[u8]> {
        self.primary
            .node_key()
            .or_else(|| self.additional.iter().find_map(|a| a.node_key()))
    }

    /// Evidence for one handshake: the additional pieces first, because the primary one signs over them.
    ///
    /// # Errors
    /// The first source that fails ends it; a machine either proves everything or nothing.
    pub fn collect(&mut self, data: &RuntimeData) -> Result<CompositeEvidence, EvidenceError> {
        let mut pieces = Map::new();
        for attester in &mut self.additional {
            let piece = attester.collect(&RuntimeDigest::device(data)?)?;
            pieces.insert(attester.tee().as_str().to_owned(), piece);
        }
        let additional_evidence = if pieces.is_empty() {
            String::new()
        } else {
            Value::Object(pieces).to_string()
        };
        let digest = RuntimeDigest::primary(data, &additional_evidence)?;
        Ok(CompositeEvidence {
            primary_evidence: self.primary.collect(&digest)?,
            additional_evidence,
        })
    }
}

/// Why this machine has no evidence to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The TPM, its device or its attestation key.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The runtime data cannot be hashed.
    #[error(transparent)]
    Protocol(#[from] kbs_protocol::Error),
    /// A kind of TEE without an attester in this build.
    #[error("this program cannot collect {tee} evidence, only tpm")]
    Unsupported {
        /// The kind that was asked for.
        tee: Tee,
    },
}

impl Blame for EvidenceError {
    fn owner(&self) -> Owner {
        match self {
            Self::Tpm(error) => error.owner(),
            Self::Protocol(error) => error.owner(),
            Self::Unsupported { .. } => Owner::Configuration,
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Tpm(error) => error.persistence(),
            Self::Protocol(error) => error.persistence(),
            Self::Unsupported { .. } => Persistence::Permanent,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Tpm(error) => error.advice(),
            Self::Protocol(error) => error.advice(),
            Self::Unsupported { .. } => "use the machine's TPM or vTPM".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Attester, Evidence, EvidenceError, open};
    use kbs_protocol::message::RuntimeData;
    use kbs_protocol::runtime_data::RuntimeDigest;
    use kbs_protocol::tee_key::TeeKey;
    use kbs_protocol::{Blame, NodeId, Owner, Tee};
    use serde_json::{Value, json};

    /// Answers with the digest it was given.
    struct Echo(Tee, Option<&'static [u8]>);

    impl Attester for Echo {
        fn tee(&self) -> Tee {
            self.0
        }

        fn node_key(&self) -> Option<&[u8]> {
            self.1
        }

        fn collect(&mut self, digest: &RuntimeDigest) -> Result<Value, EvidenceError> {
            Ok(json!(digest.to_base64()))
        }
    }

    fn runtime_data() -> RuntimeData {
        RuntimeData {
            nonce: "bm9uY2U=".to_owned(),
            tee_pubkey: TeeKey::generate().unwrap().public(),
        }
    }

    #[test]
    fn nothing_falls_back_to_sample() {
        for tee in [
            Tee::Sample,
            Tee::Snp,
            Tee::Tdx,
            Tee::AzSnpVtpm,
            Tee::AzTdxVtpm,
        ] {
            let error = open(tee, "device:/dev/null", super::DEFAULT_AK_HANDLE)
                .err()
                .unwrap();
            assert_eq!(
                error.to_string(),
                format!("this program cannot collect {tee} evidence, only tpm")
            );
            assert_eq!(error.owner(), Owner::Configuration);
        }
    }

    #[test]
    fn a_single_source_signs_the_primary_digest() {
        let data = runtime_data();
        let mut evidence = Evidence {
            primary: Box::new(Echo(Tee::Tpm, Some(b"key"))),
            additional: Vec::new(),
        };
        let collected = evidence.collect(&data).unwrap();
        assert_eq!(collected.additional_evidence, "");
        let digest = RuntimeDigest::primary(&data, "").unwrap();
        assert_eq!(collected.primary_evidence, digest.to_base64());
        assert_eq!(evidence.node_id(), Some(NodeId::from_spki_der(b"key")));
    }

    #[test]
    fn the_primary_source_signs_over_the_additional_ones() {
        let data = runtime_data();
        let mut evidence = Evidence {
            primary: Box::new(Echo(Tee::Snp, None)),
            additional: vec![Box::new(Echo(Tee::Tpm, Some(b"key")))],
        };
        let collected = evidence.collect(&data).unwrap();
        let device = RuntimeDigest::device(&data).unwrap().to_base64();
        assert_eq!(
            collected.additional_evidence,
            json!({ "tpm": device }).to_string()
        );
        let digest = RuntimeDigest::primary(&data, &collected.additional_evidence).unwrap();
        assert_eq!(collected.primary_evidence, digest.to_base64());
        assert_eq!(evidence.tee(), Tee::Snp);
        assert_eq!(evidence.node_key(), Some(&b"key"[..]));
    }
}

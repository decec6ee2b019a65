// SPDX-License-Identifier: Apache-2.0

//! Evidence of what this machine is and what it booted; the KBS client asks for it once per handshake.
//!
//! One place, [`attester`], turns a configured kind of TEE into an attester. There is no detection by
//! trial and no fall-back: an attester that cannot be opened is an error, never `sample` and never the next best.

pub mod azure;
mod azure_metadata;
mod ccel;
pub mod rtmr;
pub mod snp;
pub mod tcti;
pub mod tdx;
pub mod tee_error;
pub mod tpm;
pub mod tpm_enrol;
mod tpm_error;
mod tpm_key;
mod tpm_nv;
pub mod tpm_pcr;
mod tpm_pcr8;
mod tpm_rc;
pub mod tpm_status;
mod tsm;

use crate::config::{Config, Sources, Tpm};
use kbs_protocol::evidence::TpmEvidence;
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::message::{CompositeEvidence, RuntimeData};
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::{Blame, NodeId, Owner, Persistence, Tee};
use serde_json::{Map, Value};

pub use azure::AzureAttester;
pub use snp::SnpAttester;
pub use tcti::DEFAULT_TCTI;
pub use tdx::TdxAttester;
pub use tee_error::TeeError;
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

    /// What there is, in words. Asks for no evidence and changes nothing.
    ///
    /// # Errors
    /// What is missing.
    fn detect(&mut self) -> Result<String, EvidenceError>;

    /// DER SubjectPublicKeyInfo of the key that names this node, where the source has such a key.
    fn node_key(&self) -> Option<&[u8]>;

    /// Evidence whose signed part carries `digest`, cut or padded as the KBS protocol has it for this
    /// kind. The value is the JSON object that the KBS hands to its verifier.
    ///
    /// # Errors
    /// The source did not answer, or what it answered would not convince a verifier.
    fn collect(&mut self, digest: &RuntimeDigest) -> Result<Value, EvidenceError>;

    /// A quote over this extra data, for a reader that is no KBS; `None` where the source has no key to sign with.
    fn sign(&mut self, _extra_data: &[u8; 32]) -> Option<Result<TpmEvidence, EvidenceError>> {
        None
    }
}

/// Opens all sources that the configuration names.
///
/// # Errors
/// What keeps the first of them from opening: a machine has all of what it was configured for, or none.
pub fn open(config: &Config) -> Result<Evidence, EvidenceError> {
    let (sources, tpm) = (&config.evidence, &config.tpm);
    let init_data = config.kbs.init_data.as_deref();
    let init_data = init_data.map(InitDataToml::parse).transpose()?;
    let additional = sources
        .additional
        .iter()
        // Init-data is the primary source's to vouch for.
        .map(|tee| attester(*tee, sources, tpm, None));
    Ok(Evidence {
        additional: additional.collect::<Result<_, _>>()?,
        primary: attester(sources.primary, sources, tpm, init_data.clone())?,
        init_data,
    })
}

/// The one place where a kind of evidence becomes something that can be asked for it.
///
/// # Errors
/// What keeps it from opening; [`EvidenceError::Unsupported`] for `sample`, which proves nothing.
pub fn attester(
    tee: Tee,
    sources: &Sources,
    tpm: &Tpm,
    init_data: Option<InitDataToml>,
) -> Result<Box<dyn Attester>, EvidenceError> {
    Ok(match tee {
        Tee::Tpm => {
            let mut attester = TpmAttester::open(&tpm.tcti, tpm.ak_handle)?;
            if let Some(init_data) = &init_data {
                attester.bind_init_data(init_data)?;
            }
            Box::new(attester)
        }
        Tee::Snp => Box::new(SnpAttester::open(&sources.root, init_data)?),
        Tee::Tdx => Box::new(TdxAttester::open(&sources.root, init_data)?),
        Tee::AzSnpVtpm | Tee::AzTdxVtpm => {
            let kind = match tee {
                Tee::AzSnpVtpm => azure::Kind::Snp,
                _ => azure::Kind::Tdx,
            };
            let init_data = init_data.as_ref();
            Box::new(AzureAttester::open(kind, sources, &tpm.tcti, init_data)?)
        }
        Tee::Sample => return Err(EvidenceError::Unsupported { tee }),
    })
}

/// All sources of one machine: the primary one, named in the request, and those that accompany it.
pub struct Evidence {
    primary: Box<dyn Attester>,
    additional: Vec<Box<dyn Attester>>,
    init_data: Option<InitDataToml>,
}

impl Evidence {
    /// The kind to name in the request.
    pub fn tee(&self) -> Tee {
        self.primary.tee()
    }

    /// The node's id: derived from the key of the first source that has one, else the `uuid` that init-data
    /// assigns.
    ///
    /// # Errors
    /// [`EvidenceError::Protocol`] when that `uuid` is none, [`EvidenceError::Nameless`] without either.
    pub fn node_id(&self) -> Result<NodeId, EvidenceError> {
        if let Some(key) = self.node_key() {
            return Ok(NodeId::from_spki_der(key));
        }
        let assigned = self.init_data.as_ref().map(InitDataToml::node_id);
        let tee = self.tee();
        assigned
            .transpose()?
            .flatten()
            .ok_or(EvidenceError::Nameless { tee })
    }

    /// DER SubjectPublicKeyInfo of the key behind [`Evidence::node_id`], if it comes from one.
    pub fn node_key(&self) -> Option<&[u8]> {
        self.primary
            .node_key()
            .or_else(|| self.additional.iter().find_map(|a| a.node_key()))
    }

    /// A quote by the first source that can sign; see [`Attester::sign`].
    pub fn sign(&mut self, extra_data: &[u8; 32]) -> Option<Result<TpmEvidence, EvidenceError>> {
        let additional = self.additional.iter_mut();
        std::iter::once(&mut self.primary)
            .chain(additional)
            .find_map(|attester| attester.sign(extra_data))
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
    /// The processor or its driver.
    #[error(transparent)]
    Tee(#[from] TeeError),
    /// The runtime data cannot be hashed, or init-data is none.
    #[error(transparent)]
    Protocol(#[from] kbs_protocol::Error),
    /// A kind of TEE without an attester in this build.
    #[error("this program cannot collect {tee} evidence")]
    Unsupported {
        /// The kind that was asked for.
        tee: Tee,
    },
    /// Nothing on this machine could name it.
    #[error("{tee} evidence has no key to derive the node id from, and no init-data assigns one")]
    Nameless {
        /// The primary source.
        tee: Tee,
    },
}

impl Blame for EvidenceError {
    fn owner(&self) -> Owner {
        match self {
            Self::Tpm(error) => error.owner(),
            Self::Tee(error) => error.owner(),
            Self::Protocol(error) => error.owner(),
            Self::Unsupported { .. } | Self::Nameless { .. } => Owner::Configuration,
        }
    }

    fn persistence(&self) -> Persistence {
        match self {
            Self::Tpm(error) => error.persistence(),
            Self::Tee(error) => error.persistence(),
            Self::Protocol(error) => error.persistence(),
            Self::Unsupported { .. } | Self::Nameless { .. } => Persistence::Permanent,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Tpm(error) => error.advice(),
            Self::Tee(error) => error.advice(),
            Self::Protocol(error) => error.advice(),
            Self::Unsupported { .. } => {
                "set evidence.primary in agent.toml to what this machine is".to_owned()
            }
            Self::Nameless { .. } => {
                "put a TPM beside it (evidence.additional = [\"tpm\"] in agent.toml), or give the machine init-data \
                 with a uuid (kbs.init_data_file)"
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Attester, Evidence, EvidenceError, attester, open};
    use crate::config::Config;
    use kbs_protocol::init_data::InitDataToml;
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

        fn detect(&mut self) -> Result<String, EvidenceError> {
            Ok("an echo".to_owned())
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

    /// A machine without any hardware: an empty root.
    fn config(evidence: &str, root: &std::path::Path) -> Config {
        Config::parse(&format!(
            "[kbs]\nservers = [\"http://kbs\"]\ninsecure_http = true\n[evidence]\nroot = {root:?}\n{evidence}\n\
             [boot]\nconfidential = false\nseal = \"none\"\n[tpm]\ntcti = \"device:/dev/null\""
        ))
        .unwrap()
    }

    #[test]
    fn a_node_without_its_hardware_stops() {
        let root = tempfile::tempdir().unwrap();
        for (evidence, reason) in [
            ("primary = \"snp\"", "this machine offers no snp evidence"),
            ("primary = \"tdx\"", "this machine offers no tdx evidence"),
            // The additional source is asked first, and missed first.
            (
                "primary = \"snp\"\nadditional = [\"tpm\"]",
                "does not answer as a TPM",
            ),
        ] {
            let error = open(&config(evidence, root.path())).err().unwrap();
            assert!(error.to_string().contains(reason), "{evidence}: {error}");
            assert_eq!(error.owner(), Owner::Machine);
            assert!(!error.advice().is_empty());
        }
    }

    #[test]
    fn nothing_falls_back_to_sample() {
        let root = tempfile::tempdir().unwrap();
        let config = config("primary = \"snp\"", root.path());
        let error = attester(Tee::Sample, &config.evidence, &config.tpm, None);
        let error = error.err().unwrap();
        assert_eq!(
            error.to_string(),
            "this program cannot collect sample evidence"
        );
        assert_eq!(error.owner(), Owner::Configuration);
    }

    #[test]
    fn a_key_names_the_node_else_init_data_does() {
        let uuid = "7f1c0d66-6f0e-4b0e-9a53-0c1f5c5f7a01";
        let text = format!("version=\"0.1.0\"\nalgorithm=\"sha256\"\n[data]\nuuid={uuid:?}\n");
        let evidence = |key, init_data: Option<&str>| Evidence {
            primary: Box::new(Echo(Tee::Snp, key)),
            additional: Vec::new(),
            init_data: init_data.map(|text| InitDataToml::parse(text).unwrap()),
        };
        let both = evidence(Some(b"key"), Some(&text)).node_id().unwrap();
        assert_eq!(both, NodeId::from_spki_der(b"key"));
        let assigned = evidence(None, Some(&text)).node_id().unwrap();
        assert_eq!(assigned.to_string(), uuid);
        let silent = text.replace("uuid", "name");
        for nameless in [evidence(None, None), evidence(None, Some(&silent))] {
            let error = nameless.node_id().unwrap_err();
            assert!(
                matches!(error, EvidenceError::Nameless { tee: Tee::Snp }),
                "{error}"
            );
        }
        let wrong = text.replace(uuid, "n1");
        assert!(evidence(None, Some(&wrong)).node_id().is_err());
    }

    #[test]
    fn a_single_source_signs_the_primary_digest() {
        let data = runtime_data();
        let mut evidence = Evidence {
            primary: Box::new(Echo(Tee::Tpm, Some(b"key"))),
            additional: Vec::new(),
            init_data: None,
        };
        let collected = evidence.collect(&data).unwrap();
        assert_eq!(collected.additional_evidence, "");
        let digest = RuntimeDigest::primary(&data, "").unwrap();
        assert_eq!(collected.primary_evidence, digest.to_base64());
        assert_eq!(evidence.node_id().unwrap(), NodeId::from_spki_der(b"key"));
    }

    #[test]
    fn the_primary_source_signs_over_the_additional_ones() {
        let data = runtime_data();
        let mut evidence = Evidence {
            primary: Box::new(Echo(Tee::Snp, None)),
            additional: vec![Box::new(Echo(Tee::Tpm, Some(b"key")))],
            init_data: None,
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

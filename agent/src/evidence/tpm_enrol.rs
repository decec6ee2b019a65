// SPDX-License-Identifier: Apache-2.0

//! What a TPM has to show a registrar: its endorsement key (EK), the certificate that its maker stored
//! beside it, the attestation key, and that both live in the same TPM. `trustee-agent enroll` calls it.
//!
//! The EK is made anew each time from the templates of the TCG EK Credential Profile for TPM Family 2.0:
//! a primary key is a function of seed and template, so it is the one that the certificate names. Of the
//! two kinds the one whose certificate is there is taken; without any, RSA, which every TPM has.

use super::tcti;
use super::tpm_error::TpmError;
use super::tpm_key::{self, AttestationKey};
use super::tpm_nv::{self, EkCertificates};
use super::tpm_rc::Step;
use crate::kbs::{Enrol, EvidenceFailure};
use kbs_protocol::encoding::b64;
use kbs_protocol::enroll::{BeginWire, Challenge};
use kbs_protocol::tpm::public::PublicArea;
use kbs_protocol::tpm::sized;
use kbs_protocol::{NodeId, Secret};
use sha2::{Digest as _, Sha256};
use tss_esapi::Context;
use tss_esapi::abstraction::ek::create_ek_public_from_default_template;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{AuthHandle, KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::{AsymmetricAlgorithm, HashingAlgorithm};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, EncryptedSecret, IdObject, Nonce, Public, SymmetricDefinition,
};
use tss_esapi::traits::Marshall as _;

/// A TPM whose two keys are loaded, ready to answer a registrar.
pub struct TpmEnroller {
    context: Context,
    ak: AttestationKey,
    ek: KeyHandle,
    ek_public: Public,
    certificates: EkCertificates,
    product: Option<String>,
}

impl TpmEnroller {
    /// Opens the TPM, its attestation key at `ak_handle` (created if there is none) and its endorsement
    /// key. `product` is what the machine calls itself.
    ///
    /// # Errors
    /// No TPM, no access, an attestation key that proves nothing, or an endorsement hierarchy with a
    /// password.
    pub fn open(tcti: &str, ak_handle: u32, product: Option<String>) -> Result<Self, TpmError> {
        let mut context = tcti::open(tcti)?;
        let ak = tpm_key::find_or_create(&mut context, ak_handle)?;
        let certificates = tpm_nv::ek_certificates(&mut context)?;
        let (ek, ek_public) = create_ek(&mut context, certificates.algorithm)?;
        Ok(Self {
            context,
            ak,
            ek,
            ek_public,
            certificates,
            product,
        })
    }

    /// The node's id, derived from the attestation key.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_spki_der(&self.ak.spki_der)
    }

    /// DER SubjectPublicKeyInfo of the attestation key.
    pub fn ak_spki_der(&self) -> &[u8] {
        &self.ak.spki_der
    }

    /// SHA-256 over the DER SubjectPublicKeyInfo of the endorsement key: how an allow-list names this TPM.
    ///
    /// # Errors
    /// The TPM made a key of another form than the template's.
    pub fn ek_sha256(&self) -> Result<[u8; 32], TpmError> {
        let spki = PublicArea::parse_sized(&marshalled(&self.ek_public)?)
            .and_then(|area| area.spki_der())
            .map_err(|error| TpmError::Unexpected {
                step: Step::CreateEk,
                why: error.to_string(),
            })?;
        Ok(Sha256::digest(spki).into())
    }

    /// Whether the TPM holds a certificate for its endorsement key.
    pub fn has_certificate(&self) -> bool {
        self.certificates.leaf.is_some()
    }

    /// What this TPM shows.
    ///
    /// # Errors
    /// The TSS cannot marshal what the TPM gave.
    pub fn begin(&self) -> Result<BeginWire, TpmError> {
        let EkCertificates { leaf, chain, .. } = &self.certificates;
        Ok(BeginWire {
            ek_public: b64::encode(marshalled(&self.ek_public)?),
            ek_certificate: leaf.as_ref().map(b64::encode),
            ek_chain: chain.iter().map(b64::encode).collect(),
            ak_public: b64::encode(marshalled(&self.ak.public)?),
            product: self.product.clone(),
            agent: AGENT.to_owned(),
        })
    }

    /// TPM2_ActivateCredential: opens what was wrapped for this endorsement and this attestation key.
    ///
    /// # Errors
    /// [`Meaning::NotOurs`](super::Meaning::NotOurs) when it was wrapped for others.
    pub fn activate(&mut self, challenge: &Challenge) -> Result<Secret, TpmError> {
        let malformed = |error: kbs_protocol::Error| TpmError::Unexpected {
            step: Step::Activate,
            why: error.to_string(),
        };
        let blob = sized(ANSWER, &challenge.credential_blob).map_err(malformed)?;
        let secret = sized(ANSWER, &challenge.secret).map_err(malformed)?;
        let failed = |error| TpmError::response(Step::Activate, error);
        let blob = IdObject::try_from(blob).map_err(failed)?;
        let secret = EncryptedSecret::try_from(secret).map_err(failed)?;

        let session = endorsement_policy(&mut self.context)?;
        let (ak, ek) = (self.ak.handle, self.ek);
        // The AK's empty password, and the policy of the EK.
        let sessions = (Some(AuthSession::Password), Some(session), None);
        let opened = self.context.execute_with_sessions(sessions, |context| {
            context.activate_credential(ak, ek, blob, secret)
        });
        flush(&mut self.context, session);
        Ok(Secret::new(opened.map_err(failed)?.value().to_vec()))
    }
}

impl Enrol for TpmEnroller {
    fn begin(&self) -> Result<BeginWire, EvidenceFailure> {
        Self::begin(self).map_err(|error| -> EvidenceFailure { Box::new(error) })
    }

    fn activate(&mut self, challenge: &Challenge) -> Result<Secret, EvidenceFailure> {
        Self::activate(self, challenge).map_err(|error| -> EvidenceFailure { Box::new(error) })
    }
}

/// TPM2_CreatePrimary from template L-1 (RSA-2048) or L-2 (NIST P-256). The context flushes it at its end.
fn create_ek(
    context: &mut Context,
    algorithm: AsymmetricAlgorithm,
) -> Result<(KeyHandle, Public), TpmError> {
    let failed = |error| TpmError::response(Step::CreateEk, error);
    let template = create_ek_public_from_default_template(algorithm, None).map_err(failed)?;
    let primary = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
        })
        .map_err(failed)?;
    Ok((primary.key_handle, primary.out_public))
}

/// A session that satisfies the EK's policy: whoever may use the endorsement hierarchy (PolicyA of the
/// profile, TPM2_PolicySecret).
fn endorsement_policy(context: &mut Context) -> Result<AuthSession, TpmError> {
    let failed = |error| TpmError::response(Step::AuthorizeEk, error);
    let session = context
        .execute_without_session(|context| {
            context.start_auth_session(
                None,
                None,
                None,
                SessionType::Policy,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
        })
        .map_err(failed)?
        .ok_or_else(|| TpmError::Unexpected {
            step: Step::AuthorizeEk,
            why: "no session".to_owned(),
        })?;
    let mut satisfy = || {
        let policy = PolicySession::try_from(session)?;
        context.execute_with_session(Some(AuthSession::Password), |context| {
            context.policy_secret(
                policy,
                AuthHandle::Endorsement,
                Nonce::default(),
                Digest::default(),
                Nonce::default(),
                None,
            )
        })
    };
    match satisfy() {
        Ok(_) => Ok(session),
        Err(error) => {
            flush(context, session);
            Err(failed(error))
        }
    }
}

/// A session that was used in a successful command may be gone already.
fn flush(context: &mut Context, session: AuthSession) {
    if let Err(error) = context.flush_context(SessionHandle::from(session).into()) {
        log::debug!("a policy session stays in the TPM until its next restart: {error}");
    }
}

/// TPM2B_PUBLIC.
fn marshalled(public: &Public) -> Result<Vec<u8>, TpmError> {
    let area = public
        .marshall()
        .map_err(|error| TpmError::response(Step::ReadKey, error))?;
    let length = u16::try_from(area.len()).map_err(|error| TpmError::Unexpected {
        step: Step::ReadKey,
        why: error.to_string(),
    })?;
    Ok([&length.to_be_bytes()[..], &area].concat())
}

const ANSWER: &str = "the credential";
const AGENT: &str = concat!("trustee-agent ", env!("CARGO_PKG_VERSION"));

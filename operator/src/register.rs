// SPDX-License-Identifier: Apache-2.0

//! The registrar: takes in nodes that prove that their attestation key lives in a known TPM.
//!
//! A joining node speaks to it twice ([`kbs_protocol::enroll`]); [`Registrar`] is the whole story:
//!
//! 1. [`limit`] asks whether this address may ask at all;
//! 2. [`identity`] decides whether the endorsement key is known, by its maker's [`certificate`] or by its
//!    digest, and [`keys`] whether both keys are of a kind that can prove anything;
//! 3. [`credential`] wraps a secret for exactly this pair of keys, [`pending`] remembers it for minutes;
//! 4. when the secret comes back, [`registry`] writes the node down: one attestation key for each
//!    endorsement key, a second one waits for an administrator;
//! 5. [`audit`] writes one line for each decision.
//!
//! On its way to its first boot a node reads [`ignition`] here: how its volumes are encrypted and bound.
//!
//! Later a node that is registered says which volume keys it has ([`kbs_protocol::volume_record`]); that is kept beside its
//! key for [`provision`](crate::provision).
//!
//! [`server`] puts it behind HTTPS, [`config`], [`cli`] and [`decide`] before a person. What a registrar knows is
//! public; what it protects is the list of nodes: who may write to it decides who may attest.

pub mod audit;
pub mod certificate;
pub mod cli;
pub mod config;
pub mod credential;
pub mod decide;
pub mod files;
pub mod identity;
pub mod ignition;
pub mod keys;
pub mod limit;
pub mod objects;
pub mod pending;
pub mod registry;
pub mod server;
pub mod sighting;

use audit::{Audit, Event};
use identity::Identity;
use kbs_protocol::encoding::b64;
use kbs_protocol::enroll::{Begin, Challenge, Finish, Outcome, Refusal, RefusalKind, State};
use kbs_protocol::volume_record::{Receipt, SignedRecord};
use kbs_protocol::{NodeId, Secret};
use limit::{Limiter, Source};
use pending::{Enrolment, Pending};
use rand_core::{OsRng, RngCore as _};
use registry::{NewKey, Registry};
use sighting::Sighting;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use subtle::ConstantTimeEq as _;

/// Decides about enrolments. Knows no socket and no clock: both are told to it.
pub struct Registrar {
    identity: Identity,
    registry: Box<dyn Registry>,
    audit: Audit,
    limiter: Mutex<Limiter>,
    pending: Mutex<Pending>,
}

impl Registrar {
    /// A registrar with these rules and this memory.
    pub fn new(
        identity: Identity,
        registry: Box<dyn Registry>,
        audit: Audit,
        limits: &config::Limits,
    ) -> Self {
        Self {
            identity,
            registry,
            audit,
            limiter: Mutex::new(Limiter::new(limits.requests_per_minute)),
            pending: Mutex::new(Pending::new(limits)),
        }
    }

    /// `POST /v1/enroll/begin`: a [`Begin`] in, a [`Challenge`] out.
    ///
    /// # Errors
    /// The [`Refusal`] to send. It is on the audit log already.
    pub fn begin(&self, source: Source, body: &[u8], now: SystemTime) -> Result<Vec<u8>, Refusal> {
        let mut event = Event::new("begin", source, now, self.identity.as_str());
        let challenge = self.challenge(source, body, now, &mut event);
        self.audit
            .write(event, challenge.as_ref().map(|_| "challenged"));
        challenge.map(|challenge| challenge.to_json())
    }

    /// `POST /v1/enroll/finish`: a [`Finish`] in, an [`Outcome`] out.
    ///
    /// # Errors
    /// As [`Registrar::begin`].
    pub fn finish(&self, source: Source, body: &[u8], now: SystemTime) -> Result<Vec<u8>, Refusal> {
        let mut event = Event::new("finish", source, now, self.identity.as_str());
        let outcome = self.decide(source, body, now, &mut event);
        self.audit.write(
            event,
            outcome.as_ref().map(|outcome| outcome.state.as_str()),
        );
        outcome.map(|outcome| outcome.to_json())
    }

    /// `POST /v1/volumes`: a [`SignedRecord`] in, a [`Receipt`] out.
    ///
    /// # Errors
    /// As [`Registrar::begin`].
    pub fn volumes(
        &self,
        source: Source,
        body: &[u8],
        now: SystemTime,
    ) -> Result<Vec<u8>, Refusal> {
        let mut event = Event::new("volumes", source, now, self.identity.as_str());
        let receipt = self.record(source, body, now, &mut event);
        let word = |receipt: &Receipt| if receipt.known { "known" } else { "recorded" };
        self.audit.write(event, receipt.as_ref().map(word));
        receipt.map(Receipt::to_json)
    }

    fn challenge(
        &self,
        source: Source,
        body: &[u8],
        now: SystemTime,
        event: &mut Event,
    ) -> Result<Challenge, Refusal> {
        lock(&self.limiter).admit(source, now)?;
        let begin =
            Begin::parse(body).map_err(|e| Refusal::new(RefusalKind::Request, e.to_string()))?;
        event.machine(&begin);
        keys::require_endorsement_key(&begin.ek_public)?;
        keys::require_attestation_key(&begin.ak_public)?;
        let ek_sha256 = keys::digest(&begin.ek_public)?;
        event.ek_sha256(&ek_sha256);
        let ak_spki = keys::spki(&begin.ak_public)?;
        let node_id = NodeId::from_spki_der(&ak_spki);
        event.node_id(node_id);
        self.identity.require(&begin, &ek_sha256, now)?;

        let secret = random::<SECRET_LENGTH>()?;
        let id = kbs_protocol::encoding::hex::encode(random::<ID_LENGTH>()?);
        let credential = credential::make(&begin.ek_public, &begin.ak_public.name(), &secret)
            .map_err(|error| Refusal::new(error.kind(), error.to_string()))?;
        let enrolment = Enrolment {
            secret: Secret::new(secret.to_vec()),
            ek_sha256,
            ak_spki,
            product: begin.product,
        };
        lock(&self.pending).insert(id.clone(), source, enrolment, now)?;
        Ok(Challenge {
            enrolment: id,
            credential_blob: credential.blob,
            secret: credential.secret,
        })
    }

    fn decide(
        &self,
        source: Source,
        body: &[u8],
        now: SystemTime,
        event: &mut Event,
    ) -> Result<Outcome, Refusal> {
        lock(&self.limiter).admit(source, now)?;
        let finish =
            Finish::parse(body).map_err(|e| Refusal::new(RefusalKind::Request, e.to_string()))?;
        // Taken out whatever comes next: one challenge is one try.
        let Some(enrolment) = lock(&self.pending).take(&finish.enrolment, now) else {
            let detail = "it expired, was finished before, or never began";
            return Err(Refusal::new(RefusalKind::UnknownEnrolment, detail));
        };
        let node_id = NodeId::from_spki_der(&enrolment.ak_spki);
        event.ek_sha256(&enrolment.ek_sha256);
        event.node_id(node_id);
        let expected = enrolment.secret.expose();
        if !bool::from(expected.ct_eq(finish.activated.expose())) {
            let detail = "the endorsement key and the attestation key are not in one TPM";
            return Err(Refusal::new(RefusalKind::WrongSecret, detail));
        }
        let state = self.registry.admit(&NewKey {
            ek_sha256: enrolment.ek_sha256,
            ak_spki: &enrolment.ak_spki,
            basis: self.identity.as_str(),
            product: enrolment.product.as_deref(),
            now,
        })?;
        let reason = (state == State::Held)
            .then(|| "another attestation key is registered for this TPM, or an administrator took it back".to_owned());
        Ok(Outcome {
            node_id,
            state,
            reason,
        })
    }
}

impl Registrar {
    /// Anybody could write down a record; only the TPM that holds the node's key could sign it.
    fn record(
        &self,
        source: Source,
        body: &[u8],
        now: SystemTime,
        event: &mut Event,
    ) -> Result<Receipt, Refusal> {
        lock(&self.limiter).admit(source, now)?;
        let record = SignedRecord::parse(body)
            .map_err(|error| Refusal::new(RefusalKind::Request, error.to_string()))?;
        let verified = record
            .verify()
            .map_err(|error| Refusal::new(RefusalKind::Signature, error.to_string()))?;
        let spki = b64::decode(&verified.ak_public).unwrap_or_default();
        let node = NodeId::from_spki_der(&spki);
        event.node_id(node);
        let seen = Sighting::new(&verified, now);
        let known = self.registry.record(node, &record, &seen)?;
        Ok(Receipt { known })
    }
}

/// A panic elsewhere cannot have left a table half changed: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    match OsRng.try_fill_bytes(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Refusal::new(
            RefusalKind::Busy,
            "no random numbers from the operating system",
        )),
    }
}

/// As long as a digest of the EK's nameAlg, the most a TPM accepts.
const SECRET_LENGTH: usize = 32;
/// Nobody guesses another node's enrolment to spoil it.
const ID_LENGTH: usize = 16;

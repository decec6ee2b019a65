// SPDX-License-Identifier: Apache-2.0

//! The client's half of the enrolment ([`kbs_protocol::enroll`]) and of the record of volumes
//! ([`kbs_protocol::volume_record`]): one or two requests to the registrar over one connection, again and again while
//! that can help.

use super::error::{EvidenceFailure, KbsError};
use super::http::{Answer, Call, Http};
use super::retry::{self, Patience, SystemPace, Wait};
use crate::config::{Enroll, Timeouts};
use kbs_protocol::Secret;
use kbs_protocol::enroll::{
    BEGIN_PATH, BeginWire, Challenge, FINISH_PATH, Finish, Outcome, Refusal, State,
};
use kbs_protocol::refusal::Step;
use kbs_protocol::volume_record::{Receipt, SignedRecord, VOLUMES_PATH};
use std::time::Instant;

/// A machine that can prove where its key lives.
pub trait Enrol {
    /// What it shows.
    ///
    /// # Errors
    /// Whatever keeps it from showing it.
    fn begin(&self) -> Result<BeginWire, EvidenceFailure>;

    /// The secret inside a credential that was made for this machine's keys.
    ///
    /// # Errors
    /// It was made for others, or the TPM refuses.
    fn activate(&mut self, challenge: &Challenge) -> Result<Secret, EvidenceFailure>;
}

/// The registrar, and the connection kept to it.
pub struct Registrar {
    http: Http,
}

impl Registrar {
    /// Prepares a connection; nothing is sent yet.
    ///
    /// # Errors
    /// [`KbsError::Setup`].
    pub fn new(enroll: &Enroll, timeouts: &Timeouts) -> Result<Self, KbsError> {
        Http::new(&enroll.registrar, &enroll.anchors, timeouts).map(|http| Self { http })
    }

    /// Enrols. Doing it again gives the same answer, or a newer decision.
    ///
    /// # Errors
    /// [`KbsError::Registrar`] for a refusal, [`KbsError::Held`] for a node that waits for approval; what
    /// keeps a request from its answer otherwise.
    pub fn enrol(
        &self,
        node: &mut dyn Enrol,
        patience: Patience,
        on_wait: &mut dyn FnMut(Wait<'_>),
    ) -> Result<Outcome, KbsError> {
        retry::retry(patience, &mut SystemPace, on_wait, |until| {
            self.once(node, until)
        })
    }

    /// Hands over which volume keys this node has.
    ///
    /// # Errors
    /// [`KbsError::Registrar`] for a refusal; what keeps a request from its answer otherwise.
    pub fn record(
        &self,
        record: &SignedRecord,
        patience: Patience,
        on_wait: &mut dyn FnMut(Wait<'_>),
    ) -> Result<Receipt, KbsError> {
        retry::retry(patience, &mut SystemPace, on_wait, |until| {
            let body = record.to_json();
            let answer = self.post(Step::RecordVolumes, VOLUMES_PATH, body, until)?;
            Receipt::parse(&answer.body).map_err(|error| self.malformed(error))
        })
    }

    fn once(&self, node: &mut dyn Enrol, until: Option<Instant>) -> Result<Outcome, KbsError> {
        let begin = node.begin().map_err(KbsError::Evidence)?;
        let begin = serde_json::to_vec(&begin).map_err(|error| KbsError::Setup {
            server: self.http.server.clone(),
            why: error.to_string(),
        })?;
        let answer = self.post(Step::EnrollBegin, BEGIN_PATH, begin, until)?;
        let challenge = Challenge::parse(&answer.body).map_err(|error| self.malformed(error))?;
        let activated = node.activate(&challenge).map_err(KbsError::Evidence)?;
        let finish = Finish {
            enrolment: challenge.enrolment,
            activated,
        };
        let answer = self.post(Step::EnrollFinish, FINISH_PATH, finish.to_json(), until)?;
        let outcome = Outcome::parse(&answer.body).map_err(|error| self.malformed(error))?;
        match outcome.state {
            State::Approved => Ok(outcome),
            State::Held => Err(KbsError::Held {
                server: self.http.server.clone(),
                outcome,
            }),
        }
    }

    fn post(
        &self,
        step: Step,
        path: &str,
        body: Vec<u8>,
        until: Option<Instant>,
    ) -> Result<Answer, KbsError> {
        let call = Call {
            step,
            path,
            body: Some(body),
            credential: None,
        };
        let answer = self.http.send(call, until)?;
        if answer.status == 200 {
            return Ok(answer);
        }
        Err(KbsError::Registrar {
            server: self.http.server.clone(),
            refusal: Refusal::read(answer.status, &answer.body),
            retry_after: answer.retry_after,
        })
    }

    fn malformed(&self, error: kbs_protocol::Error) -> KbsError {
        KbsError::Protocol {
            server: self.http.server.clone(),
            error,
            token: None,
        }
    }
}

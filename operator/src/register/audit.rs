// SPDX-License-Identifier: Apache-2.0

//! The audit log: one JSON object on one line for each decision. Nothing in it is secret; everything in it
//! that a stranger wrote is escaped and short.

use super::keys::EkDigest;
use super::limit::Source;
use kbs_protocol::NodeId;
use kbs_protocol::encoding::hex;
use kbs_protocol::enroll::{Begin, Refusal, RefusalKind};
use serde::Serialize;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the lines go.
pub struct Audit(Mutex<Box<dyn Write + Send>>);

/// What is known about a request so far.
#[derive(Debug, Serialize)]
pub struct Event {
    /// Seconds since 1970.
    time: u64,
    /// `begin` or `finish`.
    event: &'static str,
    /// Set last.
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<RefusalKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    source: String,
    /// The rule in force.
    identity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ek_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    product: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
}

impl Audit {
    /// Writes to this.
    pub fn to(sink: impl Write + Send + 'static) -> Self {
        Self(Mutex::new(Box::new(sink)))
    }

    /// Writes the line: the decision, or the refusal that took its place.
    pub fn write(&self, mut event: Event, decision: Result<&'static str, &Refusal>) {
        match decision {
            Ok(decision) => event.decision = decision,
            Err(refusal) => {
                event.decision = "refused";
                event.reason = Some(refusal.error);
                event.detail = Some(refusal.detail.clone());
            }
        }
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written must not stop machines from booting.
        let _ = sink.write_all(&line).and_then(|()| sink.flush());
    }
}

impl Event {
    /// A request that has just come in.
    pub fn new(
        event: &'static str,
        source: Source,
        now: SystemTime,
        identity: &'static str,
    ) -> Self {
        Self {
            time: now
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO)
                .as_secs(),
            event,
            decision: "",
            reason: None,
            detail: None,
            source: source.to_string(),
            identity,
            ek_sha256: None,
            node_id: None,
            product: None,
            agent: None,
        }
    }

    /// What the machine says about itself.
    pub fn machine(&mut self, begin: &Begin) {
        self.product.clone_from(&begin.product);
        self.agent = Some(begin.agent.clone());
    }

    /// The TPM.
    pub fn ek_sha256(&mut self, digest: &EkDigest) {
        self.ek_sha256 = Some(hex::encode(digest));
    }

    /// The node.
    pub fn node_id(&mut self, node: NodeId) {
        self.node_id = Some(node.to_string());
    }
}

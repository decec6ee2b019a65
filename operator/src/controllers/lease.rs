// SPDX-License-Identifier: Apache-2.0

//! Leader election: a `coordination.k8s.io/v1` Lease, as client-go keeps it. One operator holds it and works;
//! the others watch the objects, so that they can take over at once.
//!
//! Clocks of two machines are not compared: a lease has expired when its record did not change for as long as
//! it says, by the clock of whoever looks. A holder that cannot renew for two thirds of that time stops.

use super::Settings;
use super::watch::Seen;
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// The lease of one namespace.
#[derive(Clone)]
pub struct Lease {
    api: Api<Object>,
    identity: String,
    duration: Duration,
    held: Arc<AtomicBool>,
}

impl Lease {
    /// Of this namespace, for this operator.
    pub fn new(client: Client, namespace: &str, settings: &Settings) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            identity: settings.identity.clone(),
            duration: settings.lease,
            held: Arc::default(),
        }
    }

    /// Whether the lease is ours; a long round asks before each write.
    pub fn held(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.held)
    }

    /// Acquires the lease, says so, and renews it until that is no longer possible.
    pub async fn hold(self, seen: Sender<Seen>) {
        let mut rival = Rival::default();
        while !matches!(self.acquire(&mut rival).await, Ok(true)) {
            tokio::time::sleep(self.step()).await;
        }
        self.held.store(true, Ordering::Release);
        if seen.send(Seen::Leading).is_err() {
            return;
        }
        let mut renewed = Instant::now();
        let deadline = self.duration.mul_f32(2.0 / 3.0);
        loop {
            tokio::time::sleep(self.step()).await;
            let why = match tokio::time::timeout(deadline, self.acquire(&mut rival)).await {
                Ok(Ok(true)) => {
                    renewed = Instant::now();
                    continue;
                }
                Ok(Ok(false)) => "another operator holds it".to_owned(),
                Ok(Err(error)) if renewed.elapsed() < deadline && !is_conflict(&error) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API server does not answer".to_owned(),
            };
            self.held.store(false, Ordering::Release);
            let _ = seen.send(Seen::LeaseLost(why));
            return;
        }
    }

    /// Gives the lease back, so that the next operator need not wait.
    pub async fn release(&self) {
        let Ok(mut lease) = self.api.get(NAME).await else {
            return;
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            let _ = self.api.replace(NAME, &PostParams::default(), &lease).await;
        }
    }

    /// Whether the lease is ours now. Each try replaces the version that was read, so that of two operators
    /// one fails.
    async fn acquire(&self, rival: &mut Rival) -> Result<bool, Error> {
        let now = MicroTime(Timestamp::now());
        let params = PostParams::default();
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            let lease = Object {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.record(now, 0)),
            };
            return self.api.create(&params, &lease).await.map(|_| true);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder == self.identity {
            let renewed = lease.spec.get_or_insert_default();
            renewed.renew_time = Some(now);
        } else {
            if !holder.is_empty() && !rival.has_expired(&spec) {
                return Ok(false);
            }
            let transitions = spec.lease_transitions.unwrap_or_default().saturating_add(1);
            lease.spec = Some(self.record(now, transitions));
        }
        self.api.replace(NAME, &params, &lease).await.map(|_| true)
    }

    fn record(&self, now: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            acquire_time: Some(now.clone()),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs().max(1)).ok(),
            lease_transitions: Some(transitions),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    fn step(&self) -> Duration {
        self.duration.div_f32(6.0)
    }
}

/// What somebody else's lease looked like, and since when by our own clock.
#[derive(Default)]
struct Rival(Option<(LeaseSpec, Instant)>);

impl Rival {
    fn has_expired(&mut self, spec: &LeaseSpec) -> bool {
        let seconds = spec.lease_duration_seconds.unwrap_or_default();
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        match &self.0 {
            Some((known, since)) if known == spec => since.elapsed() > duration,
            _ => {
                self.0 = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }
}

fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == CONFLICT)
}

pub(super) const NAME: &str = "sheepfold-operator";
const CONFLICT: u16 = 409;

#[cfg(test)]
mod tests;

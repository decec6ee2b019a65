// SPDX-License-Identifier: Apache-2.0

//! Carries a plan out: announces each write to the record, sends it, records its success. The first failure
//! ends it; what was announced and not confirmed is written again by the next run.

use super::Error;
use super::secrets::Fresh;
use crate::kbs_admin::{self, AdminClient};
use crate::plan::{Observed, Write};
use kbs_protocol::Secret;
use kbs_protocol::resource::ResourcePath;
use serde_json::Value;
use std::collections::BTreeSet;

/// Where writes go. Tests and benchmarks put something between us and the KBS.
pub trait Target {
    /// Stores a secret.
    ///
    /// # Errors
    /// Whatever a request can meet.
    fn set_resource(&self, path: &ResourcePath, secret: &Secret) -> Result<(), kbs_admin::Error>;
    /// Makes sure that nothing lies there.
    ///
    /// # Errors
    /// Whatever a request can meet.
    fn delete_resource(&self, path: &ResourcePath) -> Result<(), kbs_admin::Error>;
    /// Replaces reference values, in any order.
    ///
    /// # Errors
    /// Whatever a request can meet.
    fn set_reference_values(&self, values: &[(&str, Value)]) -> Result<(), kbs_admin::Error>;
    /// Replaces an attestation policy.
    ///
    /// # Errors
    /// Whatever a request can meet.
    fn set_attestation_policy(&self, id: &str, text: &str) -> Result<(), kbs_admin::Error>;
    /// Replaces the resource policy.
    ///
    /// # Errors
    /// Whatever a request can meet.
    fn set_resource_policy(&self, text: &str) -> Result<(), kbs_admin::Error>;
    /// Reads a reference value.
    ///
    /// # Errors
    /// Whatever a request can meet.
    fn reference_value(&self, name: &str) -> Result<Option<Value>, kbs_admin::Error>;
}

impl Target for AdminClient {
    fn set_resource(&self, path: &ResourcePath, secret: &Secret) -> Result<(), kbs_admin::Error> {
        self.set_resource(path, secret)
    }

    fn delete_resource(&self, path: &ResourcePath) -> Result<(), kbs_admin::Error> {
        self.delete_resource(path)
    }

    fn set_reference_values(&self, values: &[(&str, Value)]) -> Result<(), kbs_admin::Error> {
        self.set_reference_values(values.iter().cloned())
    }

    fn set_attestation_policy(&self, id: &str, text: &str) -> Result<(), kbs_admin::Error> {
        self.set_attestation_policy(id, text)
    }

    fn set_resource_policy(&self, text: &str) -> Result<(), kbs_admin::Error> {
        self.set_resource_policy(text)
    }

    fn reference_value(&self, name: &str) -> Result<Option<Value>, kbs_admin::Error> {
        self.reference_value(name)
    }
}

/// The record of what a KBS holds, as a run needs it: durable before a write is sent.
pub trait Memory {
    /// What the KBS holds.
    fn observed(&self) -> &Observed;
    /// The first `count` of these writes are about to be sent, the others come next. When this returns, the
    /// first ones are on record as begun.
    ///
    /// # Errors
    /// When the record cannot be kept; then do not send them.
    fn begin(&mut self, writes: &[Write], count: usize) -> Result<(), Error>;
    /// These writes succeeded. Should this be lost, they will be made again.
    ///
    /// # Errors
    /// When the record cannot be kept.
    fn finish(&mut self, writes: &[Write]) -> Result<(), Error>;
}

/// Whose KBS this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It carries the number of our record.
    Us,
    /// It carries no number: it is new, or it has lost its storage.
    Nobody,
    /// It carries the number of another record.
    Another,
}

/// Asks a KBS for the number of the record that is about it.
///
/// # Errors
/// Whatever a request can meet.
pub fn owner(target: &dyn Target, id: &str) -> Result<Owner, kbs_admin::Error> {
    Ok(match target.reference_value(STAMP)? {
        None => Owner::Nobody,
        Some(found) if found == Value::from(vec![id]) => Owner::Us,
        Some(_) => Owner::Another,
    })
}

/// Marks a KBS as ours.
///
/// # Errors
/// Whatever a request can meet.
pub fn stamp(target: &dyn Target, id: &str) -> Result<(), kbs_admin::Error> {
    target.set_reference_values(&[(STAMP, Value::from(vec![id]))])
}

/// Sends the writes in their order; `progress` learns how many are done.
///
/// # Errors
/// [`Error::Write`] at the first that fails, [`Error::Io`] when the record cannot be written.
pub fn apply(
    writes: &[Write],
    record: &mut dyn Memory,
    target: &dyn Target,
    secrets: &Fresh,
    progress: &mut dyn FnMut(usize),
) -> Result<(), Error> {
    let mut done = 0usize;
    let mut rest = writes;
    while let Some((batch, others)) = next_batch(rest, record.observed()) {
        record.begin(rest, batch.len())?;
        if let (Err(error), Some(first)) = (send(batch, target, secrets), batch.first()) {
            let number = done.saturating_add(1);
            return Err(Error::write(number, writes.len(), first, error));
        }
        record.finish(batch)?;
        done = done.saturating_add(batch.len());
        progress(done);
        rest = others;
    }
    Ok(())
}

/// The writes that go into the next request. Reference values travel together as long as it does not matter
/// which of them the KBS takes first: all of them grow or none does, and no name occurs twice.
fn next_batch<'a>(writes: &'a [Write], observed: &Observed) -> Option<(&'a [Write], &'a [Write])> {
    let grows = |write: &Write| match write {
        Write::ReferenceValue { name, value } => {
            Some(!observed.difference(name, value).added.is_empty())
        }
        _ => None,
    };
    let direction = grows(writes.first()?);
    let mut names = BTreeSet::new();
    let mut bytes = 0usize;
    let mut fits = |write: &Write| match write {
        Write::ReferenceValue { name, value } if grows(write) == direction => {
            bytes = bytes.saturating_add(value.to_value().to_string().len());
            names.insert(name.clone()) && (names.len() == 1 || bytes <= BATCH_BYTES)
        }
        _ => false,
    };
    let count = match direction {
        None => 1,
        Some(_) => writes
            .iter()
            .take(BATCH)
            .take_while(|write| fits(write))
            .count(),
    };
    writes.split_at_checked(count.max(1))
}

fn send(batch: &[Write], target: &dyn Target, secrets: &Fresh) -> Result<(), Error> {
    let values: Vec<(&str, Value)> = batch
        .iter()
        .filter_map(|write| match write {
            Write::ReferenceValue { name, value } => Some((name.as_str(), value.to_value())),
            _ => None,
        })
        .collect();
    if !values.is_empty() {
        return Ok(target.set_reference_values(&values)?);
    }
    for write in batch {
        match write {
            Write::Resource { path, secret } => {
                let secret = secrets.get(secret).ok_or_else(|| Error::NoSecret {
                    write: write.to_string(),
                })?;
                target.set_resource(path, secret)?;
            }
            Write::DeleteResource { path } => target.delete_resource(path)?,
            Write::AttestationPolicy { id, text } => target.set_attestation_policy(id, text)?,
            Write::ResourcePolicy { text } => target.set_resource_policy(text)?,
            Write::ReferenceValue { .. } => {}
        }
    }
    Ok(())
}

/// The reference value that says whose record is about this KBS. No policy asks for it.
const STAMP: &str = "sheepfold_record";
/// Reference values in one request.
const BATCH: usize = 64;
/// And their size, unless one alone is larger.
const BATCH_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::next_batch;
    use crate::plan::{Observed, Write, plan};
    use crate::testing::{cluster, machine, node};

    fn batches(writes: &[Write], observed: &mut Observed) -> Vec<Vec<String>> {
        let mut rest = writes;
        let mut batches = Vec::new();
        while let Some((batch, others)) = next_batch(rest, observed) {
            batch.iter().for_each(|write| observed.begin(write));
            batch.iter().for_each(|write| observed.finish(write));
            batches.push(batch.iter().map(ToString::to_string).collect());
            rest = others;
        }
        batches
    }

    #[test]
    fn values_travel_together_and_nothing_else_does() {
        let mut observed = Observed::default();
        let writes = plan(&cluster(300), &observed).writes;
        let batches = batches(&writes, &mut observed);
        let sent: Vec<String> = writes.iter().map(ToString::to_string).collect();
        assert_eq!(batches.concat(), sent, "the order stays");
        for batch in &batches {
            assert!(batch.len() <= 64);
            assert!(batch.len() == 1 || batch.iter().all(|w| w.contains("reference value")));
        }
        assert!(batches.len() < 312, "{}", batches.len());
    }

    #[test]
    fn what_shrinks_is_not_sent_with_what_grows() {
        let mut desired = cluster(2);
        let mut observed = Observed::default();
        batches(&plan(&desired, &Observed::default()).writes, &mut observed);
        desired.machines.remove(&node(0));
        let mut newcomer = machine(7);
        newcomer.secrets.clear();
        desired.machines.insert(node(7), newcomer);
        let writes = plan(&desired, &observed).writes;
        let batches = batches(&writes, &mut observed);
        assert_eq!(batches.len(), 3, "{batches:?}");
        assert!(batches[0][0].starts_with("delete"));
        assert!(batches[1][0].starts_with("empty"));
        assert!(batches[2][0].starts_with("set"));
    }

    #[test]
    fn one_name_is_not_sent_twice_at_once() {
        let mut desired = cluster(1);
        let mut observed = Observed::default();
        batches(&plan(&desired, &Observed::default()).writes, &mut observed);
        desired.options.pcrs.clear();
        let writes = plan(&desired, &observed).writes;
        assert_eq!(batches(&writes, &mut observed).len(), 2);
    }
}

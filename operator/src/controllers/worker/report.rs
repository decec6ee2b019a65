// SPDX-License-Identifier: Apache-2.0

//! The end of a round: how each object that it looked at stands, and which machines may go.

use super::Worker;
use super::carry_out::Findings;
use super::seen::{self, Seen};
use crate::controllers::api::{self, ClusterStatus, Phase};
use crate::controllers::inventory::{Cluster, Dirty, Entry};
use crate::controllers::record::Record;
use crate::controllers::status::{self, Conditions, FINALIZER, Verdict};
use crate::controllers::{Error, parse, secrets};
use crate::model::{REPOSITORY, RUNTIME, State};
use crate::provision::apply::Memory as _;
use kbs_protocol::Blame as _;
use kube::{Resource as _, ResourceExt as _};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

impl Worker {
    pub(super) fn report(
        &mut self,
        cluster: &Cluster<'_>,
        dirty: &Dirty,
        findings: &Findings,
    ) -> Result<(), Error> {
        if !self.has_the_say() {
            return Err(Error::LeaseLost("during a round".to_owned()));
        }
        let Some((_, record)) = &self.record else {
            return Ok(());
        };
        let mut statuses = Vec::new();
        let mut gone = Vec::new();
        let looked_at = self.looked_at(dirty);
        for name in &looked_at {
            let Some(entry) = self.inventory.machines().get(name) else {
                self.phases.forget(name);
                self.pictures.set(name, None);
                continue;
            };
            let object = &entry.object;
            if object.metadata.deletion_timestamp.is_some() {
                self.phases.forget(name);
                let ours = object.finalizers().iter().any(|own| own == FINALIZER);
                if ours && self.may_go(entry, record) {
                    gone.push((name.clone(), object.uid().unwrap_or_default()));
                }
                continue;
            }
            let mut verdict = judge(entry, findings, record, self.inventory.approves());
            let seen = self.seen(entry);
            seen::add(&mut verdict, seen.as_ref(), &self.inventory, cluster);
            let shown = seen
                .filter(Seen::has_unlocked)
                .map(|_| verdict.image.clone());
            self.pictures.set(name, shown);
            self.phases.set(name, verdict.phase);
            let wanted = status::machine(object, &verdict);
            if object.status.as_ref() != Some(&wanted) {
                let told = object.status.as_ref().and_then(|old| old.reason.clone());
                if let Some(reason) = &verdict.reason
                    && told != verdict.reason
                {
                    let kind = format!("{:?}", verdict.phase);
                    self.writer.say(object, true, &kind, reason);
                }
                statuses.push((name.clone(), wanted));
            }
        }
        let failed = |error| Error::api("write a status", &error);
        self.writer
            .statuses::<api::Machine, _>(statuses.clone())
            .map_err(failed)?;
        for (name, status) in statuses {
            self.inventory.told(&name, status);
        }
        for (name, _) in &gone {
            if let Some(entry) = self.inventory.machines().get(name) {
                let note = "its secrets are deleted, its disks stay shut";
                self.writer
                    .say(&entry.object, false, "SecretsDeleted", note);
            }
        }
        self.writer
            .finalizer::<api::Machine>(&gone, false)
            .map_err(|error| Error::api("release machines", &error))?;
        self.report_images(dirty).map_err(failed)?;
        self.report_keys(dirty).map_err(failed)?;
        self.tell_metrics();
        self.report_cluster(cluster, findings).map_err(failed)
    }

    fn tell_metrics(&self) {
        let images = self.inventory.images().values();
        let good = images.filter(|image| image.boots.is_ok()).count();
        let bad = self.inventory.images().len().saturating_sub(good);
        self.metrics.note(|figures| {
            figures.machines = Phase::ALL.map(|phase| self.phases.count(phase));
            figures.images = [good, bad].map(|count| u64::try_from(count).unwrap_or_default());
        });
    }

    /// A failed round, said where people look.
    pub(super) fn report_failure(&self, error: &Error) {
        if error.is_about_the_kbs() {
            self.metrics.note(|figures| figures.kbs_up = false);
        }
        if !self.has_the_say() {
            return;
        }
        let Ok(Some(cluster)) = self.inventory.cluster() else {
            // A cluster that contradicts itself is not parsed, but it is there.
            for object in self.inventory.clusters() {
                self.write_failure(object, error);
            }
            return;
        };
        self.write_failure(cluster.object, error);
    }

    /// Machines that appeared while nothing could be done for them: they are known, and what they wait for is said. All
    /// others stand as they stood; that the KBS is away is said once, at the cluster.
    pub(super) fn report_waiting(&mut self, dirty: &Dirty, error: &Error) {
        if !self.has_the_say() {
            return;
        }
        let machines = self.inventory.machines();
        let found = dirty
            .machines
            .iter()
            .filter_map(|name| machines.get_key_value(name));
        let new = found.filter(|(_, entry)| {
            let known = entry.object.status.as_ref().and_then(|status| status.phase);
            known.is_none() && entry.object.metadata.deletion_timestamp.is_none()
        });
        let statuses: Vec<_> = new
            .map(|(name, entry)| {
                let verdict = Verdict {
                    reason: Some(format!("it waits: {error}")),
                    node: entry.node.as_ref().map(ToString::to_string),
                    ..Verdict::default()
                };
                (name.clone(), status::machine(&entry.object, &verdict))
            })
            .collect();
        match self.writer.statuses::<api::Machine, _>(statuses.clone()) {
            Ok(()) => {
                for (name, status) in statuses {
                    self.inventory.told(&name, status);
                }
            }
            Err(error) => crate::controllers::log(format_args!("status of machines: {error}")),
        }
    }

    fn write_failure(&self, object: &api::TrustedExecutionCluster, error: &Error) {
        let mut status = self.cluster_status(object);
        let old = object.status.clone().unwrap_or_default();
        let mut conditions = Conditions::new(&old.conditions, object.metadata.generation);
        let message = format!("{error}; {}", error.advice());
        conditions.set("Ready", (false, error.reason()), &message);
        conditions.set("Installed", (true, "InstallationCompleted"), "");
        self.deployer.conditions(&mut conditions);
        status.conditions = conditions.0;
        if object.status.as_ref() != Some(&status)
            && let Err(error) = self.writer.cluster(object, &status)
        {
            crate::controllers::log(format_args!("status of the cluster: {error}"));
        }
    }

    /// Whether no other operator may work by now, which knows more than this one.
    fn has_the_say(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Whether nothing is stored for a machine any more that is being deleted, or another one has its place.
    fn may_go(&self, entry: &Entry, record: &Record) -> bool {
        let Some(node) = &entry.node else {
            return true;
        };
        let mut others = self.inventory.claimants(node);
        let succeeded = others.any(|(_, other)| other.object.meta().deletion_timestamp.is_none());
        let observed = record.observed();
        succeeded
            || [REPOSITORY, RUNTIME].iter().all(|repository| {
                let prefix = format!("{repository}/{node}/");
                observed.under(&prefix).next().is_none()
            })
    }

    fn report_images(&self, dirty: &Dirty) -> Result<(), kube::Error> {
        let images = self.inventory.images();
        let names: Vec<&String> = match dirty.all {
            true => images.keys().collect(),
            false => dirty.images.iter().collect(),
        };
        let found = names
            .into_iter()
            .filter_map(|name| images.get_key_value(name));
        let statuses = found.filter_map(|(name, image)| {
            let values = image.boots.as_ref().map(crate::model::Boots::len);
            let reference = parse::reference(&image.object.spec).ok().flatten();
            let wanted = status::image(&image.object, reference, values.map_err(String::as_str));
            let told = status::without_scan(image.object.status.clone());
            (told.as_ref() != Some(&wanted)).then(|| (name.clone(), wanted))
        });
        self.writer
            .statuses::<api::ApprovedImage, _>(statuses.collect())
    }

    fn report_keys(&self, dirty: &Dirty) -> Result<(), kube::Error> {
        let keys = self.inventory.keys();
        let names: BTreeSet<&String> = match dirty.all {
            true => keys.keys().collect(),
            false => dirty.keys.iter().collect(),
        };
        let found = names
            .into_iter()
            .filter_map(|name| keys.get_key_value(name));
        let statuses = found.filter_map(|(name, object)| {
            let key = crate::model::AkPublic::try_from(object.spec.public_key.clone());
            let node = key.ok().map(|key| key.node_id().to_string());
            let machine = self.inventory.machine_of(object);
            let wanted = status::key(object, machine.map(String::as_str), node);
            (object.status.as_ref() != Some(&wanted)).then(|| (name.clone(), wanted))
        });
        self.writer
            .statuses::<api::AttestationKey, _>(statuses.collect())
    }

    fn report_cluster(
        &self,
        cluster: &Cluster<'_>,
        findings: &Findings,
    ) -> Result<(), kube::Error> {
        for object in self.inventory.clusters() {
            let mut status = self.cluster_status(object);
            let old = object.status.clone().unwrap_or_default();
            let mut conditions = Conditions::new(&old.conditions, object.metadata.generation);
            if object.metadata.uid != cluster.object.metadata.uid {
                let why = format!(
                    "{} is the cluster of this namespace: a KBS serves one cluster",
                    cluster.object.name_any()
                );
                conditions.set("Ready", (false, "NonUnique"), &why);
                conditions.set("Installed", (false, "NonUnique"), &why);
                status = ClusterStatus::default();
            } else {
                let message = findings.problems.join("; ");
                conditions.set("Ready", (true, "Provisioned"), &message);
                conditions.set("Installed", (true, "InstallationCompleted"), "");
                self.deployer.conditions(&mut conditions);
            }
            status.conditions = conditions.0;
            status.observed_generation = object.metadata.generation;
            if object.status.as_ref() != Some(&status) {
                self.writer.cluster(object, &status)?;
            }
        }
        Ok(())
    }

    fn cluster_status(&self, object: &api::TrustedExecutionCluster) -> ClusterStatus {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let served = i64::try_from(self.phases.served()).unwrap_or(i64::MAX);
        ClusterStatus {
            observed_generation: object.metadata.generation,
            observed_operator_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            release: self
                .keeper
                .client()
                .map(|client| client.dialect().to_string()),
            machines: count(self.inventory.machines().len()),
            served,
            images: count(self.inventory.images().len()),
            ..ClusterStatus::default()
        }
    }
}

/// How a machine stands that this round has planned.
fn judge(entry: &Entry, findings: &Findings, record: &Record, approves: bool) -> Verdict {
    let parsed = match &entry.parsed {
        Ok(parsed) => parsed,
        Err(why) => {
            return Verdict {
                phase: Phase::Refused,
                reason: Some(why.clone()),
                node: entry.node.as_ref().map(ToString::to_string),
                ..Verdict::default()
            };
        }
    };
    let node = &parsed.node;
    let verdict = |phase, reason: Option<String>| Verdict {
        phase,
        reason,
        node: Some(node.to_string()),
        ..Verdict::default()
    };
    match parsed.machine.state {
        State::Held => {
            let why = format!(
                "spec.state is held, so it gets nothing: approved lets it in; `sheepfold-operator register --approve \
                 {node}` also holds another key of its TPM"
            );
            return verdict(Phase::Held, Some(why));
        }
        State::Revoked => {
            let why =
                "spec.state is revoked: its secrets are deleted, and its disks stay shut for good";
            return verdict(Phase::Revoked, Some(why.to_owned()));
        }
        State::Approved => {}
    }
    if let Some(why) = findings.refusals.get(node) {
        return verdict(Phase::Refused, Some(why.clone()));
    }
    let (rotating, lost) = secrets::state(node, parsed.volumes.iter().cloned(), record);
    let stored = parsed.volumes.iter().all(|tag| {
        let path = tag.path(node).map(|path| path.to_string());
        path.is_ok_and(|path| record.observed().secret(&path).flatten().is_some())
    });
    let remark = || findings.remarks.get(node).cloned();
    match (stored, lost, rotating) {
        (_, true, _) => verdict(
            Phase::Lost,
            Some(
                "the KBS lost its storage, and there is no copy of this machine's secrets: restore the \
                 storage from its backup, or install the machine anew and raise spec.rotation"
                    .to_owned(),
            ),
        ),
        (false, _, _) => verdict(
            Phase::Registered,
            Some("its secrets are not in the KBS yet: look at the condition Ready of the cluster".to_owned()),
        ),
        _ if !approves => verdict(
            Phase::Registered,
            Some(
                "no image is approved, so no machine is served: apply an ApprovedImage with referenceValues"
                    .to_owned(),
            ),
        ),
        (true, _, true) => verdict(
            Phase::Rotating,
            secrets::waits(parsed, &entry.object.spec, record).or_else(remark),
        ),
        (true, _, false) => verdict(Phase::Served, remark()),
    }
}

#[cfg(test)]
mod tests;

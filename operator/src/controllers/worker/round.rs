// SPDX-License-Identifier: Apache-2.0

//! One round: the cluster, its record, its KBS; then the part that changed is planned, carried out and
//! reported. A round reports what it planned and nothing else, because only of that it knows how it stands.

use super::{Due, Worker};
use crate::controllers::inventory::{Cluster, Dirty};
use crate::controllers::keeper::Found;
use crate::controllers::record::Record;
use crate::controllers::status::FINALIZER;
use crate::controllers::{Error, api, log, parse};
use kube::ResourceExt as _;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Worker {
    pub(super) fn round(&mut self, dirty: &mut Dirty, due: Due) -> Result<(), Error> {
        let mut object = match self.inventory.cluster() {
            Ok(Some(cluster)) => cluster.object.clone(),
            Ok(None) => return self.release_all(dirty),
            Err(why) => return Err(Error::Cluster(why)),
        };
        let moved = std::mem::take(&mut dirty.deployed);
        let again = moved || dirty.all || due.refresh;
        let (deployed, differs) = self.deployer.ensure(&object, again)?;
        dirty.all |= differs;
        let runs_here = deployed.is_some();
        object.spec.kbs = deployed.or(object.spec.kbs);
        let cluster = parse::cluster(&object).map_err(Error::Cluster)?;
        self.load(&cluster, dirty)?;
        let Some((_, record)) = &mut self.record else {
            return Ok(());
        };
        let fresh = !self.keeper.is_connected(&cluster);
        if fresh {
            let connected = self.keeper.connect(&cluster);
            connected.map_err(|error| self.deployer.explain(error))?;
        }
        if fresh || due.probe {
            let found = self.keeper.recognise(&cluster, record)?;
            self.metrics.note(|figures| figures.kbs_up = true);
            dirty.all |= fresh || found != Found::Ours;
            if found == Found::Emptied {
                log(format_args!(
                    "the KBS has lost its storage, it is filled again"
                ));
                let note =
                    "the KBS lost its storage: policies and reference values are written again";
                self.writer.say(&object, true, "StorageLost", note);
                self.metrics.note(|figures| {
                    figures.storage_lost = figures.storage_lost.saturating_add(1);
                });
            }
        }
        if due.refresh && !dirty.all {
            let (desired, _) = self.inventory.desired(&cluster, &Dirty::everything());
            let differing = self.keeper.refresh(&desired, record)?;
            if !differing.is_empty() {
                let names = differing.join(", ");
                let note = format!("somebody else changed {names}: written again, find out who");
                self.writer.say(&object, true, "ValuesChanged", &note);
                let count = u64::try_from(differing.len()).unwrap_or_default();
                self.metrics.note(|figures| {
                    figures.foreign_changes = figures.foreign_changes.saturating_add(count);
                });
                dirty.part.values.extend(differing);
            }
        }
        if dirty.is_empty() && (runs_here || !moved) {
            return Ok(());
        }
        self.bind(dirty)?;
        let findings = self.carry_out(&cluster, dirty)?;
        // The KBS that is named has everything: one that ran here before is not needed any more.
        if !runs_here {
            self.deployer.retire(cluster.object, moved)?;
        }
        self.report(&cluster, dirty, &findings)
    }

    /// The record of this cluster; reading it makes everything dirty.
    fn load(&mut self, cluster: &Cluster<'_>, dirty: &mut Dirty) -> Result<(), Error> {
        let name = cluster.object.name_any();
        if self
            .record
            .as_ref()
            .is_some_and(|(known, _)| *known == name)
        {
            return Ok(());
        }
        let (runtime, held) = (self.runtime.clone(), Arc::clone(&self.held));
        let record = Record::load(self.client.clone(), &self.namespace, &name, runtime, held)?;
        self.record = Some((name, record));
        dirty.all = true;
        Ok(())
    }

    /// Every machine carries our finalizer before anything is stored for it.
    fn bind(&self, dirty: &Dirty) -> Result<(), Error> {
        let machines = self.inventory.machines();
        let free: Vec<(String, String)> = self
            .looked_at(dirty)
            .into_iter()
            .filter_map(|name| machines.get(&name))
            .filter(|entry| entry.object.metadata.deletion_timestamp.is_none())
            .filter(|entry| !entry.object.finalizers().iter().any(|own| own == FINALIZER))
            .map(|entry| {
                (
                    entry.object.name_any(),
                    entry.object.uid().unwrap_or_default(),
                )
            })
            .collect();
        self.writer
            .finalizer::<api::Machine>(&free, true)
            .map_err(|error| Error::api("set the finalizer of machines", &error))
    }

    /// Without a cluster there is no KBS of ours: machines that are being deleted may go.
    fn release_all(&mut self, dirty: &mut Dirty) -> Result<(), Error> {
        self.record = None;
        self.keeper.disconnect();
        let deleted = self.inventory.machines().iter().filter(|(_, entry)| {
            entry.object.metadata.deletion_timestamp.is_some()
                && entry.object.finalizers().iter().any(|own| own == FINALIZER)
        });
        let deleted: Vec<(String, String)> = deleted
            .map(|(name, entry)| (name.clone(), entry.object.uid().unwrap_or_default()))
            .collect();
        *dirty = Dirty::default();
        self.writer
            .finalizer::<api::Machine>(&deleted, false)
            .map_err(|error| Error::api("release machines", &error))
    }

    /// The machines that a round plans, and so those whose status it knows.
    pub(super) fn looked_at(&self, dirty: &Dirty) -> BTreeSet<String> {
        if dirty.all {
            return self.inventory.machines().keys().cloned().collect();
        }
        let nodes = dirty.part.nodes.iter();
        let named = nodes.flat_map(|node| self.inventory.claimants(node));
        let mut names: BTreeSet<String> = named.map(|(name, _)| name.clone()).collect();
        names.extend(dirty.machines.iter().cloned());
        names
    }
}

#[cfg(test)]
mod tests;

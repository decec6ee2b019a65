// SPDX-License-Identifier: Apache-2.0

//! From a part of the inventory to writes in the KBS: what is wanted, its secrets, the plan, the copies.

use super::Worker;
use crate::controllers::inventory::{Cluster, Dirty, Inventory, Refusals, held};
use crate::controllers::record::Record;
use crate::controllers::secrets::{self, Vault};
use crate::controllers::{Error, api, beside, copies, log};
use crate::model::{Desired, NodeName, State};
use crate::plan::{Plan, Write, plan, plan_part};
use crate::provision::MANY;
use crate::provision::apply::{Memory as _, apply};
use api::Copies;
use kube::ResourceExt as _;
use std::collections::{BTreeMap, BTreeSet};

/// What a round found out about machines.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) refusals: Refusals,
    /// What concerns the cluster.
    pub(super) problems: Vec<String>,
    /// What is wrong with a machine that gets its secrets all the same.
    pub(super) remarks: BTreeMap<NodeName, String>,
}

impl Worker {
    /// Plans this part and carries it out.
    pub(super) fn carry_out(
        &mut self,
        cluster: &Cluster<'_>,
        dirty: &Dirty,
    ) -> Result<Findings, Error> {
        let (Some((_, record)), Some(client)) = (&mut self.record, self.keeper.client()) else {
            return Ok(Findings::default());
        };
        let inventory = &self.inventory;
        let (mut desired, refusals) = inventory.desired(cluster, dirty);
        let mut findings = Findings {
            refusals,
            ..Findings::default()
        };
        keep_orphans(
            &mut desired,
            cluster,
            dirty,
            inventory,
            record,
            &mut findings,
        );
        let mine: Vec<NodeName> = desired
            .machines
            .iter()
            .filter(|(_, machine)| machine.state == State::Approved)
            .map(|(node, _)| node.clone())
            .filter(|node| dirty.all || dirty.part.nodes.contains(node))
            .collect();

        let mut vault = Vault::default();
        let store = copies::Store::new(
            self.client.clone(),
            &self.namespace,
            &cluster.object.name_any(),
            self.runtime.clone(),
        );
        let copied = cluster.copies == Copies::Namespace;
        let mut recalled = BTreeSet::new();
        if copied {
            let unsettled = mine.iter().filter(|node| {
                let owner = inventory.owner(node);
                owner.ok().flatten().is_some_and(|(parsed, object)| {
                    secrets::is_unsettled(parsed, &object.spec, record)
                })
            });
            recalled.extend(unsettled.cloned());
            store.recall(&recalled, &mut vault)?;
        }
        record.forget_pending();
        let mut contents = beside::Contents::new(&self.client, &self.namespace, &self.runtime);
        for node in &mine {
            if let (Some(machine), Ok(Some((parsed, object)))) =
                (desired.machines.get_mut(node), inventory.owner(node))
            {
                secrets::put(machine, parsed, &object.spec, record, &mut vault)?;
                let key = parsed
                    .key
                    .as_ref()
                    .and_then(|key| inventory.keys().get(key));
                let boots = &desired.boots;
                let objects = (object, key);
                let mut remarks =
                    beside::volume_keys(machine, parsed, objects, boots, record, &mut vault)?;
                let wanted = object.spec.ignition.as_ref();
                let wanted = wanted.or(cluster.object.spec.ignition.as_ref());
                remarks.extend(beside::ignition(
                    machine,
                    wanted,
                    &mut contents,
                    &mut vault,
                )?);
                let wanted = [&cluster.object.spec.runtime, &object.spec.runtime];
                let wanted = wanted.map(Option::as_ref);
                remarks.extend(beside::runtime(
                    machine,
                    node,
                    wanted,
                    record,
                    &mut contents,
                    &mut vault,
                )?);
                if !remarks.is_empty() {
                    findings.remarks.insert(node.clone(), remarks.join("; "));
                }
            }
        }
        let plan = match dirty.all {
            true => plan(&desired, record.observed()),
            false => plan_part(&desired, record.observed(), &dirty.part),
        };
        if copied {
            // A copy is written whole: what does not change is in the one that is there.
            let changing = changing(&plan);
            store.recall(
                &changing.difference(&recalled).cloned().collect(),
                &mut vault,
            )?;
            for node in changing {
                if let (Some(machine), Ok(Some((_, object)))) =
                    (desired.machines.get(&node), inventory.owner(&node))
                {
                    store.keep(object, &node, machine, &vault)?;
                }
            }
        }
        findings.take(&plan);
        let mut written = 0usize;
        let ended = apply(&plan.writes, record, client, &vault.bytes, &mut |done| {
            written = done;
        });
        self.metrics.note(|figures| {
            let written = u64::try_from(written).unwrap_or_default();
            figures.kbs_writes = figures.kbs_writes.saturating_add(written);
        });
        // What was finished before a failure is finished.
        let settled = record.settle();
        ended?;
        settled?;
        if plan.writes.len() > FEW {
            log(format_args!("{} writes", plan.writes.len()));
        }
        Ok(findings)
    }
}

impl Findings {
    /// What the plan could not grant.
    fn take(&mut self, plan: &Plan) {
        for problem in &plan.problems {
            let nodes = problem.nodes();
            match nodes.is_empty() {
                true => self.problems.push(problem.to_string()),
                false => {
                    for node in nodes {
                        self.refusals.insert(node.clone(), problem.to_string());
                    }
                }
            }
        }
    }
}

/// Machines that are gone without having been deleted: few lose their secrets, as with files; of many
/// nobody believes it, until somebody says their number.
fn keep_orphans(
    desired: &mut Desired,
    cluster: &Cluster<'_>,
    dirty: &Dirty,
    inventory: &Inventory,
    record: &Record,
    findings: &mut Findings,
) {
    let known: BTreeSet<NodeName> = match dirty.all {
        true => record.observed().nodes(),
        false => dirty.part.nodes.clone(),
    };
    let orphans: Vec<NodeName> = known
        .into_iter()
        .filter(|node| inventory.claimants(node).next().is_none())
        .collect();
    if orphans.len() <= MANY {
        return;
    }
    let allowed = cluster.object.annotations().get(REMOVE_MANY);
    if allowed.is_some_and(|allowed| *allowed == orphans.len().to_string()) {
        return;
    }
    findings.problems.push(format!(
        "{0} machines have secrets and no object: they get nothing, and their secrets are kept; if they are \
         gone for good, annotate this cluster with {REMOVE_MANY}={0}",
        orphans.len()
    ));
    for node in orphans {
        desired.machines.insert(node, held());
    }
}

/// The machines whose secrets a plan changes.
fn changing(plan: &Plan) -> BTreeSet<NodeName> {
    let paths = plan.writes.iter().filter_map(|write| match write {
        Write::Resource { path, .. } | Write::DeleteResource { path } => Some(path),
        _ => None,
    });
    paths
        .filter_map(|path| path.segments().nth(1)?.parse().ok())
        .collect()
}

/// On a cluster: so many machines without an object may lose their secrets.
const REMOVE_MANY: &str = "trusted-execution-clusters.io/remove-many";
/// Plans of more writes are worth a line in the log.
const FEW: usize = 100;

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0

//! The one thread that writes. It takes in what was seen, however much that is, and then makes a round: plan
//! the part that can have changed, carry it out, say how things stand. A round that fails is made again, later
//! and later; what it left undone is not forgotten.

mod report;

use super::copies;
use super::inventory::{Cluster, Dirty, Inventory, Refusals, held};
use super::keeper::{Found, Keeper};
use super::record::Record;
use super::secrets::{self, Vault};
use super::status::{FINALIZER, Writer};
use super::watch::{Change, Seen};
use super::{Error, Settings, api, log, parse};
use crate::model::{Desired, NodeName, State};
use crate::plan::{Plan, Write, plan, plan_part};
use crate::provision::MANY;
use crate::provision::apply::{Memory as _, apply};
use api::{Copies, Phase};
use kbs_protocol::Blame as _;
use kube::{Client, ResourceExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// All that a round needs.
pub struct Worker {
    settings: Settings,
    client: Client,
    namespace: String,
    runtime: Handle,
    held: Arc<AtomicBool>,
    writer: Writer,
    keeper: Keeper,
    record: Option<(String, Record)>,
    inventory: Inventory,
    dirty: Dirty,
    /// Kinds of which everything was listed once.
    listed: BTreeSet<&'static str>,
    leading: bool,
    phases: BTreeMap<String, Phase>,
    served: usize,
    failures: u32,
    next_try: Instant,
    next_probe: Instant,
    next_refresh: Instant,
}

/// What a round found out about machines.
#[derive(Default)]
struct Findings {
    refusals: Refusals,
    /// Wishes that have to wait.
    waits: BTreeMap<NodeName, String>,
    /// Machines that are gone without having been deleted.
    orphans: usize,
    /// What concerns the cluster.
    problems: Vec<String>,
}

impl Worker {
    /// For one namespace.
    pub fn new(
        settings: &Settings,
        client: &Client,
        namespace: &str,
        runtime: &Handle,
        held: Arc<AtomicBool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            settings: settings.clone(),
            writer: Writer::new(client, namespace, &settings.identity, runtime),
            keeper: Keeper::new(client, namespace, runtime),
            client: client.clone(),
            namespace: namespace.to_owned(),
            runtime: runtime.clone(),
            held,
            record: None,
            inventory: Inventory::default(),
            dirty: Dirty::default(),
            listed: BTreeSet::new(),
            leading: false,
            phases: BTreeMap::new(),
            served: 0,
            failures: 0,
            next_try: now,
            next_probe: now,
            next_refresh: now,
        }
    }

    /// Works until somebody says stop.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Blind`].
    pub fn run(mut self, seen: &Receiver<Seen>) -> Result<(), Error> {
        loop {
            let first = seen.recv_timeout(self.wait());
            let mut next = match first {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Blind),
            };
            while let Some(event) = next {
                match event {
                    Seen::Stop => return Ok(()),
                    Seen::LeaseLost(why) => return Err(Error::LeaseLost(why)),
                    other => self.take_in(other),
                }
                next = seen.try_recv().ok();
            }
            if self.leading && self.listed.len() == KINDS && Instant::now() >= self.next_try {
                self.attempt();
            }
        }
    }

    fn wait(&self) -> Duration {
        let now = Instant::now();
        let due = self.next_probe.min(self.next_refresh).max(self.next_try);
        let due = match self.dirty.is_empty() {
            true => due,
            false => self.next_try,
        };
        due.saturating_duration_since(now)
            .clamp(Duration::from_millis(1), Duration::from_secs(1))
    }

    fn take_in(&mut self, event: Seen) {
        let (inventory, dirty) = (&mut self.inventory, &mut self.dirty);
        match event {
            Seen::Leading => {
                log(format_args!("leading as {}", self.settings.identity));
                self.leading = true;
            }
            Seen::Cluster(change) => {
                let known = inventory
                    .clusters()
                    .map(kube::ResourceExt::name_any)
                    .collect();
                changed(
                    "cluster",
                    change,
                    known,
                    &mut self.listed,
                    |name, object| {
                        inventory.set_cluster(name, object, dirty);
                    },
                );
            }
            Seen::Image(change) => {
                let known = inventory.images().keys().cloned().collect();
                changed("image", change, known, &mut self.listed, |name, object| {
                    inventory.set_image(name, object, dirty);
                });
            }
            Seen::Machine(change) => {
                let known = match &change {
                    Change::All(_) => inventory.machines().keys().cloned().collect(),
                    _ => Vec::new(),
                };
                changed(
                    "machine",
                    change,
                    known,
                    &mut self.listed,
                    |name, object| {
                        inventory.set_machine(name, object, dirty);
                    },
                );
            }
            Seen::Key(change) => {
                let known = match &change {
                    Change::All(_) => inventory.keys().keys().cloned().collect(),
                    _ => Vec::new(),
                };
                changed("key", change, known, &mut self.listed, |name, object| {
                    inventory.set_key(name, object, dirty);
                });
            }
            Seen::LeaseLost(_) | Seen::Stop => {}
        }
    }

    /// One round, and what follows from its end.
    fn attempt(&mut self) {
        let now = Instant::now();
        let (probe, refresh) = (now >= self.next_probe, now >= self.next_refresh);
        if self.dirty.is_empty() && !probe && !refresh {
            return;
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        let ended = self.round(&mut dirty, probe, refresh);
        let after = Instant::now();
        if let Err(error) = ended {
            self.dirty.merge(dirty);
            // Whatever was half done is looked at again, whole.
            self.dirty.all = true;
            self.keeper.disconnect();
            self.record = None;
            self.failures = self.failures.saturating_add(1);
            let shift = self.failures.min(LONGEST_SHIFT);
            self.next_try = later(after, SHORTEST.saturating_mul(1 << shift));
            log(format_args!("{error}; {}", error.advice()));
            self.report_failure(&error);
        } else {
            self.failures = 0;
        }
        if probe {
            self.next_probe = later(after, self.settings.probe);
        }
        if refresh {
            self.next_refresh = later(after, self.settings.refresh);
        }
    }

    fn round(&mut self, dirty: &mut Dirty, probe: bool, refresh: bool) -> Result<(), Error> {
        let object = match self.inventory.cluster() {
            Ok(Some(cluster)) => cluster.object.clone(),
            Ok(None) => return self.release_all(dirty),
            Err(why) => return Err(Error::Cluster(why)),
        };
        let cluster = parse::cluster(&object).map_err(Error::Cluster)?;
        self.load(&cluster, dirty)?;
        let Some((_, record)) = &mut self.record else {
            return Ok(());
        };
        let fresh = !self.keeper.is_connected(&cluster);
        if fresh {
            self.keeper.connect(&cluster)?;
        }
        if fresh || probe {
            let found = self.keeper.recognise(&cluster, record)?;
            dirty.all |= fresh || found != Found::Ours;
            if found == Found::Emptied {
                log(format_args!(
                    "the KBS has lost its storage, it is filled again"
                ));
                let note =
                    "the KBS lost its storage: policies and reference values are written again";
                self.writer.say(&object, true, "StorageLost", note);
            }
        }
        if refresh && !dirty.all {
            let (desired, _) = self.inventory.desired(&cluster, &everything());
            let differing = self.keeper.refresh(&desired, record)?;
            if !differing.is_empty() {
                let names = differing.join(", ");
                let note = format!("somebody else changed {names}: written again, find out who");
                self.writer.say(&object, true, "ValuesChanged", &note);
                dirty.part.values.extend(differing);
            }
        }
        if dirty.is_empty() {
            return Ok(());
        }
        self.bind(dirty)?;
        let findings = self.carry_out(&cluster, dirty)?;
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

    /// Plans this part and carries it out.
    fn carry_out(&mut self, cluster: &Cluster<'_>, dirty: &Dirty) -> Result<Findings, Error> {
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
        if copied {
            let unsettled = mine.iter().filter(|node| {
                let owner = owner(inventory, node);
                owner.is_some_and(|(parsed, object)| {
                    secrets::is_unsettled(parsed, &object.spec, record)
                })
            });
            store.recall(&unsettled.cloned().collect(), &mut vault)?;
        }
        record.forget_pending();
        for node in &mine {
            let (Some(machine), Some((parsed, object))) =
                (desired.machines.get_mut(node), owner(inventory, node))
            else {
                continue;
            };
            let waits = secrets::put(machine, parsed, &object.spec, record, &mut vault)?;
            findings.waits.extend(waits.map(|why| (node.clone(), why)));
        }
        let plan = match dirty.all {
            true => plan(&desired, record.observed()),
            false => plan_part(&desired, record.observed(), &dirty.part),
        };
        if copied {
            for node in changing(&plan) {
                if let (Some(machine), Some((_, object))) =
                    (desired.machines.get(&node), owner(inventory, &node))
                {
                    store.keep(object, &node, machine, &vault)?;
                }
            }
        }
        findings.take(&plan);
        let ended = apply(&plan.writes, record, client, &vault.bytes, &mut |_| {});
        // What was finished before a failure is finished.
        let settled = record.settle();
        ended?;
        settled?;
        if plan.writes.len() > FEW {
            log(format_args!("{} writes", plan.writes.len()));
        }
        Ok(findings)
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

    /// The machines whose status a round may change.
    fn looked_at(&self, dirty: &Dirty) -> BTreeSet<String> {
        if dirty.all {
            return self.inventory.machines().keys().cloned().collect();
        }
        let shards = dirty.part.values.iter();
        let nodes = shards.flat_map(|shard| self.inventory.in_shard(shard));
        let nodes = nodes.chain(&dirty.part.nodes);
        let named = nodes.flat_map(|node| self.inventory.claimants(node));
        let mut names: BTreeSet<String> = named.map(|(name, _)| name.clone()).collect();
        names.extend(dirty.machines.iter().cloned());
        names
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
    findings.orphans = orphans.len();
    findings.problems.push(format!(
        "{0} machines have secrets and no object: they get nothing, and their secrets are kept; if they are \
         gone for good, annotate this cluster with {REMOVE_MANY}={0}",
        orphans.len()
    ));
    for node in orphans {
        desired.machines.insert(node, held());
    }
}

/// The machine that is this node, and its object.
fn owner<'a>(
    inventory: &'a Inventory,
    node: &NodeName,
) -> Option<(&'a super::inventory::Parsed, &'a api::Machine)> {
    let parsed = inventory.owner(node).ok()??;
    let mut alive = inventory
        .claimants(node)
        .filter(|(_, entry)| entry.object.metadata.deletion_timestamp.is_none());
    alive.next().map(|(_, entry)| (parsed, &entry.object))
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

/// A time that the clock cannot hold is now.
fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

fn everything() -> Dirty {
    Dirty {
        all: true,
        ..Dirty::default()
    }
}

fn changed<K: kube::Resource>(
    kind: &'static str,
    change: Change<K>,
    known: Vec<String>,
    listed: &mut BTreeSet<&'static str>,
    mut set: impl FnMut(&str, Option<K>),
) {
    match change {
        Change::Is(object) => {
            let name = object.meta().name.clone().unwrap_or_default();
            set(&name, Some(*object));
        }
        Change::Gone(name) => set(&name, None),
        Change::All(names) => {
            listed.insert(kind);
            for name in known.iter().filter(|name| !names.contains(*name)) {
                set(name, None);
            }
        }
    }
}

/// Cluster, image, machine, key.
const KINDS: usize = 4;
/// On a cluster: so many machines without an object may lose their secrets.
const REMOVE_MANY: &str = "trusted-execution-clusters.io/remove-many";
/// Plans of more writes are worth a line in the log.
const FEW: usize = 100;
const SHORTEST: Duration = Duration::from_millis(250);
/// 250 ms, doubled so often: 32 s.
const LONGEST_SHIFT: u32 = 7;

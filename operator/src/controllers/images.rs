// SPDX-License-Identifier: Apache-2.0

//! Approved images by reference: the operator looks through them itself, one at a time, in a thread of its own, because a
//! scan takes as long as a registry takes.
//!
//! 1. The worker says what is wished: an [order](desk), after each change that can concern it. The newest one counts.
//! 2. [`scan`] computes what the images of one update boot, from their registry and what [`material`] reads of Secrets and
//!    ConfigMaps.
//! 3. That goes into the status of each image, and comes back from there by the watch, as any other change: the next
//!    operator finds it and looks through nothing again.
//! 4. What goes wrong is a condition and an Event ([`problem`]), and is tried again, later and later. What was computed
//!    before stays approved meanwhile.

mod desk;
mod material;
mod problem;
mod scan;
#[cfg(test)]
mod tests;

pub use desk::{Again, sources, usual_sources};

use super::api::{ApprovedImage, Computed};
use super::inventory::Inventory;
use super::status::{Conditions, SCANNED, Writer, scanned};
use super::{Settings, log, parse};
use desk::{Desk, Order, Wanted, Wish};
use kube::{Client, ResourceExt as _};
use material::Material;
use scan::{Found, Group, Scanned};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Instant;
use tokio::runtime::Handle;

/// The thread that looks through images. It ends when this is dropped, after the scan that it is in.
pub struct Scanner(Sender<Order>);

impl Scanner {
    /// For one namespace. Nothing is written while the lease is not `held`.
    pub fn start(
        settings: &Settings,
        client: &Client,
        namespace: &str,
        runtime: &Handle,
        held: Arc<AtomicBool>,
    ) -> Self {
        let (orders, received) = channel();
        let work = Work {
            material: Material::new(client, namespace, runtime),
            writer: Writer::new(client, namespace, &settings.identity, runtime),
            cache: settings.image_cache.clone(),
            most_bytes: settings.image_bytes,
            held,
        };
        std::thread::spawn(move || work.run(&received));
        Self(orders)
    }

    /// What is wished now.
    pub fn order(&self, inventory: &Inventory, again: Again) {
        let wish = Wish::of(inventory);
        if self.0.send(Order { wish, again }).is_err() {
            log(format_args!(
                "images are no longer looked through: start this operator again, and report it"
            ));
        }
    }
}

/// What the thread works with.
struct Work {
    material: Material,
    writer: Writer,
    cache: Option<PathBuf>,
    most_bytes: u64,
    held: Arc<AtomicBool>,
}

impl Work {
    fn run(&self, orders: &Receiver<Order>) {
        let mut desk = Desk::default();
        loop {
            let now = Instant::now();
            let Some(names) = desk.due(now) else {
                let order = match desk.next() {
                    Some(next) => orders.recv_timeout(next.saturating_duration_since(now)),
                    None => orders.recv().map_err(Into::into),
                };
                match order {
                    Ok(order) => desk.take(order),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                continue;
            };
            // A newer wish counts before anything is begun.
            match orders.try_recv() {
                Ok(order) => {
                    desk.take(order);
                    continue;
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            let ended = self.attempt(&desk.wish, &names);
            desk.ended(&names, ended, Instant::now());
        }
    }

    /// One group. A failure was said, and may pass by itself or not.
    fn attempt(&self, wish: &Wish, names: &BTreeSet<String>) -> Result<(), bool> {
        let members: BTreeMap<&String, &Wanted> = names
            .iter()
            .filter_map(|name| wish.images.get_key_value(name))
            .collect();
        let group = Group {
            members: &members,
            registries: &wish.registries,
            material: &self.material,
            cache: self.cache.clone(),
            most_bytes: self.most_bytes,
        };
        let begin = || {
            let unsaid = members
                .values()
                .filter(|wanted| !is_failing(&wanted.object));
            for wanted in unsaid {
                let _ = self.say(wanted, None, (false, "Scanning"), "it is looked through");
            }
        };
        let failed = match group.compute(&begin) {
            Ok(Scanned::Known) => return self.settle(&members),
            Ok(Scanned::New(found)) => return self.publish(&members, found),
            Err(problem) => problem,
        };
        for (name, wanted) in &members {
            let (reason, text) = match *failed.image == ***name {
                true => (failed.reason, failed.says.clone()),
                false => (
                    "WaitsForAnother",
                    format!(
                        "image {}, of the same update: {}",
                        failed.image, failed.says
                    ),
                ),
            };
            let is_news = scanned(&wanted.object).is_none_or(|one| !one.message.starts_with(&text));
            let kept =
                computed(wanted).map_or("", |_| "; what was computed for it before stays approved");
            let is_said = self.say(wanted, None, (false, reason), &format!("{text}{kept}"));
            if is_news && is_said.is_ok() {
                log(format_args!("image {name}: {text}"));
                self.writer.say(&wanted.object, true, reason, &text);
            }
        }
        Err(failed.may_pass)
    }

    /// What its images have is right; a condition may still tell of an earlier failure.
    fn settle(&self, members: &BTreeMap<&String, &Wanted>) -> Result<(), bool> {
        for wanted in members.values() {
            if let Some(computed) = computed(wanted)
                && !is_scanned(&wanted.object)
            {
                self.say(wanted, None, (true, "Computed"), &told(computed))?;
            }
        }
        Ok(())
    }

    fn publish(
        &self,
        members: &BTreeMap<&String, &Wanted>,
        found: BTreeMap<String, Found>,
    ) -> Result<(), bool> {
        for (name, wanted) in members {
            let Some(Found {
                computed,
                label_differs,
            }) = found.get(*name)
            else {
                continue;
            };
            let text = told(computed);
            self.say(wanted, Some(computed), (true, "Computed"), &text)?;
            log(format_args!("image {name}: {text}"));
            let reason = match label_differs {
                true => "LabelDiffers",
                false => "Computed",
            };
            self.writer
                .say(&wanted.object, *label_differs, reason, &text);
        }
        Ok(())
    }

    /// Writes our part of the status: this, or what was computed before.
    fn say(
        &self,
        wanted: &Wanted,
        new: Option<&Computed>,
        state: (bool, &str),
        text: &str,
    ) -> Result<(), bool> {
        // Another operator has the say.
        if !self.held.load(Ordering::Acquire) {
            return Err(true);
        }
        let object = &wanted.object;
        let old = object.status.clone().unwrap_or_default();
        let mut conditions = Conditions::new(&old.conditions, object.metadata.generation);
        conditions.set(SCANNED, state, text);
        let mut status = json!({"conditions": conditions.0});
        if let (Some(members), Some(computed)) =
            (status.as_object_mut(), new.or(old.computed.as_ref()))
        {
            members.insert("computed".to_owned(), json!(computed));
        }
        let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
        let written = self.writer.scan(&name, &uid, &status);
        written.map_err(|error| {
            log(format_args!("status of image {name}: {error}"));
            true
        })
    }
}

/// What was computed for this image, and not for another one.
fn computed(wanted: &Wanted) -> Option<&Computed> {
    let computed = wanted.object.status.as_ref()?.computed.as_ref()?;
    (parse::digest(&wanted.reference) == Some(&computed.image)).then_some(computed)
}

fn is_scanned(object: &ApprovedImage) -> bool {
    scanned(object).is_some_and(|one| one.status == "True")
}

fn is_failing(object: &ApprovedImage) -> bool {
    scanned(object).is_some_and(|one| one.status != "True")
}

/// What was computed, in words.
fn told(computed: &Computed) -> String {
    let count = computed.boots.len();
    let boots = if count == 1 { "boot" } else { "boots" };
    let mut parts = vec![format!("{count} {boots}")];
    parts.extend(computed.remarks.iter().cloned());
    parts.join("; ")
}

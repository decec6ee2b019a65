// SPDX-License-Identifier: Apache-2.0

//! Which boots a fleet can show while it goes from one image to the next: whole tuples of PCR values, found
//! by walking the states that a machine can be in. Never a list per PCR, which would also accept mixtures
//! that no machine shows, and never a full product, which would accept more than was approved.
//!
//! A machine has parts that change at different times: the deployment (kernel or unified kernel image) at
//! the reboot after an update or a rollback; the boot loader when the running system copies its own to the
//! ESP, usually later; the platform's variables (dbx) whenever an update comes; SbatLevel when a newer shim
//! runs once, and never back. A power cut can come after any of them. Every combination that follows is
//! recomputed from facts: one event may depend on several parts.

mod machine;
mod tuple;

pub use tuple::Tuple;

use crate::bank::Bank;
use crate::bytes::Blob;
use crate::error::Error;
use crate::facts::ImageFacts;
use crate::path::BootPath;
use crate::platform::PlatformFacts;
use machine::State;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is approved, and how machines may move within it. Images and platforms are meant by their position
/// in the list.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// The approved images. Each may be the first one of a machine.
    pub images: Vec<Approved>,
    /// Updates, from and to. Each may be rolled back.
    pub updates: Vec<(usize, usize)>,
    /// The platforms. Each may be the first state of a machine.
    pub platforms: Vec<PlatformFacts>,
    /// Changes of variables, such as an update of dbx, from and to. They are not rolled back.
    pub platform_updates: Vec<(usize, usize)>,
    /// The bank of the tuples.
    pub bank: Bank,
    /// Lists of phase words that systemd may have extended into PCR 11 by the time of the quote; one tuple
    /// for each. Empty: those of the boot path.
    pub phases: Vec<Vec<String>>,
    /// Whether to accept the window in which a new shim already lies beside the old second stage.
    pub partial_esp: bool,
}

/// An image with the way it boots.
#[derive(Debug, Clone)]
pub struct Approved {
    /// The image.
    pub facts: ImageFacts,
    /// The way it boots.
    pub path: BootPath,
}

/// The boots that machines can show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reachable {
    /// The bank of the tuples.
    pub bank: Bank,
    /// Each tuple with the first combination that leads to it.
    pub boots: BTreeMap<Tuple, Boot>,
    /// Combinations that do not start, with the reason: nothing to accept, but something to know before an
    /// update.
    pub dead_ends: Vec<(Combination, String)>,
}

/// How a tuple comes about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// The parts.
    pub combination: Combination,
    /// What nobody has seen on a machine yet ([`crate::predict::Prediction::unobserved`]).
    pub unobserved: Vec<String>,
}

/// Which part came from which image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Combination {
    /// The image whose shim is on the ESP.
    pub shim: String,
    /// The image whose boot loader is on the ESP.
    pub boot_loader: String,
    /// The image that is deployed.
    pub deployment: String,
    /// The platform.
    pub platform: String,
    /// SbatLevel before the boot; `None` for an absent one.
    pub sbat_level: Option<Blob>,
}

/// Walks every state that a machine can be in.
///
/// # Errors
/// [`Error::TooMany`] for more than 16 images or 16 384 states; [`Error::Unsupported`] for images that boot
/// along different routes, or for a position outside of its list; what [`crate::predict::candidates`] says, other than that
/// a combination does not start.
pub fn combine(rollout: &Rollout) -> Result<Reachable, Error> {
    check(rollout)?;
    let mut reachable = Reachable {
        bank: rollout.bank,
        boots: BTreeMap::new(),
        dead_ends: Vec::new(),
    };
    let mut seen: BTreeSet<State> = rollout.first_states();
    let mut open: Vec<State> = seen.iter().cloned().collect();
    while let Some(state) = open.pop() {
        let Some(level) = rollout.boot(&state, &mut reachable)? else {
            continue;
        };
        for next in rollout.next_states(&state, &level) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
        check_count("states", seen.len(), MAX_STATES)?;
    }
    Ok(reachable)
}

impl Reachable {
    /// The tuples, as the reference value `boot_tuples` wants them.
    pub fn tuples(&self) -> impl Iterator<Item = &Tuple> {
        self.boots.keys()
    }
}

fn check(rollout: &Rollout) -> Result<(), Error> {
    check_count("images", rollout.images.len(), MAX_IMAGES)?;
    let mut routes = rollout.images.iter().map(|image| image.path.route);
    let first = routes.next();
    if routes.any(|route| Some(route) != first) {
        return Err(Error::Unsupported {
            what: "an update between images that boot along different routes".to_owned(),
            why: "shim, boot loader and kernel of such images do not mix: install the machine again",
        });
    }
    let outside =
        |steps: &[(usize, usize)], count| steps.iter().any(|(from, to)| *from.max(to) >= count);
    if outside(&rollout.updates, rollout.images.len())
        || outside(&rollout.platform_updates, rollout.platforms.len())
    {
        return Err(Error::Unsupported {
            what: "an update of something that is not in the list".to_owned(),
            why: "only approved images and platforms can be combined",
        });
    }
    Ok(())
}

fn check_count(what: &'static str, count: usize, limit: usize) -> Result<(), Error> {
    match count {
        0..=MAX_STATES if count <= limit => Ok(()),
        _ => Err(Error::TooMany { what, count, limit }),
    }
}

/// Approving more than an image, its predecessor and its successor at once is already unusual.
const MAX_IMAGES: usize = 16;
const MAX_STATES: usize = 16_384;

// SPDX-License-Identifier: Apache-2.0

//! Which boots a fleet can show while it goes from one image to the next: whole tuples of PCR values, found by walking
//! the states that a machine can be in. Never a list per PCR, which would also accept mixtures that no machine shows, and
//! never a full product, which would accept more than was approved.
//!
//! A machine has parts that change at different times: the deployment (kernel or unified kernel image) at the reboot after
//! an update or a rollback; the boot loader when the running system copies its own to the ESP, usually later; the
//! platform's variables (dbx) whenever an update comes; SbatLevel when a newer shim runs once, and never back. A power
//! cut can come after any of them. Every combination that follows is recomputed from facts: one event may depend on
//! several parts.

mod tuple;

pub use tuple::Tuple;

use crate::bank::Bank;
use crate::bytes::Blob;
use crate::error::Error;
use crate::facts::ImageFacts;
use crate::path::{BootPath, Route};
use crate::platform::PlatformFacts;
use crate::predict::{Prediction, candidates};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is approved, and how machines may move within it. Images and platforms are meant by their position in the list.
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
    /// Lists of phase words that systemd may have extended into PCR 11 by the time of the quote; one tuple for each. Empty:
    /// those of the boot path.
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
    /// Combinations that do not start, with the reason: nothing to accept, but something to know before an update.
    pub dead_ends: Vec<(Combination, String)>,
}

/// How a tuple comes about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// The parts.
    pub combination: Combination,
    /// What nobody has seen on a machine yet ([`Prediction::unobserved`]).
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
/// [`Error::TooMany`] for more than 16 images or 16 384 states; [`Error::Unsupported`] for images that boot along
/// different routes, or for a position outside of its list; what [`candidates`] says, other than that a combination
/// does not start.
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

/// What a machine has installed before it boots; positions in the lists of the rollout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    shim: usize,
    boot_loader: usize,
    deployment: usize,
    platform: usize,
    sbat_level: Option<Blob>,
}

impl Rollout {
    fn first_states(&self) -> BTreeSet<State> {
        let fresh = |image: usize| {
            let platforms = self.platforms.iter().enumerate();
            platforms.map(move |(platform, facts)| State {
                shim: image,
                boot_loader: image,
                deployment: image,
                platform,
                sbat_level: facts.variables.get("SbatLevel").cloned(),
            })
        };
        (0..self.images.len()).flat_map(fresh).collect()
    }

    /// Boots one state: records its tuples, and returns SbatLevel afterwards; `None` when it does not start.
    fn boot(
        &self,
        state: &State,
        reachable: &mut Reachable,
    ) -> Result<Option<Option<Blob>>, Error> {
        let Some((image, platform, path)) = self.assemble(state) else {
            return Ok(None);
        };
        let combination = self.describe(state);
        let mut level = None;
        for path in self.with_phases(path) {
            let predictions = match candidates(&image, &platform, &path) {
                Err(error) if error.means_no_boot() => {
                    reachable.dead_ends.push((combination, error.to_string()));
                    return Ok(None);
                }
                predictions => predictions?,
            };
            for prediction in predictions {
                let tuple = Tuple::of(&prediction, self.bank)?;
                let Prediction {
                    unobserved,
                    sbat_level,
                    ..
                } = prediction;
                // Without shim nobody touches the level.
                level = Some(sbat_level.or_else(|| state.sbat_level.clone()));
                reachable.boots.entry(tuple).or_insert_with(|| Boot {
                    combination: combination.clone(),
                    unobserved,
                });
            }
        }
        Ok(level)
    }

    /// What may be installed at the next boot of a machine that runs `state`.
    fn next_states(&self, state: &State, level: &Option<Blob>) -> Vec<State> {
        let mut deployments = vec![state.deployment];
        for (from, to) in &self.updates {
            match state.deployment {
                running if running == *from => deployments.push(*to),
                running if running == *to => deployments.push(*from),
                _ => {}
            }
        }
        // The running system copies its own boot loader, shim first.
        let mut loaders = vec![
            (state.shim, state.boot_loader),
            (state.deployment, state.deployment),
        ];
        if self.partial_esp {
            loaders.push((state.deployment, state.boot_loader));
        }
        let platforms = self.platforms_after(state.platform);
        let mut states = Vec::new();
        for deployment in deployments {
            for (shim, boot_loader) in &loaders {
                states.extend(platforms.iter().map(|platform| State {
                    shim: *shim,
                    boot_loader: *boot_loader,
                    deployment,
                    platform: *platform,
                    sbat_level: level.clone(),
                }));
            }
        }
        states
    }

    /// The platform as it is, and as any sequence of changes may have made it until the next boot.
    fn platforms_after(&self, platform: usize) -> BTreeSet<usize> {
        let mut platforms = BTreeSet::from([platform]);
        loop {
            let before = platforms.len();
            let steps = self.platform_updates.iter();
            let reached: Vec<usize> = steps
                .filter(|(from, _)| platforms.contains(from))
                .map(|(_, to)| *to)
                .collect();
            platforms.extend(reached);
            if platforms.len() == before {
                return platforms;
            }
        }
    }

    /// The facts of a machine in this state: shim and boot loader of one image, kernel of another.
    fn assemble(&self, state: &State) -> Option<(ImageFacts, PlatformFacts, BootPath)> {
        let shim = &self.images.get(state.shim)?.facts;
        let loader = self.images.get(state.boot_loader)?;
        let deployed = self.images.get(state.deployment)?;
        let mut extras = [shim, &loader.facts, &deployed.facts].map(|facts| facts.extras.clone());
        let image = ImageFacts {
            name: deployed.facts.name.clone(),
            shim: shim.shim.clone(),
            fallback: shim.fallback.clone(),
            boot_loader: loader.facts.boot_loader.clone(),
            kernel: deployed.facts.kernel.clone(),
            uki: deployed.facts.uki.clone(),
            extras: extras.iter_mut().flat_map(std::mem::take).collect(),
        };
        let path = BootPath {
            // A property of the boot loader, all else is one of the deployment and where it runs.
            kernel_measurements: loader.path.kernel_measurements,
            ..deployed.path.clone()
        };
        let mut platform = self.platforms.get(state.platform)?.clone();
        match &state.sbat_level {
            Some(level) => platform
                .variables
                .insert(SBAT_LEVEL.to_owned(), level.clone()),
            None => platform.variables.remove(SBAT_LEVEL),
        };
        Some((image, platform, path))
    }

    fn with_phases(&self, path: BootPath) -> Vec<BootPath> {
        match self.phases.is_empty() || path.route == Route::ShimGrub {
            true => vec![path],
            false => {
                let phases = self.phases.iter().cloned();
                phases
                    .map(|phases| BootPath {
                        phases,
                        ..path.clone()
                    })
                    .collect()
            }
        }
    }

    fn describe(&self, state: &State) -> Combination {
        let image = |at: usize| self.images.get(at).map(|image| image.facts.name.clone());
        let platform = self.platforms.get(state.platform);
        Combination {
            shim: image(state.shim).unwrap_or_default(),
            boot_loader: image(state.boot_loader).unwrap_or_default(),
            deployment: image(state.deployment).unwrap_or_default(),
            platform: platform
                .map(|facts| facts.platform.clone())
                .unwrap_or_default(),
            sbat_level: state.sbat_level.clone(),
        }
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

const SBAT_LEVEL: &str = "SbatLevel";
/// Approving more than an image, its predecessor and its successor at once is already unusual.
const MAX_IMAGES: usize = 16;
const MAX_STATES: usize = 16_384;

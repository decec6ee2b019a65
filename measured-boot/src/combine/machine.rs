// SPDX-License-Identifier: Apache-2.0

//! The states of one machine: what it has installed, what a boot of that shows, and what may be installed
//! before the next boot. [`super::combine`] walks them.

use super::{Boot, Combination, Reachable, Rollout, Tuple};
use crate::bytes::Blob;
use crate::error::Error;
use crate::facts::ImageFacts;
use crate::path::BootPath;
use crate::platform::PlatformFacts;
use crate::predict::{Prediction, candidates};
use std::collections::BTreeSet;

/// What a machine has installed before it boots; positions in the lists of the rollout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State {
    shim: usize,
    boot_loader: usize,
    deployment: usize,
    platform: usize,
    sbat_level: Option<Blob>,
}

impl Rollout {
    pub(super) fn first_states(&self) -> BTreeSet<State> {
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

    /// Boots one state: records its tuples, and returns SbatLevel afterwards; `None` when it does not
    /// start.
    pub(super) fn boot(
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
    pub(super) fn next_states(&self, state: &State, level: &Option<Blob>) -> Vec<State> {
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
            ..ImageFacts::default()
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
        match self.phases.is_empty() || path.route.has_grub() {
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

const SBAT_LEVEL: &str = "SbatLevel";

// SPDX-License-Identifier: Apache-2.0

//! One group of images, which updates connect: what each of them boots by itself, and what the steps between them boot.

use super::desk::Wanted;
use super::material::Material;
use super::problem::Problem;
use crate::controllers::api::{self, Computed, ComputedBoot};
use crate::controllers::parse;
use crate::provision::images::choice;
use crate::provision::images::rollout::{self, Failure, Member, Platforms, Remark, Why};
use crate::provision::objects::Boot;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kbs_protocol::encoding::hex;
use measured_boot::combine::{self, Tuple};
use refvals::platform::load_rows_with;
use refvals::{Given, source};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Images that are computed together.
pub(super) struct Group<'a> {
    pub(super) members: &'a BTreeMap<&'a String, &'a Wanted>,
    pub(super) registries: &'a api::Registries,
    pub(super) material: &'a Material,
    pub(super) cache: Option<PathBuf>,
    pub(super) most_bytes: u64,
}

/// What came out.
pub(super) enum Scanned {
    /// What the images have in their status is it already.
    Known,
    /// Of each image.
    New(BTreeMap<String, Found>),
}

/// What came out for one image.
pub(super) struct Found {
    pub(super) computed: Computed,
    /// Whether its builder's label says something else.
    pub(super) label_differs: bool,
}

impl Group<'_> {
    /// Looks through the images, unless what they have was computed from the same. `begin` is called before that.
    pub(super) fn compute(&self, begin: &dyn Fn()) -> Result<Scanned, Problem> {
        let mut boots = BTreeMap::new();
        for (name, wanted) in self.members {
            let missing = wanted.updates_from.iter();
            if let Some(from) = missing
                .clone()
                .find(|from| !self.members.contains_key(from))
            {
                return Err(Problem::spec(
                    name,
                    "InvalidSpec",
                    format!("it is updated from {from}: both need an image and platforms"),
                ));
            }
            boots.insert((*name).clone(), boot(name, wanted)?);
        }
        let (platforms, read) = self.platforms()?;
        let first = self.members.keys().next().map_or("", |name| name.as_str());
        let cosign = self.registries.cosign_key.as_ref();
        let cosign = (cosign, "spec.registries.cosignKey of the cluster");
        let cosign = self.material.entry(first, cosign, "cosign.pub")?;
        let inputs = self.inputs(&read, cosign.as_ref());
        if self
            .members
            .values()
            .all(|wanted| super::computed(wanted).is_some_and(|computed| computed.inputs == inputs))
        {
            return Ok(Scanned::Known);
        }
        begin();
        let mut members = Vec::new();
        for (name, wanted) in self.members {
            let boot = boots.remove(*name).unwrap_or_default();
            members.push(self.member(name, wanted, boot, cosign.clone())?);
        }
        let failed = |failure: Failure| Problem::in_rollout(&failure);
        let computed = self.boots(members, &platforms).map_err(failed)?;
        let mut all = BTreeMap::new();
        for (name, (boots, remarks)) in computed {
            fits(&name, boots.len())?;
            let label_differs = remarks.iter().any(|remark| remark.is_about_the_label);
            let wanted = self.members.get(&name);
            let digest = wanted.and_then(|wanted| parse::digest(&wanted.reference));
            let computed = Computed {
                image: digest.unwrap_or_default().to_owned(),
                inputs: inputs.clone(),
                boots,
                remarks: remarks.into_iter().map(|remark| remark.text).collect(),
                at: Time(now()),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            let found = Found {
                computed,
                label_differs,
            };
            all.insert(name, found);
        }
        Ok(Scanned::New(all))
    }

    /// The platforms of all members, and what they were read from.
    fn platforms(&self) -> Result<(Platforms, Vec<Value>), Problem> {
        let mut rows: BTreeMap<&String, &String> = BTreeMap::new();
        for (name, wanted) in self.members {
            for row in &wanted.platforms {
                rows.entry(row).or_insert(name);
            }
        }
        let mut read = Vec::new();
        let mut platforms: Platforms = (Vec::new(), Vec::new());
        for (row, image) in rows {
            let loaded = load_rows_with(std::slice::from_ref(row), |source| {
                let (facts, bytes) = self.material.platform(image, source)?;
                read.push(json!([source, hex::encode(Sha256::digest(bytes))]));
                Ok(facts)
            });
            let (facts, changes) = loaded?;
            let before = platforms.0.len();
            let changes = changes.into_iter();
            platforms.1.extend(
                changes.map(|(from, to)| (from.saturating_add(before), to.saturating_add(before))),
            );
            platforms.0.extend(facts);
        }
        Ok((platforms, read))
    }

    /// SHA-256 of everything that decides what is computed.
    fn inputs(&self, platforms: &[Value], cosign: Option<&(Given, String)>) -> String {
        let images = self.members.iter().map(|(name, wanted)| {
            let from = &wanted.updates_from;
            let boot = &wanted.object.spec.boot;
            json!([name, parse::digest(&wanted.reference), boot, from])
        });
        let cosign = cosign.map(|(_, digest)| digest);
        let all = json!([COMPUTATION, images.collect::<Vec<_>>(), platforms, cosign]);
        hex::encode(Sha256::digest(all.to_string()))
    }

    fn member(
        &self,
        name: &str,
        wanted: &Wanted,
        boot: Boot,
        cosign: Option<(Given, String)>,
    ) -> Result<Member, Problem> {
        let own = wanted.object.spec.pull_secret.as_deref();
        let usual = self.registries.pull_secret.as_deref();
        let secret = match own {
            Some(own) => Some((own, "spec.pullSecret of the image")),
            None => usual.map(|usual| (usual, "spec.registries.pullSecret of the cluster")),
        };
        let ca = self.registries.ca.as_ref();
        let ca = (ca, "spec.registries.ca of the cluster");
        let ca = self.material.entry(name, ca, "ca.crt")?;
        let options = source::Options {
            choice: choice(&boot),
            access: source::Access {
                auth_file: Some(self.material.credentials(name, secret)?),
                ca_file: ca.map(|(ca, _)| ca),
                mirrors: self.registries.mirrors.clone().unwrap_or_default(),
                plain_http: self.registries.plain_http.clone().unwrap_or_default(),
                until: Instant::now().checked_add(LONGEST),
            },
            cosign_key: cosign.map(|(key, _)| key),
            cache: self.cache.clone(),
            most_bytes: Some(self.most_bytes),
        };
        let facts = source::from_registry(&wanted.reference, &options, &mut |_, _| {});
        Ok(Member {
            name: name.to_owned(),
            facts: facts
                .map_err(|error| Problem::of(name, &error, secret.map(|(secret, _)| secret)))?,
            boot,
            updates_from: wanted.updates_from.clone(),
        })
    }

    /// Of each image what it boots alone, and the steps of updates that end with it.
    fn boots(&self, members: Vec<Member>, platforms: &Platforms) -> Result<Listed, Failure> {
        let mut all = Listed::new();
        let mut own: BTreeSet<Tuple> = BTreeSet::new();
        let is_alone = members.len() == 1;
        for member in &members {
            let name = member.name.clone();
            let alone = Member {
                updates_from: BTreeSet::new(),
                ..member.clone()
            };
            let reachable = match rollout::reachable(vec![alone], platforms.clone()) {
                Ok(reachable) => reachable,
                // Behind another one's boot loader it may.
                Err(Failure {
                    why: Why::NoStart(_),
                    ..
                }) if !is_alone => continue,
                Err(failure) => return Err(failure),
            };
            let (reachable, remarks) = reachable;
            let boots = reachable.boots.iter();
            all.entry(name).or_default().0 = boots.map(|(t, boot)| self.listed(t, boot)).collect();
            own.extend(reachable.boots.into_keys());
            note(&mut all, remarks);
        }
        if !is_alone {
            let (reachable, remarks) = rollout::reachable(members, platforms.clone())?;
            for (tuple, boot) in &reachable.boots {
                if !own.contains(tuple) {
                    let its = all.entry(boot.combination.deployment.clone()).or_default();
                    its.0.push(self.listed(tuple, boot));
                }
            }
            note(&mut all, remarks);
        }
        for name in self.members.keys() {
            all.entry((*name).clone()).or_default();
        }
        Ok(all)
    }

    fn listed(&self, tuple: &Tuple, boot: &combine::Boot) -> ComputedBoot {
        let parts = &boot.combination;
        let others: BTreeSet<&String> = [&parts.shim, &parts.boot_loader]
            .into_iter()
            .filter(|part| **part != parts.deployment)
            .collect();
        let digests = others.into_iter().filter_map(|name| {
            let wanted = self.members.get(name)?;
            parse::digest(&wanted.reference).map(str::to_owned)
        });
        ComputedBoot {
            boot_tuple: serde_json::from_value(json!(tuple)).unwrap_or_default(),
            platform: parts.platform.clone(),
            with: digests.collect(),
        }
    }
}

/// Of each image its boots, and what a person should know.
type Listed = BTreeMap<String, (Vec<ComputedBoot>, Vec<Remark>)>;

fn note(all: &mut Listed, remarks: Vec<Remark>) {
    for remark in remarks {
        let known = &mut all.entry(remark.image.clone()).or_default().1;
        if !known.contains(&remark) {
            known.push(remark);
        }
    }
}

/// Whether so many boots have room in the status of an image.
fn fits(name: &str, count: usize) -> Result<(), Problem> {
    if count <= MOST_BOOTS {
        return Ok(());
    }
    let says = format!(
        "it has {count} boots, of at most {MOST_BOOTS}: name fewer platforms or fewer images in updatesFrom"
    );
    Err(Problem::spec(name, "TooMany", says))
}

/// With the checks that files have.
fn boot(name: &str, wanted: &Wanted) -> Result<Boot, Problem> {
    let stated = json!(wanted.object.spec.boot.clone().unwrap_or_default());
    serde_json::from_value(stated)
        .map_err(|error| Problem::spec(name, "InvalidSpec", format!("spec.boot: {error}")))
}

/// In whole seconds, as the API server keeps it.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Another number has everything computed anew: raise it when the same images, platforms and settings lead to other
/// values than before.
const COMPUTATION: u32 = 1;
/// For the layers of one image.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Of one image: some 300 bytes each in its status, of the 1.5 MiB that an API server keeps.
pub(super) const MOST_BOOTS: usize = 1000;

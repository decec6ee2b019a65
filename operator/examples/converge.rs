// SPDX-License-Identifier: Apache-2.0

//! Ten thousand machines and fifty images on a real API server, before the laboratory KBS: what the operator
//! needs from empty and for one change, printed as a table for `docs/performance.md`.
//! `scripts/operator-test target/debug/examples/converge 10000`
//!
//! Writes for one change, and memory, are budgets: breaking one ends this with 1. Times are only reported.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a measurement that cannot be made has nothing to say but that"
)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/control_plane/mod.rs"]
mod control_plane;

use control_plane::{Installed, Place};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::ResourceExt as _;
use kube::api::PostParams;
use serde_json::json;
use sheepfold_operator::controllers::api::{
    ApprovedImage, Machine, MachineSpec, Phase, TrustedExecutionCluster,
};
use sheepfold_operator::testing::{ak, boot_tuple};
use std::time::{Duration, Instant};

fn main() {
    let machines: u32 = std::env::args()
        .nth(1)
        .map_or(10_000, |n| n.parse().unwrap());
    let Some(place) = Place::with(|options| options.in_memory = true) else {
        return;
    };
    let mut bench = Bench {
        place,
        broken: Vec::new(),
        peak: 0,
    };
    bench.run(machines);
    for budget in &bench.broken {
        eprintln!("converge: over budget: {budget}");
    }
    let broken = !bench.broken.is_empty();
    drop(bench);
    std::process::exit(i32::from(broken));
}

struct Bench {
    place: Place,
    broken: Vec<String>,
    /// Of all operators, in KiB.
    peak: u64,
}

impl Bench {
    fn run(&mut self, machines: u32) {
        self.create(0..machines);
        for n in 0..IMAGES {
            self.place.image(&format!("os-{n}"), json!([boot_tuple(n)]));
        }
        println!(
            "| operator on Kubernetes, {machines} machines, {IMAGES} images | KBS writes | time |"
        );
        println!("|---|---:|---:|");

        let operator = self.place.installed_operator();
        self.place.cluster(json!({}));
        let everything = i64::from(machines);
        self.row(
            "from empty, until every machine is served",
            usize::MAX,
            |place| {
                patiently("every machine is served", || {
                    let cluster: TrustedExecutionCluster = place.get("cluster");
                    let status = cluster.status.unwrap_or_default();
                    status.served == everything
                        && status
                            .conditions
                            .iter()
                            .any(|one| one.type_ == "Ready" && one.status == "True")
                });
            },
        );
        let newcomer = name(machines);
        self.row("one machine more", 3, |place| {
            create(place, machines..machines + 1);
            patiently("it is served", || {
                place.status(&newcomer).phase == Some(Phase::Served)
            });
        });
        self.row("one image more", 1, |place| {
            place.image("one-more", json!([boot_tuple(IMAGES)]));
            committed(place, "one-more");
        });
        self.row("one image fewer", 1, |place| {
            let before = writes(place);
            place.delete::<ApprovedImage>("one-more");
            patiently("it is revoked", || writes(place) > before);
        });
        self.row("one machine fewer", 3, |place| {
            place.delete::<Machine>(&newcomer)
        });
        self.idle();
        self.end(operator);

        let operator = self.place.installed_operator();
        self.row("operator started anew, and one machine more", 5, |place| {
            create(place, machines..machines + 1);
            patiently("it is served", || {
                place.status(&newcomer).phase == Some(Phase::Served)
            });
        });
        self.end(operator);
        heal();
        let peak = self.peak;
        println!();
        println!("| `sheepfold-operator run`, the whole process | | Budget |");
        println!("|---|---:|---:|");
        println!(
            "| peak memory (VmHWM) | {} MiB | ≤ {BUDGET_MIB} MiB |",
            peak.div_ceil(1024)
        );
        if peak > BUDGET_MIB * 1024 {
            self.broken.push(format!("{peak} KiB of memory"));
        }
    }

    /// Machines with these numbers, as fast as the API server takes them.
    fn create(&self, numbers: std::ops::Range<u32>) {
        create(&self.place, numbers);
    }

    /// Does something, and tells what that took.
    fn row(&mut self, what: &str, most: usize, act: impl FnOnce(&Place)) {
        let (before, start) = (writes(&self.place), Instant::now());
        act(&self.place);
        let time = start.elapsed().as_secs_f64();
        // A write too many may come late.
        std::thread::sleep(Duration::from_secs(1));
        let made = writes(&self.place) - before;
        println!("| {what} | {made} | {time:.1} s |");
        if made > most {
            self.broken
                .push(format!("{what}: {made} writes, at most {most}"));
        }
    }

    /// Until the operator has written its policies again by itself: that looks at everything.
    fn idle(&self) {
        let again = || {
            let requests = self.place.lab.server.requests();
            let policies = requests
                .iter()
                .filter(|seen| seen.path.ends_with("resource-policy"));
            policies.count()
        };
        let before = again();
        patiently("the policies are refreshed", || again() > before);
    }

    fn end(&mut self, operator: Installed) {
        self.peak = self.peak.max(operator.peak());
        drop(operator);
    }
}

fn create(place: &Place, numbers: std::ops::Range<u32>) {
    let api = place.api::<Machine>();
    let all = numbers.map(|n| {
        let api = api.clone();
        async move {
            let spec = MachineSpec {
                attestation_key: Some(String::from(ak(n))),
                ..MachineSpec::default()
            };
            let machine = Machine::new(&name(n), spec);
            api.create(&PostParams::default(), &machine)
                .await
                .map(|made| made.name_any())
        }
    });
    let made = stream::iter(all).buffer_unordered(AT_ONCE);
    let made: Vec<String> = place.block_on(made.try_collect()).unwrap();
    drop(made);
}

/// With copies of the secrets: from the moment at which another KBS, which knows nothing, answers at the address.
fn heal() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let _operator = place.installed_operator();
    place.cluster(json!({"copies": "Namespace"}));
    place.image("os", json!([boot_tuple(0)]));
    create(&place, 0..FEW);
    let served = || {
        let cluster: TrustedExecutionCluster = place.get("cluster");
        cluster.status.unwrap_or_default().served == i64::from(FEW)
    };
    patiently("every machine is served", served);
    let shape = place.lab.shape();
    place.lab.lose_storage();
    let start = Instant::now();
    patiently("the KBS is healed", || place.lab.shape() == shape);
    let time = start.elapsed().as_secs_f64();
    println!(
        "| the KBS lost its storage, {FEW} machines with copies: healed | {} | {time:.1} s |",
        writes(&place)
    );
}

fn committed(place: &Place, name: &str) {
    patiently("the image is committed", || {
        let image: ApprovedImage = place.get(name);
        let status = image.status.unwrap_or_default();
        status
            .conditions
            .iter()
            .any(|one| one.type_ == "Committed" && one.status == "True")
    });
}

/// What changes a KBS for good. Policies are written again every minute, whatever happens.
fn writes(place: &Place) -> usize {
    let requests = place.lab.server.requests();
    let changes = requests.iter().filter(|seen| {
        let kept = ["/kbs/v0/resource/", "/kbs/v0/reference-value"];
        seen.method != "GET" && kept.iter().any(|path| seen.path.starts_with(path))
    });
    changes.count()
}

fn name(n: u32) -> String {
    format!("machine-{n}")
}

/// Waits for what takes minutes among many machines.
#[track_caller]
fn patiently(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

const IMAGES: u32 = 50;
const FEW: u32 = 10;
const BUDGET_MIB: u64 = 256;
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(1200);

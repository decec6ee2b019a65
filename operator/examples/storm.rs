// SPDX-License-Identifier: Apache-2.0

//! A rack that powers on: a thousand nodes within ten seconds before the laboratory KBS, which drops connections,
//! answers 503, is slow, and for three seconds says nothing but 503. Prints who was served and how the load looked, for
//! `docs/performance.md`. `target/debug/examples/storm 1000`
//!
//! Each node is the agent's own client with its own retry, on a thread, with a key in memory in the place of a TPM.
//! A node that is not served, or gets what belongs to another, ends this with 1. Times are only reported.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a measurement that cannot be made has nothing to say but that"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Lab, Tpm};
use kbs_protocol::Tee;
use kbs_protocol::message::{CompositeEvidence, RuntimeData};
use kbs_protocol::resource::Volume;
use kbs_protocol::resource_secret::ResourceSecret;
use kbs_protocol::runtime_data::RuntimeDigest;
use rsa::traits::PrivateKeyParts as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use trustee_agent::config::Config;
use trustee_agent::kbs::{Attest, Client, EvidenceFailure, Patience};
use trustee_agent::trust;

fn main() {
    let count: usize = std::env::args().nth(1).map_or(1000, |n| n.parse().unwrap());
    raise_limit();
    let nodes = nodes(count);
    let lab = Lab::with(|options| options.in_memory = true);
    let approved: Vec<(String, &Tpm)> = nodes
        .iter()
        .enumerate()
        .map(|(n, tpm)| (format!("node-{n}"), tpm))
        .collect();
    let approved: Vec<(&str, &Tpm, &str)> = approved
        .iter()
        .map(|(name, tpm)| (name.as_str(), *tpm, "approved"))
        .collect();
    lab.machines(&approved);
    lab.provision();
    let ca = std::fs::read_to_string(lab.dir.path().join("lab/ca.pem")).unwrap();
    let text = format!(
        "[kbs]\nservers = [{:?}]\nca_pem = {ca:?}\n",
        lab.server.url()
    );
    let config = Arc::new(Config::parse(&text).unwrap());

    let tally = Arc::new(Tally::default());
    let (start, skip) = (Instant::now(), lab.server.requests().len());
    let mut seconds = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| trouble(&lab, start));
        for (n, tpm) in nodes.iter().enumerate() {
            let (config, tally) = (Arc::clone(&config), Arc::clone(&tally));
            // Evenly over the ten seconds; the agent adds its own chance from the first failure on.
            let turn = ARRIVAL.mul_f64(n as f64 / count as f64);
            scope.spawn(move || {
                thread::sleep(turn.saturating_sub(start.elapsed()));
                node(tpm, &config, &tally, start);
            });
        }
        let mut seen = skip;
        while !tally.is_complete(count) && start.elapsed() < PATIENCE {
            let next = Duration::from_secs(seconds.len() as u64 + 1);
            thread::sleep(next.saturating_sub(start.elapsed()));
            let requests = lab.server.requests();
            let good = requests[seen..]
                .iter()
                .filter(|one| one.status == 200)
                .count();
            seconds.push((good, requests.len() - seen - good));
            seen = requests.len();
        }
        if !tally.is_complete(count) {
            eprintln!("storm: not all were served after {PATIENCE:?}");
            std::process::exit(1);
        }
    });
    report(count, &tally, &seconds);
    refusals(&lab, skip);
}

/// What the nodes met.
#[derive(Default)]
struct Tally {
    served: Mutex<Vec<Served>>,
}

struct Served {
    /// Its secret, to see that no two have the same.
    key: Vec<u8>,
    /// Since it came.
    took: Duration,
    /// How often it had to wait.
    waits: u32,
}

impl Tally {
    fn is_complete(&self, count: usize) -> bool {
        self.served.lock().unwrap().len() == count
    }
}

/// One boot: as `trustee-agent unlock` asks, until it has its secret.
fn node(tpm: &Tpm, config: &Config, tally: &Tally, start: Instant) {
    let came = start.elapsed();
    let id = tpm.node().parse().unwrap();
    let target = trust::configured(config, &id, &Volume::default()).unwrap();
    let client = Client::new(&target, &config.timeouts).unwrap();
    let mut waits = 0;
    let fetched = client.fetch(
        &mut Quote(tpm),
        &target.path,
        Patience::Forever,
        &mut |_| {
            waits += 1;
        },
    );
    let fetched = match fetched {
        Ok(fetched) => fetched,
        Err(error) => {
            eprintln!("storm: {} was refused: {error}", tpm.node());
            std::process::exit(1);
        }
    };
    let secret = ResourceSecret::parse(&fetched.secret).unwrap();
    secret.check(&id, &target.path, true).unwrap();
    tally.served.lock().unwrap().push(Served {
        key: secret.key().to_vec(),
        took: start.elapsed() - came,
        waits,
    });
}

struct Quote<'t>(&'t Tpm);

impl Attest for Quote<'_> {
    fn tee(&self) -> Tee {
        Tee::Tpm
    }

    fn evidence(&mut self, data: &RuntimeData) -> Result<CompositeEvidence, EvidenceFailure> {
        let digest = RuntimeDigest::primary(data, "").unwrap();
        Ok(CompositeEvidence {
            primary_evidence: self.0.evidence(&digest.report_data(Tee::Tpm)),
            additional_evidence: String::new(),
        })
    }
}

/// Of each hundred requests fourteen fail or wait, all the time; in the middle of the storm, all of them fail.
fn trouble(lab: &Lab, start: Instant) {
    let faults = lab.server.faults();
    let mut covered = lab.server.requests().len();
    while start.elapsed() < TROUBLE {
        if OUTAGE.contains(&start.elapsed().as_secs()) {
            faults.set_text("status=any:503").unwrap();
            thread::sleep(Duration::from_secs(OUTAGE.end).saturating_sub(start.elapsed()));
            faults.clear();
            covered = lab.server.requests().len();
        }
        let seen = lab.server.requests().len();
        while covered < seen {
            covered += 50;
            for fault in FAULTS {
                faults.set_text(fault).unwrap();
            }
        }
        thread::sleep(Duration::from_millis(200));
    }
    faults.clear();
}

/// So many keys from few primes, two for each: a thousand of their own would take minutes, and nobody attacks them.
fn nodes(count: usize) -> Vec<Tpm> {
    let mut primes = Vec::new();
    while primes.len() * primes.len().saturating_sub(1) / 2 < count {
        let key = rsa::RsaPrivateKey::new(&mut rand_core::OsRng, 2048).unwrap();
        primes.extend(key.primes().to_vec());
    }
    let pairs = (0..primes.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
    pairs
        .take(count)
        .map(|(a, b)| {
            let (p, q) = (primes[a].clone(), primes[b].clone());
            Tpm::of(rsa::RsaPrivateKey::from_p_q(p, q, 65537_u32.into()).unwrap())
        })
        .collect()
}

fn report(count: usize, tally: &Tally, seconds: &[(usize, usize)]) {
    let mut served = tally.served.lock().unwrap();
    let different: BTreeSet<&Vec<u8>> = served.iter().map(|one| &one.key).collect();
    assert_eq!(different.len(), count, "each has a secret of its own");
    drop(different);
    served.sort_by_key(|one| one.took);
    let share = |percent: usize| {
        served[(count * percent).div_ceil(100).max(1) - 1]
            .took
            .as_secs_f64()
    };
    let waited = served.iter().filter(|one| one.waits > 0).count();
    let most = served.iter().map(|one| one.waits).max().unwrap_or_default();
    let (good, bad) = seconds
        .iter()
        .fold((0, 0), |(good, bad), one| (good + one.0, bad + one.1));
    println!(
        "| reboot storm, {count} nodes within {} s | |",
        ARRIVAL.as_secs()
    );
    println!("|---|---:|");
    println!("| nodes with their secret in the end | {} |", served.len());
    println!("| nodes that met a failure and asked again | {waited} |");
    println!("| most tries of one node | {} |", most + 1);
    println!("| requests answered / failed | {good} / {bad} |");
    println!(
        "| from coming to secret: half, 99 of 100, all | {:.1} s, {:.1} s, {:.1} s |",
        share(50),
        share(99),
        share(100)
    );
    println!();
    plot(seconds);
}

/// A node that is refused waits for an administrator, minutes. All here are approved: each refusal that nobody injected is
/// a fault of the server, and ends this with 1. The first `skip` requests are those of the administrator.
fn refusals(lab: &Lab, skip: usize) {
    let mut causes = BTreeMap::<String, usize>::new();
    for one in lab.server.requests().into_iter().skip(skip) {
        let cause = one.cause.unwrap_or_default();
        if !cause.is_empty() && !cause.starts_with("fault:") {
            let cause = format!("{} of {}: {cause}", one.status, one.path);
            *causes.entry(cause).or_default() += 1;
        }
    }
    for (cause, times) in &causes {
        eprintln!("storm: {times} times {cause}");
    }
    if !causes.is_empty() {
        std::process::exit(1);
    }
}

/// Bars of requests over time, in at most so many lines.
fn plot(seconds: &[(usize, usize)]) {
    let width = seconds.len().div_ceil(LINES).max(1);
    let bars: Vec<(usize, usize)> = seconds
        .chunks(width)
        .map(|chunk| {
            let sum = chunk.iter();
            sum.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        })
        .collect();
    let most = bars
        .iter()
        .map(|bar| bar.0 + bar.1)
        .max()
        .unwrap_or_default();
    let per = most.div_ceil(COLUMNS).max(1);
    println!(
        "Requests in each {width} s (`#` answered with 200, `-` failed; a character is {per}; nothing but 503 from \
         second {} to {}):",
        OUTAGE.start, OUTAGE.end
    );
    println!();
    println!("```");
    for (number, (good, bad)) in bars.iter().enumerate() {
        let bar = |requests: &usize, with: &str| with.repeat(requests.div_ceil(per));
        println!(
            "{:4} s {:4} {}{}",
            number * width,
            good + bad,
            bar(good, "#"),
            bar(bad, "-")
        );
    }
    println!("```");
}

/// Both ends of a thousand connections, and what a thousand clients wait with, are open files of one process.
fn raise_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// In which all come.
const ARRIVAL: Duration = Duration::from_secs(10);
/// In which requests fail.
const TROUBLE: Duration = Duration::from_secs(20);
/// Seconds in which all of them fail.
const OUTAGE: std::ops::Range<u64> = 5..8;
/// For each fifty requests. Few closed connections: three in a row end an agent, which takes them for a crash of the server.
const FAULTS: [&str; 4] = [
    "drop-before=any*1",
    "drop-mid-body=any*1",
    "status=any:503*3",
    "delay=any:3s*2",
];
const LINES: usize = 40;
const COLUMNS: usize = 70;
const PATIENCE: Duration = Duration::from_secs(600);

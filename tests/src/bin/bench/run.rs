// SPDX-License-Identifier: Apache-2.0
//! Runs the agent, and other implementations if asked, in the harness's world and notes what it took.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sheepfold_tests::lab::Lab;
use sheepfold_tests::process::Run;
use sheepfold_tests::proxy::Proxy;
use sheepfold_tests::world::World;

use crate::measure::{Sample, median, samples};

/// What one implementation took.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Getting the secret out of the KBS.
    pub fetch: Vec<Sample>,
    /// Opening a token with the pin alone.
    pub pin: Vec<Sample>,
    /// The same through `clevis decrypt`, a shell script around the pin.
    pub clevis: Option<Vec<Sample>>,
    /// TPM commands of one fetch, by name.
    pub tpm_commands: Option<Vec<String>>,
    /// TCP connections of one fetch.
    pub connections: u64,
    /// One fetch at different distances between node and KBS.
    pub by_rtt: Vec<Distance>,
}

/// How long one fetch takes at one distance.
#[derive(Debug)]
pub(crate) struct Distance {
    /// The round-trip time.
    pub rtt: Duration,
    /// The usual time.
    pub median: Duration,
    /// The best time: what it takes when the machine does nothing else.
    pub fastest: Duration,
}

impl Figures {
    /// How many round trips a fetch waits for: what each further millisecond of distance costs.
    pub(crate) fn round_trips(&self) -> u128 {
        let (Some(near), Some(far)) = (self.by_rtt.first(), self.by_rtt.last()) else {
            return 0;
        };
        let distance = (far.rtt - near.rtt).as_micros().max(1);
        let cost = far.fastest.saturating_sub(near.fastest).as_micros();
        (cost + distance / 2) / distance
    }
}

/// Measures the agent at `agent`.
pub(crate) fn ours(agent: &Path, runs: usize) -> Result<Figures> {
    let (mut world, _, _) = World::enrolled()?;
    world.use_agent(agent)?;
    let fetch = || Ok(world.agent(["fetch"]));

    let token = world.encrypt(["{}"]).stdin(PLAINTEXT).success()?.stdout;
    let pin = samples(|| Ok(world.decrypt([]).stdin(token.clone())), runs)?;
    let clevis = samples(|| Ok(world.clevis(["decrypt"]).stdin(token.clone())), runs)?;
    let fetch_samples = samples(fetch, runs)?;

    drop(world.tpm.take_commands());
    fetch()?.success()?;
    let tpm_commands = world.tpm.take_commands();

    let proxy = Proxy::start(world.lab.address()?)?;
    world.settings.servers = vec![format!("https://{}", proxy.address())];
    world.configure()?;
    let (connections, by_rtt) = distances(&proxy, runs, || Ok(world.agent(["fetch"])))?;
    Ok(Figures {
        fetch: fetch_samples,
        pin,
        clevis: Some(clevis),
        tpm_commands: Some(tpm_commands),
        connections,
        by_rtt,
    })
}

/// Measures `trustee-attester` and `clevis-pin-trustee` in `dir`, with the evidence they take where there is
/// no TPM device (`sample`), against a KBS that releases on it. Plain HTTP for the pin: it hands no
/// certificate on.
pub(crate) fn peer(dir: &Path, runs: usize) -> Result<Figures> {
    let work = tempfile::tempdir()?;
    let tls = permissive(&work.path().join("tls"), &[])?;
    let plain = permissive(&work.path().join("plain"), &["--insecure-http"])?;
    let proxy = Proxy::start(tls.address()?)?;
    let attester = |url: &str, ca: &Path| {
        Run::new(dir.join("trustee-attester"))
            .args(["--url", url, "--cert-file"])
            .arg(ca)
            .args(["get-resource", "--path", PEER_PATH])
    };
    let fetch = samples(|| Ok(attester(tls.url(), &tls.ca_file())), runs)?;

    let config = serde_json::json!({
        "servers": [{ "url": plain.url(), "cert": "" }], "path": PEER_PATH
    });
    let path = std::env::join_paths([dir.to_path_buf()].into_iter().chain(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    )))?;
    let pin = |verb: &str| {
        Run::new(dir.join("clevis-pin-trustee"))
            .arg(verb)
            .env("PATH", &path)
    };
    let token = pin("encrypt")
        .arg(config.to_string())
        .stdin(PLAINTEXT)
        .success()?
        .stdout;
    let pin = samples(|| Ok(pin("decrypt").stdin(token.clone())), runs)?;

    let through = format!("https://{}", proxy.address());
    let (connections, by_rtt) = distances(&proxy, runs, || Ok(attester(&through, &tls.ca_file())))?;
    Ok(Figures {
        fetch,
        pin,
        clevis: None,
        tpm_commands: None,
        connections,
        by_rtt,
    })
}

/// Connections of one run, and the median time of a run at each distance.
fn distances(
    proxy: &Proxy,
    runs: usize,
    program: impl Fn() -> Result<Run>,
) -> Result<(u64, Vec<Distance>)> {
    let before = proxy.connections();
    program()?.success()?;
    let connections = proxy.connections() - before;
    let by_rtt = ROUND_TRIP_TIMES
        .iter()
        .map(|&millis| {
            let rtt = Duration::from_millis(millis);
            proxy.set_rtt(rtt);
            let taken = samples(&program, runs.clamp(3, 5))?;
            let fastest = taken
                .iter()
                .map(|sample| sample.wall_micros)
                .min()
                .unwrap_or_default();
            Ok(Distance {
                rtt,
                median: Duration::from_micros(median(&taken, |sample| sample.wall_micros)),
                fastest: Duration::from_micros(fastest),
            })
        })
        .collect::<Result<_>>()?;
    Ok((connections, by_rtt))
}

/// A KBS that gives one resource to whoever brings any evidence.
fn permissive(dir: &Path, options: &[&str]) -> Result<Lab> {
    let lab = Lab::start(dir, options)?;
    lab.admin(
        &["set-resource-policy"],
        b"package policy\nimport rego.v1\ndefault allow := true\n",
    )?;
    let secret = br#"{"key_type":"oct","key":"0123456789abcdef0123456789abcdef"}"#;
    lab.admin(&["set-resource", PEER_PATH], secret)
        .context("cannot store the peer's secret")?;
    Ok(lab)
}

const PLAINTEXT: &[u8] = b"a passphrase of the length that clevis makes, 54 bytes";
const PEER_PATH: &str = "default/peer/root";
const ROUND_TRIP_TIMES: [u64; 3] = [0, 20, 100];

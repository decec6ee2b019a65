// SPDX-License-Identifier: Apache-2.0

//! The registrar dies at each of its writes: what it leaves is the old list or the new one, a rerun converges, and
//! at no moment does anybody get more than was decided. `strace` is the one who kills, before the call is made; the
//! calls after the last write stand for a write that was made and not told.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report"
)]

use serde_json::Value;
use sheepfold_tests::cluster::Cluster;
use sheepfold_tests::paths;
use sheepfold_tests::process::{Captured, Run};
use sheepfold_tests::registrar::Registrar;
use sheepfold_tests::swtpm::{Authority, SoftTpm};
use sheepfold_tests::world::World;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A node that enrols, a stranger with a TPM of the same make who does not, and who watches.
struct Story {
    world: World,
    registrar: Registrar,
    cluster: Cluster,
    stranger: SoftTpm,
    ek_sha256: String,
    first: String,
}

/// Node id and state of each key on the list.
type Keys = BTreeMap<String, String>;

fn keys(pairs: &[(&str, &str)]) -> Keys {
    let own = |(node, state): &(&str, &str)| ((*node).to_owned(), (*state).to_owned());
    pairs.iter().map(own).collect()
}

impl Story {
    /// `None`, loudly, where software TPMs cannot be made or processes not be traced.
    fn begin() -> Option<Self> {
        let missing = SoftTpm::missing().or_else(Authority::missing);
        // Installed is not enough: some containers forbid to trace.
        let traces = || {
            Run::new("strace")
                .args(["-qq", "-f", "true"])
                .success()
                .ok()
        };
        if let Some(program) = missing.or(traces().is_none().then_some("a working strace")) {
            eprintln!("SKIPPED: {program} is not to be had, so nothing was tested here");
            return None;
        }
        let (world, registrar, maker) = World::with_registrar().unwrap();
        let enrolled = world.agent(["enroll", "--json"]).success().unwrap();
        let facts: Value = serde_json::from_slice(&enrolled.stdout).unwrap();
        let text = |name: &str| facts.get(name).unwrap().as_str().unwrap().to_owned();
        let cluster = Cluster::new(&world.dir().join("cluster"), &world.lab).unwrap();
        let pcrs = world.tpm.read_pcrs().unwrap();
        cluster.approve("image", &pcrs).unwrap();
        let story = Self {
            stranger: SoftTpm::certified(&maker).unwrap(),
            ek_sha256: text("ek_sha256"),
            first: text("node_id"),
            world,
            registrar,
            cluster,
        };
        let mut settings = story.world.settings.clone();
        settings.tcti = story.stranger.tcti();
        std::fs::write(story.strangers_config(), settings.to_toml()).unwrap();
        Some(story)
    }

    fn strangers_config(&self) -> std::path::PathBuf {
        self.world.dir().join("stranger.toml")
    }

    /// Which processes die at which call: the one with this number, on a file of the list or on the audit log.
    fn strace(&self, calls: &str, number: usize) -> Vec<String> {
        let state = self.registrar.state_dir();
        let record = state.join(format!("{}.json", self.ek_sha256));
        let log = self.world.dir().join("strace.log");
        let mut wrapper: Vec<String> = ["strace", "-f", "-qq", "-o"].map(str::to_owned).into();
        wrapper.push(log.display().to_string());
        for path in [&state, &state.join("new"), &state.join("lock"), &record] {
            wrapper.extend(["-P".to_owned(), path.display().to_string()]);
        }
        wrapper.extend(["-P".to_owned(), "/dev/null".to_owned()]);
        wrapper.extend(["-e".to_owned(), format!("trace={calls}")]);
        let inject = format!("inject={calls}:signal=KILL:when={number}");
        wrapper.extend(["-e".to_owned(), inject]);
        wrapper
    }

    /// What the list says; that it can be read at all is half of it.
    fn list(&self) -> Keys {
        let listed = self.registrar.command(&["--list"]).unwrap().success();
        let listed = listed.unwrap();
        let line = |line: &str| {
            let key: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| key.get(name).unwrap().as_str().unwrap().to_owned();
            (text("node_id"), text("state"))
        };
        listed.out().lines().map(line).collect()
    }

    /// Puts the list back to how it was kept; without a copy, to nothing.
    fn restore(&self, kept: Option<&Path>) {
        let state = self.registrar.state_dir();
        std::fs::remove_dir_all(&state).unwrap();
        if let Some(kept) = kept {
            copy(kept, &state);
        }
    }

    fn keep(&self, name: &str) -> std::path::PathBuf {
        let kept = self.world.dir().join(name);
        copy(&self.registrar.state_dir(), &kept);
        kept
    }

    /// Starts the registrar under `wrapper` and enrols; true when the registrar died of it.
    fn enrol_under(&mut self, wrapper: &[String]) -> bool {
        if self.registrar.restart_under(wrapper).is_err() {
            return true;
        }
        self.follow();
        let mut agent = self.world.agent(["enroll"]).spawn().unwrap();
        loop {
            let died = self.registrar.has_ended().unwrap();
            if died || agent.try_wait().unwrap().is_some() {
                // It would go on asking until its deadline.
                drop(agent.kill());
                agent.wait().unwrap();
                return died;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn enrol(&mut self) -> Captured {
        self.registrar.restart_under(&[]).unwrap();
        self.follow();
        self.world.agent(["enroll"]).capture().unwrap()
    }

    /// The node's configuration follows the registrar's port.
    fn follow(&mut self) {
        self.world.settings.registrar = Some(self.registrar.url().to_owned());
        self.world.configure().unwrap();
    }

    /// The administrator provisions from the list as it is, and everybody asks for everything. Nobody but the
    /// first node may read, and only when the list says so.
    fn attack(&self, moment: &str) {
        let record = self.registrar.record_file(&self.first).ok();
        match &record {
            Some(record) => self.cluster.add("node", record).unwrap(),
            None => self.cluster.remove("node"),
        }
        let provisioned = self.cluster.provision(&[]).unwrap().capture().unwrap();
        assert_eq!(provisioned.code, Some(0), "{moment}: {provisioned}");
        let path = format!("default/{}/root", self.first);
        let stranger = Run::new(paths::binary("trustee-agent").unwrap())
            .arg("--config")
            .arg(self.strangers_config());
        let asks = [
            stranger.args(["fetch", "--path", &path]),
            self.world.agent(["fetch", "--path", &path]),
        ];
        let answers = asks.map(|ask| ask.capture().unwrap());
        let [stranger, node] = answers;
        assert_eq!(
            (stranger.code, stranger.stdout.len()),
            (Some(14), 0),
            "{moment}"
        );
        let is_first = self.world.node().unwrap().id.to_string() == self.first;
        let expected = is_first && record.is_some();
        assert_eq!(node.code == Some(0), expected, "{moment}: {node}");
    }
}

/// What a registrar does to files, by the names of the system calls on any architecture.
const CALLS: [&str; 5] = [
    "?mkdir,?mkdirat",
    "openat",
    "write",
    "fsync",
    "?rename,?renameat,?renameat2",
];

/// Kills at each call in turn until nothing is left to kill at, and says how often there was.
fn at_each_write(mut dies: impl FnMut(&str, usize) -> bool) -> usize {
    let mut moments = 0_usize;
    for calls in CALLS {
        for number in 1.. {
            if !dies(calls, number) {
                break;
            }
            moments = moments.saturating_add(1);
        }
    }
    moments
}

#[test]
fn enrolment_at_every_write() {
    let Some(mut story) = Story::begin() else {
        return;
    };
    let first = story.first.clone();
    let one = keys(&[(&first, "approved")]);
    let moments = at_each_write(|calls, number| {
        let moment = format!("first key, {calls} {number}");
        story.restore(None);
        let died = story.enrol_under(&story.strace(calls, number));
        let left = story.list();
        assert!(left.is_empty() || left == one, "{moment}: {left:?}");
        story.attack(&moment);
        let again = story.enrol();
        assert_eq!(again.code, Some(0), "{moment}: {again}");
        assert_eq!(story.list(), one, "{moment}");
        died
    });
    assert!(
        moments >= 8,
        "directory, lock, new file, its bytes, name, both syncs, log"
    );
    // The second key of a TPM: not even a crash makes it an approved one.
    let kept = story.keep("one");
    replace_attestation_key(&story.world.tpm);
    let second = story.world.node().unwrap().id.to_string();
    let both = keys(&[(&first, "approved"), (&second, "held")]);
    let moments = at_each_write(|calls, number| {
        let moment = format!("second key, {calls} {number}");
        story.restore(Some(&kept));
        let died = story.enrol_under(&story.strace(calls, number));
        let left = story.list();
        assert!(left == one || left == both, "{moment}: {left:?}");
        story.attack(&moment);
        let again = story.enrol();
        assert_eq!(again.code, Some(14), "{moment}: {again}");
        assert_eq!(story.list(), both, "{moment}");
        died
    });
    assert!(moments >= 8);
    // An administrator's word: one of the two keys is approved, always.
    let kept = story.keep("both");
    let swapped = keys(&[(&first, "held"), (&second, "approved")]);
    let moments = at_each_write(|calls, number| {
        let moment = format!("approval, {calls} {number}");
        story.restore(Some(&kept));
        let approve = || story.registrar.command(&["--approve", &second]).unwrap();
        let wrapped = approve().wrapped(&story.strace(calls, number)).unwrap();
        let died = wrapped.capture().unwrap().code != Some(0);
        let left = story.list();
        assert!(left == both || left == swapped, "{moment}: {left:?}");
        approve().success().unwrap();
        assert_eq!(story.list(), swapped, "{moment}");
        died
    });
    assert!(moments >= 7);
}

/// Another good key at the agent's handle, from the owner's hierarchy.
fn replace_attestation_key(tpm: &SoftTpm) {
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
    let scheme = "rsa2048:rsassa-sha256:null";
    let handle = "0x81010002";
    let create = [
        "createprimary",
        "-Q",
        "-C",
        "o",
        "-G",
        scheme,
        "-a",
        attributes,
        "-c",
        "k",
    ];
    for command in [
        &["evictcontrol", "-Q", "-C", "o", "-c", handle][..],
        &create,
        &["evictcontrol", "-Q", "-C", "o", "-c", "k", handle],
    ] {
        tpm.tool(command).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

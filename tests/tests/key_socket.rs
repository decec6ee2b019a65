// SPDX-License-Identifier: Apache-2.0
//! The unlock mode `socket`: a real agent answers at a socket as systemd makes it, and whoever asks does it as
//! systemd-cryptsetup does. Opening the volume with what was read takes no device mapper.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use serde_json::{Value, json};
use sheepfold_tests::key_socket::{ask, dial};
use sheepfold_tests::luks::Volume;
use sheepfold_tests::process::{Captured, Run};
use sheepfold_tests::swtpm::SoftTpm;
use sheepfold_tests::world::World;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

struct Site {
    world: World,
    volume: Volume,
    at: PathBuf,
}

impl Site {
    fn new() -> Option<Self> {
        if let Some(program) = SoftTpm::missing() {
            eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
            return None;
        }
        let (mut world, _, _) = World::enrolled().unwrap();
        let volume = world.bound_volume("volume", "trustee", "{}").unwrap();
        world.settings.unlock = "mode = \"socket\"\n";
        world.configure().unwrap();
        let at = world.node_dir().join("root.key");
        Some(Self { world, volume, at })
    }

    /// Listens as systemd does, and starts the agent with the socket as its standard input.
    fn serve(&self) -> JoinHandle<Captured> {
        drop(std::fs::remove_file(&self.at));
        let listener = UnixListener::bind(&self.at).unwrap();
        let device = self.volume.path.to_str().unwrap();
        let args = ["--json", "answer", "--name", "root", "--device", device];
        let run = self.world.agent(args).stdin_socket(listener.into());
        thread::spawn(move || run.capture().unwrap())
    }

    /// What the boot remembers.
    fn state(&self) -> Value {
        let file = self.world.run_dir().join("state.json");
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }
}

/// A number that nobody has used, and this.
fn address(rest: &str) -> String {
    static USED: AtomicU32 = AtomicU32::new(0);
    let number = USED.fetch_add(1, Ordering::Relaxed);
    format!("{:x}{number:04x}/{rest}", std::process::id())
}

#[test]
fn systemd_cryptsetup_gets_the_passphrase_of_the_volume_it_names() {
    let Some(site) = Site::new() else {
        return;
    };
    let agent = site.serve();
    // Who names another volume, or none, or is somebody else, reads an empty key, and the agent waits on.
    let mut turned_away = Vec::new();
    for from in [Some("cryptsetup/data"), Some("homed/root"), None] {
        let from = from.map(address);
        turned_away.push(ask(&site.at, from.as_deref()).unwrap());
    }
    assert_eq!(turned_away, [b"", b"", b""]);
    let passphrase = ask(&site.at, Some(&address("cryptsetup/root"))).unwrap();
    let ended = agent.join().unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(ended.err().contains("\"data\""), "{ended}");
    assert!(ended.err().contains("not systemd-cryptsetup"), "{ended}");
    let opens = site.volume.test_passphrase(&passphrase, Some(1)).unwrap();
    assert_eq!(opens.code, Some(0), "{opens}");
    // It is said nowhere else.
    let text = String::from_utf8(passphrase).unwrap();
    assert!(!ended.out().contains(&text) && !ended.err().contains(&text));
    // What the guard will hold against the kernel's table.
    let state = site.state();
    assert!(!state.to_string().contains(&text));
    let judged = &state["answered"]["root"];
    assert_eq!(judged["source"], site.volume.path.to_str().unwrap());
    assert_eq!(judged["table"]["cipher"], "aes-xts-plain64");
    assert_eq!(judged["table"]["integrity"], "none");
    assert_eq!(judged["table"]["key_size"], 64);
    let facts: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(judged["vk_id"], facts["vk_id"]);
    let status = site.world.agent(["status"]).capture().unwrap();
    assert!(
        status
            .err()
            .contains("systemd-cryptsetup has its passphrase"),
        "{status}"
    );
}

/// A prompt, a key file of the host's: however the root was opened, it was not as the agent has judged it.
#[test]
fn a_root_that_was_opened_without_the_agent_is_not_booted() {
    let Some(site) = Site::new() else {
        return;
    };
    let guarded = site.world.agent(["guard"]).capture().unwrap();
    assert_eq!(guarded.code, Some(11), "{guarded}");
    assert!(guarded.err().contains("opened no volume"), "{guarded}");
}

#[test]
fn what_native_would_not_open_is_not_answered() {
    let Some(site) = Site::new() else {
        return;
    };
    let asked = |site: &Site, code: i32, says: &str| {
        let agent = site.serve();
        let mut stream = dial(&site.at, Some(&address("cryptsetup/root"))).unwrap();
        let ended = agent.join().unwrap();
        assert_eq!(ended.code, Some(code), "{ended}");
        assert!(ended.err().contains(says), "{ended}");
        let mut key = Vec::new();
        stream.read_to_end(&mut key).unwrap();
        assert!(key.is_empty());
        assert!(site.state().get("answered").is_none());
    };
    // Another volume key than the one on record.
    let path = format!("{}.vk", site.world.path().unwrap());
    let body = json!({ "vk_id": "0a".repeat(32) }).to_string();
    let stored = site
        .world
        .lab
        .admin(&["set-resource", &path], body.as_bytes());
    assert_eq!(stored.unwrap().code, Some(0));
    asked(&site, 15, "it is not this node's");
    // A header with a token of somebody else's beside the node's.
    let device = site.volume.path.to_str().unwrap();
    Run::new(sheepfold_tests::paths::tool("cryptsetup").unwrap())
        .args(["token", "add", "--key-description", "x", device])
        .success()
        .unwrap();
    asked(&site, 15, "which has a token already");
}

#[test]
fn in_other_modes_and_without_a_socket_nothing_is_answered() {
    let Some(mut site) = Site::new() else {
        return;
    };
    let no_socket = site
        .world
        .agent(["answer", "--name", "root"])
        .capture()
        .unwrap();
    assert_eq!(no_socket.code, Some(11), "{no_socket}");
    assert!(no_socket.err().contains("standard input"), "{no_socket}");
    // Opening is systemd's there, and the agent's here.
    let unlock = site
        .world
        .agent(["unlock", "--name", "root"])
        .capture()
        .unwrap();
    assert_eq!(unlock.code, Some(10), "{unlock}");
    for mode in ["mode = \"native\"\n", "mode = \"clevis\"\n"] {
        site.world.settings.unlock = mode;
        site.world.configure().unwrap();
        let ended = site.serve().join().unwrap();
        assert_eq!(ended.code, Some(10), "{ended}");
        assert!(ended.err().contains("unlock.mode"), "{ended}");
    }
}

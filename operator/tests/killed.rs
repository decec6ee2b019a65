// SPDX-License-Identifier: Apache-2.0

//! `provision` ends at every write, with and without the write having arrived: nobody can read what is not
//! theirs, a rerun converges, and what a node may have read is kept.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod common;

use common::{Lab, Tpm};
use kbs_protocol::Secret;
use kbs_protocol::resource::ResourcePath;
use serde_json::Value;
use sheepfold_operator::kbs_admin::{self, AdminClient};
use sheepfold_operator::provision::{Target, Wishes};
use std::cell::Cell;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Ends the run at a write: to the record, which is on the disk, that is what a killed process looks like.
struct Ends<'a> {
    kbs: &'a AdminClient,
    left: Cell<usize>,
    arrives: bool,
}

impl Ends<'_> {
    fn write(
        &self,
        send: impl FnOnce() -> Result<(), kbs_admin::Error>,
    ) -> Result<(), kbs_admin::Error> {
        match self.left.get() {
            0 => {
                if self.arrives {
                    send()?;
                }
                Err(kbs_admin::Error::Unreachable {
                    url: String::new(),
                    why: "killed".to_owned(),
                })
            }
            left => {
                self.left.set(left - 1);
                send()
            }
        }
    }
}

impl Target for Ends<'_> {
    fn set_resource(&self, path: &ResourcePath, s: &Secret) -> Result<(), kbs_admin::Error> {
        self.write(|| self.kbs.set_resource(path, s))
    }
    fn delete_resource(&self, path: &ResourcePath) -> Result<(), kbs_admin::Error> {
        self.write(|| self.kbs.delete_resource(path))
    }
    fn set_reference_values(&self, values: &[(&str, Value)]) -> Result<(), kbs_admin::Error> {
        self.write(|| self.kbs.set_reference_values(values.iter().cloned()))
    }
    fn set_attestation_policy(&self, id: &str, text: &str) -> Result<(), kbs_admin::Error> {
        self.write(|| self.kbs.set_attestation_policy(id, text))
    }
    fn set_resource_policy(&self, text: &str) -> Result<(), kbs_admin::Error> {
        self.write(|| self.kbs.set_resource_policy(text))
    }
    fn reference_value(&self, name: &str) -> Result<Option<Value>, kbs_admin::Error> {
        self.kbs.reference_value(name)
    }
}

fn tpms() -> [Tpm; 3] {
    [0, 1, 2].map(Tpm::number)
}

/// Everybody asks for everything; who gets anything must be a member, and get its own.
#[track_caller]
fn attack(lab: &Lab, members: &[&Tpm], moment: &str) {
    let stored = lab.resources();
    if stored.is_empty() {
        return;
    }
    for (number, tpm) in tpms().iter().enumerate() {
        let session = lab.handshake(tpm);
        let member = members.iter().any(|member| member.node() == tpm.node());
        for path in stored.keys() {
            let own = path.split('/').nth(1) == Some(&*tpm.node());
            if !(member && own) {
                assert_eq!(session.fetch(path), None, "{moment}: {number} read {path}");
            }
        }
    }
}

/// Two machines, from nothing.
fn from_nothing() -> Lab {
    let lab = Lab::start();
    let [a, b, _] = tpms();
    lab.machines(&[("a", &a, "approved"), ("b", &b, "approved")]);
    lab
}

/// Then one goes, another comes, the first gets a new secret and a new volume.
fn changed(lab: &Lab) -> Wishes {
    let [a, _, c] = tpms();
    lab.machines(&[("a", &a, "approved"), ("c", &c, "approved")]);
    let more = common::machine("a", &a.ak_public(), "approved") + "  volumes: [root, data]\n";
    let c = common::machine("c", &c.ak_public(), "approved");
    lab.write("machines.yaml", &format!("{more}---\n{c}"));
    let volumes = ["root".parse().unwrap()].into();
    Wishes {
        rotate: Some((a.node().parse().unwrap(), volumes)),
        ..Wishes::default()
    }
}

/// Runs until the write with this number; true when it came to its end before.
fn run_until(lab: &Lab, wishes: &Wishes, write: usize, arrives: bool) -> bool {
    let mut run = lab.open();
    let client = run.connect().unwrap();
    let ends = Ends {
        kbs: &client,
        left: Cell::new(write),
        arrives,
    };
    run.provision(wishes, &ends, &mut |_, _| {}).is_ok()
}

#[test]
fn from_nothing_at_every_write() {
    let direct = from_nothing();
    direct.provision();
    let mut moments = 0;
    for write in 0.. {
        let mut ended = false;
        for arrives in [false, true] {
            let lab = from_nothing();
            let moment = format!("write {write}, arrived: {arrives}");
            ended = run_until(&lab, &Wishes::default(), write, arrives);
            let [a, b, _] = tpms();
            attack(&lab, &[&a, &b], &moment);
            lab.provision();
            assert_eq!(lab.shape(), direct.shape(), "{moment}");
            assert_eq!(lab.provision().plan.writes, [], "{moment}");
            attack(&lab, &[&a, &b], &moment);
            for tpm in [&a, &b] {
                assert!(lab.fetch(tpm, &tpm.root()).is_some(), "{moment}");
            }
            moments += 1;
        }
        if ended {
            break;
        }
    }
    println!("{moments} moments");
    assert!(
        moments >= 18,
        "close, stamp, policy, four secrets, values, open"
    );
}

#[test]
fn a_change_at_every_write() {
    let [a, b, c] = tpms();
    let mut moments = 0;
    for write in 0.. {
        let mut ended = false;
        for arrives in [false, true] {
            let lab = from_nothing();
            lab.provision();
            let moment = format!("write {write}, arrived: {arrives}");
            let bound = lab.fetch(&a, &a.root()).unwrap();
            let wishes = changed(&lab);
            ended = run_until(&lab, &wishes, write, arrives);
            attack(&lab, &[&a, &b, &c], &moment);
            // The node boots at the worst moment and binds to whatever it gets.
            let data = format!("default/{}/data", a.node());
            let seen: Vec<Vec<u8>> = [a.root(), data.clone()]
                .iter()
                .filter_map(|path| lab.fetch(&a, path))
                .chain([bound])
                .collect();
            lab.provision();
            assert_eq!(lab.provision().plan.writes, [], "{moment}");
            let prefix = format!("default/{}/", a.node());
            let kept: Vec<Vec<u8>> = lab
                .resources()
                .into_iter()
                .filter(|(path, _)| path.starts_with(&prefix) && path.contains("."))
                .map(|(_, secret)| secret)
                .collect();
            for secret in &seen {
                assert!(
                    kept.contains(secret),
                    "{moment}: a secret that was read is lost"
                );
            }
            attack(&lab, &[&a, &c], &moment);
            assert_eq!(lab.fetch(&b, &b.root()), None, "{moment}");
            assert!(!lab.resources().keys().any(|path| path.contains(&b.node())));
            assert!(lab.fetch(&c, &c.root()).is_some(), "{moment}");
            assert!(lab.fetch(&a, &data).is_some(), "{moment}");
            moments += 1;
        }
        if ended {
            break;
        }
    }
    println!("{moments} moments");
    assert!(moments >= 18);
}

/// The same with a process and a signal. Where it strikes is up to the scheduler, what holds is not.
#[test]
fn a_killed_process_is_continued() {
    let direct = from_nothing();
    direct.provision();
    let [a, b, _] = tpms();
    for answered in (0..).step_by(2) {
        let lab = from_nothing();
        lab.server.faults().set_text("delay=admin:10ms").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sheepfold-operator"))
            .args(["provision", "."])
            .current_dir(lab.files())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ended = loop {
            if child.try_wait().unwrap().is_some() {
                break true;
            }
            if lab.server.requests().len() >= answered {
                child.kill().unwrap();
                child.wait().unwrap();
                break false;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        lab.server.faults().clear();
        let moment = format!("after {answered} answers");
        attack(&lab, &[&a, &b], &moment);
        lab.provision();
        assert_eq!(lab.shape(), direct.shape(), "{moment}");
        assert_eq!(lab.provision().plan.writes, [], "{moment}");
        if ended {
            assert!(answered > 10);
            break;
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! A machine as the kernel would show it, in a directory, and what an attacker can make of it.

use super::{GuardError, Kernel, confirm, guard, guard_recovery};
use crate::state::{Answered, State, Volume};
use crate::unlock::{Active, Meant, Target, UnlockError};
use kbs_protocol::{Blame as _, Owner};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const UUID: &str = "0a1b2c3d-0000-4000-8000-0123456789ab";

struct Machine {
    dir: tempfile::TempDir,
    mounts: String,
    state: State,
}

impl Machine {
    /// `/dev/vda4` (254:4), opened as `root` (253:0) and mounted.
    fn booted() -> Self {
        let mut machine = Self {
            dir: tempfile::tempdir().unwrap(),
            mounts: String::new(),
            state: State::default(),
        };
        machine.device("254:4", None, &[]);
        machine.device("253:0", Some(("root", &dm_uuid("root"))), &["254:4"]);
        machine.mount("253:0", "ext4", "/dev/mapper/root");
        machine
            .state
            .record_volume("root", volume("253:0", "254:4"));
        machine
    }

    fn device(&self, number: &str, mapper: Option<(&str, &str)>, slaves: &[&str]) {
        let at = self.at(number);
        fs::create_dir_all(at.join("slaves")).unwrap();
        fs::write(at.join("dev"), format!("{number}\n")).unwrap();
        if let Some((name, uuid)) = mapper {
            fs::create_dir_all(at.join("dm")).unwrap();
            fs::write(at.join("dm/name"), format!("{name}\n")).unwrap();
            fs::write(at.join("dm/uuid"), format!("{uuid}\n")).unwrap();
        }
        for slave in slaves {
            symlink(self.at(slave), at.join("slaves").join(slave)).unwrap();
        }
    }

    fn at(&self, number: &str) -> std::path::PathBuf {
        self.dir.path().join("sys/dev/block").join(number)
    }

    fn mount(&mut self, number: &str, kind: &str, source: &str) {
        self.mounts = format!("24 1 {number} / /sysroot rw - {kind} {source} rw\n");
    }

    fn guard(&self) -> Result<Vec<String>, GuardError> {
        let mountinfo = self.dir.path().join("mountinfo");
        fs::write(&mountinfo, &self.mounts).unwrap();
        let kernel = self.kernel(|_| Err(std::io::ErrorKind::Unsupported.into()));
        guard(Path::new("/sysroot"), &self.state, &kernel)
    }

    fn recovered(&self) -> Result<Vec<String>, GuardError> {
        let mountinfo = self.dir.path().join("mountinfo");
        fs::write(&mountinfo, &self.mounts).unwrap();
        let kernel = self.kernel(|_| Err(std::io::ErrorKind::Unsupported.into()));
        guard_recovery(Path::new("/sysroot"), &kernel)
    }

    fn kernel(&self, table: fn(&str) -> std::io::Result<Vec<Target>>) -> Kernel {
        Kernel {
            mountinfo: self.dir.path().join("mountinfo"),
            active: Active {
                sys: self.dir.path().join("sys"),
                table,
            },
        }
    }

    fn refused(&self) -> String {
        let error = self.guard().unwrap_err();
        assert!(!error.advice().is_empty());
        error.to_string()
    }
}

fn dm_uuid(name: &str) -> String {
    format!("CRYPT-LUKS2-{}-{name}", UUID.replace('-', ""))
}

fn volume(number: &str, source_number: &str) -> Volume {
    Volume {
        luks_uuid: UUID.to_owned(),
        source: "/dev/vda4".into(),
        source_number: source_number.to_owned(),
        number: number.to_owned(),
        vk_id: "id".to_owned(),
        path: "default/node/root".to_owned(),
    }
}

#[test]
fn the_volume_that_was_opened_may_be_booted() {
    assert_eq!(Machine::booted().guard().unwrap(), ["root"]);
}

/// Attack a: the root's UUID on a plain file system.
#[test]
fn a_plain_disk_in_its_place_is_refused() {
    let mut machine = Machine::booted();
    machine.device("254:5", None, &[]);
    machine.mount("254:5", "ext4", "/dev/vda5");
    assert_eq!(
        machine.refused(),
        "the root lies on 254:5 (254:5), which the agent did not open"
    );
    assert_eq!(machine.guard().unwrap_err().owner(), Owner::Data);
}

/// Attack b: a volume with a passphrase of the attacker's.
#[test]
fn another_encrypted_volume_is_refused() {
    let mut machine = Machine::booted();
    machine.device("254:5", None, &[]);
    machine.device("253:1", Some(("other", &dm_uuid("other"))), &["254:5"]);
    machine.mount("253:1", "ext4", "/dev/mapper/other");
    assert!(machine.refused().contains("lies on 254:5"));
}

/// Where people have a passphrase of their own, what they open must be a LUKS2 volume still.
#[test]
fn a_person_boots_what_is_encrypted_and_nothing_else() {
    let mut machine = Machine::booted();
    machine.state.volumes.clear();
    assert_eq!(machine.recovered().unwrap(), ["root"]);
    for uuid in [
        dm_uuid("root").replace("LUKS2", "PLAIN"),
        "LVM-x".to_owned(),
    ] {
        fs::write(machine.at("253:0").join("dm/uuid"), uuid).unwrap();
        assert!(machine.recovered().is_err());
    }
    machine.device("254:5", None, &[]);
    machine.mount("254:5", "ext4", "/dev/vda5");
    let refused = machine.recovered().unwrap_err().to_string();
    assert!(refused.contains("lies on 254:5"), "{refused}");
}

/// The name is the attacker's to choose, and so is the UUID; the numbers are the kernel's.
#[test]
fn everything_about_the_volume_must_be_as_recorded() {
    let changed = |change: &dyn Fn(&mut Volume)| {
        let mut machine = Machine::booted();
        change(machine.state.volumes.get_mut("root").unwrap());
        machine.refused()
    };
    let not_ours = "the volume root is not the one that the agent opened under this name";
    assert_eq!(changed(&|v| v.number = "253:9".to_owned()), not_ours);
    assert_eq!(changed(&|v| v.source_number = "254:9".to_owned()), not_ours);
    assert_eq!(changed(&|v| v.luks_uuid = UUID.replace('a', "b")), not_ours);
    for uuid in [
        dm_uuid("other"),
        dm_uuid("root").replace("LUKS2", "LUKS1"),
        "LVM-x".to_owned(),
    ] {
        let machine = Machine::booted();
        fs::write(machine.at("253:0").join("dm/uuid"), uuid).unwrap();
        assert_eq!(machine.refused(), not_ours);
    }
}

#[test]
fn a_volume_with_a_second_device_below_is_refused() {
    let machine = Machine::booted();
    machine.device("254:5", None, &[]);
    symlink(
        machine.at("254:5"),
        machine.at("253:0").join("slaves/254:5"),
    )
    .unwrap();
    assert!(machine.refused().contains("not the one"));
}

#[test]
fn integrity_below_the_volume_is_part_of_it() {
    let mut machine = Machine::booted();
    machine.device("253:2", Some(("data_dif", "CRYPT-SUBDEV-x")), &["254:4"]);
    machine.device("253:3", Some(("data", &dm_uuid("data"))), &["253:2"]);
    machine
        .state
        .record_volume("data", volume("253:3", "254:4"));
    machine.mount("253:3", "xfs", "/dev/mapper/data");
    assert_eq!(machine.guard().unwrap(), ["data"]);
    machine.device("254:5", None, &[]);
    machine.device("253:4", Some(("data_dif2", "CRYPT-SUBDEV-y")), &["254:5"]);
    machine.device("253:5", Some(("data2", &dm_uuid("data2"))), &["253:4"]);
    machine
        .state
        .record_volume("data2", volume("253:5", "254:4"));
    machine.mount("253:5", "xfs", "/dev/mapper/data2");
    assert!(machine.refused().contains("data2"));
}

#[test]
fn what_lies_on_top_must_lie_on_ours_alone() {
    let mut machine = Machine::booted();
    machine.device("253:1", Some(("vg-root", "LVM-abc")), &["253:0"]);
    machine.mount("253:1", "xfs", "/dev/mapper/vg-root");
    assert_eq!(machine.guard().unwrap(), ["root"]);
    machine.device("254:5", None, &[]);
    symlink(
        machine.at("254:5"),
        machine.at("253:1").join("slaves/254:5"),
    )
    .unwrap();
    assert!(machine.refused().contains("254:5"));
}

#[test]
fn devices_in_a_circle_end() {
    let mut machine = Machine::booted();
    machine.device("253:1", Some(("a", "LVM-a")), &["253:2"]);
    machine.device("253:2", Some(("b", "LVM-b")), &["253:1"]);
    machine.mount("253:1", "xfs", "/dev/mapper/a");
    assert!(machine.refused().contains("did not open"));
}

#[test]
fn all_devices_of_a_btrfs_must_be_ours() {
    let mut machine = Machine::booted();
    machine.mount("0:44", "btrfs", "/dev/mapper/root");
    let devices = machine.dir.path().join("sys/fs/btrfs/fsid/devices");
    fs::create_dir_all(&devices).unwrap();
    fs::create_dir_all(machine.dir.path().join("sys/fs/btrfs/other/devices")).unwrap();
    symlink(machine.at("253:0"), devices.join("dm-0")).unwrap();
    // Another btrfs, whichever the kernel names first, is another one's; what else lies there is no device.
    machine.device("254:7", Some(("elsewhere", "elsewhere")), &[]);
    for name in ["a", "z"] {
        let other = machine.dir.path().join("sys/fs/btrfs").join(name);
        fs::create_dir_all(other.join("devices")).unwrap();
        symlink(machine.at("254:7"), other.join("devices/dm-7")).unwrap();
    }
    fs::write(devices.join("note"), "").unwrap();
    assert_eq!(machine.guard().unwrap(), ["root"]);
    machine.device("254:5", None, &[]);
    symlink(machine.at("254:5"), devices.join("vda5")).unwrap();
    assert!(machine.refused().contains("254:5"));
}

#[test]
fn a_root_without_a_block_device_is_refused() {
    let mut machine = Machine::booted();
    for (kind, source) in [
        ("overlay", "composefs"),
        ("nfs4", "host:/x"),
        ("btrfs", "/dev/vda9"),
    ] {
        machine.mount("0:44", kind, source);
        assert!(
            machine.refused().contains("lies on no block device"),
            "{kind}"
        );
    }
    machine.mounts.clear();
    assert_eq!(machine.refused(), "nothing is mounted at /sysroot");
}

#[test]
fn without_a_volume_of_ours_nothing_is_booted() {
    let mut machine = Machine::booted();
    machine.state.volumes.clear();
    assert!(machine.refused().contains("opened no volume"));
}

/// The mode `socket`: systemd-cryptsetup has opened `root` with our passphrase.
fn answered() -> Machine {
    let mut machine = Machine::booted();
    let volume = machine.state.volumes.remove("root").unwrap();
    let table = Meant::usual(&volume.luks_uuid);
    let answered = Answered {
        source: volume.source,
        source_number: volume.source_number,
        vk_id: volume.vk_id,
        path: volume.path,
        table,
    };
    machine.state.record_answered("root", answered);
    machine
}

fn crypt(cipher: &str) -> Vec<Target> {
    let key = format!(":64:logon:cryptsetup:{UUID}-d0");
    vec![("crypt".to_owned(), format!("{cipher} {key} 0 254:4 32768"))]
}

const AS_JUDGED: fn(&str) -> std::io::Result<Vec<Target>> = |_| Ok(crypt("aes-xts-plain64"));

#[test]
fn what_systemd_opened_as_it_was_judged_may_be_booted() {
    let mut machine = answered();
    assert!(machine.refused().contains("opened no volume"));
    let confirmed = confirm(&machine.state, &machine.kernel(AS_JUDGED)).unwrap();
    assert_eq!(confirmed, [("root".to_owned(), volume("253:0", "254:4"))]);
    for (name, volume) in confirmed {
        machine.state.record_volume(&name, volume);
    }
    assert_eq!(machine.guard().unwrap(), ["root"]);
}

/// The host has changed the header after it was judged, or has another disk with that UUID.
#[test]
fn what_systemd_opened_otherwise_is_refused() {
    let why = |machine: &Machine, table| {
        let error = confirm(&machine.state, &machine.kernel(table)).unwrap_err();
        assert!(matches!(error, UnlockError::Disagrees { .. }), "{error}");
        assert_eq!(error.owner(), Owner::Data);
        error.to_string()
    };
    let machine = answered();
    assert_eq!(
        why(&machine, |_| Ok(crypt("cipher_null-ecb"))),
        "the active cipher is cipher_null-ecb, expected aes-xts-plain64"
    );
    let linear = why(&machine, |_| {
        Ok(vec![("linear".to_owned(), "254:4 0".to_owned())])
    });
    assert!(linear.contains("is linear, expected crypt"), "{linear}");
    // Its name says what made it.
    fs::write(machine.at("253:0").join("dm/uuid"), "CRYPT-PLAIN-root").unwrap();
    assert!(why(&machine, AS_JUDGED).contains("is CRYPT-PLAIN-root"));
    // The table agrees with sysfs, and both with another disk than was judged.
    let mut machine = answered();
    let root = machine.state.answered.get_mut("root").unwrap();
    root.source_number = "254:9".to_owned();
    assert_eq!(
        why(&machine, AS_JUDGED),
        "the device below the active volume is 254:4, expected 254:9"
    );
}

#[test]
fn what_is_not_open_or_cannot_be_seen_is_not_confirmed() {
    let mut machine = answered();
    let root = machine.state.answered.remove("root").unwrap();
    machine.state.record_answered("data", root.clone());
    assert_eq!(
        confirm(&machine.state, &machine.kernel(AS_JUDGED)).unwrap(),
        []
    );
    machine.state.record_answered("root", root);
    let nothing = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let error = confirm(&machine.state, &machine.kernel(nothing)).unwrap_err();
    assert!(matches!(error, UnlockError::Active { .. }), "{error}");
}

// SPDX-License-Identifier: Apache-2.0

//! The power goes at every moment of a rebinding, on a real volume: what is there afterwards is a header that is accepted,
//! and it opens with the old passphrase or with the new one.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "in a test a panic is the report"
)]

use super::{Luks, token};
use crate::config::Config;
use crate::unlock::rewrite::{Step, adding, removing, used};
use crate::unlock::{Header, UnlockError};
use luks_header::{Extent, Rules, Volume};
use sheepfold_tests::luks;
use sheepfold_tests::process::Run;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const OLD: &[u8] = b"the passphrase the volume was formatted with";
const NEW: &[u8] = b"a new one";

fn rules() -> Rules {
    Rules {
        other_keyslots: true,
        ..Rules::default()
    }
}

fn cryptsetup(args: &[&str], path: &Path) -> Run {
    let program = sheepfold_tests::paths::tool("cryptsetup").unwrap();
    Run::new(program).args(args).arg(path)
}

/// A bound volume, with a recovery passphrase in a slot of its own.
fn volume(dir: &Path) -> luks::Volume {
    let volume = luks::Volume::format(dir, "volume").unwrap();
    let recovery = dir.join("recovery");
    fs::write(&recovery, "recovery").unwrap();
    let key = volume.key_file.to_str().unwrap();
    let args = [
        "luksAddKey",
        "--batch-mode",
        "--key-file",
        key,
        "--pbkdf",
        "pbkdf2",
    ];
    cryptsetup(&args, &volume.path)
        .args(["--pbkdf-force-iterations", "1000"])
        .arg(&recovery)
        .success()
        .unwrap();
    cryptsetup(&["token", "import", "--json-file", "-"], &volume.path)
        .stdin(token(0, "a..b.c.d").to_string())
        .success()
        .unwrap();
    volume
}

fn apply(path: &Path, steps: &[Step]) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    for step in steps {
        if let Step::Write(at, bytes) = step {
            file.write_all_at(bytes, u64::try_from(*at).unwrap())
                .unwrap();
        }
    }
}

/// The slots of Clevis that a passphrase opens, from the header as it is judged at a boot.
fn opens(path: &Path, passphrase: &[u8]) -> Vec<u32> {
    let header = Header::read(path, &rules(), Extent::Unlocking).unwrap();
    let mut luks = Luks::load(&header).unwrap();
    let mut slots = header.volume.tokens.iter().map(|token| token.keyslot);
    slots
        .by_ref()
        .filter(|slot| match luks.volume_key(*slot, passphrase) {
            Ok(_) => true,
            Err(UnlockError::Passphrase { .. }) => false,
            Err(error) => panic!("{error}"),
        })
        .collect()
}

/// Both turns of a rebinding of this volume.
fn turns(path: &Path) -> (Vec<Step>, Vec<Step>) {
    let header = Header::read(path, &rules(), Extent::Everything).unwrap();
    let mut luks = Luks::load(&header).unwrap();
    let key = luks.volume_key(0, OLD).unwrap();
    let before = header.bytes().unwrap();
    let slot = luks
        .bind(&key, NEW, |slot| token(slot, "e..f.g.h"))
        .unwrap();
    assert_eq!(slot, 2);
    let both = header.bytes().unwrap();
    luks.unbind(0, 0).unwrap();
    let after = header.bytes().unwrap();
    let mut config =
        Config::parse("[kbs]\nservers = [\"http://x\"]\ninsecure_http = true\n").unwrap();
    config.unlock.rules = rules();
    let used = used(&header, &config, &after).unwrap();
    assert_eq!(used.len(), 2);
    let copy = header.copy();
    (adding(&before, &both, copy), removing(&after, copy, &used))
}

/// One test, because libcryptsetup is not made for two threads.
#[test]
fn on_a_real_volume() {
    the_power_may_go_at_any_moment();
    the_old_key_slot_is_wiped_and_foreign_ones_are_not_touched();
}

fn the_power_may_go_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let volume = volume(dir.path());
    let (first, second) = turns(&volume.path);
    let steps: Vec<Step> = first.iter().chain(&second).cloned().collect();
    let original = fs::read(&volume.path).unwrap();
    let cut = dir.path().join("cut");
    let check = |done: &[Step], torn: Option<Step>, what: &str| {
        fs::write(&cut, &original).unwrap();
        apply(&cut, done);
        apply(&cut, torn.as_slice());
        let (old, new) = (opens(&cut, OLD), opens(&cut, NEW));
        assert!(old == [0] || new == [2], "{what}: {old:?} {new:?}");
        let foreign = cryptsetup(&["open", "--test-passphrase", "--key-file", "-"], &cut);
        foreign.stdin("recovery").success().unwrap();
        (old, new)
    };
    let mut seen = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        seen.push(check(
            &steps[..number],
            None,
            &format!("before step {number}"),
        ));
        if let Step::Write(at, bytes) = step {
            // A disk writes sectors, in whatever order: the head of it, the tail of it, the middle.
            let sectors = bytes.len() / 512;
            for (from, to) in [(0, sectors / 2), (sectors / 2, sectors), (1, 2), (0, 1)] {
                let piece = bytes[from * 512..to * 512].to_vec();
                let torn = Step::Write(at + from * 512, piece);
                check(&steps[..number], Some(torn), &format!("in step {number}"));
            }
        }
    }
    seen.push(check(&steps, None, "the end"));
    seen.dedup();
    let states = [(vec![0], vec![]), (vec![0], vec![2]), (vec![], vec![2])];
    assert_eq!(seen, states, "old, both, new");
}

/// What was wrapped in the old slot is gone, and what was never ours is where it was.
fn the_old_key_slot_is_wiped_and_foreign_ones_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let volume = volume(dir.path());
    let judged = |path: &Path| -> Volume {
        Header::read(path, &rules(), Extent::Everything)
            .unwrap()
            .volume
    };
    let areas = |path: &Path| judged(path).image(Extent::Everything).unwrap().areas;
    let original = fs::read(&volume.path).unwrap();
    let before = areas(&volume.path);
    let (first, second) = turns(&volume.path);
    apply(&volume.path, &first);
    apply(&volume.path, &second);
    let changed = fs::read(&volume.path).unwrap();
    assert_eq!(judged(&volume.path).other_keyslots, [1]);
    let slots: Vec<u32> = areas(&volume.path)
        .iter()
        .map(|area| area.keyslot)
        .collect();
    assert_eq!(slots, [1, 2]);
    let range = |keyslot: usize| {
        let area = before[keyslot];
        let begin = usize::try_from(area.offset).unwrap();
        begin..begin + usize::try_from(area.size).unwrap()
    };
    assert!(changed[range(0)].iter().all(|&byte| byte == 0));
    assert_eq!(changed[range(1)], original[range(1)]);
    let payload = usize::try_from(judged(&volume.path).payload).unwrap();
    assert_eq!(changed[payload..], original[payload..]);
}

/// The order that holds is this one: with it the other way round a torn first copy would leave nothing that is whole.
#[test]
fn nothing_is_named_before_it_is_there() {
    let before = vec![0; 5 * 4096];
    let mut after = before.clone();
    after[0] = 1;
    after[4096] = 1;
    after[3 * 4096] = 2;
    let steps = adding(&before, &after, 4096);
    let places: Vec<Option<usize>> = steps
        .iter()
        .map(|step| match step {
            Step::Write(at, _) => Some(*at),
            Step::Flush => None,
        })
        .collect();
    assert_eq!(
        places,
        [Some(3 * 4096), None, Some(0), None, Some(4096), None]
    );
    let steps = removing(&after, 4096, &[(3 * 4096, 4 * 4096)]);
    let zeros = |at| Step::Write(at, vec![0; 4096]);
    assert_eq!(steps[4..], [zeros(2 * 4096), zeros(4 * 4096), Step::Flush]);
}

// SPDX-License-Identifier: Apache-2.0
//! What the stories rest on, as far as it needs no machine.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use sheepfold_tests::process::Run;
use sheepfold_vm_tests::cache::Key;
use sheepfold_vm_tests::processor::{Account, stood};

#[test]
fn what_is_next_to_each_other_does_not_run_together() {
    let name = |parts: &[&[u8]]| {
        let key = parts
            .iter()
            .fold(Key::default(), |key, part| key.bytes(part));
        key.name()
    };
    assert_ne!(name(&[b"ab", b"c"]), name(&[b"a", b"bc"]));
    assert_eq!(name(&[b"ab", b"c"]), name(&[b"ab", b"c"]));
}

#[test]
fn an_account_is_read_from_the_fields_of_the_manual() {
    let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 300 50 1000 25 20 0 1 0";
    let account = Account::parse(stat, 100).unwrap();
    let seconds = [account.own, account.children].map(|seconds| format!("{seconds:.2}"));
    assert_eq!(seconds, ["3.50", "10.25"]);
    assert!(Account::parse("7 (a) S 1 2 3", 100).is_none());
}

#[test]
fn the_time_in_line_is_the_second_field_of_the_kernels_account() {
    assert_eq!(stood("812345678 34567 8\n"), Some(34567));
    assert_eq!(stood("812345678"), None);
}

#[test]
fn what_cannot_be_run_is_said_before_anything_is_built() {
    let stories = || Run::new(env!("CARGO_BIN_EXE_stories")).env("CARGO", "false");
    let unknown = stories().args(["reboot", "no-such-story"]).capture();
    let unknown = unknown.unwrap();
    assert_eq!(unknown.code, Some(1), "{unknown}");
    let said = unknown.out();
    assert!(said.contains("there is no story no-such-story"), "{said}");
    assert!(said.contains(" reboot"), "the others are not named: {said}");
    let nobody = stories().arg("reboot").env("SHEEPFOLD_JOBS", "0").capture();
    let nobody = nobody.unwrap();
    assert_eq!(nobody.code, Some(1), "{nobody}");
    assert!(nobody.out().contains("SHEEPFOLD_JOBS must be"), "{nobody}");
}

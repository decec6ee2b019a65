// SPDX-License-Identifier: Apache-2.0

//! Machines that did something else than predicted: the recorded logs, held against predictions that are
//! wrong on purpose.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod common;

use common::{Fixtures, Scenario, fixtures};
use measured_boot::bank::Bank;
use measured_boot::eventlog::EventLog;
use measured_boot::explain::{Cause, Difference, Explanation, explain, not_replayed};
use measured_boot::predict::predict;
use measured_boot::replay::Pcrs;
use measured_boot::uefi::{SignatureList, guid};

const RECORDED: &str = "sb-shim161-grub206";

fn log(fixtures: &Fixtures, name: &str) -> EventLog {
    EventLog::parse(&fixtures.log(name)).unwrap()
}

fn against(log: &EventLog, scenario: &Scenario) -> Explanation {
    let prediction = predict(&scenario.image, &scenario.platform, &scenario.path).unwrap();
    explain(log, &prediction, Bank::Sha256).unwrap()
}

/// The first difference after a change of the prediction for [`RECORDED`].
fn after(fixtures: &Fixtures, change: impl FnOnce(&mut Scenario)) -> Difference {
    let mut scenario = fixtures.named(RECORDED);
    change(&mut scenario);
    against(&log(fixtures, RECORDED), &scenario).first.unwrap()
}

#[test]
fn recorded_boots_are_as_predicted() {
    let Some(fixtures) = fixtures() else { return };
    for scenario in fixtures.scenarios().iter().filter(|one| one.has_log) {
        let explanation = against(&log(&fixtures, &scenario.name), scenario);
        assert!(explanation.agrees(), "{}: {explanation}", scenario.name);
    }
    let text = against(&log(&fixtures, RECORDED), &fixtures.named(RECORDED)).to_string();
    assert_eq!(text, "the sha256 log is as predicted in PCR 4, 7, 14");
}

#[test]
fn phases_of_the_system_are_in_no_log() {
    let Some(fixtures) = fixtures() else { return };
    let mut scenario = fixtures.named("sb-uki257-direct");
    scenario.path.phases = vec!["enter-initrd".to_owned()];
    assert!(against(&log(&fixtures, &scenario.name), &scenario).agrees());
}

#[test]
fn a_boot_option_that_failed() {
    let Some(fixtures) = fixtures() else { return };
    let mut scenario = fixtures.named("sb-failed-first-option");
    scenario.path.failed_boot_options = 0;
    let explanation = against(&log(&fixtures, &scenario.name), &scenario);
    assert_eq!(explanation.pcrs, [(4, false), (7, true), (14, true)]);
    let first = explanation.first.as_ref().unwrap();
    assert_eq!(
        (first.pcr, first.position, &first.cause),
        (4, 3, &Cause::FailedBootOption)
    );
    assert_eq!(
        explanation.to_string(),
        "not as predicted: PCR 4; first, PCR 4, event 3: shim-16.1 was predicted, entry 23 of the log is \
         EV_EFI_ACTION \"Returning from EFI Application from Boot Option\"; the machine tried another number of boot \
         options before the one that worked: correct the boot order, or state failed_boot_options if this platform \
         always does that"
    );
}

#[test]
fn a_kernel_measured_more_often() {
    let Some(fixtures) = fixtures() else { return };
    let first = after(&fixtures, |one| one.path.kernel_measurements = Some(1));
    assert_eq!((first.pcr, first.position), (4, 6));
    let what = "linux-6.1.0-56-cloud".to_owned();
    assert_eq!(first.cause, Cause::ElsewhereInPrediction { what });
    assert!(
        first
            .to_string()
            .contains("nothing more was predicted, entry 45"),
        "{first}"
    );

    let first = after(&fixtures, |one| one.path.kernel_measurements = Some(3));
    assert_eq!((first.found.clone(), &first.cause), (None, &Cause::Missing));
    assert!(
        first.to_string().contains("the log has no further event"),
        "{first}"
    );
}

#[test]
fn another_program_and_its_place_in_the_log() {
    let Some(fixtures) = fixtures() else { return };
    let first = after(&fixtures, |one| {
        one.image.boot_loader = Some(fixtures.program("grub-2.12"))
    });
    assert_eq!((first.pcr, &first.cause), (4, &Cause::OtherProgram));
    let found = first.found.as_ref().unwrap();
    assert_eq!(found.entry, 30);
    assert_eq!(found.text, "\\EFI\\BOOT\\grubx64.efi");
    assert_eq!(found.offset, log(&fixtures, RECORDED).events[30].offset);
    assert_eq!(first.expected.as_ref().unwrap().what, "grub-2.12");
}

#[test]
fn a_variable_that_changed() {
    let Some(fixtures) = fixtures() else { return };
    let first = after(&fixtures, |one| {
        let list = SignatureList::sha256(guid::GLOBAL, &[9; 32]);
        one.platform
            .variables
            .get_mut("dbx")
            .unwrap()
            .0
            .extend(list.to_bytes());
    });
    let how = "0 entries more and 1 entries fewer than predicted".to_owned();
    assert_eq!(
        first.cause,
        Cause::OtherVariable {
            name: "dbx".to_owned(),
            how
        }
    );

    let sticky = fixtures.named("sb-sticky-sbatlevel");
    let first = against(&log(&fixtures, RECORDED), &sticky).first.unwrap();
    assert!(matches!(&first.cause, Cause::OtherVariable { name, .. } if name == "SbatLevel"));
    let text = first.to_string();
    assert!(
        text.contains("sbat,1,2025021800") && text.contains(" instead of "),
        "{text}"
    );

    let first = after(&fixtures, |one| one.platform.secure_boot = false);
    assert!(matches!(&first.cause, Cause::OtherVariable { name, .. } if name == "SecureBoot"));
}

#[test]
fn another_authority() {
    let Some(fixtures) = fixtures() else { return };
    // The same certificates under another owner: db itself differs first, so compare without it.
    let log = log(&fixtures, RECORDED);
    let scenario = fixtures.named(RECORDED);
    let mut prediction = predict(&scenario.image, &scenario.platform, &scenario.path).unwrap();
    let other = fixtures.named("sb-uki257-direct");
    let other = predict(&other.image, &other.platform, &other.path).unwrap();
    let is_authority = |what: &str| what.starts_with("the entry of db");
    let theirs = other
        .events
        .iter()
        .find(|event| is_authority(&event.what))
        .unwrap();
    let ours = prediction
        .events
        .iter_mut()
        .find(|event| is_authority(&event.what))
        .unwrap();
    ours.data = theirs.data.clone();
    let first = explain(&log, &prediction, Bank::Sha256)
        .unwrap()
        .first
        .unwrap();
    assert_eq!(
        first.cause,
        Cause::OtherAuthority {
            list: "db".to_owned()
        }
    );
}

#[test]
fn text_that_the_digest_does_not_cover_is_called_so() {
    let Some(fixtures) = fixtures() else { return };
    let scenario = fixtures.named(RECORDED);
    let mut log = log(&fixtures, RECORDED);
    let dbx = log
        .events
        .iter_mut()
        .find(|event| event.pcr == 7 && event.data.len() == 114)
        .unwrap();
    // The digest says that something else was measured, the text says nothing of it.
    let forged = Bank::Sha256.hash(b"something else");
    dbx.digests.insert(Bank::Sha256.algorithm(), forged);
    let first = against(&log, &scenario).first.unwrap();
    assert_eq!(first.cause, Cause::Other);
    assert!(
        first
            .to_string()
            .contains("(the digest does not cover this text)"),
        "{first}"
    );
    assert!(!first.found.unwrap().is_covered);
}

#[test]
fn text_alone_is_no_boot_option_that_failed() {
    let Some(fixtures) = fixtures() else { return };
    let mut scenario = fixtures.named("sb-failed-first-option");
    scenario.path.failed_boot_options = 0;
    let mut log = log(&fixtures, &scenario.name);
    let digest = Bank::Sha256.hash(b"something else");
    log.events[23]
        .digests
        .insert(Bank::Sha256.algorithm(), digest);
    let first = against(&log, &scenario).first.unwrap();
    assert_eq!(first.found.as_ref().unwrap().entry, 23);
    assert_eq!(first.cause, Cause::Other);
    assert!(
        first.to_string().contains("does not cover this text"),
        "{first}"
    );
}

#[test]
fn a_separator_that_reports_an_error() {
    let Some(fixtures) = fixtures() else { return };
    let scenario = fixtures.named(RECORDED);
    let mut log = log(&fixtures, RECORDED);
    let separator = log
        .events
        .iter_mut()
        .find(|e| e.pcr == 7 && e.data == [0; 4])
        .unwrap();
    separator.data = vec![0xff; 4];
    let digest = Bank::Sha256.hash(&[0xff; 4]);
    separator.digests.insert(Bank::Sha256.algorithm(), digest);
    let first = against(&log, &scenario).first.unwrap();
    assert_eq!(first.cause, Cause::FirmwareState);
}

#[test]
fn a_cut_log_does_not_lead_to_the_quote() {
    let Some(fixtures) = fixtures() else { return };
    let mut log = log(&fixtures, RECORDED);
    let mut quoted = Pcrs::new(Bank::Sha256);
    for (bank, pcr, value) in fixtures.recorded_pcrs(RECORDED) {
        if bank == Bank::Sha256 {
            quoted.set(pcr, value.try_into().unwrap());
        }
    }
    assert!(not_replayed(&log, &quoted, &[4, 7, 14]).unwrap().is_empty());
    log.events.truncate(30);
    assert_eq!(not_replayed(&log, &quoted, &[4, 7, 14]).unwrap(), [4]);
    let first = against(&log, &fixtures.named(RECORDED)).first.unwrap();
    assert_eq!((first.pcr, first.cause), (4, Cause::Missing));
}

#[test]
fn a_bank_that_the_log_does_not_have() {
    let Some(fixtures) = fixtures() else { return };
    let scenario = fixtures.named("sb-shim161-grub212");
    let prediction = predict(&scenario.image, &scenario.platform, &scenario.path).unwrap();
    let log = log(&fixtures, &scenario.name);
    let error = explain(&log, &prediction, Bank::Sha384)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no sha384 digest is known of entry"),
        "{error}"
    );
}

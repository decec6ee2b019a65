// SPDX-License-Identifier: Apache-2.0

//! Bytes from strangers: cut, changed, or random. Nothing may panic, and what is accepted must be what was
//! written.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod common;

use common::fixtures;
use common::pe_file::PeFile;
use measured_boot::eventlog::EventLog;
use measured_boot::facts::{ShimFacts, UkiFacts, vendor_cert};
use measured_boot::pe::PeFacts;
use measured_boot::platform::PlatformFacts;
use measured_boot::sbat::SbatLevels;
use measured_boot::signature::SignatureFacts;
use measured_boot::uefi::{SignatureList, VariableData};
use proptest::prelude::{Strategy, any, prop};
use proptest::test_runner::{Config, TestRunner};

#[test]
fn a_log_cut_anywhere_is_an_error_or_a_shorter_log() {
    let Some(fixtures) = fixtures() else { return };
    let mut cuts = 0;
    for scenario in fixtures.scenarios().iter().filter(|one| one.has_log) {
        let bytes = fixtures.log(&scenario.name);
        let whole = EventLog::parse(&bytes).unwrap();
        let ends: Vec<usize> = whole
            .events
            .iter()
            .skip(1)
            .map(|event| event.offset)
            .collect();
        for end in 0..bytes.len() {
            match EventLog::parse(&bytes[..end]) {
                Ok(log) => {
                    // Inside an entry only where what is left of it looks like unused space.
                    let cut_in = &bytes[log_end(&log, &ends, bytes.len())..end];
                    assert!(
                        cut_in.iter().all(|byte| *byte == 0),
                        "{} at {end}",
                        scenario.name
                    );
                    assert!(log.events.len() <= whole.events.len());
                    assert_eq!(log.events[..], whole.events[..log.events.len()]);
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        text.contains("TCG_") && text.contains(" at offset "),
                        "{text}"
                    );
                }
            }
            cuts += 1;
        }
    }
    eprintln!("{cuts} cuts");
    assert!(cuts > 100_000);
}

/// Where the entry after the last parsed one begins.
fn log_end(log: &EventLog, starts: &[usize], end: usize) -> usize {
    starts.get(log.events.len() - 1).copied().unwrap_or(end)
}

#[test]
fn a_changed_log_is_read_as_it_is_written_or_refused() {
    let Some(fixtures) = fixtures() else { return };
    let original = fixtures.log("sb-shim161-grub206");
    mutate(&original, |bytes| {
        if let Ok(log) = EventLog::parse(bytes) {
            let written = write(&log);
            assert!(bytes.starts_with(&written), "read and written differ");
            let rest = &bytes[written.len()..];
            assert!(rest.iter().all(|b| *b == 0) || rest.iter().all(|b| *b == 0xff));
            for bank in log.banks() {
                let _ = log.replay(bank);
                let _ = PlatformFacts::from_event_log("p", &log, bank);
            }
            let _ = log.replay_rtmrs();
        }
    });
}

/// The log as firmware would have written it.
fn write(log: &EventLog) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, event) in log.events.iter().enumerate() {
        bytes.extend(event.pcr.to_le_bytes());
        bytes.extend(event.kind.0.to_le_bytes());
        if index == 0 || log.algorithms.is_empty() {
            bytes.extend(event.digests[&4].as_bytes());
        } else {
            bytes.extend(u32::try_from(event.digests.len()).unwrap().to_le_bytes());
            // Firmware writes them in any order; ours sorts, and so does the recorded machine.
            for (algorithm, digest) in &event.digests {
                bytes.extend(algorithm.to_le_bytes());
                bytes.extend(digest.as_bytes());
            }
        }
        bytes.extend(u32::try_from(event.data.len()).unwrap().to_le_bytes());
        bytes.extend(&event.data);
    }
    bytes
}

#[test]
fn variables_and_lists_are_read_as_they_are_written_or_refused() {
    let Some(fixtures) = fixtures() else { return };
    let platform = fixtures.platform("vars-mok");
    for name in ["PK", "db", "dbx", "MokList"] {
        mutate(platform.variable(name), |bytes| {
            if let Ok(lists) = SignatureList::parse_all(bytes) {
                let written: Vec<u8> = lists.iter().flat_map(SignatureList::to_bytes).collect();
                // The size of an entry is all that is lost of a list that has none.
                if lists.iter().all(|list| !list.entries.is_empty()) {
                    assert_eq!(written, bytes);
                }
            }
        });
    }
    let log = EventLog::parse(&fixtures.log("sb-shim161-grub206")).unwrap();
    let pk = log
        .events
        .iter()
        .find(|event| event.pcr == 7 && event.data.len() > 500)
        .unwrap();
    mutate(&pk.data, |bytes| {
        if let Ok(variable) = VariableData::parse(bytes) {
            assert_eq!(variable.to_bytes(), bytes);
        }
    });
}

#[test]
fn programs_and_signatures_do_not_panic() {
    let mut file = PeFile::new(vec![
        (".linux", vec![1; 600]),
        (".sbat", b"sbat,1,x\n".to_vec()),
        (".vendor_cert", vec![0; 40]),
        (".sbatlevel", vec![0; 40]),
    ]);
    file.trailing = vec![2; 100];
    let mut signatures = vec![];
    if let Some(fixtures) = fixtures() {
        for name in ["shim-16.1.sig0", "grub-2.06.sig0", "uki-257-snakeoil.sig0"] {
            signatures.push(fixtures.bytes(&format!("binaries/{name}.p7")));
        }
        for name in ["vendor_cert", "sbatlevel"] {
            let section = fixtures.bytes(&format!("binaries/shim-16.1.{name}.bin"));
            mutate(&section, |bytes| {
                let _ = vendor_cert(bytes);
                let _ = SbatLevels::parse(bytes);
            });
        }
    }
    for signature in &signatures {
        mutate(signature, |bytes| {
            if let Ok(facts) = SignatureFacts::parse(bytes) {
                let others = facts.others.iter().map(AsRef::as_ref);
                let anchors = others.chain([facts.signer.as_ref(), bytes]);
                for anchor in anchors {
                    let _ = measured_boot::certificate::leads_to(&facts, anchor);
                }
            }
        });
    }
    file.signatures = signatures;
    let (bytes, _) = file.build();
    mutate(&bytes, |bytes| {
        let _ = PeFacts::read("x", bytes);
        let _ = ShimFacts::read("x", bytes);
        let _ = UkiFacts::read("x", bytes);
    });
}

#[test]
fn random_bytes_are_refused_or_read() {
    let bytes = prop::collection::vec(any::<u8>(), 0..400);
    runner(2_000)
        .run(&bytes, |bytes| {
            let _ = EventLog::parse(&bytes);
            let _ = VariableData::parse(&bytes);
            let _ = SignatureList::parse_all(&bytes);
            let _ = SignatureFacts::parse(&bytes);
            let _ = PeFacts::read("x", &bytes);
            let _ = SbatLevels::parse(&bytes);
            let _ = vendor_cert(&bytes);
            let _ = PlatformFacts::from_variable_store("x", &bytes);
            Ok(())
        })
        .unwrap();
}

/// The bytes with some of them changed, cut out or doubled, many times over.
fn mutate(original: &[u8], look: impl Fn(&[u8])) {
    let place = any::<prop::sample::Index>();
    let change = (place.clone(), any::<u8>(), 0..4_u8, 1..9_usize).prop_map(|all| all);
    let changes = prop::collection::vec(change, 1..6);
    runner(400)
        .run(&changes, |changes| {
            let mut bytes = original.to_vec();
            for (place, byte, kind, count) in changes {
                if bytes.is_empty() {
                    break;
                }
                let at = place.index(bytes.len());
                let end = (at + count).min(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes[at..end].fill(if byte < 128 { 0xff } else { 0 }),
                    2 => drop(bytes.drain(at..end)),
                    _ => {
                        let copy = bytes[at..end].to_vec();
                        bytes.splice(at..at, copy);
                    }
                }
            }
            look(&bytes);
            Ok(())
        })
        .unwrap();
}

/// The same cases in every run, and no file of failures beside the tests.
fn runner(cases: u32) -> TestRunner {
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    };
    TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    )
}

// SPDX-License-Identifier: Apache-2.0

//! Machines that booted, against predictions from what they booted: the PCRs of twelve recorded boots.

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
use measured_boot::bank::Bank;
use measured_boot::combine::{Approved, Rollout, combine};
use measured_boot::eventlog::EventLog;
use measured_boot::platform::{KNOWN, PlatformFacts};
use measured_boot::predict::{Measured, predict};
use measured_boot::replay::Pcrs;
use measured_boot::uefi::VariableData;
use measured_boot::uefi::variable::strip_attributes;
use std::collections::BTreeSet;

#[test]
fn predicted_pcrs_are_those_that_the_tpm_showed() {
    let Some(fixtures) = fixtures() else { return };
    let (mut boots, mut values) = (0, 0);
    for scenario in fixtures.scenarios() {
        let prediction = predict(&scenario.image, &scenario.platform, &scenario.path).unwrap();
        let mut banks = BTreeSet::new();
        for (bank, pcr, value) in fixtures.recorded_pcrs(&scenario.name) {
            if !prediction.pcrs.contains(&pcr) && pcr != 11 {
                continue;
            }
            let predicted = prediction.pcrs(bank).unwrap().get(pcr).to_string();
            assert_eq!(predicted, value, "{}: {bank} PCR {pcr}", scenario.name);
            banks.insert(bank);
            values += 1;
        }
        assert!(banks.contains(&Bank::Sha256), "{}", scenario.name);
        boots += 1;
    }
    eprintln!("{boots} boots, {values} PCR values");
    assert_eq!(boots, 12);
}

#[test]
fn each_log_replays_to_what_the_tpm_showed() {
    let Some(fixtures) = fixtures() else { return };
    let mut logs = 0;
    for scenario in fixtures
        .scenarios()
        .iter()
        .filter(|scenario| scenario.has_log)
    {
        let log = EventLog::parse(&fixtures.log(&scenario.name)).unwrap();
        for (bank, pcr, value) in fixtures.recorded_pcrs(&scenario.name) {
            // The kernel extends PCR 10 after the log ends; PCRs from 16 on start with other values.
            if log.banks().contains(&bank) && pcr < 16 && pcr != 10 {
                let replayed = log.replay(bank).unwrap().get(pcr).to_string();
                assert_eq!(replayed, value, "{}: {bank} PCR {pcr}", scenario.name);
            }
        }
        logs += 1;
    }
    assert_eq!(logs, 11);
}

#[test]
fn each_predicted_event_is_in_the_log_at_its_place() {
    let Some(fixtures) = fixtures() else { return };
    for scenario in fixtures
        .scenarios()
        .iter()
        .filter(|scenario| scenario.has_log)
    {
        let prediction = predict(&scenario.image, &scenario.platform, &scenario.path).unwrap();
        let log = EventLog::parse(&fixtures.log(&scenario.name)).unwrap();
        // In the order of the machine, across PCRs: what a TDX guest's registers would depend on.
        let logged: Vec<_> = log
            .extends()
            .filter(|(_, event)| {
                prediction
                    .pcrs
                    .iter()
                    .any(|pcr| u32::from(*pcr) == event.pcr)
            })
            .map(|(_, event)| {
                (
                    event.pcr,
                    event.kind,
                    event.digest(Bank::Sha256).unwrap().clone(),
                )
            })
            .collect();
        let mut predicted: Vec<_> = prediction
            .events
            .iter()
            .map(|event| {
                (
                    u32::from(event.pcr),
                    event.kind,
                    event.digest(Bank::Sha256).unwrap(),
                )
            })
            .collect();
        assert_eq!(logged.len(), predicted.len(), "{}", scenario.name);
        for (at, (logged, predicted)) in logged.iter().zip(&mut predicted).enumerate() {
            assert_eq!(logged, predicted, "{}: event {at}", scenario.name);
        }
    }
}

#[test]
fn a_log_tells_the_platform_that_it_came_from() {
    let Some(fixtures) = fixtures() else { return };
    for scenario in fixtures
        .scenarios()
        .iter()
        .filter(|scenario| scenario.has_log)
    {
        let log = EventLog::parse(&fixtures.log(&scenario.name)).unwrap();
        let captured = PlatformFacts::from_event_log("captured", &log, Bank::Sha256).unwrap();
        assert_eq!(
            captured.secure_boot, scenario.platform.secure_boot,
            "{}",
            scenario.name
        );
        for name in ["PK", "KEK", "db", "dbx"] {
            assert_eq!(
                captured.variable(name),
                scenario.platform.variable(name),
                "{}: {name}",
                scenario.name
            );
        }
        // What shim keeps is not in a log.
        let mut captured = captured;
        for name in ["MokList", "MokListX"] {
            if let Some(value) = scenario.platform.variables.get(name) {
                captured.variables.insert(name.to_owned(), value.clone());
            }
        }
        let again = predict(&scenario.image, &captured, &scenario.path).unwrap();
        let first = predict(&scenario.image, &scenario.platform, &scenario.path).unwrap();
        assert_eq!(
            again.pcrs(Bank::Sha256),
            first.pcrs(Bank::Sha256),
            "{}",
            scenario.name
        );
    }
}

#[test]
fn a_log_whose_text_was_changed_tells_no_platform() {
    let Some(fixtures) = fixtures() else { return };
    let mut log = EventLog::parse(&fixtures.log("sb-shim161-grub206")).unwrap();
    let db = log
        .events
        .iter_mut()
        .find(|event| event.pcr == 7 && event.data.len() > 3000)
        .unwrap();
    *db.data.last_mut().unwrap() ^= 1;
    let error = PlatformFacts::from_event_log("p", &log, Bank::Sha256).unwrap_err();
    assert!(
        error.to_string().contains("is not what was measured"),
        "{error}"
    );
}

#[test]
fn the_level_after_the_boot_is_what_the_machine_kept() {
    let Some(fixtures) = fixtures() else { return };
    for name in [
        "sb-shim161-grub206",
        "sb-shim158-uki257-mok",
        "sb-shim161-uki257-mok",
    ] {
        let scenario = fixtures.named(name);
        let prediction = predict(&scenario.image, &scenario.platform, &scenario.path).unwrap();
        let kept = fixtures.bytes(&format!("{name}/mok-variables/SbatLevelRT"));
        assert_eq!(prediction.sbat_level.unwrap().as_ref(), kept, "{name}");
    }
}

#[test]
fn what_shim_leaves_behind_is_what_is_predicted_in_pcr_14() {
    let Some(fixtures) = fixtures() else { return };
    for name in [
        "sb-shim161-grub206",
        "sb-shim158-uki257-mok",
        "sb-shim161-uki257-mok",
    ] {
        let scenario = fixtures.named(name);
        let prediction = predict(&scenario.image, &scenario.platform, &scenario.path).unwrap();
        let mut predicted = prediction.events.iter().filter(|event| event.pcr == 14);
        for file in ["MokListRT", "MokListXRT", "MokListTrustedRT"] {
            let left = fixtures.bytes(&format!("{name}/mok-variables/{file}"));
            let event = predicted.next().unwrap();
            assert_eq!(event.data, Measured::Bytes(left.into()), "{name}: {file}");
        }
    }
}

#[test]
fn a_platform_from_efivarfs() {
    let Some(fixtures) = fixtures() else { return };
    let name = "sb-shim161-grub206";
    let files = KNOWN.iter().filter_map(|(variable, vendor)| {
        let path = format!("{name}/efivars/{variable}-{vendor}");
        let file = std::fs::read(fixtures.root.join(path)).ok()?;
        let content = strip_attributes(&file).unwrap();
        Some(VariableData::new(*vendor, variable, content))
    });
    let captured = PlatformFacts::from_variables("captured", "efivarfs", files);
    assert!(captured.secure_boot);
    let scenario = fixtures.named(name);
    let again = predict(&scenario.image, &captured, &scenario.path).unwrap();
    let first = predict(&scenario.image, &scenario.platform, &scenario.path).unwrap();
    assert_eq!(again.pcrs(Bank::Sha384), first.pcrs(Bank::Sha384));
}

#[test]
fn recorded_boots_are_among_those_of_their_update() {
    let Some(fixtures) = fixtures() else { return };
    let updated = [
        "sb-shim161-grub206",
        "sb-shim161-grub212",
        "sb-shim161-grub214",
    ];
    let images: Vec<Approved> = updated
        .iter()
        .map(|name| fixtures.named(name))
        .map(|one| Approved {
            facts: one.image,
            path: one.path,
        })
        .collect();
    let rollout = Rollout {
        images,
        updates: vec![(0, 1), (1, 2)],
        platforms: ["vars-ms", "vars-2023first", "vars-sbat"]
            .map(|p| fixtures.platform(p))
            .into(),
        platform_updates: vec![(0, 1)],
        bank: Bank::Sha256,
        phases: vec![],
        partial_esp: false,
    };
    let reachable = combine(&rollout).unwrap();
    assert!(reachable.dead_ends.is_empty());
    // Three boot loaders (the kernel is the same), three platforms.
    assert_eq!(reachable.boots.len(), 9);
    let accepts = |name: &str| {
        let mut pcrs = Pcrs::new(Bank::Sha256);
        for (_, pcr, value) in fixtures
            .recorded_pcrs(name)
            .into_iter()
            .filter(|(bank, ..)| *bank == Bank::Sha256)
        {
            pcrs.set(pcr, value.try_into().unwrap());
        }
        reachable.tuples().any(|tuple| tuple.matches(&pcrs))
    };
    for name in updated {
        assert!(accepts(name), "{name}");
    }
    for name in ["sb-db2023first-shim161-grub206", "sb-sticky-sbatlevel"] {
        assert!(accepts(name), "{name}");
    }
    for name in [
        "sb-failed-first-option",
        "nosb-shim161-grub206",
        "sb-uki257-direct",
        "sb-shim161-uki257-mok",
    ] {
        assert!(!accepts(name), "{name}");
    }
}

#[test]
fn a_unified_kernel_image_has_one_tuple_for_each_phase() {
    let Some(fixtures) = fixtures() else { return };
    let scenario = fixtures.named("sb-uki257-direct");
    let initrd = vec!["enter-initrd".to_owned()];
    let mut rollout = Rollout {
        images: vec![Approved {
            facts: scenario.image,
            path: scenario.path,
        }],
        updates: vec![],
        platforms: vec![scenario.platform],
        platform_updates: vec![],
        bank: Bank::Sha256,
        phases: vec![vec![], initrd],
        partial_esp: false,
    };
    let both = combine(&rollout).unwrap();
    assert_eq!(both.boots.len(), 2);
    for tuple in both.tuples() {
        let json = serde_json::to_value(tuple).unwrap();
        let names: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            ["pcr04", "pcr07", "pcr11", "pcr12", "pcr13", "pcr14"]
        );
        assert_eq!(json["pcr12"], "0".repeat(64));
    }
    rollout.phases.pop();
    let one = combine(&rollout).unwrap();
    let tuple = one.tuples().next().unwrap();
    let recorded = fixtures.recorded_pcrs("sb-uki257-direct");
    let eleven = recorded
        .iter()
        .find(|(bank, pcr, _)| (*bank, *pcr) == (Bank::Sha256, 11));
    assert_eq!(tuple.get(11).unwrap().to_string(), eleven.unwrap().2);
}

// SPDX-License-Identifier: Apache-2.0

//! Platforms from every source lead to the same facts, and the profiles that come along are those of machines that
//! booted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use measured_boot::platform::{KNOWN, PlatformFacts};
use refvals::platform::{load, profiles};
use std::path::PathBuf;

fn fixtures() -> Option<PathBuf> {
    let base = std::env::var_os("SHEEPFOLD_FIXTURES").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../shared/fixtures"
            ))
        },
        PathBuf::from,
    );
    let root = base.join("measured-boot");
    if root.join("scenarios.json").exists() {
        return Some(root);
    }
    eprintln!(
        "SKIPPED: no recorded boots in {}; set SHEEPFOLD_FIXTURES",
        root.display()
    );
    None
}

fn path(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

/// What PCR 7 depends on before shim runs.
fn keys(facts: &PlatformFacts) -> Vec<(&str, Vec<u8>)> {
    let names = ["PK", "KEK", "db", "dbx"];
    names
        .iter()
        .map(|name| (*name, facts.variable(name).to_vec()))
        .collect()
}

#[test]
fn profiles_are_whole_and_those_of_machines_that_booted() {
    for name in profiles::names() {
        let profile = load(&format!("profile:{name}"), None).unwrap();
        assert_eq!(profile.platform, name);
        assert_eq!(
            profile.secure_boot,
            name.ends_with("-ms") || name.ends_with("-snakeoil")
        );
        assert!(
            profile.source.contains("OVMF_VARS_4M"),
            "{}",
            profile.source
        );
    }
    assert!(load("profile:unknown", None).is_err());
    let Some(fixtures) = fixtures() else { return };
    for (profile, recorded) in [
        ("debian12-ovmf-ms", "vars-ms"),
        ("debian12-ovmf-snakeoil", "vars-snake"),
        ("debian12-ovmf", "vars-blank"),
    ] {
        let profile = load(&format!("profile:{profile}"), None).unwrap();
        let recorded = load(
            &path(fixtures.join(format!("platform/{recorded}.json"))),
            None,
        )
        .unwrap();
        assert_eq!(keys(&profile), keys(&recorded));
        assert_eq!(profile.secure_boot, recorded.secure_boot);
    }
}

#[test]
fn a_log_and_a_directory_of_efivarfs_say_what_the_store_says() {
    let Some(fixtures) = fixtures() else { return };
    let store = load(&path(fixtures.join("platform/vars-ms.json")), None).unwrap();
    let log = load(
        &path(fixtures.join("sb-shim161-grub206/eventlog.bin")),
        Some("a name"),
    )
    .unwrap();
    assert_eq!((keys(&log), log.secure_boot), (keys(&store), true));
    assert_eq!(log.platform, "a name");

    let directory = tempfile::tempdir().unwrap();
    for (name, vendor) in KNOWN {
        if let Some(content) = store.variables.get(name) {
            let content = [&[7, 0, 0, 0], content.as_ref()].concat();
            std::fs::write(directory.path().join(format!("{name}-{vendor}")), content).unwrap();
        }
    }
    let shim_lock = KNOWN
        .iter()
        .find(|(name, _)| *name == "SbatLevel")
        .unwrap()
        .1;
    std::fs::write(
        directory.path().join(format!("SbatLevelRT-{shim_lock}")),
        b"\x06\0\0\0sbat,1,2",
    )
    .unwrap();
    let dump = load(directory.path().to_str().unwrap(), None).unwrap();
    assert_eq!((keys(&dump), dump.secure_boot), (keys(&store), true));
    assert_eq!(dump.variable("SbatLevel"), b"sbat,1,2");
    // A document that was written is read again.
    let document = directory.path().join("platform.json");
    std::fs::write(&document, serde_json::to_vec(&dump).unwrap()).unwrap();
    assert_eq!(load(document.to_str().unwrap(), None).unwrap(), dump);
    // Fedora packs its files of flash.
    let packed = directory.path().join("VARS.qcow2");
    std::fs::write(&packed, b"QFI\xfb\0\0\0\x03").unwrap();
    let error = load(packed.to_str().unwrap(), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("qemu-img convert -O raw"), "{error}");
    let nothing = tempfile::tempdir().unwrap();
    assert!(load(nothing.path().to_str().unwrap(), None).is_err());
}

// SPDX-License-Identifier: Apache-2.0

//! Init-data in PCR 8 of a real software TPM: bound once a boot where the register is free, refused in words where a
//! boot loader was first.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use kbs_protocol::encoding::hex;
use kbs_protocol::init_data::InitDataToml;
use kbs_protocol::{Blame as _, Owner};
use sheepfold_tests::swtpm::SoftTpm;
use sheepfold_tests::world::World;
use trustee_agent::config::Config;
use trustee_agent::evidence::{self, DEFAULT_AK_HANDLE, EvidenceError, TeeError, TpmAttester};

const INIT_DATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\nnode = \"n1\"\n";

/// A new software TPM; without the programs for it the test says so and passes.
fn software_tpm() -> Option<SoftTpm> {
    if let Some(program) = SoftTpm::missing() {
        eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
        return None;
    }
    Some(SoftTpm::start().unwrap())
}

/// One process of a boot, as the agent is many.
fn bind(tpm: &SoftTpm, text: &str) -> Result<(), EvidenceError> {
    let init_data = InitDataToml::parse(text).unwrap();
    let mut attester = TpmAttester::open(&tpm.tcti(), DEFAULT_AK_HANDLE).unwrap();
    attester.bind_init_data(&init_data)
}

fn pcr8(tpm: &SoftTpm) -> String {
    hex::encode(tpm.read_pcrs().unwrap().get(8).unwrap())
}

fn extends(tpm: &SoftTpm) -> usize {
    let commands = tpm.take_commands();
    commands.iter().filter(|name| *name == "PCR_Extend").count()
}

#[test]
fn pcr_8_is_extended_once_a_boot_and_by_every_boot() {
    let Some(mut tpm) = software_tpm() else {
        return;
    };
    let expected = InitDataToml::parse(INIT_DATA)
        .unwrap()
        .expected_pcr8()
        .unwrap();
    for _ in 0..2 {
        let before = tpm.read_pcrs().unwrap();
        for process in 0..3 {
            bind(&tpm, INIT_DATA).unwrap();
            assert_eq!(pcr8(&tpm), hex::encode(expected), "process {process}");
        }
        assert_eq!(extends(&tpm), 1, "exactly once a boot");
        let after = tpm.read_pcrs().unwrap();
        let others = |pcrs: &[[u8; 32]]| [&pcrs[..8], &pcrs[9..]].concat();
        assert_eq!(others(&before), others(&after));
        tpm.restart().unwrap();
    }
}

/// The value of the specification's vector, so that a KBS computes the same one.
#[test]
fn the_register_is_what_a_kbs_expects() {
    let Some(tpm) = software_tpm() else { return };
    bind(&tpm, VECTOR).unwrap();
    assert_eq!(
        pcr8(&tpm),
        "62c606a23f0c6f4cd3d7408f28f7ea58c2fab06894870b86f3317924cf68443e"
    );
}

#[test]
fn under_grub_it_is_refused_and_nothing_is_extended() {
    let Some(tpm) = software_tpm() else { return };
    // grub_cmd: of its configuration, as GRUB measures each command.
    tpm.extend(8, &[0x9b; 32]).unwrap();
    let measured = pcr8(&tpm);
    let error = bind(&tpm, INIT_DATA).unwrap_err();
    assert!(
        matches!(&error, EvidenceError::Tee(TeeError::Pcr8Taken { found }) if *found == measured),
        "{error}"
    );
    assert!(error.to_string().contains("GRUB does"), "{error}");
    assert!(
        error.advice().contains("unified kernel image"),
        "{}",
        error.advice()
    );
    assert_eq!(error.owner(), Owner::Configuration);
    assert_eq!((pcr8(&tpm), extends(&tpm)), (measured, 0));
}

#[test]
fn another_text_in_the_same_boot_is_refused() {
    let Some(tpm) = software_tpm() else { return };
    bind(&tpm, INIT_DATA).unwrap();
    let taken = pcr8(&tpm);
    assert!(bind(&tpm, &INIT_DATA.replace("n1", "n2")).is_err());
    assert_eq!((pcr8(&tpm), extends(&tpm)), (taken, 1));
}

#[test]
fn a_digest_that_no_register_takes_is_refused_before_anything_moves() {
    let Some(tpm) = software_tpm() else { return };
    for algorithm in ["sha384", "sha512"] {
        let error = bind(&tpm, &INIT_DATA.replace("sha256", algorithm)).unwrap_err();
        assert!(error.to_string().contains("sha256"), "{error}");
    }
    assert_eq!((pcr8(&tpm), extends(&tpm)), ("0".repeat(64), 0));
}

/// Section 4 of the protocol's description, one newline after every line.
const VECTOR: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"node\" = \"n1\"\n";

#[test]
fn a_node_binds_what_its_configuration_names_when_it_opens_its_tpm() {
    if software_tpm().is_none() {
        return;
    }
    let mut world = World::new().unwrap();
    world.give_init_data(INIT_DATA).unwrap();
    world.configure().unwrap();
    let config = Config::load(&world.config_file()).unwrap();
    assert_eq!(pcr8(&world.tpm), "0".repeat(64));
    drop(evidence::open(&config).unwrap());
    let init_data = InitDataToml::parse(INIT_DATA).unwrap();
    let expected = init_data.expected_pcr8().unwrap();
    assert_eq!(pcr8(&world.tpm), hex::encode(expected));
}

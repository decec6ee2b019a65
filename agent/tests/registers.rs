// SPDX-License-Identifier: Apache-2.0

//! Seal and volume-key measurement on a real software TPM: which register moves, when, and by what.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a panic is the report"
)]

use kbs_protocol::encoding::hex;
use sha2::{Digest as _, Sha256};
use sheepfold_tests::swtpm::SoftTpm;
use trustee_agent::config::Seal;
use trustee_agent::evidence::TeeError;
use trustee_agent::measure::{MeasureError, MeasureLog, Registers};
use trustee_agent::seal::{Doors, Sealed, seal};
use trustee_agent::state::{Phase, RunDirectory, StateError};

/// A machine in its initramfs; without the programs for a TPM the test says so and passes.
struct Machine {
    tpm: SoftTpm,
    tcti: String,
    run: RunDirectory,
    _dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Option<Self> {
        if let Some(program) = SoftTpm::missing() {
            eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let tpm = SoftTpm::start().unwrap();
        Some(Self {
            tcti: tpm.tcti(),
            run: RunDirectory::at(dir.path().join("trustee")).unwrap(),
            tpm,
            _dir: dir,
        })
    }

    fn registers(&self) -> Registers<'_> {
        Registers {
            tcti: &self.tcti,
            run: &self.run,
            log: MeasureLog::of(&self.run),
        }
    }

    fn seal(&self, how: Seal) -> Result<Sealed, MeasureError> {
        seal(pcr11(how), &self.registers())
    }

    fn pcr(&self, number: usize) -> String {
        hex::encode(self.tpm.read_pcrs().unwrap().get(number).unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.run.path().join("tpm2-measure.log")).unwrap_or_default()
    }
}

#[test]
fn the_seal_moves_pcr_11_once_a_boot() {
    let Some(mut machine) = Machine::new() else {
        return;
    };
    let before = machine.tpm.read_pcrs().unwrap();
    assert_eq!(machine.pcr(11), "0".repeat(64));
    assert_eq!(machine.seal(Seal::Pcr11).unwrap(), Sealed::Now);
    assert_eq!(machine.pcr(11), SEALED);
    assert_eq!(machine.seal(Seal::Pcr11).unwrap(), Sealed::Before);
    assert_eq!(machine.pcr(11), SEALED);
    for (number, value) in before.iter().enumerate().filter(|(n, _)| *n != 11) {
        assert_eq!(machine.pcr(number), hex::encode(value), "PCR {number}");
    }
    let state = machine.run.read().unwrap();
    assert_eq!(state.phase, Phase::Sealed);
    let extend = state.extend("pcr11", "trustee:leave-initrd").unwrap();
    assert_eq!(
        (extend.before.as_str(), extend.after.as_str()),
        (&*"0".repeat(64), SEALED)
    );
    let log = machine.log();
    assert_eq!(log.matches('\u{1e}').count(), 1, "{log}");
    let digest = hex::encode(Sha256::digest("trustee:leave-initrd"));
    assert!(log.contains(&digest) && log.contains("\"pcr\":11"), "{log}");
    // A TPM that was reset behind our back is sealed again, whatever we remember.
    machine.tpm.power_cut().unwrap();
    assert_eq!(machine.pcr(11), "0".repeat(64));
    assert_eq!(machine.seal(Seal::Pcr11).unwrap(), Sealed::Now);
    assert_eq!(machine.pcr(11), SEALED);
}

/// Whoever extends it at the same moment leaves a register that nobody predicted; that is not for later to find out.
#[test]
fn a_register_that_moves_otherwise_than_it_was_told_is_no_seal() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.tpm.on_response(|tpm, command, _| {
        if command == "PCR_Extend" {
            tpm.extend(11, &[7; 32]).unwrap();
        }
    });
    let error = machine.seal(Seal::Pcr11).unwrap_err().to_string();
    let says = format!(
        "pcr11 was {} and is {} now",
        "0".repeat(64),
        machine.pcr(11)
    );
    assert!(error.contains(&says), "{error}");
    assert_eq!(machine.run.read().unwrap().phase, Phase::Open);
}

#[test]
fn without_a_memory_the_door_is_shut_and_the_boot_ends() {
    let Some(machine) = Machine::new() else {
        return;
    };
    std::fs::write(machine.run.path().join("state.json"), "garbage").unwrap();
    let error = machine.seal(Seal::Pcr11).unwrap_err();
    assert!(
        matches!(error, MeasureError::State(StateError::Damaged { .. })),
        "{error}"
    );
    assert_eq!(machine.pcr(11), SEALED);
}

#[test]
fn without_a_tpm_there_is_no_seal() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let registers = Registers {
        tcti: "device:/nonexistent/tpmrm0",
        run: &machine.run,
        log: MeasureLog::of(&machine.run),
    };
    let error = seal(pcr11(Seal::Pcr11), &registers).unwrap_err();
    assert!(matches!(error, MeasureError::Tpm(_)), "{error}");
    assert_eq!(machine.run.read().unwrap().phase, Phase::Open);
    let none = Doors {
        pcr11: None,
        rtmr3: None,
    };
    assert_eq!(seal(none, &registers).unwrap(), Sealed::Not);
}

#[test]
fn systemds_phase_is_enough_on_a_unified_kernel_image() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let word = |word: &str| Sha256::digest(word).into();
    machine.tpm.extend(11, &word("enter-initrd")).unwrap();
    let inside = machine.pcr(11);
    machine
        .run
        .update(|state| {
            state.attested = Some(trustee_agent::state::Attested {
                at_ms: 1,
                server: "https://kbs.example".to_owned(),
                verdict: "affirming".to_owned(),
                pcr11: Some(inside),
            });
            Ok::<_, StateError>(())
        })
        .unwrap();
    machine.tpm.extend(11, &word("leave-initrd")).unwrap();
    let left = machine.pcr(11);
    assert_eq!(machine.seal(Seal::UkiPhases).unwrap(), Sealed::BySystemd);
    assert_eq!(machine.pcr(11), left);
    assert_eq!(machine.run.read().unwrap().phase, Phase::Sealed);
}

/// The value is what `openssl dgst -sha256 -mac HMAC` and `sha256sum` make of the same key and words.
#[test]
fn a_volume_is_measured_as_systemd_measures_it_and_once() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let key = [0x5a; 64];
    let measure = |name| {
        let uuid = "0a1b2c3d-0000-4000-8000-0123456789ab";
        machine.registers().volume_key(name, uuid, &key).unwrap();
    };
    measure("root");
    let once = machine.pcr(15);
    assert_eq!(once, VOLUME);
    measure("root");
    assert_eq!(machine.pcr(15), once);
    measure("data");
    assert_ne!(machine.pcr(15), once);
    let state = machine.run.read().unwrap();
    let events: Vec<&str> = state.extends.iter().map(|e| e.event.as_str()).collect();
    assert_eq!(
        events,
        [
            "cryptsetup:root:0a1b2c3d-0000-4000-8000-0123456789ab",
            "cryptsetup:data:0a1b2c3d-0000-4000-8000-0123456789ab"
        ]
    );
    let seen = format!("{state:?}{}", machine.log());
    assert!(machine.log().contains("\"eventType\":\"volume-key\""));
    assert!(!seen.contains(&"5a".repeat(8)), "the key is in {seen}");
}

/// One door that does not shut is a door that is open, and no reason to leave the other one open.
#[test]
fn a_td_whose_register_cannot_move_is_not_sealed() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let both = Doors {
        rtmr3: Some(root.path()),
        ..pcr11(Seal::Pcr11)
    };
    let error = seal(both, &machine.registers()).unwrap_err();
    assert!(
        matches!(error, MeasureError::Tee(TeeError::Missing { .. })),
        "{error}"
    );
    assert_eq!(machine.pcr(11), SEALED);
    assert_eq!(machine.run.read().unwrap().phase, Phase::Open);
    // A TD without a TPM has one door, which is no less of one.
    let alone = Doors {
        pcr11: None,
        ..both
    };
    assert!(seal(alone, &machine.registers()).is_err());
    // An old kernel, and a kernel whose file is one of data.
    let file = root
        .path()
        .join("sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, [0; 48]).unwrap();
    let error = seal(both, &machine.registers()).unwrap_err();
    assert!(
        matches!(error, MeasureError::Tee(TeeError::Unmoved { .. })),
        "{error}"
    );
    assert_eq!(machine.run.read().unwrap().phase, Phase::Open);
}

fn pcr11(how: Seal) -> Doors<'static> {
    Doors {
        pcr11: Some(how),
        rtmr3: None,
    }
}

/// SHA-256 over 32 zeros and SHA-256 of the words.
const SEALED: &str = "e7e7e69e789eca2dd33f829c335bb6e92d6ee30af616db4b3cefab6fc4d80942";
const VOLUME: &str = "7797b9f6b8ef96f188d9f1db968958ce234f4a8d1727cdf8b8826563014d8238";

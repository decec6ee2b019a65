// SPDX-License-Identifier: Apache-2.0

//! What measured boot reads: event logs of machines, programs and signatures of images, variables of firmware.

use measured_boot::bank::Bank;
use measured_boot::eventlog::EventLog;
use measured_boot::facts::{ShimFacts, UkiFacts};
use measured_boot::image::{Choice, Scanner};
use measured_boot::pe::PeFacts;
use measured_boot::platform::PlatformFacts;
use measured_boot::sbat::SbatLevels;
use measured_boot::signature::SignatureFacts;
use measured_boot::uefi::{SignatureList, VariableData, store};

/// What is left out of a log is unused space, and its PCRs follow from its digests alone.
pub fn event_log(bytes: &[u8]) -> bool {
    let Ok(log) = EventLog::parse(bytes) else {
        return false;
    };
    let length: usize = log.events.iter().map(|event| event.data.len()).sum();
    assert!(length <= bytes.len(), "more event data than bytes");
    for event in &log.events {
        assert!(event.offset < bytes.len());
    }
    for bank in log.banks() {
        assert!(log.replay(bank) == log.replay(bank));
        let _ = PlatformFacts::from_event_log("fuzz", &log, bank);
    }
    let _ = log.replay_rtmrs();
    true
}

/// Authenticode leaves the checksum out (Windows Authenticode Portable Executable Signature Format): another one is
/// the same program.
pub fn pe(bytes: &[u8]) -> bool {
    let facts = PeFacts::read("fuzz", bytes);
    let _ = ShimFacts::read("fuzz", bytes);
    let _ = UkiFacts::read("fuzz", bytes);
    let Ok(facts) = facts else { return false };
    let number = |at: usize, width: usize| {
        let bytes = bytes.get(at..at + width).unwrap_or_default();
        bytes
            .iter()
            .rev()
            .fold(0_usize, |all, byte| all << 8 | usize::from(*byte))
    };
    let header = number(0x3c, 4);
    let checksum = header + 24 + 64;
    let table = header + 24 + number(header + 20, 2);
    // Where a section says that its content is in the headers, the field is hashed as content.
    let in_headers = |index: usize| number(table + 40 * index + 20, 4) < checksum + 4;
    if checksum + 4 > bytes.len() || (0..number(header + 6, 2)).any(in_headers) {
        return true;
    }
    let mut other = bytes.to_vec();
    other[checksum..checksum + 4].fill(0xc5);
    let other = PeFacts::read("fuzz", &other).unwrap();
    assert_eq!(
        other.authenticode.get(Bank::Sha256),
        facts.authenticode.get(Bank::Sha256)
    );
    true
}

/// A layer of an image. Read twice it says the same, and the DiffID of one that is not compressed is the hash of its
/// bytes.
pub fn layer(bytes: &[u8]) -> bool {
    let scan = || {
        let mut scanner = Scanner::new();
        let diff_id = scanner.layer(&mut &bytes[..])?;
        Ok::<_, measured_boot::Error>((diff_id, scanner.finish("fuzz", &Choice::default())))
    };
    let Ok((diff_id, facts)) = scan() else {
        return false;
    };
    let compressed =
        bytes.starts_with(&[0x1f, 0x8b]) || bytes.get(1..4) == Some(&[0xb5, 0x2f, 0xfd]);
    assert!(compressed || diff_id == Bank::Sha256.hash(bytes));
    assert!((diff_id, facts) == scan().unwrap());
    true
}

/// Firmware's flash: no variable is larger than the file.
pub fn flash(bytes: &[u8]) -> bool {
    let _ = PlatformFacts::from_flash("fuzz", bytes);
    let Ok(variables) = store::variables(bytes) else {
        return false;
    };
    assert!(
        variables
            .iter()
            .all(|variable| variable.data.len() < bytes.len())
    );
    store::is_store(bytes)
}

/// UEFI_VARIABLE_DATA is read as it was written.
pub fn uefi_variable(bytes: &[u8]) -> bool {
    let _ = PlatformFacts::from_variable_store("fuzz", bytes);
    let Ok(variable) = VariableData::parse(bytes) else {
        return false;
    };
    assert_eq!(variable.to_bytes(), bytes);
    true
}

/// EFI_SIGNATURE_LISTs are read as they were written.
pub fn signature_lists(bytes: &[u8]) -> bool {
    let _ = SbatLevels::parse(bytes);
    let Ok(lists) = SignatureList::parse_all(bytes) else {
        return false;
    };
    // The size of an entry is all that is lost of a list that has none.
    if lists.iter().all(|list| !list.entries.is_empty()) {
        let written: Vec<u8> = lists.iter().flat_map(SignatureList::to_bytes).collect();
        assert_eq!(written, bytes);
    }
    true
}

/// The certificates of a signature come out of it, and reading chains of them ends.
pub fn pkcs7(bytes: &[u8]) -> bool {
    let Ok(facts) = SignatureFacts::parse(bytes) else {
        return false;
    };
    let all = facts.others.iter().chain([&facts.signer]);
    for certificate in all.clone() {
        assert!(certificate.as_ref().len() <= bytes.len());
    }
    for anchor in all {
        let _ = measured_boot::certificate::leads_to(&facts, anchor.as_ref());
    }
    true
}

// SPDX-License-Identifier: Apache-2.0

//! Reading programs: digests, sections, signatures; files made by hand, and the real ones where they are at
//! hand.

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
use measured_boot::Error;
use measured_boot::bank::{Bank, Digests};
use measured_boot::facts::{ShimFacts, UkiFacts};
use measured_boot::grub::kernel_measurements;
use measured_boot::pe::{PeFacts, find, sections, stream};
use measured_boot::signature::SignatureFacts;
use std::path::Path;

fn some_file() -> PeFile {
    let mut file = PeFile::new(vec![
        (".text", vec![0x90; 700]),
        (".sbat", b"sbat,1,x\ngrub,5,FSF,grub,2.12,url\n".to_vec()),
        (".vendor_cert", b"long name".to_vec()),
    ]);
    file.trailing = b"symbols and strings".to_vec();
    file
}

#[test]
fn digests_follow_the_authenticode_rule() {
    for is_64 in [true, false] {
        let (bytes, digests) = PeFile {
            is_64,
            ..some_file()
        }
        .build();
        let facts = PeFacts::read("a.efi", &bytes).unwrap();
        assert_eq!(facts.authenticode, digests, "64-bit: {is_64}");
        assert!(facts.signatures.is_empty());
        assert!(facts.sbat.unwrap().starts_with("sbat,1,x\ngrub,5"));

        // The checksum does not count, one byte of trailing data does.
        let mut other = bytes.clone();
        other[64 + 24 + 64] ^= 1;
        assert_eq!(PeFacts::read("b", &other).unwrap().authenticode, digests);
        *other.last_mut().unwrap() ^= 1;
        assert_ne!(PeFacts::read("c", &other).unwrap().authenticode, digests);
    }
}

#[test]
fn sections_have_their_long_names_and_their_size_in_memory() {
    let mut file = some_file();
    file.sections.push((".zeros", b"abc".to_vec(), 10_000));
    file.sections.push((".cut", b"abcdef".to_vec(), 3));
    let (bytes, _) = file.build();
    let sections = sections(&bytes).unwrap();
    assert_eq!(find(&sections, ".vendor_cert").unwrap().data, b"long name");
    let mut zeros = b"abc".to_vec();
    zeros.resize(10_000, 0);
    assert_eq!(
        find(&sections, ".zeros").unwrap().digests(),
        Digests::of(&zeros)
    );
    assert_eq!(
        find(&sections, ".cut").unwrap().digests(),
        Digests::of(b"abc")
    );
    assert!(find(&sections, ".nothing").is_none());
}

#[test]
fn what_is_not_a_program_we_read() {
    let (good, _) = some_file().build();
    let refusal = |bytes: &[u8]| PeFacts::read("x", bytes).unwrap_err().to_string();
    assert!(refusal(b"\x7fELF").contains("neither PE32 nor PE32+"));
    assert!(refusal(&good[..good.len() / 2]).contains("PE file is malformed"));
    let with = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        refusal(&bytes)
    };
    let optional = 64 + 24;
    // Fewer data directories than the certificate table needs.
    assert!(with(optional + 108, 4).contains("no certificate table"));
    // A certificate table, a section and headers outside of the file.
    assert!(with(optional + 112 + 36, 1 << 30).contains("without an address"));
    assert!(with(optional + 112 + 32, 1 << 30).contains("out of bounds"));
    assert!(with(optional + 240 + 20, 1 << 30).contains("outside of the file"));
    assert!(with(optional + 60, 1 << 30).contains("do not fit into the file"));
    // The same bytes as two sections, which together are longer than the file.
    let raw_size = u32::try_from(good.len() - 512).unwrap();
    assert!(with(optional + 240 + 16, raw_size).contains("the section .vendor_cert lies outside"));
    // A section that would need a gigabyte of zeros.
    let mut bytes = good.clone();
    bytes[optional + 240 + 8..optional + 240 + 12].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    assert!(
        sections(&bytes)
            .unwrap_err()
            .to_string()
            .contains("1073741824 bytes in memory up to .text")
    );

    let many = PeFile::new((0..97).map(|_| (".s", vec![1])).collect())
        .build()
        .0;
    assert!(refusal(&many).contains("97 sections"));
    // A certificate table that is not one.
    let mut odd = some_file();
    odd.signatures = vec![vec![0; 8]];
    let (mut bytes, _) = odd.build();
    assert!(refusal(&bytes).contains("Authenticode signature is malformed"));
    let table = bytes.len() - 16;
    bytes[table] = 7;
    assert!(
        refusal(&bytes).contains("PE file is malformed"),
        "{}",
        refusal(&bytes)
    );

    assert!(
        ShimFacts::read("x", &good)
            .unwrap_err()
            .to_string()
            .contains("no version of shim")
    );
    let plain = PeFile::new(vec![(".text", vec![1])]).build().0;
    assert!(
        ShimFacts::read("x", &plain)
            .unwrap_err()
            .to_string()
            .contains("not shim")
    );
    assert!(
        UkiFacts::read("x", &plain)
            .unwrap_err()
            .to_string()
            .contains("not a unified kernel image")
    );
}

/// A unified kernel image is read while it passes, and believed no more than one that is held.
#[test]
fn what_passes_is_judged_as_strictly() {
    let pass =
        |bytes: &[u8]| stream::read("u", bytes.len() as u64, &mut &*bytes).map(|read| read.0);
    let refused = |bytes: &[u8], why: &str| {
        let error = pass(bytes).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    };
    let error = stream::read("u", 1 << 33, &mut [0; 8].as_slice()).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let sections = |count: usize| PeFile::new(vec![(".s", vec![1]); count]).build().0;
    assert!(pass(&sections(96)).is_ok());
    refused(&sections(97), "97 sections");

    let in_order = || PeFile::new(vec![(".text", vec![0x90; 700]), (".linux", vec![7; 3000])]);
    let mut file = in_order();
    file.signatures = vec![vec![0; 8]];
    let (signed, _) = file.build();
    refused(&signed, "Authenticode signature is malformed");
    // A certificate of another type is none of Authenticode's (PE format, WIN_CERT_TYPE_X509).
    let mut other = signed.clone();
    let kind = other.len() - 10;
    other[kind] = 1;
    assert_eq!(pass(&other).unwrap(), PeFacts::read("u", &other).unwrap());
    // One that is longer than its table, and a table that is not the end.
    let mut long = signed.clone();
    let length = long.len() - 16;
    long[length] = 200;
    assert!(pass(&long).is_err());
    refused(&[&signed[..], &[0; 8]].concat(), "not the end of the file");
    let mut many = in_order();
    many.signatures = vec![vec![0; 8]; 17];
    let (mut many, _) = many.build();
    let table = many.len() - 17 * 16;
    for entry in many[table..].chunks_exact_mut(16) {
        entry[6] = 1;
    }
    assert!(pass(&many).unwrap().signatures.is_empty());
    let optional = usize::from(u16::from_le_bytes([signed[60], signed[61]])) + 24;
    for (at, value, why) in [
        (optional + 60, 1_u32 << 20, "headers of 1048576 bytes"),
        (optional + 240 + 8, 1 << 31, "bytes in memory"),
        (
            optional + 240 + 40 + 16,
            1 << 20,
            "do not fit into the file",
        ),
    ] {
        let mut bytes = signed.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        if why.contains("memory") {
            bytes[at + 40..at + 44].copy_from_slice(&u32::MAX.to_le_bytes());
        }
        refused(&bytes, why);
    }
    if let Some(fixtures) = fixtures() {
        let mut file = in_order();
        file.signatures = vec![fixtures.bytes("binaries/grub-2.06.sig0.p7")];
        refused(&file.build().0, "is not what was signed");
    }
}

#[test]
fn shim_and_unified_kernel_images_are_read() {
    let mut vendor = Vec::new();
    for number in [4_u32, 0, 16, 20] {
        vendor.extend(number.to_le_bytes());
    }
    vendor.extend(b"keys");
    let mut level = vec![0, 0, 0, 0, 8, 0, 0, 0, 10, 0, 0, 0];
    level.extend(b"a\0b\0");
    let shim = PeFile::new(vec![
        (".vendor_cert", vendor.clone()),
        (".sbatlevel", level),
        (
            ".data.ident",
            b"UEFI SHIM\n$Version: 15.7 $\n$BuildMachine: x $\n".to_vec(),
        ),
    ]);
    let facts = ShimFacts::read("shimx64.efi", &shim.build().0).unwrap();
    assert_eq!(facts.version.to_string(), "15.7");
    assert_eq!(facts.vendor_authorized.as_ref(), b"keys");
    assert_eq!(facts.sbat_levels.unwrap().latest.as_ref(), b"b");
    let nameless = PeFile::new(vec![(".vendor_cert", vendor)]).build().0;
    let error = ShimFacts::read("x", &nameless).unwrap_err().to_string();
    assert!(error.contains("no version of shim"), "{error}");

    let uki = PeFile::new(vec![
        (".osrel", b"base".to_vec()),
        (".linux", b"kernel".to_vec()),
        (".profile", b"one".to_vec()),
        (".cmdline", b"quiet".to_vec()),
        (".profile", b"two".to_vec()),
    ]);
    let facts = UkiFacts::read("uki.efi", &uki.build().0).unwrap();
    let names = |sections: &[measured_boot::facts::SectionFacts]| -> Vec<String> {
        sections
            .iter()
            .map(|section| section.name.clone())
            .collect()
    };
    assert_eq!(names(&facts.sections), [".osrel", ".linux"]);
    assert_eq!(names(&facts.profiles[0]), [".profile", ".cmdline"]);
    assert_eq!(names(&facts.profiles[1]), [".profile"]);
    assert_eq!(facts.sections[1].digests, Digests::of(b"kernel"));
}

#[test]
fn a_signature_of_another_file_is_noticed() {
    let Some(fixtures) = fixtures() else { return };
    let mut file = some_file();
    file.signatures = vec![fixtures.bytes("binaries/grub-2.06.sig0.p7")];
    let (bytes, digests) = file.build();
    let error = PeFacts::read("grubx64.efi", &bytes)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("grubx64.efi is not what was signed"),
        "{error}"
    );
    assert!(
        error.contains(&digests.get(Bank::Sha256).unwrap().to_string()),
        "{error}"
    );
    assert!(
        error.contains("a68f6d71ebddaa19751ff8d729f67d11"),
        "{error}"
    );
}

#[test]
fn what_is_not_a_signature_we_read() {
    let Some(fixtures) = fixtures() else { return };
    let good = fixtures.bytes("binaries/grub-2.06.sig0.p7");
    let facts = SignatureFacts::parse(&good).unwrap();
    assert_eq!((facts.bank, facts.others.len()), (Bank::Sha256, 0));
    // Padding to eight bytes may follow.
    assert_eq!(
        SignatureFacts::parse(&[&good[..], &[0; 7]].concat()).unwrap(),
        facts
    );
    let with = |part: &[u8], last: u8| {
        let mut bytes = good.clone();
        let at = bytes
            .windows(part.len())
            .position(|found| found == part)
            .unwrap();
        bytes[at + part.len() - 1] = last;
        SignatureFacts::parse(&bytes).unwrap_err().to_string()
    };
    let indirect_data = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
    assert!(with(&indirect_data, 5).contains("not an SpcIndirectDataContent"));
    let signed_data = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
    assert!(with(&signed_data, 3).contains("not a SignedData"));
    // Digest algorithm in front of a digest of 32 bytes.
    let sha256 = [
        0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
    ];
    let at = good.windows(13).position(|found| found == sha256).unwrap() + 8;
    for (algorithm, text) in [
        (2, "a sha384 digest of 32 bytes"),
        (9, "the unknown algorithm"),
    ] {
        let mut bytes = good.clone();
        bytes[at] = algorithm;
        let error = SignatureFacts::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    // A signer whose certificate is not there: another serial number.
    let serial = facts.signer.as_ref()[13..20].to_vec();
    let mut bytes = good.clone();
    let named = bytes.windows(7).rposition(|found| found == serial).unwrap();
    bytes[named + 4] ^= 1;
    let error = SignatureFacts::parse(&bytes).unwrap_err().to_string();
    assert!(
        error.contains("the signer's certificate is not in it"),
        "{error}"
    );
    assert!(SignatureFacts::parse(&vec![0x30; 256 * 1024 + 1]).is_err());
}

/// The real files are large and not ours to keep. Whoever has them names a directory with them.
#[test]
fn real_files_have_the_recorded_facts() {
    let Some(fixtures) = fixtures() else { return };
    let Some(directory) = std::env::var_os("SHEEPFOLD_EFI_FILES") else {
        eprintln!(
            "SKIPPED: set SHEEPFOLD_EFI_FILES to a directory with unpacked shim-signed, shim-helpers-amd64-signed and \
             grub-efi-amd64-signed packages to compare real files"
        );
        return;
    };
    let mut compared = Vec::new();
    visit(Path::new(&directory), &mut |file| {
        let sha256 = Bank::Sha256.hash(file).to_string();
        let Some(id) = fixtures.id_of_file(&sha256) else {
            return;
        };
        let mut expected = fixtures.program(&id);
        let facts = PeFacts::read(&id, file).unwrap();
        for (bank, digest) in expected.authenticode.iter() {
            assert_eq!(facts.authenticode.get(bank), Some(digest), "{id} {bank}");
        }
        expected.authenticode = facts.authenticode.clone();
        expected.sbat.clone_from(&facts.sbat);
        assert_eq!(facts, expected, "{id}");
        if id.starts_with("shim") {
            let mut expected = fixtures.shim(&id);
            expected.file = facts.clone();
            assert_eq!(ShimFacts::read(&id, file).unwrap(), expected);
        }
        if id == "grub-2.06" {
            let counts = kernel_measurements(facts.sbat.as_deref(), true);
            assert_eq!(counts.candidates, [2], "{}", counts.loader);
        }
        compared.push(id);
    });
    eprintln!("compared {compared:?}");
    assert!(!compared.is_empty());
}

fn visit(directory: &Path, look: &mut impl FnMut(&[u8])) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, look);
        } else if path.is_file() {
            look(&std::fs::read(&path).unwrap());
        }
    }
}

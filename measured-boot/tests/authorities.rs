// SPDX-License-Identifier: Apache-2.0

//! Which key is found to authorise a program, with the certificates of real boot loaders.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod common;

use common::{Fixtures, blob, fixtures};
use measured_boot::authority::{by_firmware, by_shim};
use measured_boot::bank::Bank;
use measured_boot::bytes::Blob;
use measured_boot::certificate::leads_to;
use measured_boot::error::Error;
use measured_boot::facts::ShimFacts;
use measured_boot::pe::PeFacts;
use measured_boot::platform::PlatformFacts;
use measured_boot::uefi::{SignatureEntry, SignatureList, guid};

/// The two authorities that signed shim 16.1, in the order of its signatures.
fn authorities(fixtures: &Fixtures) -> [SignatureEntry; 2] {
    let shim = fixtures.program("shim-16.1");
    let platform = fixtures.platform("vars-2023first");
    let lists = SignatureList::parse_all(platform.variable("db")).unwrap();
    let entries: Vec<SignatureEntry> = lists.into_iter().flat_map(|list| list.entries).collect();
    [0, 1].map(|at| {
        let mut found = entries
            .iter()
            .filter(|entry| leads_to(&shim.signatures[at], &entry.data));
        let entry = found.next().expect("an authority in db").clone();
        assert_eq!(found.next(), None);
        entry
    })
}

fn with(db: &[&SignatureEntry], dbx: &[&SignatureEntry]) -> PlatformFacts {
    let lists = |entries: &[&SignatureEntry]| -> Vec<u8> {
        let list = |entry: &&SignatureEntry| SignatureList::certificate(entry.owner, &entry.data);
        entries
            .iter()
            .map(list)
            .flat_map(|list| list.to_bytes())
            .collect()
    };
    let mut platform = PlatformFacts::default();
    for (name, entries) in [("db", db), ("dbx", dbx)] {
        platform
            .variables
            .insert(name.to_owned(), Blob::from(lists(entries)));
    }
    platform
}

#[test]
fn the_first_signature_decides_not_the_first_key() {
    let Some(fixtures) = fixtures() else { return };
    let shim = fixtures.program("shim-16.1");
    let [first, second] = &authorities(&fixtures);
    assert_ne!(first, second);
    let measured = |db: &[&SignatureEntry]| by_firmware(&shim, &with(db, &[])).map(|v| v.data);
    assert_eq!(measured(&[second, first]).unwrap(), first.to_bytes());
    assert_eq!(measured(&[first, second]).unwrap(), first.to_bytes());
    // A hash comes after the certificates for one signature, and before those for the next.
    let hash = shim.authenticode.get(Bank::Sha256).unwrap();
    let hash = SignatureList::sha256(guid::GLOBAL, hash.as_bytes());
    for (entry, expected) in [(first, first), (second, &hash.entries[0])] {
        let mut platform = with(&[entry], &[]);
        let db = platform.variables.get_mut("db").unwrap();
        db.0.extend(hash.to_bytes());
        assert_eq!(
            by_firmware(&shim, &platform).unwrap().data,
            expected.to_bytes()
        );
    }
    // A platform that does not have the first one any more.
    assert_eq!(measured(&[second]).unwrap(), second.to_bytes());
    assert!(matches!(measured(&[]), Err(Error::NotAuthorised { .. })));
}

#[test]
fn a_revoked_authority_of_any_signature_forbids() {
    let Some(fixtures) = fixtures() else { return };
    let shim = fixtures.program("shim-16.1");
    let [first, second] = &authorities(&fixtures);
    for revoked in [first, second] {
        let error = by_firmware(&shim, &with(&[first, second], &[revoked])).unwrap_err();
        assert!(matches!(error, Error::Revoked { by: "dbx", .. }), "{error}");
    }
}

#[test]
fn a_name_alone_authorises_nothing() {
    let Some(fixtures) = fixtures() else { return };
    let grub = fixtures.program("grub-2.06");
    let vendor = fixtures.shim("shim-16.1").vendor_authorized.0;
    let [signature] = &grub.signatures[..] else {
        panic!("one signature")
    };
    assert!(leads_to(signature, &vendor));
    assert!(leads_to(signature, signature.signer.as_ref()));
    // The same key under another name: the last letter of the subject, which stands before the key.
    let name = b"Debian Secure Boot CA";
    let mut renamed = vendor.clone();
    let subject = renamed.windows(name.len()).rposition(|bytes| bytes == name);
    renamed[subject.expect("the subject") + name.len() - 1] = b'B';
    assert!(!leads_to(signature, &renamed));
    // The same name with another key: a changed byte of the modulus.
    let mut impostor = vendor.clone();
    let modulus = impostor
        .windows(5)
        .position(|bytes| bytes == [0x02, 0x82, 0x01, 0x01, 0x00]);
    impostor[modulus.expect("a key of 2048 bits") + 20] ^= 1;
    assert!(!leads_to(signature, &impostor));
    // A changed signature on the signer's own certificate.
    let mut forged = signature.clone();
    *forged.signer.0.last_mut().unwrap() ^= 1;
    assert!(!leads_to(&forged, &vendor));
    assert!(!leads_to(signature, b"no certificate"));
    // The authority of another vendor.
    let [first, _] = authorities(&fixtures);
    assert!(!leads_to(signature, &first.data));
}

#[test]
fn shim_searches_in_its_order() {
    let Some(fixtures) = fixtures() else { return };
    let grub = fixtures.program("grub-2.06");
    let shim = fixtures.shim("shim-16.1");
    let vendor = shim.vendor_authorized.0.clone();
    let entry = SignatureEntry {
        owner: guid::GLOBAL,
        data: vendor.clone(),
    };
    let only = |shim: &ShimFacts, platform: &PlatformFacts| {
        let mut found = by_shim(&grub, shim, platform, &Blob::default()).unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0)
    };

    let found = only(&shim, &with(&[], &[]));
    assert_eq!(
        (found.name.as_str(), found.vendor),
        ("MokListRT", guid::SHIM_LOCK)
    );
    assert_eq!(found.data[..16], guid::SHIM_LOCK.to_bytes());
    assert_eq!(found.data[16..], vendor);

    let found = only(&shim, &with(&[&entry], &[]));
    assert_eq!((found.name.as_str(), found.data), ("db", entry.to_bytes()));

    // A vendor with a database: its own owner, under another name.
    let mut database = shim.clone();
    let list = SignatureList::certificate(guid::CERT_X509, &vendor);
    database.vendor_authorized = Blob::from(list.to_bytes());
    let found = only(&database, &with(&[], &[]));
    assert_eq!(
        (found.name.as_str(), found.vendor),
        ("vendor_db", guid::IMAGE_SECURITY)
    );
    assert_eq!(found.data, list.entries[0].to_bytes());

    // A hash in the last list comes before a certificate in the first one.
    let hash = grub.authenticode.get(Bank::Sha256).unwrap();
    let mut by_hash = with(&[&entry], &[]);
    let hashes = SignatureList::sha256(guid::GLOBAL, hash.as_bytes());
    by_hash
        .variables
        .insert("MokList".to_owned(), Blob::from(hashes.to_bytes()));
    let found = only(&shim, &by_hash);
    assert_eq!(
        (found.name.as_str(), found.data),
        ("MokListRT", hashes.entries[0].to_bytes())
    );

    let mut built = database.clone();
    built.vendor_authorized = Blob::default();
    assert!(by_shim(&grub, &built, &with(&[], &[]), &Blob::default()).is_err());
    built.build_certificate = Some(blob(&vendor));
    assert_eq!(only(&built, &with(&[], &[])).name, "MokListRT");
}

#[test]
fn shim_measures_an_authority_of_each_good_signature() {
    let Some(fixtures) = fixtures() else { return };
    // shim's own file stands for a second stage that two authorities signed.
    let dual = fixtures.program("shim-16.1");
    let shim = fixtures.shim("shim-16.1");
    let [first, second] = &authorities(&fixtures);
    let measured = |db: &[&SignatureEntry], dbx: &[&SignatureEntry]| {
        let found = by_shim(&dual, &shim, &with(db, dbx), &Blob::default())?;
        Ok::<_, Error>(
            found
                .into_iter()
                .map(|authority| authority.data)
                .collect::<Vec<_>>(),
        )
    };
    let both = [first.to_bytes(), second.to_bytes()];
    assert_eq!(measured(&[second, first], &[]).unwrap(), both);
    // A revoked authority spoils its own signature, not the other one.
    assert_eq!(measured(&[first, second], &[first]).unwrap(), both[1..]);
    assert_eq!(measured(&[first, second], &[second]).unwrap(), both[..1]);
    let error = measured(&[first, second], &[first, second]).unwrap_err();
    assert!(matches!(error, Error::Revoked { by: "dbx", .. }), "{error}");
    let error = measured(&[first], &[first]).unwrap_err();
    assert!(matches!(error, Error::Revoked { by: "dbx", .. }), "{error}");
    assert!(matches!(
        measured(&[], &[]),
        Err(Error::NotAuthorised { .. })
    ));
}

#[test]
fn shim_looks_at_the_first_certificate_of_a_list_and_firmware_at_each() {
    let Some(fixtures) = fixtures() else { return };
    let grub = fixtures.program("grub-2.06");
    let mut shim = fixtures.shim("shim-16.1");
    let vendor = std::mem::take(&mut shim.vendor_authorized.0);
    let filler = SignatureEntry {
        owner: guid::GLOBAL,
        data: vec![0; vendor.len()],
    };
    let entry = SignatureEntry {
        owner: guid::GLOBAL,
        data: vendor,
    };
    let list = |entries: &[&SignatureEntry]| SignatureList {
        kind: guid::CERT_X509,
        header: vec![],
        entries: entries.iter().map(|entry| (*entry).clone()).collect(),
    };
    let mut platform = PlatformFacts::default();
    let mut db = |entries: &[&SignatureEntry]| {
        let bytes = Blob::from(list(entries).to_bytes());
        platform.variables.insert("db".to_owned(), bytes);
        platform.clone()
    };
    let second = db(&[&filler, &entry]);
    assert!(by_firmware(&grub, &second).is_ok());
    assert!(by_shim(&grub, &shim, &second, &Blob::default()).is_err());
    assert!(by_shim(&grub, &shim, &db(&[&entry, &filler]), &Blob::default()).is_ok());
}

#[test]
fn an_unsigned_program_needs_its_hash() {
    let Some(fixtures) = fixtures() else { return };
    let unsigned = PeFacts {
        signatures: vec![],
        ..fixtures.program("shim-16.1")
    };
    let [first, second] = &authorities(&fixtures);
    let mut platform = with(&[first, second], &[]);
    assert!(by_firmware(&unsigned, &platform).is_err());
    let hash = unsigned.authenticode.get(Bank::Sha256).unwrap();
    let list = SignatureList::sha256(guid::GLOBAL, hash.as_bytes());
    platform
        .variables
        .get_mut("db")
        .unwrap()
        .0
        .extend(list.to_bytes());
    assert_eq!(
        by_firmware(&unsigned, &platform).unwrap().data,
        list.entries[0].to_bytes()
    );
}

// SPDX-License-Identifier: Apache-2.0

//! An image and a platform that fit each other, without certificates: every program is authorised by its
//! hash. Tests change one thing and look at what follows.

use measured_boot::bank::{Bank, Digest, Digests};
use measured_boot::bytes::Blob;
use measured_boot::eventlog::EventType;
use measured_boot::facts::{ImageFacts, SectionFacts, ShimFacts, ShimVersion, UkiFacts};
use measured_boot::pe::PeFacts;
use measured_boot::platform::PlatformFacts;
use measured_boot::predict::{Measured, Prediction};
use measured_boot::uefi::{SignatureList, VariableData, guid};
use std::collections::BTreeMap;

/// Its digest is the hash of its name.
pub(crate) fn program(name: &str) -> PeFacts {
    PeFacts {
        name: name.to_owned(),
        authenticode: Digests::of(name.as_bytes()),
        ..PeFacts::default()
    }
}

pub(crate) fn digest(name: &str) -> Digest {
    Bank::Sha256.hash(name.as_bytes())
}

/// Signature lists with the hashes of these programs.
pub(crate) fn hashes(names: &[&str]) -> Vec<u8> {
    let one = |name: &&str| SignatureList::sha256(guid::GLOBAL, digest(name).as_bytes()).to_bytes();
    names.iter().flat_map(one).collect()
}

pub(crate) fn image() -> ImageFacts {
    ImageFacts {
        name: "image".to_owned(),
        shim: Some(ShimFacts {
            file: program("shim"),
            version: ShimVersion {
                major: 16,
                minor: 1,
            },
            vendor_authorized: Blob::from(hashes(&["loader", "kernel", "fallback", "uki"])),
            vendor_deauthorized: Blob::default(),
            build_certificate: None,
            sbat_levels: None,
        }),
        boot_loader: Some(program("loader")),
        fallback: Some(program("fallback")),
        kernel: Some(program("kernel")),
        uki: Some(UkiFacts {
            file: program("uki"),
            sections: vec![SectionFacts {
                name: ".linux".to_owned(),
                digests: Digests::of(b"inner kernel"),
            }],
            profiles: vec![],
        }),
        extras: vec![],
        ..ImageFacts::default()
    }
}

pub(crate) fn platform() -> PlatformFacts {
    let mut platform = PlatformFacts {
        platform: "platform".to_owned(),
        secure_boot: true,
        ..PlatformFacts::default()
    };
    set(&mut platform, "db", &hashes(&["shim", "loader", "uki"]));
    platform
}

pub(crate) fn set(platform: &mut PlatformFacts, name: &str, content: &[u8]) {
    platform
        .variables
        .insert(name.to_owned(), Blob::from(content));
}

/// What a prediction says about one PCR, briefly: programs by name, variables by name, other bytes as text.
pub(crate) fn story(prediction: &Prediction, pcr: u8) -> Vec<String> {
    let events = prediction.events.iter().filter(|event| event.pcr == pcr);
    let names: BTreeMap<Digest, &str> = ["shim", "loader", "kernel", "fallback", "uki"]
        .map(|name| (digest(name), name))
        .into();
    events
        .map(|event| match &event.data {
            Measured::File(digests) => match digests.get(Bank::Sha256).and_then(|d| names.get(d)) {
                Some(name) => (*name).to_owned(),
                None => event.what.clone(),
            },
            Measured::Bytes(bytes) if event.kind == EventType::SEPARATOR => {
                assert_eq!(bytes.as_ref(), [0; 4]);
                "|".to_owned()
            }
            Measured::Bytes(bytes) => match VariableData::parse(bytes.as_ref()) {
                Ok(variable) => match variable.data.get(16..).map(|d| names.get(&Digest::new(d))) {
                    Some(Some(name)) => format!("{}:{name}", variable.name),
                    _ => variable.name,
                },
                Err(_) => String::from_utf8_lossy(bytes.as_ref()).into_owned(),
            },
        })
        .collect()
}

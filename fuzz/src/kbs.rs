// SPDX-License-Identifier: Apache-2.0

//! Messages of the KBS protocol and of the enrolment, in both directions.

use kbs_protocol::ear::Ear;
use kbs_protocol::encoding::b64u;
use kbs_protocol::enroll;
use kbs_protocol::init_data::{Algorithm, InitDataToml};
use kbs_protocol::jwe::ResourceJwe;
use kbs_protocol::message::{Attestation, Challenge};
use kbs_protocol::resource_secret::ResourceSecret;
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::tee_key::TeeKey;
use kbs_protocol::{Secret, Tee};
use std::sync::LazyLock;

/// A nonce is never empty, and hashed as it came.
pub fn challenge(bytes: &[u8]) -> bool {
    let Ok(challenge) = Challenge::parse(bytes) else {
        return false;
    };
    assert!(!challenge.nonce.is_empty());
    let again = serde_json::to_vec(&challenge).unwrap();
    assert_eq!(Challenge::parse(&again).unwrap().nonce, challenge.nonce);
    true
}

/// The digest that evidence must carry depends on what was read, and on nothing of how it was spelled.
pub fn attestation(bytes: &[u8]) -> bool {
    let Ok(message) = Attestation::parse(bytes) else {
        return false;
    };
    let again = Attestation::parse(&serde_json::to_vec(&message).unwrap()).unwrap();
    let digest = |message: &Attestation| {
        let additional = &message.tee_evidence.additional_evidence;
        let digest = RuntimeDigest::primary(&message.runtime_data, additional);
        digest.ok().map(|digest| digest.report_data(Tee::Snp))
    };
    assert_eq!(digest(&message), digest(&again));
    if let Some(init_data) = &message.init_data {
        let _ = InitDataToml::parse(&init_data.body);
    }
    true
}

/// Whatever a server puts into a token, nothing of it moves the cursor of a console or fills it.
pub fn ear(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(ear) = Ear::read(text) else {
        return false;
    };
    for (name, appraisal) in &ear.submods {
        let texts = [&appraisal.status, &appraisal.policy_id, &appraisal.node];
        let texts = texts.into_iter().flatten().chain([name]);
        let texts = texts
            .chain(appraisal.trust_vector.keys())
            .chain(appraisal.pcrs.values());
        for text in texts {
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(text.chars().count() <= 400, "{text:?}");
        }
    }
    true
}

/// The text is kept to the byte, and the digest has the length of its algorithm.
pub fn init_data(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(init_data) = InitDataToml::parse(text) else {
        return false;
    };
    assert_eq!(init_data.to_message().body, text);
    let length = match init_data.algorithm {
        Algorithm::Sha256 => 32,
        Algorithm::Sha384 => 48,
        Algorithm::Sha512 => 64,
    };
    assert_eq!(init_data.digest().len(), length);
    assert_eq!(init_data.expected_pcr8().is_ok(), length == 32);
    if let Ok(Some(node)) = init_data.node_id() {
        assert_eq!(init_data.data["uuid"], node.to_string());
    }
    true
}

/// What opens was sealed: the vectors hold one plaintext for the test key, and nobody makes another.
pub fn resource_jwe(bytes: &[u8]) -> bool {
    let Ok(jwe) = ResourceJwe::parse(bytes) else {
        return false;
    };
    let Ok(secret) = jwe.open(&KEY) else {
        return false;
    };
    assert!(
        PLAINTEXTS.iter().any(|text| text == secret.expose()),
        "a resource opens that nobody sealed"
    );
    true
}

/// A secret is written as it was read.
pub fn resource_secret(bytes: &[u8]) -> bool {
    let Ok(secret) = ResourceSecret::parse(&Secret::new(bytes.to_vec())) else {
        return false;
    };
    let again = ResourceSecret::parse(&secret.to_json().unwrap()).unwrap();
    assert!(again.key() == secret.key());
    assert_eq!(again.binding(), secret.binding());
    true
}

/// The four messages of the enrolment, each written as it was read.
pub fn enrolment(bytes: &[u8]) -> bool {
    let mut read = false;
    if let Ok(begin) = enroll::Begin::parse(bytes) {
        read = true;
        for text in begin.product.iter().chain([&begin.agent]) {
            assert!(
                !text.contains(char::is_control),
                "{text:?} reaches the audit log"
            );
        }
    }
    if let Ok(challenge) = enroll::Challenge::parse(bytes) {
        read = true;
        assert_eq!(
            enroll::Challenge::parse(&challenge.to_json()).unwrap(),
            challenge
        );
    }
    if let Ok(finish) = enroll::Finish::parse(bytes) {
        read = true;
        let again = enroll::Finish::parse(&finish.to_json()).unwrap();
        assert_eq!(again.enrolment, finish.enrolment);
        assert!(again.activated.expose() == finish.activated.expose());
    }
    if let Ok(outcome) = enroll::Outcome::parse(bytes) {
        read = true;
        assert_eq!(enroll::Outcome::parse(&outcome.to_json()).unwrap(), outcome);
    }
    read
}

/// The recipient of the vectors, `kbs-protocol/tests/vectors/README.md`.
static KEY: LazyLock<TeeKey> = LazyLock::new(|| {
    let scalar = b64u::decode_array("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X5fCE9-E9LI").unwrap();
    TeeKey::from_scalar(&scalar).unwrap()
});

static PLAINTEXTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    crate::good_vectors("kbs-protocol/tests/vectors/resource")
        .map(|bytes| {
            let jwe = ResourceJwe::parse(&bytes).unwrap();
            jwe.open(&KEY).unwrap().expose().to_vec()
        })
        .collect()
});

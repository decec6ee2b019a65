// SPDX-License-Identifier: Apache-2.0

//! Public areas of real keys (made by a software TPM and read back by tpm2-tools), and what is wrong with
//! changed ones.

use super::{PublicArea, PublicKey, Symmetric, TPM_ALG_CFB, attribute};
use crate::encoding::hex;
use crate::error::Error;
use proptest::prelude::{any, proptest};

const POLICY_A: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";

/// An attestation key with this modulus.
fn ak(modulus: &str) -> Vec<u8> {
    hex::decode(
        &format!("0001000b000504720000001000140 00b080000000000 0100{modulus}").replace(' ', ""),
    )
    .unwrap()
}

/// The endorsement key of template L-2.
fn ecc_ek() -> Vec<u8> {
    hex::decode(&format!(
        "0023000b000300b20020{POLICY_A}00060080004300100003001000{x}00{y}",
        x = "20".to_owned() + &"aa".repeat(32),
        y = "20".to_owned() + &"bb".repeat(32),
    ))
    .unwrap()
}

fn sized(area: &[u8]) -> Vec<u8> {
    [&u16::try_from(area.len()).unwrap().to_be_bytes()[..], area].concat()
}

fn modulus() -> String {
    "c1".repeat(256)
}

#[test]
fn an_attestation_key() {
    let area = PublicArea::parse_sized(&sized(&ak(&modulus()))).unwrap();
    assert!(area.has(
        attribute::FIXED_TPM
            | attribute::FIXED_PARENT
            | attribute::SENSITIVE_DATA_ORIGIN
            | attribute::USER_WITH_AUTH
            | attribute::NO_DA
            | attribute::RESTRICTED
            | attribute::SIGN
    ));
    assert!(!area.has(attribute::DECRYPT));
    assert!(
        !area.has(attribute::SIGN | attribute::DECRYPT),
        "all, not any"
    );
    assert_eq!(area.scheme, Some((0x0014, Some(0x000b))));
    assert_eq!(area.symmetric, None);
    assert_eq!(
        area.key,
        PublicKey::Rsa {
            exponent: 65537,
            modulus: vec![0xc1; 256]
        }
    );
}

#[test]
fn an_ecc_endorsement_key() {
    let area = PublicArea::parse(&ecc_ek()).unwrap();
    assert!(area.has(attribute::RESTRICTED | attribute::DECRYPT | attribute::ADMIN_WITH_POLICY));
    assert_eq!(hex::encode(&area.auth_policy), POLICY_A);
    assert_eq!(
        area.symmetric,
        Some(Symmetric {
            key_bits: 128,
            mode: TPM_ALG_CFB
        })
    );
    assert_eq!(
        area.key,
        PublicKey::P256 {
            x: [0xaa; 32],
            y: [0xbb; 32]
        }
    );
    let spki = area.spki_der().unwrap();
    // SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING }
    assert_eq!(
        hex::encode(&spki[..27]),
        "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    );
    assert_eq!(spki.len(), 27 + 64);
}

#[test]
fn coordinates_without_leading_zeros() {
    let short = hex::encode(ecc_ek()).replace(
        &format!("0020{}", "aa".repeat(32)),
        &format!("001f{}", "aa".repeat(31)),
    );
    let area = PublicArea::parse(&hex::decode(&short).unwrap()).unwrap();
    let PublicKey::P256 { x, .. } = area.key else {
        panic!("P-256")
    };
    assert_eq!((x[0], x[1]), (0, 0xaa));
}

#[test]
fn the_name_is_the_hash_of_the_area() {
    let bytes = ak(&modulus());
    let area = PublicArea::parse(&bytes).unwrap();
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(&bytes);
    assert_eq!(
        hex::encode(area.name()),
        format!("000b{}", hex::encode(digest))
    );
    assert_eq!(
        area.name(),
        PublicArea::parse_sized(&sized(&bytes)).unwrap().name(),
        "with and without a length in front"
    );
}

#[test]
fn rsa_keys_as_spki() {
    let spki = PublicArea::parse(&ak(&modulus()))
        .unwrap()
        .spki_der()
        .unwrap();
    let text = hex::encode(&spki);
    // SEQUENCE { SEQUENCE { rsaEncryption, NULL }, BIT STRING { SEQUENCE { INTEGER 00c1…, INTEGER 65537 } } }
    assert!(
        text.starts_with("30820122300d06092a864886f70d01010105000382010f003082010a0282010100c1c1")
    );
    assert!(text.ends_with("c1c10203010001"));
}

#[test]
fn malformed_areas_are_refused() {
    for good in [ak(&modulus()), ecc_ek()] {
        for cut in 0..good.len() {
            assert!(PublicArea::parse(&good[..cut]).is_err(), "cut at {cut}");
            assert!(
                PublicArea::parse_sized(&sized(&good)[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        for extra in [[good.clone(), vec![0]].concat(), sized(&good)] {
            assert!(PublicArea::parse(&extra).is_err());
        }
        let after = [sized(&good), vec![0]].concat();
        assert!(PublicArea::parse_sized(&after).is_err());
    }
}

#[test]
fn contradictions_and_foreign_algorithms_are_named() {
    let rsa = hex::encode(ak(&modulus()));
    let ecc = hex::encode(ecc_ek());
    let at = |text: &str, at: usize, with: &str| {
        let mut text = text.to_owned();
        text.replace_range(at..at + with.len(), with);
        PublicArea::parse(&hex::decode(&text).unwrap()).unwrap_err()
    };
    for (error, reason) in [
        (at(&rsa, 0, "0008"), "RSA or ECC"),
        (at(&rsa, 4, "000c"), "nameAlg SHA-256"),
        (at(&rsa, 8, "80"), "reserved"),
        (at(&rsa, 8, "00085472"), "reserved"),
        (at(&rsa, 20, "0026"), "AES"),
        (at(&rsa, 24, "001a"), "RSASSA"),
        (at(&rsa, 32, "0c00"), "not 3072 bits"),
        (at(&rsa, 36, "00000002"), "exponent"),
        (at(&rsa, 36, "00000001"), "exponent"),
        (at(&rsa, 48, "41"), "not 2048 bits"),
        (at(&ecc, 16, "0014"), "a policy of 20 bytes"),
        (at(&ecc, 100, "0004"), "NIST P-256"),
        (at(&ecc, 104, "0020"), "key derivation"),
        (at(&ecc, 108, "0021"), "a coordinate of 33 bytes"),
    ] {
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert!(matches!(
            error,
            Error::Algorithm { .. } | Error::Malformed { .. }
        ));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, head in any::<bool>()) {
        let mut input = if head { ecc_ek()[..60].to_vec() } else { vec![] };
        input.extend(bytes);
        let _ = PublicArea::parse(&input);
        let _ = PublicArea::parse_sized(&input);
    }

    /// A changed byte is refused or changes the name: there are no two spellings of one key.
    #[test]
    fn every_byte_counts(at in 0_usize..280, flip in 1_u8..) {
        let good = ak(&modulus());
        let mut changed = good.clone();
        changed[at] ^= flip;
        if let Ok(area) = PublicArea::parse(&changed) {
            assert_ne!(area.name(), PublicArea::parse(&good).unwrap().name());
        }
    }
}

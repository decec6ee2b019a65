// SPDX-License-Identifier: Apache-2.0
//! One change of a good header, one refusal.

use super::made::{bound, token};
use luks_header::{Cipher, Integrity, Rules};
use serde_json::{Value, json};

/// Changes the member at this JSON pointer.
fn set(pointer: &str, value: Value) -> String {
    bound().with(|json| place(json, pointer, value)).refusal()
}

fn place(json: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = json.pointer_mut(parent).unwrap();
    parent[name] = value;
}

#[test]
fn every_row_is_refused_for_its_own_reason() {
    for (pointer, value, reason) in [
        // The segment.
        (
            "/segments/0/encryption",
            json!("cipher_null-ecb"),
            "the volume's cipher is \"cipher_null-ecb\"",
        ),
        (
            "/segments/0/encryption",
            json!("cipher_null-cipher_null-ecb"),
            "(unlock.ciphers)",
        ),
        (
            "/segments/0/encryption",
            json!("aes-xts-plain64\u{0}"),
            "(unlock.ciphers)",
        ),
        (
            "/segments/0/encryption",
            json!("serpent-xts-plain64"),
            "(unlock.ciphers)",
        ),
        (
            "/segments/0/encryption",
            json!("capi:xts(ecb(cipher_null))-plain64"),
            "(unlock.ciphers)",
        ),
        (
            "/segments/0/type",
            json!("linear"),
            "segment of type \"linear\"",
        ),
        ("/segments/0/offset", json!("4096"), "inside the metadata"),
        (
            "/segments/0/offset",
            json!("16777217"),
            "its payload begins at byte 16777217",
        ),
        (
            "/segments/0/offset",
            json!("18446744073709547520"),
            "its payload begins at byte 18446744073709547520",
        ),
        (
            "/segments/0/offset",
            json!("016777216"),
            "not a number in decimal digits",
        ),
        (
            "/segments/0/offset",
            json!("0x1000000"),
            "not a number in decimal digits",
        ),
        (
            "/segments/0/offset",
            json!("+16777216"),
            "not a number in decimal digits",
        ),
        (
            "/segments/0/offset",
            json!("18446744073709551616"),
            "not a number in decimal digits",
        ),
        ("/segments/0/offset", json!(16_777_216), "invalid type"),
        ("/segments/0/size", json!("4096"), "would not be encrypted"),
        (
            "/segments/0/iv_tweak",
            json!("8"),
            "sectors are counted from 8",
        ),
        (
            "/segments/0/sector_size",
            json!(1024),
            "sectors of 1024 bytes",
        ),
        ("/segments/0/sector_size", json!(4096.0), "invalid type"),
        (
            "/segments/0/integrity",
            json!({"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"}),
            "(unlock.integrity)",
        ),
        (
            "/segments/0/flags",
            json!(["backup-final"]),
            "unknown field `flags`",
        ),
        (
            "/segments/1",
            json!({"type": "crypt", "offset": "16777216", "size": "dynamic", "iv_tweak": "0",
            "encryption": "aes-xts-plain64", "sector_size": 512}),
            "2 segments",
        ),
        // The key slot.
        ("/keyslots/0/type", json!("reencrypt"), "re-encryption"),
        ("/keyslots/0/type", json!("luks3"), "its type is \"luks3\""),
        ("/keyslots/0/key_size", json!(63), "a key of 63 bytes"),
        ("/keyslots/0/key_size", json!(0), "a key of 0 bytes"),
        ("/keyslots/0/af/type", json!("luks2"), "anti-forensic"),
        ("/keyslots/0/af/stripes", json!(1), "with 1 stripes"),
        ("/keyslots/0/af/hash", json!("crc32"), "anti-forensic"),
        (
            "/keyslots/0/area/type",
            json!("journal"),
            "its area is of type \"journal\"",
        ),
        (
            "/keyslots/0/area/encryption",
            json!("cipher_null-ecb"),
            "which would give it away",
        ),
        (
            "/keyslots/0/area/encryption",
            json!("aes-gcm-random"),
            "which would give it away",
        ),
        // Good enough for others, and nobody allowed it here.
        (
            "/keyslots/0/area/encryption",
            json!("serpent-xts-plain64"),
            "which would give it away",
        ),
        (
            "/keyslots/0/area/key_size",
            json!(16),
            "a key of 16 bytes for aes-xts-plain64",
        ),
        (
            "/keyslots/0/area/offset",
            json!("0"),
            "is not a place for one",
        ),
        (
            "/keyslots/0/area/offset",
            json!("16384"),
            "is not a place for one",
        ),
        (
            "/keyslots/0/area/offset",
            json!("16777216"),
            "is not a place for one",
        ),
        (
            "/keyslots/0/area/offset",
            json!("32769"),
            "is not a place for one",
        ),
        (
            "/keyslots/0/area/offset",
            json!("18446744073709547520"),
            "is not a place for one",
        ),
        (
            "/keyslots/0/area/size",
            json!("4096"),
            "is not a place for one",
        ),
        (
            "/keyslots/0/area/size",
            json!("258049"),
            "is not a place for one",
        ),
        (
            "/keyslots/0/area/size",
            json!("18446744073709547520"),
            "is not a place for one",
        ),
        ("/keyslots/0/kdf/iterations", json!(999), "999 iterations"),
        (
            "/keyslots/0/kdf/iterations",
            json!(4_294_967_295_u32),
            "(unlock.pbkdf2_iterations)",
        ),
        ("/keyslots/0/kdf/iterations", json!(-1), "invalid value"),
        (
            "/keyslots/0/kdf/hash",
            json!("sha1"),
            "PBKDF2 with \"sha1\"",
        ),
        ("/keyslots/0/kdf/salt", json!(""), "its salt is not"),
        (
            "/keyslots/0/kdf/salt",
            json!("not base64"),
            "its salt is not",
        ),
        (
            "/keyslots/0/kdf/type",
            json!("scrypt"),
            "unknown variant `scrypt`",
        ),
        (
            "/keyslots/0/kdf",
            argon(4, 4_194_304, 4),
            "(unlock.argon2_memory)",
        ),
        (
            "/keyslots/0/kdf",
            argon(4_000_000, 1024, 4),
            "(unlock.argon2_time)",
        ),
        ("/keyslots/0/kdf", argon(4, 1024, 0), "0 lanes"),
        ("/keyslots/0/kdf", argon(4, 1024, 500), "500 lanes"),
        ("/keyslots/0/kdf", argon(0, 1024, 4), "0 passes"),
        ("/keyslots/0/kdf", argon(4, 0, 4), "0 KiB"),
        (
            "/keyslots/0/priority",
            json!(3),
            "a priority that does not exist",
        ),
        ("/keyslots/0/backdoor", json!(1), "unknown field `backdoor`"),
        ("/keyslots", json!({}), "it has no key slot"),
        // The digest.
        (
            "/digests/0/type",
            json!("argon2"),
            "a digest of type \"argon2\"",
        ),
        ("/digests/0/hash", json!("md5"), "a digest of type"),
        (
            "/digests/0/iterations",
            json!(4_000_000_000_u32),
            "the digest takes",
        ),
        (
            "/digests/0/iterations",
            json!(1),
            "the digest takes 1 iterations",
        ),
        ("/digests/0/keyslots", json!([]), "exactly the key slots"),
        (
            "/digests/0/keyslots",
            json!(["0", "0"]),
            "exactly the key slots",
        ),
        (
            "/digests/0/keyslots",
            json!(["0", "7"]),
            "exactly the key slots",
        ),
        ("/digests/0/segments", json!([]), "not for segment 0 alone"),
        (
            "/digests/0/segments",
            json!(["0", "1"]),
            "not for segment 0 alone",
        ),
        ("/digests/0/digest", json!("AAAA"), "its digest is not"),
        ("/digests/0/salt", json!("AAAA"), "the digest: its salt"),
        ("/digests", json!({}), "0 digests"),
        // The configuration.
        ("/config/json_size", json!("4096"), "by its JSON"),
        (
            "/config/keyslots_size",
            json!("18446744073709547520"),
            "a key slot area of",
        ),
        ("/config/keyslots_size", json!("4097"), "a key slot area of"),
        (
            "/config/requirements",
            json!({"mandatory": ["online-reencrypt"]}),
            "it has requirements",
        ),
        (
            "/config/requirements",
            json!({"mandatory": ["something-new"]}),
            "it has requirements",
        ),
        (
            "/config/flags",
            json!(["allow-discards"]),
            "(unlock.discard)",
        ),
        (
            "/config/flags",
            json!(["something-new"]),
            "the flag \"something-new\"",
        ),
        ("/config/new", json!(1), "unknown field `new`"),
        ("/new", json!(1), "unknown field `new`"),
        // Tokens.
        ("/tokens", json!({}), "the volume is not bound"),
        ("/tokens/0/keyslots", json!([]), "0 key slots"),
        ("/tokens/0/keyslots", json!(["1"]), "which does not exist"),
        (
            "/tokens/0/keyslots",
            json!(["0", "0"]),
            "which has a token already",
        ),
        ("/tokens/0/jwe", json!("a.b.c.d.e"), "no flattened JWE"),
        ("/tokens/0/jwe/header", json!({}), "no flattened JWE"),
        ("/tokens/0/also", json!(1), "a member \"also\""),
        ("/tokens/1", token(0), "has a token already"),
        (
            "/tokens/1",
            json!({"type": "systemd-tpm2", "keyslots": []}),
            "(unlock.other_keyslots)",
        ),
        ("/tokens/32", token(0), "token 32"),
        ("/tokens/00", token(0), "not a number in decimal digits"),
    ] {
        let said = set(pointer, value.clone());
        assert!(said.contains(reason), "{pointer} = {value}: {said}");
    }
}

fn argon(time: u32, memory: u32, cpus: u32) -> Value {
    json!({"type": "argon2id", "time": time, "memory": memory, "cpus": cpus,
           "salt": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="})
}

/// A second key slot, its area behind that of the first.
fn second_slot(json: &mut Value, at: u64) {
    let mut slot = json["keyslots"]["0"].clone();
    slot["area"]["offset"] = json!(at.to_string());
    json["keyslots"]["1"] = slot;
    json["digests"]["0"]["keyslots"] = json!(["0", "1"]);
}

#[test]
fn all_key_slots_are_for_one_key() {
    let head = bound().with(|json| {
        second_slot(json, 32768 + 258_048);
        json["keyslots"]["1"]["key_size"] = json!(32);
    });
    let said = head.refusal();
    assert!(said.contains("for keys of different lengths"), "{said}");
}

#[test]
fn overlapping_areas_are_refused() {
    let rules = Rules {
        other_keyslots: true,
        ..Rules::default()
    };
    let at = |place: u64| {
        bound()
            .with(|json| second_slot(json, place))
            .examine(&rules)
    };
    assert!(at(32768 + 258_048).is_ok());
    for place in [32768, 36864, 32768 + 258_048 - 4096] {
        assert!(
            at(place).unwrap_err().to_string().contains("overlap"),
            "{place}"
        );
    }
}

#[test]
fn a_second_digest_is_refused() {
    let said = bound()
        .with(|json| {
            second_slot(json, 32768 + 258_048);
            let mut digest = json["digests"]["0"].clone();
            json["digests"]["0"]["keyslots"] = json!(["0"]);
            digest["keyslots"] = json!(["1"]);
            json["digests"]["1"] = digest;
        })
        .refusal();
    assert!(said.contains("2 digests"), "{said}");
}

#[test]
fn other_keyslots_are_a_matter_of_the_configuration() {
    let head = bound().with(|json| {
        second_slot(json, 32768 + 258_048);
        json["tokens"]["5"] =
            json!({"type": "systemd-recovery", "keyslots": ["1"], "more": {"a": 1}});
    });
    assert!(head.refusal().contains("(unlock.other_keyslots)"));
    let rules = Rules {
        other_keyslots: true,
        ..Rules::default()
    };
    assert_eq!(head.examine(&rules).unwrap().other_keyslots, [1]);
    // Never a second token on the slot of Clevis: its tools would not see theirs any more.
    let shadow = bound().with(|json| {
        json["tokens"]["5"] = json!({"type": "systemd-tpm2", "keyslots": ["0"]});
    });
    let said = shadow.examine(&rules).unwrap_err().to_string();
    assert!(said.contains("has a token already"), "{said}");
}

#[test]
fn what_is_said_twice_is_refused() {
    let text = bound().json().to_string();
    for (once, twice) in [
        (
            r#""tokens":{"#,
            r#""tokens":{"0":{"type":"x","keyslots":[]},"#,
        ),
        (
            r#""encryption":"#,
            r#""encryption":"cipher_null-ecb","encryption":"#,
        ),
        (r#""segments":{"#, r#""segments":{},"segments":{"#),
        (r#""type":"clevis""#, r#""type":"x","type":"clevis""#),
    ] {
        assert!(text.contains(once), "{once}");
        let said = bound().with_text(&text.replacen(once, twice, 1)).refusal();
        assert!(said.contains("malformed"), "{twice}: {said}");
    }
    for tail in ["{}", "x", ","] {
        let said = bound().with_text(&format!("{text}{tail}")).refusal();
        assert!(said.contains("malformed"), "{said}");
    }
}

#[test]
fn what_the_configuration_allows_is_accepted() {
    let allowed = |rules: Rules, pointer: &str, value: Value| {
        bound()
            .with(|json| place(json, pointer, value))
            .examine(&rules)
            .unwrap()
    };
    let discard = Rules {
        discard: true,
        ..Rules::default()
    };
    allowed(
        discard,
        "/config/flags",
        json!(["allow-discards", "no-journal"]),
    );
    let serpent = Rules {
        ciphers: vec![Cipher::SerpentXts],
        ..Rules::default()
    };
    let volume = allowed(
        serpent,
        "/segments/0/encryption",
        json!("serpent-xts-plain64"),
    );
    assert_eq!(volume.cipher, Cipher::SerpentXts);
    allowed(Rules::default(), "/keyslots/0/kdf", argon(4, 1_048_576, 4));
}

/// No tool here formats such a volume without a kernel that has dm-integrity: the member is written as
/// cryptsetup writes it.
#[test]
fn authenticated_volumes_must_be_exactly_that() {
    let rules = |integrity, cipher| Rules {
        integrity,
        ciphers: vec![cipher],
        ..Rules::default()
    };
    let with = |kind: &str, cipher: &str, key: u32| {
        bound().with(|json| {
            json["segments"]["0"]["encryption"] = json!(cipher);
            json["segments"]["0"]["integrity"] =
                json!({"type": kind, "journal_encryption": "none", "journal_integrity": "none"});
            json["keyslots"]["0"]["key_size"] = json!(key);
            json["keyslots"]["0"]["area"]["size"] = json!("385024");
        })
    };
    let hmac = rules(Integrity::HmacSha256, Cipher::AesXts);
    let aead = rules(Integrity::Aead, Cipher::AesGcm);
    assert!(
        with("hmac(sha256)", "aes-xts-plain64", 96)
            .examine(&hmac)
            .is_ok()
    );
    assert!(with("aead", "aes-gcm-random", 32).examine(&aead).is_ok());
    for (head, rules) in [
        (bound(), &hmac),
        (bound(), &aead),
        (with("none", "aes-xts-plain64", 96), &hmac),
        (with("hmac(sha256)", "aes-xts-plain64", 64 + 16), &hmac),
        (with("hmac(sha256)", "aes-gcm-random", 32), &aead),
        // A cipher that authenticates by itself beside a hash that does, whoever allowed both.
        (
            with("hmac(sha256)", "aes-gcm-random", 32 + 32),
            &rules(Integrity::HmacSha256, Cipher::AesGcm),
        ),
        (
            with("aead", "aes-xts-plain64", 64),
            &rules(Integrity::Aead, Cipher::AesXts),
        ),
        (with("aead", "aes-xts-plain64", 64), &hmac),
    ] {
        assert!(head.examine(rules).is_err());
    }
    // A key slot has no room for tags, whatever the payload has.
    let tagged = with("aead", "aes-gcm-random", 32).with(|json| {
        json["keyslots"]["0"]["area"]["encryption"] = json!("aes-gcm-random");
        json["keyslots"]["0"]["area"]["key_size"] = json!(32);
    });
    let said = tagged.examine(&aead).unwrap_err().to_string();
    assert!(said.contains("which would give it away"), "{said}");
    let journal = with("hmac(sha256)", "aes-xts-plain64", 96).with(|json| {
        json["segments"]["0"]["integrity"]["journal_encryption"] = json!("cbc(aes)");
    });
    assert!(
        journal
            .examine(&hmac)
            .unwrap_err()
            .to_string()
            .contains("journal")
    );
}

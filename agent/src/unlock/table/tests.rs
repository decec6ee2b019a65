// SPDX-License-Identifier: Apache-2.0

//! Tables as dm-crypt writes them, and everything in them that may not be otherwise.

use super::{Meant, compare};
use luks_header::{Cipher, Integrity};

const UUID: &str = "3c2f9a1e-8f7d-4d09-9a30-3a1f6f2c0e11";
const BELOW: &str = "254:3";

impl Meant {
    /// A volume as it usually is.
    pub(crate) fn usual(luks_uuid: &str) -> Self {
        Self {
            luks_uuid: luks_uuid.to_owned(),
            cipher: Cipher::AesXts,
            integrity: Integrity::None,
            key_size: 64,
            sector_size: 512,
            payload: 16 << 20,
            discard: false,
        }
    }
}

fn meant() -> Meant {
    Meant::usual(UUID)
}

fn key(size: u32) -> String {
    format!(":{size}:logon:cryptsetup:{UUID}-d0")
}

/// What is wrong with it, if anything.
fn problem(line: &str, meant: &Meant) -> Option<String> {
    compare(line, meant, BELOW)
        .err()
        .map(|error| error.to_string())
}

#[test]
fn what_was_meant_is_what_is_there() {
    let plain = format!("aes-xts-plain64 {} 0 254:3 32768", key(64));
    let sectors = Meant {
        sector_size: 4096,
        ..meant()
    };
    let discard = Meant {
        discard: true,
        ..meant()
    };
    let hmac = Meant {
        integrity: Integrity::HmacSha256,
        key_size: 96,
        ..meant()
    };
    let gcm = Meant {
        integrity: Integrity::Aead,
        cipher: Cipher::AesGcm,
        key_size: 32,
        ..sectors.clone()
    };
    let aegis = Meant {
        cipher: Cipher::Aegis128,
        key_size: 16,
        sector_size: 512,
        ..gcm.clone()
    };
    for (line, meant) in [
        (plain.clone(), meant()),
        (format!("{plain} 1 sector_size:4096"), sectors),
        (plain.clone(), discard.clone()),
        (format!("{plain} 1 allow_discards"), discard),
        (
            format!(
                "capi:authenc(hmac(sha256),xts(aes))-plain64 {} 0 254:3 0 1 integrity:32:aead",
                key(96)
            ),
            hmac,
        ),
        (
            format!(
                "capi:gcm(aes)-random {} 0 254:3 0 2 integrity:28:aead sector_size:4096",
                key(32)
            ),
            gcm,
        ),
        (
            format!(
                "capi:aegis128-random {} 0 254:3 0 1 integrity:32:aead",
                key(16)
            ),
            aegis,
        ),
    ] {
        assert_eq!(problem(&line, &meant), None, "{line}");
    }
}

#[test]
fn nothing_in_it_may_be_otherwise() {
    let good = format!(
        "aes-xts-plain64 {} 0 254:3 32768 1 sector_size:4096",
        key(64)
    );
    let meant = Meant {
        sector_size: 4096,
        ..meant()
    };
    assert_eq!(problem(&good, &meant), None);
    let elsewhere = key(64).replace('3', "4");
    for (from, to, reason) in [
        (
            "aes-xts-plain64",
            "cipher_null-ecb",
            "the active cipher is cipher_null-ecb",
        ),
        ("aes-xts-plain64", "aes-xts-plain", "the active cipher"),
        (&*key(64), &*key(32), "the active key is :32:"),
        (
            &key(64),
            &elsewhere,
            "the active key is :64:logon:cryptsetup:4c",
        ),
        (
            &key(64),
            "00112233",
            "the active key is in the table itself",
        ),
        (" 0 ", " 8 ", "the active offset of IVs is 8"),
        (
            "254:3",
            "254:4",
            "the device below the active volume is 254:4",
        ),
        ("32768", "0", "the active offset is 0"),
        ("32768", "32769", "the active offset is 32769"),
        (
            "1 sector_size:4096",
            "",
            "an option of the active volume is missing",
        ),
        ("4096", "2048", "is sector_size:2048"),
        ("1 sector", "2 allow_discards sector", "is allow_discards"),
        (
            "1 sector",
            "2 iv_large_sectors sector",
            "is iv_large_sectors",
        ),
        ("4096", "4096 sector_size:4096", "is sector_size:4096"),
        ("4096", "4096 integrity:32:aead", "is integrity:32:aead"),
    ] {
        let line = good.replacen(from, to, 1);
        let found = problem(&line, &meant).unwrap_or_default();
        assert!(found.contains(reason), "{line}: {found}");
    }
    // Where discards are allowed, nothing else is.
    let discard = Meant {
        discard: true,
        ..meant.clone()
    };
    let line = good.replacen("1 sector", "2 same_cpu_crypt sector", 1);
    let found = problem(&line, &discard).unwrap_or_default();
    assert!(found.contains("is same_cpu_crypt"), "{found}");
    assert!(
        !problem("aes-xts-plain64 00112233", &meant)
            .unwrap()
            .contains("0011")
    );
    assert!(problem("", &meant).is_some());
}

#[test]
fn a_volume_that_is_to_be_authenticated_is() {
    let meant = Meant {
        integrity: Integrity::HmacSha256,
        key_size: 96,
        ..meant()
    };
    let cipher = "capi:authenc(hmac(sha256),xts(aes))-plain64";
    let key = key(96);
    for (line, reason) in [
        (
            format!("aes-xts-plain64 {key} 0 254:3 0 1 integrity:32:aead"),
            "cipher",
        ),
        (
            format!("{cipher} {key} 0 254:3 0"),
            "is missing, expected integrity:32:aead",
        ),
        (
            format!("{cipher} {key} 0 254:3 0 1 integrity:4:aead"),
            "is integrity:4:aead",
        ),
        (
            format!("{cipher} {key} 0 254:3 0 1 integrity:32:none"),
            "is integrity:32:none",
        ),
        (
            format!("{cipher} {key} 0 254:3 32768 1 integrity:32:aead"),
            "offset",
        ),
    ] {
        let found = problem(&line, &meant).unwrap_or_default();
        assert!(found.contains(reason), "{line}: {found}");
    }
}

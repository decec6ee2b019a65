// SPDX-License-Identifier: Apache-2.0

//! What must hold for every plaintext, header and change, not only for the cases somebody thought of.

use clevis_pin::header::Trustee;
use clevis_pin::{Config, Header, NumRetries, Server, decrypt, encrypt};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use crate::common::{FixedSource, TEST_PLAINTEXT, config};

proptest! {
    #[test]
    fn any_plaintext_comes_back(plaintext in vec(any::<u8>(), 1..2000)) {
        let mut source = FixedSource::new();
        let token = encrypt(&config("{}"), &plaintext, &mut source).unwrap();
        let opened = decrypt(token.as_bytes(), &mut source).unwrap();
        prop_assert_eq!(opened.expose(), plaintext);
    }

    #[test]
    fn any_header_is_read_as_it_was_written(header in header()) {
        let json = header.to_json().unwrap();
        prop_assert_eq!(Header::parse(json.as_bytes()), Ok(header));
    }

    #[test]
    fn any_text_is_a_configuration_or_an_error(text in "\\PC*") {
        if Config::parse(&text).is_ok() {
            let first = text.trim_start().chars().next();
            prop_assert_eq!(first, Some('{'));
        }
    }

    #[test]
    fn any_bytes_are_no_token(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(decrypt(&bytes, &mut FixedSource::new()).is_err());
    }

    #[test]
    fn any_bytes_in_one_segment_are_refused(segment in 0_usize..5, text in "[A-Za-z0-9_-]{0,40}") {
        let token = encrypt(&config("{}"), TEST_PLAINTEXT, &mut FixedSource::new()).unwrap();
        let mut segments: Vec<&str> = token.split('.').collect();
        if segments[segment] != text {
            segments[segment] = &text;
            let changed = segments.join(".");
            prop_assert!(decrypt(changed.as_bytes(), &mut FixedSource::new()).is_err());
        }
    }

    #[test]
    fn a_cut_token_is_refused(cut in 1_usize..200) {
        let token = encrypt(&config("{}"), TEST_PLAINTEXT, &mut FixedSource::new()).unwrap();
        let kept = token.len().saturating_sub(cut);
        prop_assert!(decrypt(&token.as_bytes()[..kept], &mut FixedSource::new()).is_err());
    }
}

/// Every single bit of a token, one after the other.
#[test]
fn every_flipped_bit_is_refused() {
    let mut token = encrypt(&config("{}"), TEST_PLAINTEXT, &mut FixedSource::new())
        .unwrap()
        .into_bytes();
    for index in 0..token.len() {
        for bit in 0..8 {
            token[index] ^= 1 << bit;
            assert!(
                decrypt(&token, &mut FixedSource::new()).is_err(),
                "byte {index} bit {bit}"
            );
            token[index] ^= 1 << bit;
        }
    }
    assert!(decrypt(&token, &mut FixedSource::new()).is_ok());
}

fn header() -> impl Strategy<Value = Header> {
    let text = "[^\\p{Cc}]{1,40}";
    let server = (text, ".{0,80}").prop_map(|(url, cert)| Server { url, cert });
    let retries = prop_oneof![
        any::<std::num::NonZeroU64>().prop_map(NumRetries::Count),
        Just(NumRetries::Infinity)
    ];
    let key = vec(("[a-z]{1,8}", any::<i64>()), 0..3).prop_map(|members| {
        members
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect()
    });
    let trustee =
        (any::<[u8; 32]>(), any::<[u8; 16]>()).prop_map(|(cfg, kid)| Trustee { cfg, kid });
    (
        vec(server, 0..3),
        text,
        option::of(".{0,80}"),
        option::of(retries),
        option::of(key),
        option::of(trustee),
    )
        .prop_map(
            |(servers, path, init_data, num_retries, attestation_key, trustee)| Header {
                servers,
                path,
                init_data,
                num_retries,
                attestation_key,
                trustee,
            },
        )
}

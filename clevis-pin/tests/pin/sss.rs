// SPDX-License-Identifier: Apache-2.0

//! A token of the pin `sss`: which of them this pin opens by itself, and whose the others are.

use crate::common::{FixedSource, TEST_PLAINTEXT, config};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clevis_pin::{Fault, Token, encrypt};
use serde_json::{Value, json};

/// As Clevis writes it, around a token of this pin, after a change to its header.
fn wrapped(change: impl FnOnce(&mut Value)) -> String {
    let own = encrypt(&config("{}"), TEST_PLAINTEXT, &mut FixedSource::new()).unwrap();
    let mut header = json!({
        "alg": "dir", "enc": "A256GCM",
        "clevis": {"pin": "sss", "sss": {"t": 1, "p": "AQ", "jwe": ["of another pin", own]}},
    });
    change(&mut header);
    let segments = [
        header.to_string().into_bytes(),
        vec![],
        vec![0; 12],
        vec![1; 40],
        vec![2; 16],
    ];
    segments
        .map(|segment| URL_SAFE_NO_PAD.encode(segment))
        .join(".")
}

fn refused(token: &str) -> Fault {
    Token::parse(token.as_bytes()).err().unwrap()
}

#[test]
fn with_the_threshold_1_the_token_inside_counts() {
    let token = wrapped(|_| {});
    let path = &Token::parse(token.as_bytes())
        .unwrap()
        .header()
        .path
        .clone();
    assert_eq!(path, &FixedSource::new().path);
}

#[test]
fn where_another_pin_has_a_say_it_is_not_for_this_one() {
    for threshold in [json!(0), json!(2), json!("1"), Value::Null] {
        let token = wrapped(|header| header["clevis"]["sss"]["t"] = threshold);
        let fault = refused(&token);
        assert!(
            matches!(&fault, Fault::TokenForeign(why) if why.contains("threshold")),
            "{fault}"
        );
    }
    let token = wrapped(|header| header["clevis"]["sss"]["jwe"] = json!(["of another pin"]));
    let fault = refused(&token);
    assert!(
        matches!(&fault, Fault::TokenForeign(why) if why.contains("no token of this pin")),
        "{fault}"
    );
    let token = wrapped(|header| header["clevis"]["pin"] = json!("tang"));
    assert!(matches!(refused(&token), Fault::TokenForeign(_)));
}

#[test]
fn what_changes_how_it_is_read_is_refused_by_name() {
    for (name, value, says) in [
        (
            "alg",
            json!("A256KW"),
            "`alg` is \"A256KW\", expected \"dir\"",
        ),
        (
            "enc",
            json!("A128GCM"),
            "`enc` is \"A128GCM\", expected \"A256GCM\"",
        ),
        ("enc", Value::Null, "`enc` is"),
        ("zip", json!("DEF"), "`zip` is present"),
        ("crit", json!(["exp"]), "`crit` is present"),
    ] {
        let fault = refused(&wrapped(|header| header[name] = value));
        assert!(fault.to_string().contains(says), "{says}: {fault}");
    }
}

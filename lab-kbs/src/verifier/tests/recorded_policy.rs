// SPDX-License-Identifier: Apache-2.0

//! The operator's attestation policy over the claims of real machines: approved as they were, and refused for each
//! thing that the reference values say otherwise.

use super::recorded::{intel_quotes, milan};
use crate::policy;
use crate::verifier::{hex, snp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const POLICY: &str = include_str!("../../../../operator/src/policy/attestation.rego");

/// Hardware, executables and configuration, in the policy's figures; then what it says to people.
fn judged(tee: &str, claims: &Value, values: &BTreeMap<String, Value>) -> String {
    let input = json!({tee: claims, "init_data": "00".repeat(32), "init_data_claims": null});
    let verdict = policy::appraise(POLICY, &input, &Arc::new(values.clone())).unwrap();
    let vector = ["hardware", "executables", "configuration"].map(|claim| verdict.vector[claim]);
    let reasons = verdict.extensions.get("sheepfold.reasons");
    let reasons = reasons.and_then(Value::as_str).unwrap_or_default();
    let [hardware, executables, configuration] = vector;
    format!("{hardware} {executables} {configuration} {reasons}")
}

type Change = fn(&mut Value, &mut BTreeMap<String, Value>);

#[test]
fn a_real_milan_is_approved_as_it_is_and_not_otherwise() {
    let (report, ..) = milan();
    let mut claims = Value::Object(snp::facts(&report));
    claims["measurement"] = json!(hex(report.measurement));
    let tcb = &report.reported_tcb;
    let floor = json!({
        "bootloader": tcb.bootloader, "microcode": tcb.microcode, "snp": tcb.snp, "tee": tcb.tee,
    });
    let values = BTreeMap::from([
        (
            "snp_measurements".to_owned(),
            json!([claims["measurement"]]),
        ),
        ("snp_tcb_floors".to_owned(), json!([floor])),
    ]);
    // What the machine was started with decides what a policy makes of it.
    let open = report.policy.debug_allowed() || report.policy.migrate_ma_allowed();
    assert!(!open, "the recording is of an ordinary guest");
    assert_eq!(judged("snp", &claims, &values), "2 3 2 ");
    let raise = |part: &str| {
        let mut values = values.clone();
        let floor = &mut values.get_mut("snp_tcb_floors").unwrap()[0][part];
        *floor = json!(floor.as_u64().unwrap() + 1);
        judged("snp", &claims, &values)
    };
    for part in ["bootloader", "microcode", "snp", "tee"] {
        let verdict = raise(part);
        assert!(
            verdict.starts_with(&format!("97 3 2 {part} is ")),
            "{part}: {verdict}"
        );
    }
    let cases: [(Change, &str); 5] = [
        (|_, v| drop(v.remove("snp_tcb_floors")), "97 3 2 "),
        (|_, v| drop(v.remove("snp_measurements")), "2 33 2 "),
        (|c, _| c["measurement"] = json!("00".repeat(48)), "2 33 2 "),
        (
            |c, _| c["policy_debug_allowed"] = json!(true),
            "2 3 36 policy_debug_allowed is set",
        ),
        (
            |c, _| c["policy_migrate_ma"] = json!(true),
            "2 3 36 policy_migrate_ma is set",
        ),
    ];
    for (change, verdict) in cases {
        let (mut claims, mut values) = (claims.clone(), values.clone());
        change(&mut claims, &mut values);
        assert_eq!(judged("snp", &claims, &values), verdict);
    }
}

#[test]
fn real_tds_are_approved_as_they_are_and_not_otherwise() {
    for (name, claims) in intel_quotes() {
        let body = claims["quote"]["body"].clone();
        let launch = json!({
            "mr_td": body["mr_td"], "rtmr_1": body["rtmr_1"], "rtmr_2": body["rtmr_2"], "rtmr_3": body["rtmr_3"],
        });
        let values = BTreeMap::from([
            ("tdx_launches".to_owned(), json!([launch])),
            ("tdx_tcb_status".to_owned(), json!([claims["tcb_status"]])),
        ]);
        assert_eq!(judged("tdx", &claims, &values), "2 3 2 ", "{name}");
        let cases: [(Change, &str); 8] = [
            (
                |_, v| drop(v.insert("tdx_tcb_status".into(), json!(["Other"]))),
                "97 3 2 the TCB status is ",
            ),
            (
                |c, _| c["collateral_expiration_status"] = json!("1"),
                "97 3 2 ",
            ),
            (|_, v| drop(v.remove("tdx_launches")), "2 33 36 "),
            (
                |c, _| c["quote"]["body"]["mr_td"] = json!("00".repeat(48)),
                "2 33 36 ",
            ),
            (
                |c, _| c["quote"]["body"]["rtmr_1"] = json!("ff".repeat(48)),
                "2 33 36 ",
            ),
            (
                |c, _| c["quote"]["body"]["rtmr_2"] = json!("ff".repeat(48)),
                "2 33 36 ",
            ),
            (
                |c, _| c["quote"]["body"]["rtmr_3"] = json!("ff".repeat(48)),
                "2 3 36 ",
            ),
            (
                |c, _| c["td_attributes"]["debug"] = json!(true),
                "2 3 36 the debug attribute is set",
            ),
        ];
        for (change, verdict) in cases {
            let (mut claims, mut values) = (claims.clone(), values.clone());
            change(&mut claims, &mut values);
            let judged = judged("tdx", &claims, &values);
            assert!(
                judged.starts_with(verdict),
                "{name}: {judged}, expected {verdict}"
            );
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! TDX: good quotes of each version, and what must not pass.

use super::{Sessions, Table, init_data, now, report_data, roots, verify};
use crate::verifier::Roots;
use kbs_protocol::Tee;
use kbs_protocol::encoding::b64;
use kbs_protocol::evidence::TdxEvidence;
use serde_json::{Value, json};
use soft_tee::tdx::{Make, Platform, Td, event_log};

fn evidence(quote: &[u8], log: Option<&[u8]>) -> Value {
    json!(TdxEvidence {
        quote: b64::encode(quote),
        cc_eventlog: log.map(b64::encode),
    })
}

fn roots_of(platform: &Platform) -> Roots {
    roots(
        &[],
        Some(platform.root_pem()),
        std::slice::from_ref(platform.collateral()),
    )
}

/// Version and body type.
const KINDS: [(u16, u16); 3] = [(4, 2), (5, 2), (5, 3)];

fn td(kind: (u16, u16), sessions: &Sessions) -> Td {
    Td {
        version: kind.0,
        body_type: kind.1,
        report_data: report_data(&sessions.ours),
        ..Td::default()
    }
}

#[test]
fn good_quotes_say_what_the_policies_read() {
    let (sessions, platform) = (Sessions::new(), Platform::new(now()));
    let roots = roots_of(&platform);
    for kind in KINDS {
        let (log, rtmrs) = event_log(&[
            (1, b"firmware"),
            (2, b"loader"),
            (3, b"kernel"),
            (3, b"initrd"),
        ]);
        let mut td = td(kind, &sessions);
        td.rtmrs = rtmrs;
        td.mr_config_id = init_data().launch_register();
        let good = evidence(&platform.quote(&td), Some(&[&log[..], &[0xff; 8]].concat()));
        let claims = verify(Tee::Tdx, &good, &sessions.ours, Some(&init_data()), &roots).unwrap();
        let (body, header) = (
            &claims.claims["quote"]["body"],
            &claims.claims["quote"]["header"],
        );
        assert_eq!(body["mr_td"], "7d".repeat(48));
        assert_eq!(body["rtmr_3"], "0".repeat(96));
        assert_eq!(body["rtmr_1"], super::super::hex(rtmrs[1]));
        assert_eq!(header["tee_type"], "81000000");
        assert_eq!(header["version"], format!("0{}00", kind.0));
        assert_eq!(claims.claims["quote"]["type"].is_null(), kind.0 == 4);
        assert_eq!(body["mr_servicetd"].is_null(), kind != (5, 3));
        assert_eq!(
            claims.claims["td_attributes"],
            json!({"debug": false, "septve_disable": true, "protection_keys": false, "key_locker": false, "perfmon": false})
        );
        assert_eq!(claims.claims["tcb_status"], "UpToDate");
        assert_eq!(claims.claims["collateral_expiration_status"], "0");
        assert_eq!(
            claims.claims["uefi_event_logs"][3]["digest_matches_event"],
            true
        );
        let register: [u8; 48] = init_data().launch_register();
        assert_eq!(claims.init_data, Some(super::super::hex(register)));
        // Without a log the registers still stand.
        verify(
            Tee::Tdx,
            &evidence(&platform.quote(&td), None),
            &sessions.ours,
            None,
            &roots,
        )
        .unwrap();
    }
}

#[test]
fn what_is_the_policys_to_judge_is_a_claim() {
    let sessions = Sessions::new();
    let mut make = Make::at(now());
    make.needs_svn = 6;
    for (make, debug, status) in [
        (Make::at(now()), true, "UpToDate"),
        (make, false, "OutOfDate"),
    ] {
        let platform = Platform::make(&make);
        let mut td = td((4, 2), &sessions);
        td.td_attributes[0] = u8::from(debug);
        let evidence = evidence(&platform.quote(&td), None);
        let claims = verify(
            Tee::Tdx,
            &evidence,
            &sessions.ours,
            None,
            &roots_of(&platform),
        )
        .unwrap();
        assert_eq!(claims.claims["td_attributes"]["debug"], debug);
        assert_eq!(claims.claims["tcb_status"], status);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn bad_quotes() {
    let (sessions, platform, stranger) =
        (Sessions::new(), Platform::new(now()), Platform::new(now()));
    let roots = roots_of(&platform);
    let mut table = Table::default();
    for kind in KINDS {
        let good = td(kind, &sessions);
        let name = |name: &str| format!("version {} body {}: {name}", kind.0, kind.1);
        let mut refuse = |what: &str, words: &str, evidence: &Value| {
            let outcome = verify(Tee::Tdx, evidence, &sessions.ours, None, &roots);
            table.refuse(&name(what), words, outcome);
        };
        let quote = platform.quote(&good);
        let changed = |change: &dyn Fn(&mut Td)| {
            let mut td = good.clone();
            change(&mut td);
            td
        };

        for (what, digest) in [
            ("another session", &sessions.other),
            ("additional evidence", &sessions.device),
        ] {
            let td = changed(&|td| td.report_data = report_data(digest));
            refuse(
                what,
                "another session",
                &evidence(&platform.quote(&td), None),
            );
        }
        refuse(
            "another root",
            "verify certificate chain",
            &evidence(&stranger.quote(&good), None),
        );
        for version in [0, 1, 2, 3, 6] {
            let td = changed(&|td| td.version = version);
            refuse(
                &format!("marked as version {version}"),
                "the quote does not read",
                &evidence(&platform.quote(&td), None),
            );
        }
        let sgx = changed(&|td| td.tee_type = 0);
        // Version 4 says nothing else about its body: a TD's is too long for an enclave's.
        let words = match kind.0 {
            4 => "the quote does not read",
            _ => "expected a TD's",
        };
        refuse(
            "marked as SGX",
            words,
            &evidence(&platform.quote(&sgx), None),
        );

        // One bit anywhere in what is signed.
        let signed = good.signed().len();
        let signature = "ISV enclave report signature is invalid";
        for (what, at) in [
            ("the vendor", 12),
            ("the user data", 30),
            ("the TCB", signed - 580),
            ("MRTD", signed - 430),
            ("RTMR 0", signed - 250),
            ("RTMR 3", signed - 100),
            ("REPORTDATA", signed - 10),
        ] {
            let mut bad = quote.clone();
            bad[at] ^= 1;
            let words = match what {
                "the vendor" => "Unknown QE vendor ID",
                _ => signature,
            };
            refuse(&format!("a bit in {what}"), words, &evidence(&bad, None));
        }
        // And in what signs it: signature, key, enclave's report, its signature, authentication data, chain.
        let auth = signed + 4;
        for (what, at, words) in [
            ("the signature", auth + 5, signature),
            ("the attestation key", auth + 70, "QE report hash mismatch"),
            (
                "the enclave's report",
                auth + 140,
                "Signature is invalid for qe_report",
            ),
            (
                "the enclave's key hash",
                auth + 134 + 325,
                "Signature is invalid for qe_report",
            ),
            (
                "the enclave's signature",
                auth + 134 + 390,
                "Signature is invalid for qe_report",
            ),
            (
                "the authentication data",
                auth + 134 + 384 + 64 + 4,
                "QE report hash mismatch",
            ),
            (
                "the PCK certificate",
                auth + 134 + 384 + 64 + 2 + 32 + 6 + 100,
                "verify certificate chain",
            ),
        ] {
            let mut bad = quote.clone();
            bad[at] ^= 1;
            refuse(&format!("a bit in {what}"), words, &evidence(&bad, None));
        }
        for length in [
            0,
            1,
            47,
            48,
            54,
            600,
            signed,
            signed + 3,
            auth,
            auth + 64,
            auth + 133,
            quote.len() - 1,
        ] {
            refuse(
                &format!("cut to {length} bytes"),
                "the quote does not read",
                &evidence(&quote[..length], None),
            );
        }
        let huge = [&quote[..], &vec![0; 200_000]].concat();
        refuse("an oversize quote", "bytes long", &evidence(&huge, None));

        // The event log against the registers.
        let events: [(u32, &[u8]); 3] = [(1, b"firmware"), (2, b"loader"), (3, b"kernel")];
        let (log, rtmrs) = event_log(&events);
        let measured = platform.quote(&changed(&|td| td.rtmrs = rtmrs));
        let mut with_log = |what: &str, log: &[u8]| {
            refuse(
                &format!("log: {what}"),
                "event",
                &evidence(&measured, Some(log)),
            );
        };
        let (swapped, _) = event_log(&[events[0], events[2], (2, b"other")]);
        with_log("another event", &swapped);
        let (missing, _) = event_log(&events[..2]);
        with_log("a missing event", &missing);
        let (more, _) = event_log(&[events[0], events[1], events[2], (4, b"sealed")]);
        with_log("one event too many", &more);
        let (moved, _) = event_log(&[(2, b"firmware"), (1, b"loader"), (3, b"kernel")]);
        with_log("events in other registers", &moved);
        let mut bit = log.clone();
        let at = log.len() - 30;
        bit[at] ^= 1;
        with_log("a changed digest", &bit);
        with_log("an event that does not end", &log[..log.len() - 3]);
        with_log("no log at all", b"nothing");
        with_log("an empty log", b"");
        let mut text = evidence(&measured, None);
        text["cc_eventlog"] = json!("!");
        refuse("a log that is not base64", "base64", &text);

        for (what, value, words) in [
            ("null", Value::Null, "another form"),
            ("a list", json!([]), "another form"),
            ("nothing", json!({}), "another form"),
            ("a number", json!({"quote": 1}), "another form"),
            ("no base64", json!({"quote": "!"}), "not base64"),
            ("an empty quote", json!({"quote": ""}), "does not read"),
        ] {
            refuse(what, words, &value);
        }
        for (what, register) in [("no MRCONFIGID", [0; 48]), ("another MRCONFIGID", [1; 48])] {
            let evidence = evidence(
                &platform.quote(&changed(&|td| td.mr_config_id = register)),
                None,
            );
            let outcome = verify(
                Tee::Tdx,
                &evidence,
                &sessions.ours,
                Some(&init_data()),
                &roots,
            );
            table.refuse(&name(what), "MRCONFIGID", outcome);
        }
    }
    table.end(150);
}

#[test]
fn a_platform_is_judged_by_its_own_collateral() {
    let (sessions, platform) = (Sessions::new(), Platform::new(now()));
    let evidence = evidence(&platform.quote(&td((4, 2), &sessions)), None);
    let own = platform.collateral().clone();
    let mut foreign = own.clone();
    let text = own["tcb_info"].as_str().unwrap();
    let of_another = text.replace("50f77e000000", "0123456789ab");
    assert_ne!(of_another, text);
    foreign["tcb_info"] = json!(of_another);
    let with = |collateral: &[Value]| {
        let roots = roots(&[], Some(platform.root_pem()), collateral);
        verify(Tee::Tdx, &evidence, &sessions.ours, None, &roots)
    };
    with(&[foreign.clone(), own]).unwrap();
    let mut table = Table::default();
    let words = "no collateral for platform";
    table.refuse("another platform's", words, with(&[foreign]));
    table.end(1);
}

#[test]
fn bad_platforms_and_collateral() {
    let sessions = Sessions::new();
    let mut table = Table::default();
    let good = td((4, 2), &sessions);
    let mut refuse = |what: &str, words: &str, platform: &Platform, roots: &Roots| {
        let evidence = evidence(&platform.quote(&good), None);
        table.refuse(
            what,
            words,
            verify(Tee::Tdx, &evidence, &sessions.ours, None, roots),
        );
    };
    let make = |change: &dyn Fn(&mut Make)| {
        let mut make = Make::at(now());
        change(&mut make);
        Platform::make(&make)
    };
    for (what, platform, words) in [
        (
            "a revoked PCK certificate",
            make(&|m| m.revoked = true),
            "CertRevoked",
        ),
        (
            "a revoked TCB level",
            make(&|m| m.tcb_status = "Revoked"),
            "Revoked",
        ),
        (
            "a status that is none",
            make(&|m| m.tcb_status = "Fine"),
            "unknown variant `Fine`",
        ),
        (
            "collateral that ran out yesterday",
            make(&|m| m.expired_for = 86_400),
            "TCBInfo expired",
        ),
    ] {
        refuse(what, words, &platform, &roots_of(&platform));
    }
    let (platform, other) = (Platform::new(now()), Platform::new(now()));
    let pem = || Some(platform.root_pem());
    refuse(
        "no collateral",
        "no collateral for platform 50f77e000000",
        &platform,
        &roots(&[], pem(), &[]),
    );
    refuse(
        "Intel's own root",
        "InvalidCrlSignatureForPublicKey",
        &platform,
        &roots(&[], None, &[platform.collateral().clone()]),
    );
    refuse(
        "another platform's collateral",
        "InvalidCrlSignatureForPublicKey",
        &platform,
        &roots(&[], pem(), &[other.collateral().clone()]),
    );
    let members: Vec<String> = platform
        .collateral()
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    for member in members
        .iter()
        .filter(|name| *name != "pck_crl_issuer_chain")
    {
        let mut mixed = platform.collateral().clone();
        mixed[member] = other.collateral()[member].clone();
        // Both platforms were made in one second, so what is not signed may be the same text.
        if mixed != *platform.collateral() {
            let words = match member.as_str() {
                "pck_crl" | "root_ca_crl" => "InvalidCrlSignatureForPublicKey",
                "qe_identity_issuer_chain" | "tcb_info_issuer_chain" => "verify certificate chain",
                "qe_identity_signature" => "Signature is invalid for qe_identity",
                _ => "Signature is invalid for tcb_info",
            };
            refuse(
                &format!("the {member} of another"),
                words,
                &platform,
                &roots(&[], pem(), &[mixed]),
            );
        }
    }
    for member in ["tcb_info", "qe_identity"] {
        let mut altered = platform.collateral().clone();
        let text = altered[member].as_str().unwrap().replace(
            "\"tcbEvaluationDataNumber\":17",
            "\"tcbEvaluationDataNumber\":18",
        );
        altered[member] = json!(text);
        refuse(
            &format!("a changed {member}"),
            &format!("Signature is invalid for {member}"),
            &platform,
            &roots(&[], pem(), &[altered]),
        );
    }
    table.end(12);
}

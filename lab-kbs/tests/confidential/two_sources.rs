// SPDX-License-Identifier: Apache-2.0

//! A processor and a TPM beside it: nothing of one machine, session or role may stand in for another's.

use crate::common::SoftTpm;
use crate::world::{KINDS, NOTHING, Session, Table, World, body, quote, tpm};
use serde_json::{Value, json};
use soft_tee::tdx::Td;

/// A case: what is sent in `ours`, with `theirs` another session of the same server, and why it is refused.
type Case = (
    &'static str,
    fn(&World, &Session, &Session) -> Value,
    &'static str,
);

const ANOTHER_SESSION: &str = "another session";
const UNTRUSTED: &str = "denied:";

const CASES: &[Case] = &[
    // The TPM is swapped.
    (
        "another known TPM in place of the one that was signed over",
        |world, ours, _| {
            let mut body = world.good(ours);
            let other = quote(&SoftTpm::number(1), &ours.device());
            body["tee-evidence"]["additional_evidence"] = json!(other);
            body
        },
        ANOTHER_SESSION,
    ),
    (
        "another known TPM, signed over: its own name, not ours",
        |world, ours, _| {
            let mut other = tpm();
            other.ak = SoftTpm::number(1).ak;
            world.signed_over(ours, &quote(&other, &ours.device()))
        },
        UNTRUSTED,
    ),
    (
        "a TPM that nobody enrolled",
        |world, ours, _| {
            let mut unknown = tpm();
            unknown.ak = SoftTpm::number(2).ak;
            world.signed_over(ours, &quote(&unknown, &ours.device()))
        },
        "cpu1 hardware=97",
    ),
    (
        "the name of our key on another TPM's quote",
        |world, ours, _| {
            let mut other = tpm();
            other.ak = SoftTpm::number(2).ak;
            let mut evidence: Value = serde_json::from_str(&quote(&other, &ours.device())).unwrap();
            evidence["tpm"]["ak_public"] = json!(tpm().ak_public());
            world.signed_over(ours, &evidence.to_string())
        },
        "not by the attestation key",
    ),
    (
        "our quote with the PCRs of another boot",
        |world, ours, _| {
            let mut evidence: Value = serde_json::from_str(&quote(&tpm(), &ours.device())).unwrap();
            evidence["tpm"]["tpm_quote"]["pcrs"][4] = json!("5a".repeat(32));
            world.signed_over(ours, &evidence.to_string())
        },
        "not the ones that were quoted",
    ),
    (
        "another boot of our TPM",
        |world, ours, _| {
            let mut other = tpm();
            other.pcrs[4] = [0x5a; 32];
            world.signed_over(ours, &quote(&other, &ours.device()))
        },
        "cpu1 configuration=36 cpu1 executables=33",
    ),
    (
        "our TPM after the seal",
        |world, ours, _| {
            let mut sealed = tpm();
            sealed.pcrs[11] = [0x11; 32];
            world.signed_over(ours, &quote(&sealed, &ours.device()))
        },
        "denied: cpu1 configuration=36",
    ),
    (
        "a quote over fewer PCRs",
        |world, ours, _| {
            let mut fewer = tpm();
            fewer.selection = "00000001000b03fffffe";
            world.signed_over(ours, &quote(&fewer, &ours.device()))
        },
        "expected [0x000b:ffffff]",
    ),
    // One source is missing, doubled, or in the other's place.
    (
        "the processor alone",
        |world, ours, _| world.signed_over(ours, ""),
        UNTRUSTED,
    ),
    (
        "the TPM taken away after the processor signed over it",
        |world, ours, _| {
            let mut body = world.good(ours);
            body["tee-evidence"]["additional_evidence"] = json!("");
            body
        },
        ANOTHER_SESSION,
    ),
    (
        "a TPM put beside a processor that signed alone",
        |world, ours, _| {
            let mut body = world.signed_over(ours, "");
            body["tee-evidence"]["additional_evidence"] = json!(quote(&tpm(), &ours.device()));
            body
        },
        ANOTHER_SESSION,
    ),
    (
        "sample beside them",
        |world, ours, _| {
            let mut pieces: Value = serde_json::from_str(&quote(&tpm(), &ours.device())).unwrap();
            pieces["sample"] = json!({"svn": "1", "report_data": ours.device().to_base64()});
            world.signed_over(ours, &pieces.to_string())
        },
        UNTRUSTED,
    ),
    (
        "sample in place of the TPM",
        |world, ours, _| {
            let sample = json!({"svn": "1", "report_data": ours.device().to_base64()});
            world.signed_over(ours, &json!({"sample": sample}).to_string())
        },
        UNTRUSTED,
    ),
    (
        "the processor a second time in place of the TPM",
        |world, ours, _| {
            let again = world.processor(&ours.device(), &NOTHING);
            let pieces = json!({world.kind.tee().as_str(): again});
            world.signed_over(ours, &pieces.to_string())
        },
        UNTRUSTED,
    ),
    (
        "the processor a second time beside the TPM",
        |world, ours, _| {
            let mut pieces: Value = serde_json::from_str(&quote(&tpm(), &ours.device())).unwrap();
            pieces[world.kind.tee().as_str()] = world.processor(&ours.device(), &NOTHING);
            world.signed_over(ours, &pieces.to_string())
        },
        UNTRUSTED,
    ),
    (
        "the TPM twice, the second one unknown",
        |world, ours, _| {
            let first = quote(&tpm(), &ours.device());
            let mut unknown = tpm();
            unknown.ak = SoftTpm::number(2).ak;
            let second = quote(&unknown, &ours.device());
            let both = format!("{},{}", &first[..first.len() - 1], &second[1..]);
            world.signed_over(ours, &both)
        },
        "",
    ),
    // What belongs to the other role.
    (
        "a quote over the digest that is the processor's",
        |world, ours, _| world.signed_over(ours, &quote(&tpm(), &ours.primary(""))),
        ANOTHER_SESSION,
    ),
    (
        "a report over the digest that is the TPM's",
        |world, ours, _| {
            let primary = world.processor(&ours.device(), &NOTHING);
            body(ours, &primary, &quote(&tpm(), &ours.device()))
        },
        ANOTHER_SESSION,
    ),
    (
        "the TPM's evidence as the processor's",
        |_, ours, _| {
            let pieces = quote(&tpm(), &ours.device());
            let evidence: Value = serde_json::from_str(&pieces).unwrap();
            body(ours, &evidence["tpm"], &pieces)
        },
        "another form",
    ),
    // What belongs to another session.
    (
        "all of another session",
        |world, _, theirs| world.good(theirs),
        "the nonce is not the one",
    ),
    (
        "all of another session under our nonce",
        |world, ours, theirs| {
            let mut body = world.good(theirs);
            body["runtime-data"]["nonce"] = json!(ours.runtime.nonce);
            body
        },
        ANOTHER_SESSION,
    ),
    (
        "all of another session under our nonce and key",
        |world, ours, theirs| {
            let mut body = world.good(theirs);
            body["runtime-data"] = json!(ours.runtime);
            body
        },
        ANOTHER_SESSION,
    ),
    (
        "another session's quote under our report",
        |world, ours, theirs| world.signed_over(ours, &quote(&tpm(), &theirs.device())),
        ANOTHER_SESSION,
    ),
    (
        "another session's report over our quote",
        |world, ours, theirs| {
            let additional = quote(&tpm(), &ours.device());
            let primary = world.processor(&theirs.primary(&additional), &NOTHING);
            body(ours, &primary, &additional)
        },
        ANOTHER_SESSION,
    ),
    (
        "our evidence with a key of somebody in between",
        |world, ours, theirs| {
            let mut body = world.good(ours);
            body["runtime-data"]["tee-pubkey"] = json!(theirs.runtime.tee_pubkey);
            body
        },
        ANOTHER_SESSION,
    ),
    // What is no additional evidence.
    (
        "a blank after the additional evidence",
        |world, ours, _| {
            let mut body = world.good(ours);
            let text = body["tee-evidence"]["additional_evidence"]
                .as_str()
                .unwrap()
                .to_owned();
            body["tee-evidence"]["additional_evidence"] = json!(text + " ");
            body
        },
        ANOTHER_SESSION,
    ),
    (
        "no JSON",
        |world, ours, _| world.signed_over(ours, "tpm"),
        "",
    ),
    ("a list", |world, ours, _| world.signed_over(ours, "[]"), ""),
    (
        "an empty object",
        |world, ours, _| world.signed_over(ours, "{}"),
        UNTRUSTED,
    ),
    (
        "a kind that is none",
        |world, ours, _| world.signed_over(ours, r#"{"TPM":{}}"#),
        "",
    ),
    (
        "a TPM that says nothing",
        |world, ours, _| world.signed_over(ours, r#"{"tpm":null}"#),
        "another form",
    ),
    (
        "half of it",
        |world, ours, _| {
            let whole = quote(&tpm(), &ours.device());
            world.signed_over(ours, &whole[..whole.len() / 2])
        },
        "",
    ),
    (
        "deep nesting",
        |world, ours, _| world.signed_over(ours, &"[".repeat(100_000)),
        "",
    ),
    (
        "an oversize quote",
        |world, ours, _| {
            let mut pieces: Value = serde_json::from_str(&quote(&tpm(), &ours.device())).unwrap();
            pieces["tpm"]["tpm_quote"]["message"] = json!("A".repeat(1_000_000));
            world.signed_over(ours, &pieces.to_string())
        },
        "",
    ),
    (
        "8 MiB of blanks",
        |world, ours, _| world.signed_over(ours, &" ".repeat(8 << 20)),
        "status 413",
    ),
];

#[test]
fn two_sources_of_one_machine_and_one_session_or_nothing() {
    let mut table = Table::default();
    for kind in KINDS {
        let world = World::composite(kind);
        let tee = world.kind.tee();
        for (name, make, words) in CASES {
            let (ours, theirs) = (world.session(tee.as_str()), world.session(tee.as_str()));
            let outcome = world.outcome(&ours, &make(&world, &ours, &theirs));
            table.refuse(&format!("{kind:?}: {name}"), words, &outcome);
        }
        // The roles exchanged: the TPM first, the processor beside it.
        let swapped = world.session("tpm");
        let beside =
            json!({tee.as_str(): world.processor(&swapped.device(), &NOTHING)}).to_string();
        let data = swapped.primary(&beside).report_data(kbs_protocol::Tee::Tpm);
        let outcome = world.outcome(&swapped, &body(&swapped, &tpm().evidence(&data), &beside));
        table.refuse(&format!("{kind:?}: roles exchanged"), UNTRUSTED, &outcome);
        // A session that was opened for another processor.
        let other = world.session(if tee == kbs_protocol::Tee::Snp {
            "tdx"
        } else {
            "snp"
        });
        let outcome = world.outcome(&other, &world.good(&other));
        table.refuse(
            &format!("{kind:?}: the other processor's session"),
            "another form",
            &outcome,
        );

        let session = world.session(tee.as_str());
        assert_eq!(
            world.outcome(&session, &world.good(&session)),
            "given",
            "{kind:?}"
        );
    }
    table.end(200);
}

/// What the RTMR of the seal is for: sealed evidence is genuine, and too late.
#[test]
fn a_sealed_td_gets_nothing() {
    let world = World::composite(crate::world::Kind::Tdx(4, 2));
    let session = world.session("tdx");
    let wrong = crate::world::Wrong {
        td: |td: &mut Td| td.rtmrs[3] = [3; 48],
        ..NOTHING
    };
    let additional = quote(&tpm(), &session.device());
    let primary = world.processor(&session.primary(&additional), &wrong);
    let outcome = world.outcome(&session, &body(&session, &primary, &additional));
    assert_eq!(outcome, "denied: cpu0 configuration=36");
}

// SPDX-License-Identifier: Apache-2.0

//! Evidence that is genuine and not good enough: the verifier passes it on as claims, the policy says no.

use crate::world::{
    AMD, KINDS, Kind, NOTHING, Table, World, Wrong, body, chip_of, now, quote, snp_evidence, tpm,
};
use soft_tee::snp::Authority;
use soft_tee::tdx::{Make, Platform};

const DAY: u64 = 86_400;

type Change = fn(&mut serde_json::Value);
type MakeLog = fn() -> Vec<u8>;

/// Name, what is wrong, and what the token or the server's log says about it.
const SNP: &[(&str, Wrong, &str)] = &[
    (
        "debug bit",
        with_report(|r| r.policy.set_debug_allowed(true)),
        "cpu0 configuration=36",
    ),
    (
        "migration agent",
        with_report(|r| r.policy.set_migrate_ma_allowed(true)),
        "cpu0 configuration=36",
    ),
    (
        "another measurement",
        with_report(|r| r.measurement[47] ^= 1),
        "cpu0 executables=33",
    ),
    (
        "no measurement",
        with_report(|r| r.measurement = [0; 48]),
        "cpu0 executables=33",
    ),
    ("VMPL 1", with_report(|r| r.vmpl = 1), "VMPL 1"),
    ("VMPL 2", with_report(|r| r.vmpl = 2), "VMPL 2"),
    ("VMPL 3", with_report(|r| r.vmpl = 3), "VMPL 3"),
    (
        "report data of nobody",
        with_report(|r| r.report_data = [0; 64]),
        "another session",
    ),
    (
        "one bit of report data",
        with_report(|r| r.report_data[47] ^= 1),
        "another session",
    ),
    (
        "padding of report data",
        with_report(|r| r.report_data[63] = 1),
        "another session",
    ),
    (
        "another chip's id",
        with_report(|r| r.chip_id[0] ^= 1),
        "another chip",
    ),
];

const TDX: &[(&str, Wrong, &str)] = &[
    (
        "debug bit",
        with_td(|td| td.td_attributes[0] |= 1),
        "cpu0 configuration=36",
    ),
    (
        "another MRTD",
        with_td(|td| td.mr_td[0] ^= 1),
        "cpu0 executables=33",
    ),
    (
        "another RTMR 1",
        with_td(|td| td.rtmrs[1][0] ^= 1),
        "cpu0 executables=33",
    ),
    (
        "another RTMR 2",
        with_td(|td| td.rtmrs[2] = [0; 48]),
        "cpu0 executables=33",
    ),
    (
        "a moved RTMR 3",
        with_td(|td| td.rtmrs[3][0] = 1),
        "cpu0 configuration=36",
    ),
    (
        "report data of nobody",
        with_td(|td| td.report_data = [0; 64]),
        "another session",
    ),
    (
        "one bit of report data",
        with_td(|td| td.report_data[47] ^= 1),
        "another session",
    ),
    (
        "padding of report data",
        with_td(|td| td.report_data[63] = 1),
        "another session",
    ),
    ("an enclave", with_td(|td| td.tee_type = 0), ""),
    ("an old module", with_td(|td| td.tee_tcb_svn = [1; 16]), ""),
];

const fn with_report(report: fn(&mut sev::firmware::guest::AttestationReport)) -> Wrong {
    Wrong { report, ..NOTHING }
}

const fn with_td(td: fn(&mut soft_tee::tdx::Td)) -> Wrong {
    Wrong { td, ..NOTHING }
}

#[test]
fn genuine_is_not_enough() {
    let mut table = Table::default();
    for kind in KINDS {
        let world = World::composite(kind);
        let cases = match kind {
            Kind::Snp(_) => SNP,
            Kind::Tdx(..) => TDX,
        };
        for (name, wrong, words) in cases {
            let session = world.session(kind.tee().as_str());
            let additional = quote(&tpm(), &session.device());
            let primary = world.processor(&session.primary(&additional), wrong);
            let outcome = world.outcome(&session, &body(&session, &primary, &additional));
            table.refuse(&format!("{kind:?}: {name}"), words, &outcome);
        }
    }
    table.end(60);
}

/// A chip with old firmware has a certificate for it: nothing is forged, so only the policy can mind.
#[test]
fn each_part_of_the_firmware_has_a_floor() {
    let mut table = Table::default();
    for kind in KINDS
        .into_iter()
        .filter(|kind| matches!(kind, Kind::Snp(_)))
    {
        let mut world = World::composite(kind);
        for (part, tcb) in [
            ("boot loader", (3, 0, 24, 219)),
            ("SNP firmware", (4, 0, 23, 219)),
            ("microcode", (4, 0, 24, 218)),
        ] {
            let Kind::Snp(generation) = kind else {
                unreachable!()
            };
            world.chip = AMD.chip_at(generation, tcb);
            let session = world.session("snp");
            let outcome = world.outcome(&session, &world.good(&session));
            table.refuse(
                &format!("{kind:?}: old {part}"),
                "denied: cpu0 hardware=97",
                &outcome,
            );
        }
        let Kind::Snp(generation) = kind else {
            unreachable!()
        };
        world.chip = AMD.chip_at(generation, (5, 1, 25, 220));
        let session = world.session("snp");
        assert_eq!(world.outcome(&session, &world.good(&session)), "given");
    }
    table.end(9);
}

#[test]
fn certificates_of_others_and_of_other_times() {
    let (mut table, stranger) = (Table::default(), Authority::new(now()));
    let good = (now() - DAY, now() + DAY);
    for kind in KINDS
        .into_iter()
        .filter(|kind| matches!(kind, Kind::Snp(_)))
    {
        let world = World::composite(kind);
        for (name, authority, validity, words) in [
            ("another root", &stranger, good, "no root vouches"),
            (
                "expired",
                &*AMD,
                (now() - 9 * DAY, now() - DAY),
                "is valid from",
            ),
            (
                "of tomorrow",
                &*AMD,
                (now() + DAY, now() + 9 * DAY),
                "is valid from",
            ),
        ] {
            let chip = chip_of(authority, kind, validity);
            let session = world.session("snp");
            let additional = quote(&tpm(), &session.device());
            let data = session.primary(&additional).report_data(kind.tee());
            let evidence = snp_evidence(authority, &chip, &chip.report(data.try_into().unwrap()));
            let outcome = world.outcome(&session, &body(&session, &evidence, &additional));
            table.refuse(&format!("{kind:?}: {name}"), words, &outcome);
        }
        let sibling = chip_of(&AMD, kind, good);
        let chains: [(&str, Change, &str); 5] = [
            (
                "an empty chain",
                |chain| *chain = serde_json::json!([]),
                "must include a VCEK",
            ),
            (
                "no chain",
                |chain| *chain = serde_json::Value::Null,
                "no certificates came",
            ),
            (
                "half a VCEK",
                |chain| chain[2]["data"].as_array_mut().unwrap().truncate(300),
                "",
            ),
            (
                "an empty VCEK",
                |chain| chain[2]["data"] = serde_json::json!([]),
                "",
            ),
            (
                "an oversize VCEK",
                |chain| chain[2]["data"] = serde_json::json!(vec![48; 500_000]),
                "",
            ),
        ];
        let session = world.session("snp");
        let swapped = {
            let additional = quote(&tpm(), &session.device());
            let data = session.primary(&additional).report_data(kind.tee());
            let report = world.chip.report(data.try_into().unwrap());
            body(
                &session,
                &snp_evidence(&AMD, &sibling, &report),
                &additional,
            )
        };
        let outcome = world.outcome(&session, &swapped);
        table.refuse(
            &format!("{kind:?}: VCEK of another chip"),
            "not signed by",
            &outcome,
        );
        for (name, change, words) in chains {
            let session = world.session("snp");
            let mut good = world.good(&session);
            change(&mut good["tee-evidence"]["primary_evidence"]["cert_chain"]);
            let outcome = world.outcome(&session, &good);
            table.refuse(&format!("{kind:?}: {name}"), words, &outcome);
        }
    }
    table.end(27);
}

#[test]
fn quotes_of_other_platforms_and_states() {
    let mut table = Table::default();
    let old = Platform::make(&Make {
        needs_svn: 6,
        ..Make::at(now())
    });
    let stranger = Platform::new(now());
    for kind in KINDS {
        let Kind::Tdx(version, body_type) = kind else {
            continue;
        };
        let world = World::composite(kind);
        for (name, platform) in [
            ("another root", &stranger),
            ("another root, out of date", &old),
        ] {
            let session = world.session("tdx");
            let additional = quote(&tpm(), &session.device());
            let mut good = world.good(&session);
            let td = soft_tee::tdx::Td {
                version,
                body_type,
                report_data: session
                    .primary(&additional)
                    .report_data(kind.tee())
                    .try_into()
                    .unwrap(),
                ..soft_tee::tdx::Td::default()
            };
            good["tee-evidence"]["primary_evidence"]["quote"] =
                serde_json::json!(kbs_protocol::encoding::b64::encode(platform.quote(&td)));
            good["tee-evidence"]["additional_evidence"] = serde_json::json!(additional);
            let outcome = world.outcome(&session, &good);
            table.refuse(&format!("{kind:?}: {name}"), "", &outcome);
        }
        let logs: [(&str, MakeLog); 4] = [
            ("another event", || {
                soft_tee::tdx::event_log(&[(1, b"firmware"), (2, b"grub")]).0
            }),
            ("an event more", || {
                soft_tee::tdx::event_log(&[
                    (1, b"firmware"),
                    (2, b"loader"),
                    (3, b"kernel"),
                    (4, b"x"),
                ])
                .0
            }),
            ("half a log", || {
                let log = crate::world::events().0;
                log[..log.len() / 2].to_vec()
            }),
            ("an oversize log", || vec![0; 2_000_000]),
        ];
        for (name, log) in logs {
            let session = world.session("tdx");
            let mut good = world.good(&session);
            good["tee-evidence"]["primary_evidence"]["cc_eventlog"] =
                serde_json::json!(kbs_protocol::encoding::b64::encode(log()));
            let outcome = world.outcome(&session, &good);
            table.refuse(&format!("{kind:?}: event log: {name}"), "", &outcome);
        }
    }
    table.end(18);
}

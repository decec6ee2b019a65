// SPDX-License-Identifier: Apache-2.0

//! Azure's machines, which a vTPM's PCR 8 names and whose boot that TPM quotes: genuine, and not good enough.

use crate::common::SoftTpm;
use crate::world::{AMD, INTEL, Kind, OURS, Session, Table, World, body, init_data, tpm};
use kbs_protocol::encoding::b64u_padded;
use kbs_protocol::init_data::InitDataToml;
use serde_json::{Value, json};
use soft_tee::hcl;
use soft_tee::snp::Generation;
use soft_tee::tdx::Td;

/// What a case changes, all of it signed as if it were true.
struct Machine {
    tpm: SoftTpm,
    world: World,
    policy: fn(&mut sev::firmware::guest::AttestationReport),
    td: Td,
}

type Change = fn(&mut Machine);

const TEES: [&str; 2] = ["az-snp-vtpm", "az-tdx-vtpm"];

impl Machine {
    fn new(tee: &str) -> Self {
        let mut tpm = tpm();
        let named = InitDataToml::parse(&init_data(OURS)).unwrap();
        tpm.pcrs[8] = named.expected_pcr8().unwrap();
        let mut world = World::new(Kind::Snp(Generation::Turin), tee, "init-data");
        world.path = format!("default/{OURS}/root");
        let admin = world.lab.admin();
        for (name, value) in [
            (
                format!("node_init_{}", &tpm.pcr(8)[..2]),
                json!({tpm.pcr(8): OURS}),
            ),
            ("az_snp_measurements".to_owned(), json!(["q6ur".repeat(16)])),
            ("az_tdx_mr_tds".to_owned(), json!(["7d".repeat(48)])),
        ] {
            admin.set_reference_value(&name, &value).unwrap();
        }
        admin
            .set_resource(&world.path, crate::world::SECRET.to_vec())
            .unwrap();
        Self {
            tpm,
            world,
            policy: |_| {},
            td: Td::default(),
        }
    }

    fn body(&self, tee: &str, session: &Session) -> Value {
        let digest = session.primary("");
        let digest = digest.as_bytes();
        let (n, e) = self.tpm.numbers();
        let text = hcl::variable_data(&n, &e, Some(&[&digest[..], &[0; 16]].concat()));
        let encode = |bytes: &[u8]| json!(b64u_padded::encode(bytes));
        let (report, name, proof) = if tee == TEES[0] {
            let chip = &self.world.chip;
            (
                hcl::snp(chip, text, self.policy),
                "vcek",
                encode(&chip.vek_der),
            )
        } else {
            let report = hcl::tdx(text);
            let quote = hcl::td_quote(&INTEL, &report[32..32 + 1024], &self.td);
            (report, "td_quote", encode(&quote))
        };
        let evidence = json!({
            "version": 2, "tpm_quote": self.tpm.azure_quote(digest), "hcl_report": encode(&report), name: proof,
        });
        let mut body = body(session, &evidence, "");
        body["init-data"] = json!({"format": "toml", "body": init_data(OURS)});
        body
    }

    fn outcome(&self, tee: &str) -> String {
        let session = self.world.session(tee);
        self.world.outcome(&session, &self.body(tee, &session))
    }
}

#[test]
fn the_processor_and_the_boot_must_both_be_known() {
    let mut table = Table::default();
    let changes: [(&str, Change, [&str; 2]); 8] = [
        (
            "debug bit",
            |m| {
                m.policy = |report| report.policy.set_debug_allowed(true);
                m.td.td_attributes[0] |= 1;
            },
            ["denied: cpu0 configuration=36"; 2],
        ),
        (
            "another measurement",
            |m| {
                m.policy = |report| report.measurement[0] ^= 1;
                m.td.mr_td[0] ^= 1;
            },
            ["denied: cpu0 executables=33"; 2],
        ),
        (
            "firmware below the floor, or a module that nobody knows",
            |m| {
                m.world.chip = AMD.chip_at(Generation::Turin, (4, 0, 24, 218));
                m.td.tee_tcb_svn = [0; 16];
            },
            ["denied: cpu0 hardware=97", ""],
        ),
        (
            "another boot loader",
            |m| m.tpm.pcrs[4] = [0x5a; 32],
            ["cpu0 executables=33"; 2],
        ),
        (
            "after the seal",
            |m| m.tpm.pcrs[11] = [1; 32],
            ["denied: cpu0 configuration=36"; 2],
        ),
        (
            "another PCR 8",
            |m| m.tpm.pcrs[8] = [8; 32],
            ["PCR 8 is"; 2],
        ),
        (
            "an untouched PCR 8",
            |m| m.tpm.pcrs[8] = [0; 32],
            ["PCR 8 is"; 2],
        ),
        (
            "another node's path",
            |m| m.world.path = "default/7f1c0d66-6f0e-4b0e-9a53-0c1f5c5f7a02/root".to_owned(),
            ["denied:"; 2],
        ),
    ];
    for (number, tee) in TEES.into_iter().enumerate() {
        for (name, change, words) in &changes {
            let mut machine = Machine::new(tee);
            change(&mut machine);
            table.refuse(
                &format!("{tee}: {name}"),
                words[number],
                &machine.outcome(tee),
            );
        }
        let mut machine = Machine::new(tee);
        let (ours, theirs) = (machine.world.session(tee), machine.world.session(tee));
        let replayed = machine.body(tee, &theirs);
        let outcome = machine.world.outcome(&ours, &replayed);
        table.refuse(
            &format!("{tee}: another session"),
            "the nonce is not the one",
            &outcome,
        );
        let mut named = replayed;
        named["runtime-data"] = json!(ours.runtime);
        let outcome = machine.world.outcome(&ours, &named);
        table.refuse(
            &format!("{tee}: another session under our nonce"),
            "another session",
            &outcome,
        );
        assert_eq!(machine.outcome(tee), "given", "{tee}");
        // A plain machine is no machine of Azure.
        machine.world.kind = Kind::Snp(Generation::Turin);
        let plain = machine.world.session("snp");
        let outcome = machine
            .world
            .outcome(&plain, &machine.world.signed_over(&plain, ""));
        table.refuse(&format!("{tee}: the plain processor"), "denied:", &outcome);
    }
    table.end(22);
}

// SPDX-License-Identifier: Apache-2.0

//! What is wrong with a processor's report is said by the machine that got it, which knows what a verifier cannot: that
//! the report is another program's, or of another launch than its init-data is for.

use crate::{INIT_DATA, now};
use kbs_protocol::init_data::InitDataToml;
use sheepfold_tests::process::Captured;
use sheepfold_tests::world::World;
use soft_tee::configfs::{Configfs, Device};
use soft_tee::snp::{AttestationReport, Authority, Generation};
use soft_tee::tdx::{Platform, Td};

/// What the agent says of the reports of this device, when it was given init-data.
fn attests(tee: &str, device: Device) -> Captured {
    let root = tempfile::tempdir().unwrap();
    let mut world = World::new().unwrap();
    let provider = format!("{}_guest", if tee == "snp" { "sev" } else { tee });
    let _configfs = Configfs::serve(root.path(), &provider, device).unwrap();
    world.give_init_data(INIT_DATA).unwrap();
    world.settings.evidence = format!(
        "primary = {tee:?}\nadditional = [\"tpm\"]\nroot = {:?}",
        root.path()
    );
    world.settings.overall = "2s";
    world.configure().unwrap();
    world.run(world.agent(["attest"])).unwrap()
}

/// The machine's turn, with these words; or the server's, which does not know the roots of this processor.
fn expect(attested: &Captured, wrong: Option<&str>) {
    let (code, says) = wrong.map_or((13, "the server refused the evidence"), |says| (11, says));
    assert_eq!(attested.code, Some(code), "{says}: {attested}");
    assert!(attested.err().contains(says), "{says}: {attested}");
}

#[test]
fn a_report_of_the_wrong_data_firmware_level_or_launch() {
    let authority = Authority::new(now());
    let launch: [u8; 32] = InitDataToml::parse(INIT_DATA).unwrap().launch_register();
    type Change = fn(&mut AttestationReport);
    let cases: [(Change, _); 5] = [
        (|_| {}, None),
        (
            |report| report.report_data[0] ^= 1,
            Some("does not carry the data that it was asked to sign"),
        ),
        (
            |report| report.version = 2,
            Some("makes reports of version 2"),
        ),
        (|report| report.vmpl = 1, Some("runs at privilege level 1")),
        (|report| report.host_data[31] ^= 1, Some("HOST_DATA is ")),
    ];
    for (change, wrong) in cases {
        let chip = authority.chip(Generation::Turin);
        let table = authority.table(&chip);
        let device = move |data: &[u8]| {
            let report = chip.report_with(data.try_into().unwrap(), |report| {
                report.host_data = launch;
                change(report);
            });
            (report, table.clone())
        };
        expect(&attests("snp", Box::new(device)), wrong);
    }
}

#[test]
fn a_quote_of_the_wrong_data_or_launch() {
    let launch: [u8; 48] = InitDataToml::parse(INIT_DATA).unwrap().launch_register();
    let cases: [(fn(&mut Td), _); 3] = [
        (|_| {}, None),
        (
            |td| td.report_data[63] ^= 1,
            Some("does not carry the data that it was asked to sign"),
        ),
        (|td| td.mr_config_id[0] ^= 1, Some("MRCONFIGID is ")),
    ];
    for (change, wrong) in cases {
        let platform = Platform::new(now());
        let device = move |data: &[u8]| {
            let mut td = Td {
                mr_config_id: launch,
                report_data: data.try_into().unwrap(),
                ..Td::default()
            };
            change(&mut td);
            (platform.quote(&td), Vec::new())
        };
        expect(&attests("tdx", Box::new(device)), wrong);
    }
}

// SPDX-License-Identifier: Apache-2.0

//! SEV-SNP: one good report for each generation, and what must not pass.

use super::{INIT_DATA, Sessions, Table, init_data, now, report_data, roots, verify};
use kbs_protocol::Tee;
use kbs_protocol::evidence::{CertTable, SnpEvidence, SnpReport};
use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::CertType;
use soft_tee::snp::{Authority, Chip, Generation};

const DAY: u64 = 86_400;

fn evidence(authority: &Authority, chip: &Chip, report: &[u8]) -> Value {
    let report = SnpReport::parse(report).unwrap();
    json!(SnpEvidence {
        attestation_report: *report.fields(),
        cert_chain: CertTable::parse(&authority.table(chip))
            .unwrap()
            .into_chain(),
    })
}

#[test]
fn good_reports_of_each_generation_say_what_the_policies_read() {
    let (sessions, authority) = (Sessions::new(), Authority::new(now()));
    let roots = roots(&[authority.pem()], None, &[]);
    for generation in [Generation::Milan, Generation::Genoa, Generation::Turin] {
        for kind in [CertType::VCEK, CertType::VLEK] {
            let chip = authority.chip_with(generation, kind, (now() - DAY, now() + DAY));
            let report = chip.report_with(report_data(&sessions.ours), |report| {
                report.host_data = init_data().launch_register();
            });
            let good = evidence(&authority, &chip, &report);
            let claims =
                verify(Tee::Snp, &good, &sessions.ours, Some(&init_data()), &roots).unwrap();
            assert_eq!(
                claims.claims,
                json!({
                    "measurement": "ab".repeat(48),
                    "policy_abi_major": 0, "policy_abi_minor": 0x1f, "policy_smt_allowed": true,
                    "policy_migrate_ma": false, "policy_debug_allowed": false, "policy_single_socket": false,
                    "reported_tcb_bootloader": 4, "reported_tcb_tee": 0, "reported_tcb_snp": 24,
                    "reported_tcb_microcode": 219,
                    "platform_tsme_enabled": false, "platform_smt_enabled": true,
                    "chip_id": super::super::hex(chip.template.chip_id),
                })
            );
            assert!(claims.report_data.ends_with(&"0".repeat(32)));
            let host_data: [u8; 32] = init_data().launch_register();
            assert_eq!(claims.init_data, Some(super::super::hex(host_data)));
        }
    }
}

/// Newer certificates have the chip's id as an OCTET STRING.
#[test]
fn a_chips_id_comes_in_two_spellings() {
    let (sessions, authority) = (Sessions::new(), Authority::new(now()));
    let roots = roots(&[authority.pem()], None, &[]);
    let chip = authority.chip_certified(Generation::Genoa, |says| {
        let id = says.get_mut("1.3.6.1.4.1.3704.1.4").unwrap();
        id.splice(0..0, [4, 64]);
    });
    let report = chip.report(report_data(&sessions.ours));
    let good = evidence(&authority, &chip, &report);
    verify(Tee::Snp, &good, &sessions.ours, None, &roots).unwrap();
}

#[test]
fn a_report_without_certificates_needs_the_chips_certificate_in_the_store() {
    let (sessions, authority) = (Sessions::new(), Authority::new(now()));
    for generation in [Generation::Milan, Generation::Turin] {
        let chip = authority.chip(generation);
        let report = chip.report(report_data(&sessions.ours));
        let mut alone = evidence(&authority, &chip, &report);
        alone["cert_chain"] = Value::Null;
        let mut roots = roots(&[authority.pem()], None, &[]);
        let store = tempfile::tempdir().unwrap();
        roots.vcek_store = store.path().to_owned();
        assert!(verify(Tee::Snp, &alone, &sessions.ours, None, &roots).is_err());
        let length = if generation == Generation::Turin {
            8
        } else {
            64
        };
        let id = super::super::hex(&chip.template.chip_id[..length]);
        let dir = store.path().join("vcek").join(id);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("vcek.der"), &chip.vek_der).unwrap();
        verify(Tee::Snp, &alone, &sessions.ours, None, &roots).unwrap();
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn bad_reports() {
    let sessions = Sessions::new();
    let (authority, stranger) = (Authority::new(now()), Authority::new(now()));
    let expired = Authority::valid((now() - 20 * DAY, now() - 10 * DAY));
    let roots = roots(&[authority.pem(), expired.pem()], None, &[]);
    let mut table = Table::default();
    for generation in [Generation::Milan, Generation::Genoa, Generation::Turin] {
        let (chip, sibling) = (authority.chip(generation), authority.chip(generation));
        let ours = report_data(&sessions.ours);
        let mut refuse = |name: &str, words: &str, evidence: &Value| {
            let outcome = verify(Tee::Snp, evidence, &sessions.ours, None, &roots);
            table.refuse(&format!("{generation:?}: {name}"), words, outcome);
        };
        let signed = |change: &dyn Fn(&mut AttestationReport)| {
            evidence(&authority, &chip, &chip.report_with(ours, change))
        };
        let good = signed(&|_| {});

        // Another session, key or place in the handshake.
        for (name, digest) in [
            ("another session", &sessions.other),
            ("additional evidence", &sessions.device),
        ] {
            let report = chip.report(report_data(digest));
            refuse(
                name,
                "another session",
                &evidence(&authority, &chip, &report),
            );
        }
        refuse(
            "no data",
            "another session",
            &evidence(&authority, &chip, &chip.report([0; 64])),
        );
        for level in 1..=3 {
            refuse(
                &format!("VMPL {level}"),
                "VMPL",
                &signed(&|r| r.vmpl = level),
            );
        }

        // Firmware that the certificate is not for.
        refuse(
            "older boot loader",
            "boot loader version",
            &signed(&|r| r.reported_tcb.bootloader = 3),
        );
        refuse(
            "other TEE",
            "TEE version",
            &signed(&|r| r.reported_tcb.tee = 1),
        );
        refuse(
            "older SNP firmware",
            "SNP firmware version",
            &signed(&|r| r.reported_tcb.snp = 23),
        );
        refuse(
            "older microcode",
            "microcode version",
            &signed(&|r| r.reported_tcb.microcode = 100),
        );
        refuse(
            "newer microcode",
            "microcode version",
            &signed(&|r| r.reported_tcb.microcode = 220),
        );
        if generation == Generation::Turin {
            refuse(
                "older FMC",
                "FMC version",
                &signed(&|r| r.reported_tcb.fmc = Some(0)),
            );
        }
        refuse(
            "another chip's id",
            "another chip",
            &signed(&|r| r.chip_id[0] ^= 1),
        );
        refuse(
            "a hidden chip",
            "another chip",
            &signed(&|r| r.chip_id = [0; 64]),
        );
        refuse(
            "a longer chip id",
            "another chip",
            &signed(&|r| r.chip_id[63] ^= 1),
        );

        // Keys and certificates.
        let report = chip.report(ours);
        refuse(
            "the certificate of another chip",
            "not signed by",
            &evidence(&authority, &sibling, &report),
        );
        let foreign = stranger.chip(generation);
        let strange = evidence(&stranger, &foreign, &foreign.report(ours));
        refuse("another root", "no root vouches", &strange);
        let mut claimed = strange.clone();
        for entry in 0..2 {
            claimed["cert_chain"][entry] = good["cert_chain"][entry].clone();
        }
        refuse("another root below ours", "no root vouches", &claimed);
        // Another chain, but for our ARK on top; a chain of ours, but for another ARK on top.
        let mut claimed = strange.clone();
        claimed["cert_chain"][0] = good["cert_chain"][0].clone();
        refuse("another ASK below our ARK", "no root vouches", &claimed);
        let mut claimed = good.clone();
        claimed["cert_chain"][0] = strange["cert_chain"][0].clone();
        refuse(
            "another ARK above ours",
            "the ARK that came along is another",
            &claimed,
        );
        // Certificates that say less about the chip, or something else.
        let mut versions = vec![
            ("boot loader", "1.3.6.1.4.1.3704.1.3.1"),
            ("TEE", "1.3.6.1.4.1.3704.1.3.2"),
            ("SNP firmware", "1.3.6.1.4.1.3704.1.3.3"),
            ("microcode", "1.3.6.1.4.1.3704.1.3.8"),
        ];
        if generation == Generation::Turin {
            versions.push(("FMC", "1.3.6.1.4.1.3704.1.3.9"));
        }
        for (part, oid) in versions {
            let silent = authority.chip_certified(generation, |says| drop(says.remove(oid)));
            refuse(
                &format!("a VCEK without a {part} version"),
                &format!("names no {part} version"),
                &evidence(&authority, &silent, &silent.report(ours)),
            );
            let large = authority.chip_certified(generation, |says| {
                says.insert(oid, vec![2, 2, 1, 0]);
            });
            refuse(
                &format!("a VCEK with a {part} version of 256"),
                "version is no small number",
                &evidence(&authority, &large, &large.report(ours)),
            );
        }
        let hardware = "1.3.6.1.4.1.3704.1.4";
        let silent = authority.chip_certified(generation, |says| drop(says.remove(hardware)));
        refuse(
            "a VCEK without a chip",
            "names no chip",
            &evidence(&authority, &silent, &silent.report(ours)),
        );
        for length in [0, 1, 7, 9, 63] {
            let short = authority.chip_certified(generation, |says| {
                let id = says.get_mut(hardware).unwrap();
                id.resize(length, 0);
            });
            refuse(
                &format!("a VCEK with {length} bytes of a chip's id"),
                "another chip",
                &evidence(&authority, &short, &short.report(ours)),
            );
        }
        let late = authority.chip_with(generation, CertType::VCEK, (now() - 9 * DAY, now() - DAY));
        refuse(
            "an expired VCEK",
            "is valid from",
            &evidence(&authority, &late, &late.report(ours)),
        );
        let early = authority.chip_with(generation, CertType::VCEK, (now() + DAY, now() + 9 * DAY));
        refuse(
            "a VCEK of tomorrow",
            "is valid from",
            &evidence(&authority, &early, &early.report(ours)),
        );
        let old = expired.chip_with(generation, CertType::VCEK, (now() - DAY, now() + DAY));
        refuse(
            "an expired root",
            "is valid from",
            &evidence(&expired, &old, &old.report(ours)),
        );
        let renamed = |entry: usize, kind: Value, words: &'static str, name: &'static str| {
            let mut evidence = good.clone();
            evidence["cert_chain"][entry]["cert_type"] = kind;
            (name, words, evidence)
        };
        for (name, words, evidence) in [
            renamed(2, json!("CRL"), "must include a VCEK", "no VCEK"),
            renamed(0, json!("VCEK"), "no root vouches", "the ARK as VCEK"),
            renamed(2, json!("ASK"), "must include a VCEK", "the VCEK as ASK"),
            renamed(
                2,
                json!("XYZ"),
                "another form",
                "a kind of certificate that is none",
            ),
        ] {
            refuse(name, words, &evidence);
        }
        let with_der = |entry: usize, change: &dyn Fn(&mut Vec<Value>)| {
            let mut evidence = good.clone();
            change(
                evidence["cert_chain"][entry]["data"]
                    .as_array_mut()
                    .unwrap(),
            );
            evidence
        };
        for (entry, who) in [(0, "ARK"), (1, "ASK"), (2, "VCEK")] {
            let none = match who {
                "VCEK" => "the VCEK or VLEK is no certificate".to_owned(),
                who => format!("the {who} is no certificate"),
            };
            refuse(
                &format!("half a {who}"),
                &none,
                &with_der(entry, &|der| der.truncate(200)),
            );
            refuse(
                &format!("an empty {who}"),
                &none,
                &with_der(entry, &Vec::clear),
            );
            refuse(
                &format!("a {who} and a byte"),
                &none,
                &with_der(entry, &|der| der.push(json!(0))),
            );
            refuse(
                &format!("a {who} with a changed signature"),
                "no root vouches",
                &with_der(entry, &|der| {
                    let last = der.last_mut().unwrap();
                    *last = json!(last.as_u64().unwrap() ^ 1);
                }),
            );
        }
        let mut empty = good.clone();
        empty["cert_chain"] = json!([]);
        refuse("an empty chain", "must include a VCEK", &empty);
        empty["cert_chain"] = Value::Null;
        refuse("no chain and no store", "no certificates came", &empty);
        let mut hidden = signed(&|r| r.chip_id = [0; 64]);
        hidden["cert_chain"] = Value::Null;
        refuse("no chain and a hidden chip", "hides its chip", &hidden);
        for member in ["cpuid_fam_id", "cpuid_mod_id"] {
            let mut nameless = good.clone();
            nameless["attestation_report"][member] = Value::Null;
            refuse(&format!("no {member}"), "names no processor", &nameless);
        }

        // Bits that change after the signature, a debug bit that hides among them.
        let debug = signed(&|r| r.policy.set_debug_allowed(true));
        let mut hidden = debug.clone();
        hidden["attestation_report"]["policy"] = good["attestation_report"]["policy"].clone();
        refuse("a hidden debug bit", "not signed by", &hidden);
        for field in [
            "family_id",
            "image_id",
            "report_data",
            "measurement",
            "host_data",
            "id_key_digest",
            "author_key_digest",
            "report_id",
            "report_id_ma",
            "chip_id",
        ] {
            let mut changed = good.clone();
            let byte = &mut changed["attestation_report"][field][3];
            *byte = json!(byte.as_u64().unwrap() ^ 1);
            refuse(&format!("a changed {field}"), "not signed by", &changed);
        }
        for field in [
            "guest_svn",
            "vmpl",
            "sig_algo",
            "plat_info",
            "key_info",
            "cpuid_step",
        ] {
            let mut changed = good.clone();
            let number = &mut changed["attestation_report"][field];
            *number = json!(number.as_u64().unwrap() ^ 2);
            refuse(&format!("a changed {field}"), "not signed by", &changed);
        }
        for half in ["r", "s"] {
            let mut changed = good.clone();
            changed["attestation_report"]["signature"][half][5] = json!(1);
            changed["attestation_report"]["signature"][half][6] = json!(1);
            refuse(&format!("a changed {half}"), "not signed by", &changed);
            changed["attestation_report"]["signature"][half] = json!(vec![0; 72]);
            refuse(&format!("no {half}"), "not signed by", &changed);
            changed["attestation_report"]["signature"][half] = json!(vec![255; 72]);
            refuse(&format!("an overlong {half}"), "not signed by", &changed);
        }

        // Versions, processors and forms.
        for version in [0, 1, 2, 6, u32::MAX] {
            let mut changed = good.clone();
            changed["attestation_report"]["version"] = json!(version);
            refuse(&format!("version {version}"), "version", &changed);
        }
        for (family, model) in [(0x17, 0x31), (0x19, 0x20), (0x1a, 0x50), (0x1b, 0)] {
            let mut changed = good.clone();
            changed["attestation_report"]["cpuid_fam_id"] = json!(family);
            changed["attestation_report"]["cpuid_mod_id"] = json!(model);
            refuse(
                &format!("family {family:#x} model {model:#x}"),
                "not",
                &changed,
            );
        }
        for member in [
            "version",
            "policy",
            "report_data",
            "reported_tcb",
            "signature",
            "chip_id",
        ] {
            let mut changed = good.clone();
            changed["attestation_report"]
                .as_object_mut()
                .unwrap()
                .remove(member);
            refuse(&format!("without {member}"), "another form", &changed);
            changed["attestation_report"][member] = json!("AAAA");
            refuse(&format!("{member} as text"), "another form", &changed);
        }
        let mut huge = good.clone();
        huge["attestation_report"]["report_data"] = json!(vec![0; 65]);
        refuse("65 bytes of report data", "another form", &huge);
        for (name, value) in [
            ("null", Value::Null),
            ("text", json!("x")),
            ("a list", json!([])),
            ("nothing", json!({})),
        ] {
            refuse(name, "another form", &value);
        }

        // Init-data that the machine was not started with.
        for (name, host_data) in [("no HOST_DATA", [0; 32]), ("another HOST_DATA", [1; 32])] {
            let evidence = signed(&|r| r.host_data = host_data);
            let outcome = verify(
                Tee::Snp,
                &evidence,
                &sessions.ours,
                Some(&init_data()),
                &roots,
            );
            table.refuse(&format!("{generation:?}: {name}"), "HOST_DATA", outcome);
        }
    }
    assert!(INIT_DATA.contains("uuid"));
    table.end(200);
}

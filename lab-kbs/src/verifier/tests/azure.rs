// SPDX-License-Identifier: Apache-2.0

//! Azure: good evidence of both processors, and what must not pass: the paravisor's text, its key, its user data and
//! the processor's signature hang together, and each link is cut once.

use super::{Sessions, Table, init_data, now, roots, verify};
use crate::verifier::Roots;
use kbs_protocol::Tee;
use kbs_protocol::encoding::b64u_padded;
use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::CertType;
use soft_tee::hcl::{self, Layout};
use soft_tee::snp::{Authority, Chip, Generation};
use soft_tee::tdx::{Platform, Td};
use soft_tee::tpm::SoftTpm;

const DAY: u64 = 86_400;

/// A machine of either kind. Public members: a case changes what it is about.
struct Machine {
    authority: Authority,
    chip: Chip,
    platform: Platform,
    tpm: SoftTpm,
    tee: Tee,
    td: Td,
}

impl Machine {
    fn new(tee: Tee) -> Self {
        let authority = Authority::new(now());
        Self {
            chip: authority.chip(Generation::Genoa),
            authority,
            platform: Platform::new(now()),
            tpm: SoftTpm::number(0),
            tee,
            td: Td::default(),
        }
    }

    fn roots(&self) -> Roots {
        roots(
            &[self.authority.pem()],
            Some(self.platform.root_pem()),
            std::slice::from_ref(self.platform.collateral()),
        )
    }

    fn layout(&self, variable_data: Vec<u8>) -> Layout {
        Layout {
            report_type: if self.tee == Tee::AzSnpVtpm { 2 } else { 4 },
            hash_type: 1,
            variable_data,
        }
    }

    /// The JSON of this machine's paravisor, when the guest wrote this.
    fn text(&self, user_data: Option<&[u8]>) -> Vec<u8> {
        let (n, e) = self.tpm.numbers();
        hcl::variable_data(&n, &e, user_data)
    }

    /// Evidence over a layout that the processor signed as `signed` and that is sent as `sent`.
    fn evidence(
        &self,
        signed: &Layout,
        sent: &Layout,
        quote: &Value,
        change: impl FnOnce(&mut AttestationReport),
    ) -> Value {
        match self.tee {
            Tee::AzSnpVtpm => {
                let report = self.chip.report_with(signed.report_data(), change);
                json!({
                    "version": 2, "tpm_quote": quote, "hcl_report": b64u_padded::encode(sent.report(&report)),
                    "vcek": b64u_padded::encode(&self.chip.vek_der),
                })
            }
            _ => {
                let td_report = hcl::td_report(&signed.report_data());
                let td_quote = hcl::td_quote(&self.platform, &td_report, &self.td);
                json!({
                    "version": 2, "tpm_quote": quote, "hcl_report": b64u_padded::encode(sent.report(&td_report)),
                    "td_quote": b64u_padded::encode(td_quote),
                })
            }
        }
    }

    /// The same, honest but for the processor's part.
    fn changed(&self, digest: &[u8], change: impl FnOnce(&mut AttestationReport)) -> Value {
        let layout = self.layout(self.text(Some(&padded(digest))));
        self.evidence(&layout, &layout, &self.tpm.azure_quote(digest), change)
    }

    fn good(&self, digest: &[u8]) -> Value {
        self.changed(digest, |_| {})
    }

    /// Honest but for the text.
    fn with_text(&self, text: Vec<u8>, digest: &[u8]) -> Value {
        let layout = self.layout(text);
        self.evidence(&layout, &layout, &self.tpm.azure_quote(digest), |_| {})
    }
}

fn padded(digest: &[u8]) -> Vec<u8> {
    [digest, &[0; 16]].concat()
}

const KINDS: [Tee; 2] = [Tee::AzSnpVtpm, Tee::AzTdxVtpm];

#[test]
fn good_evidence_says_what_the_policies_read() {
    let sessions = Sessions::new();
    for tee in KINDS {
        let mut machine = Machine::new(tee);
        machine.tpm.pcrs[8] = init_data().expected_pcr8().unwrap();
        let good = machine.good(sessions.ours.as_bytes());
        let roots = machine.roots();
        let said = verify(tee, &good, &sessions.ours, Some(&init_data()), &roots).unwrap();
        assert_eq!(said.init_data, Some(machine.tpm.pcr(8)));
        assert_eq!(said.claims["tpm"]["pcr04"], machine.tpm.pcr(4));
        match tee {
            Tee::AzSnpVtpm => {
                let mut claims = said.claims;
                claims.as_object_mut().unwrap().remove("tpm");
                // Text throughout, and base64 for the measurement.
                assert_eq!(
                    claims,
                    json!({
                        "measurement": "q6ur".repeat(16),
                        "policy_abi_major": "0", "policy_abi_minor": "31", "policy_smt_allowed": "true",
                        "policy_migrate_ma": "false", "policy_debug_allowed": "false", "policy_single_socket": "false",
                        "reported_tcb_bootloader": "4", "reported_tcb_tee": "0", "reported_tcb_snp": "24",
                        "reported_tcb_microcode": "219",
                        "platform_tsme_enabled": "false", "platform_smt_enabled": "true",
                    })
                );
            }
            _ => assert_eq!(said.claims["quote"]["body"]["mr_td"], "7d".repeat(48)),
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn bad_evidence() {
    let sessions = Sessions::new();
    let (ours, theirs) = (sessions.ours.as_bytes(), sessions.other.as_bytes());
    let mut table = Table::default();
    for tee in KINDS {
        let machine = Machine::new(tee);
        let roots = machine.roots();
        let good = machine.good(ours);
        let mut refuse = |name: &str, words: &str, evidence: &Value| {
            let outcome = verify(tee, evidence, &sessions.ours, None, &roots);
            table.refuse(&format!("{tee}: {name}"), words, outcome);
        };

        // Versions without user data.
        for version in [0, 1, 3] {
            let mut old = good.clone();
            old["version"] = json!(version);
            refuse(&format!("version {version}"), "only version 2", &old);
        }

        // Sessions.
        refuse("another session", "another session", &machine.good(theirs));
        refuse(
            "the digest of additional evidence",
            "another session",
            &machine.good(sessions.device.as_bytes()),
        );
        for (name, extra) in [
            ("another session's quote", theirs.to_vec()),
            ("a quote over nothing", Vec::new()),
            ("a quote over 32 bytes", ours[..32].to_vec()),
            ("a quote over padding too", padded(ours)),
        ] {
            let mut evidence = good.clone();
            evidence["tpm_quote"] = machine.tpm.azure_quote(&extra);
            refuse(name, "another session", &evidence);
        }
        for (name, user_data) in [
            ("another session's user data", Some(padded(theirs))),
            ("no user data", None),
            ("user data of 47 bytes", Some(ours[..47].to_vec())),
            ("user data of zeros", Some(vec![0; 64])),
            ("user data after a zero", Some([&[0][..], ours].concat())),
        ] {
            let text = machine.text(user_data.as_deref());
            refuse(
                name,
                "user-data belongs to another",
                &machine.with_text(text, ours),
            );
        }

        // Links between processor, text and key.
        let text = machine.text(Some(&padded(ours)));
        let mut other = SoftTpm::number(1);
        other.pcrs = machine.tpm.pcrs.clone();
        let mut evidence = good.clone();
        evidence["tpm_quote"] = other.azure_quote(ours);
        refuse(
            "a quote by another TPM",
            "not by the attestation key",
            &evidence,
        );
        let (n, e) = other.numbers();
        let swapped = machine.layout(hcl::variable_data(&n, &e, Some(&padded(ours))));
        let honest = machine.layout(text.clone());
        refuse(
            "another TPM's key in the text, after the processor signed",
            "signed other paravisor data",
            &machine.evidence(&honest, &swapped, &other.azure_quote(ours), |_| {}),
        );
        let mut blank = text.clone();
        blank.push(b' ');
        refuse(
            "a blank in the text, after the processor signed",
            "signed other paravisor data",
            &machine.evidence(
                &honest,
                &machine.layout(blank),
                &machine.tpm.azure_quote(ours),
                |_| {},
            ),
        );
        let (n, e) = (vec![0xff; 128], vec![1, 0, 1]);
        let short = hcl::variable_data(&n, &e, Some(&padded(ours)));
        refuse("a short key", "1024 bits", &machine.with_text(short, ours));
        let said = |from: &str, to: &str| {
            let text = String::from_utf8(text.clone()).unwrap();
            machine.with_text(text.replacen(from, to, 1).into_bytes(), ours)
        };
        let (no_key, form) = ("names no RSA key HCLAkPub", "missing or has the wrong type");
        for (name, from, to, words) in [
            ("no key of that name", "HCLAkPub", "HCLEkPub", no_key),
            ("a key that is no RSA key", "\"n\":", "\"x\":", no_key),
            ("no keys", "\"keys\":", "\"k\":", form),
            ("no JSON", "{", "", form),
            (
                "user data that is not hexadecimal",
                "\"user-data\":\"",
                "\"user-data\":\"x",
                "not hexadecimal",
            ),
            (
                "user data that is no text",
                "\"user-data\":\"",
                "\"user-data\":1,\"x\":\"",
                form,
            ),
        ] {
            refuse(name, words, &said(from, to));
        }

        // PCRs and the quote's form.
        let mut pcrs = good.clone();
        pcrs["tpm_quote"]["pcrs"][4] = json!("5a".repeat(32));
        refuse("other PCRs than were quoted", "not the ones", &pcrs);
        pcrs["tpm_quote"]["pcrs"]
            .as_array_mut()
            .unwrap()
            .truncate(23);
        refuse("23 PCRs", "23 PCR values", &pcrs);
        let mut fewer = machine.tpm.clone();
        fewer.selection = "00000001000b03ffff00";
        let mut evidence = good.clone();
        evidence["tpm_quote"] = fewer.azure_quote(ours);
        refuse(
            "a quote over fewer PCRs",
            "expected [0x000b:ffffff]",
            &evidence,
        );
        for (member, value, words) in [
            ("signature", json!(""), "not by the attestation key"),
            (
                "signature",
                json!("00".repeat(256)),
                "not by the attestation key",
            ),
            ("signature", json!("!"), "not hexadecimal"),
            ("signature", json!("00".repeat(100_000)), "at most"),
            ("message", json!(""), "not by the attestation key"),
            ("message", json!("00".repeat(100_000)), "at most"),
            ("message", json!([1, 2]), "another form"),
            ("pcrs", json!([]), "0 PCR values"),
            (
                "pcrs",
                json!(vec!["zz".repeat(32); 24]),
                "64 hexadecimal digits",
            ),
        ] {
            let mut evidence = good.clone();
            evidence["tpm_quote"][member] = value;
            refuse(&format!("the quote's {member}"), words, &evidence);
        }

        // The report's layout.
        let (report_type, other_type) = if tee == Tee::AzSnpVtpm {
            (2, 4)
        } else {
            (4, 2)
        };
        for (name, report_type, hash_type, words) in [
            (
                "a report of the other processor",
                other_type,
                1,
                "of another processor",
            ),
            ("a report of no processor", 3, 1, "type 3"),
            ("a text under SHA-384", report_type, 2, "SHA-256"),
            ("a text under no hash", report_type, 0, "SHA-256"),
        ] {
            let layout = Layout {
                report_type,
                hash_type,
                variable_data: text.clone(),
            };
            let evidence =
                machine.evidence(&layout, &layout, &machine.tpm.azure_quote(ours), |_| {});
            refuse(name, words, &evidence);
        }
        let whole = b64u_padded::decode(good["hcl_report"].as_str().unwrap()).unwrap();
        for length in [0, 31, 32, 1215, 1216, 1235, 1236, 1236 + text.len() - 1] {
            let mut evidence = good.clone();
            evidence["hcl_report"] = json!(b64u_padded::encode(&whole[..length]));
            refuse(
                &format!("a report of {length} bytes"),
                "ends early",
                &evidence,
            );
        }
        let mut long = whole.clone();
        long[1232..1236].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut evidence = good.clone();
        evidence["hcl_report"] = json!(b64u_padded::encode(&long));
        refuse("a text of 4 GiB", "ends early", &evidence);
        evidence["hcl_report"] = json!(b64u_padded::encode([&whole[..], &[0; 100_000]].concat()));
        refuse("an oversize report", "at most 65536", &evidence);
        evidence["hcl_report"] = json!("+/");
        refuse("a report in another alphabet", "base64url", &evidence);

        // Forms.
        for member in ["version", "tpm_quote", "hcl_report"] {
            let mut evidence = good.clone();
            evidence.as_object_mut().unwrap().remove(member);
            refuse(&format!("no {member}"), "another form", &evidence);
        }
        for (name, value) in [
            ("null", Value::Null),
            ("a list", json!([])),
            ("nothing", json!({})),
        ] {
            refuse(name, "another form", &value);
        }
        let other_kind = Machine::new(KINDS[usize::from(tee == Tee::AzSnpVtpm)]);
        refuse(
            "the other kind's evidence",
            "another form",
            &other_kind.good(ours),
        );

        // Init-data that is not in PCR 8.
        for (name, pcr8) in [("an untouched PCR 8", [0; 32]), ("another PCR 8", [8; 32])] {
            let mut machine = Machine::new(tee);
            machine.tpm.pcrs[8] = pcr8;
            let good = machine.good(ours);
            let outcome = verify(
                tee,
                &good,
                &sessions.ours,
                Some(&init_data()),
                &machine.roots(),
            );
            table.refuse(&format!("{tee}: {name}"), "PCR 8", outcome);
        }
    }
    table.end(120);
}

#[test]
fn bad_processors_below_a_paravisor() {
    let sessions = Sessions::new();
    let ours = sessions.ours.as_bytes();
    let mut table = Table::default();
    let mut machine = Machine::new(Tee::AzSnpVtpm);
    let roots = machine.roots();
    let mut refuse = |name: &str, words: &str, evidence: &Value| {
        let outcome = verify(Tee::AzSnpVtpm, evidence, &sessions.ours, None, &roots);
        table.refuse(name, words, outcome);
    };
    for level in 1..=3 {
        let evidence = machine.changed(ours, |report| report.vmpl = level);
        refuse(&format!("VMPL {level}"), "VMPL", &evidence);
    }
    for (name, evidence, words) in [
        (
            "no report data",
            machine.changed(ours, |r| r.report_data = [0; 64]),
            "other paravisor data",
        ),
        (
            "another chip's id",
            machine.changed(ours, |r| r.chip_id[0] ^= 1),
            "another chip",
        ),
        (
            "older microcode",
            machine.changed(ours, |r| r.reported_tcb.microcode = 1),
            "microcode",
        ),
    ] {
        refuse(name, words, &evidence);
    }
    let stranger = Authority::new(now());
    let with_vcek = |vcek: &[u8]| {
        let mut evidence = machine.good(ours);
        evidence["vcek"] = json!(b64u_padded::encode(vcek));
        evidence
    };
    let vcek = &machine.chip.vek_der;
    let sibling = machine.authority.chip(Generation::Genoa);
    for (name, evidence, words) in [
        (
            "the VCEK of another chip",
            with_vcek(&sibling.vek_der),
            "not signed by",
        ),
        (
            "half a VCEK",
            with_vcek(&vcek[..vcek.len() / 2]),
            "no certificate",
        ),
        ("an empty VCEK", with_vcek(&[]), "no certificate"),
        (
            "an oversize VCEK",
            with_vcek(&vec![0x30; 1_000_000]),
            "no certificate",
        ),
        (
            "the ARK as VCEK",
            with_vcek(&machine.authority.ark_der),
            "no root vouches",
        ),
    ] {
        refuse(name, words, &evidence);
    }
    let mut text = machine.good(ours);
    text["vcek"] = json!("-----BEGIN CERTIFICATE-----");
    refuse("a VCEK in PEM", "base64url", &text);
    for (name, authority, validity, words) in [
        (
            "another root",
            &stranger,
            (now() - DAY, now() + DAY),
            "no root vouches",
        ),
        (
            "an expired VCEK",
            &machine.authority,
            (now() - 9 * DAY, now() - DAY),
            "is valid from",
        ),
        (
            "a VCEK of tomorrow",
            &machine.authority,
            (now() + DAY, now() + 9 * DAY),
            "is valid from",
        ),
    ] {
        let chip = authority.chip_with(Generation::Genoa, CertType::VCEK, validity);
        let layout = machine.layout(machine.text(Some(&padded(ours))));
        let mut evidence = machine.good(ours);
        evidence["hcl_report"] = json!(b64u_padded::encode(
            layout.report(&chip.report(layout.report_data()))
        ));
        evidence["vcek"] = json!(b64u_padded::encode(&chip.vek_der));
        refuse(name, words, &evidence);
    }

    machine.tee = Tee::AzTdxVtpm;
    let mut refuse = |name: &str, words: &str, evidence: &Value| {
        let outcome = verify(Tee::AzTdxVtpm, evidence, &sessions.ours, None, &roots);
        table.refuse(name, words, outcome);
    };
    let good = machine.good(ours);
    let quote = b64u_padded::decode(good["td_quote"].as_str().unwrap()).unwrap();
    let with_quote = |quote: &[u8]| {
        let mut evidence = good.clone();
        evidence["td_quote"] = json!(b64u_padded::encode(quote));
        evidence
    };
    let mut bit = quote.clone();
    bit[200] ^= 1;
    let other = Td {
        report_data: [9; 64],
        ..Td::default()
    };
    let strange = Platform::new(now()).quote(&Td::default());
    for (name, evidence, words) in [
        (
            "a changed quote",
            with_quote(&bit),
            "ISV enclave report signature is invalid",
        ),
        (
            "half a quote",
            with_quote(&quote[..quote.len() / 2]),
            "does not read",
        ),
        ("an empty quote", with_quote(&[]), "does not read"),
        (
            "an oversize quote",
            with_quote(&[&quote[..], &vec![0; 200_000]].concat()),
            "bytes long",
        ),
        (
            "a quote about something else",
            with_quote(&machine.platform.quote(&other)),
            "other paravisor data",
        ),
        (
            "a quote under another root",
            with_quote(&strange),
            "verify certificate chain",
        ),
    ] {
        refuse(name, words, &evidence);
    }
    table.end(20);
}

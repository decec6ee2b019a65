// SPDX-License-Identifier: Apache-2.0

//! The TPM attester against a real software TPM: what it asks of the TPM, what a verifier thinks of the
//! answer, and what a user reads when something is wrong with the TPM.

// A test file is a test: here a panic is the report.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use kbs_protocol::encoding::b64;
use kbs_protocol::evidence::TpmEvidence;
use kbs_protocol::message::RuntimeData;
use kbs_protocol::runtime_data::RuntimeDigest;
use kbs_protocol::tee_key::TeeKey;
use kbs_protocol::verify::{VerifiedQuote, tpm_quote};
use kbs_protocol::{Blame, NodeId, Owner, Persistence, Tee};
use sheepfold_tests::swtpm::SoftTpm;
use trustee_agent::evidence::tpm_status::{AkState, inspect};
use trustee_agent::evidence::{Attester, DEFAULT_AK_HANDLE, EvidenceError, TpmAttester, TpmError};

/// A new software TPM; without the programs for it the test says so and passes.
fn software_tpm() -> Option<SoftTpm> {
    if let Some(program) = SoftTpm::missing() {
        eprintln!("SKIPPED: {program} is not installed, so nothing was tested here");
        return None;
    }
    Some(SoftTpm::start().unwrap())
}

fn attester(tpm: &SoftTpm) -> TpmAttester {
    TpmAttester::open(&tpm.tcti(), DEFAULT_AK_HANDLE).unwrap()
}

fn open_error(tpm: &SoftTpm) -> TpmError {
    TpmAttester::open(&tpm.tcti(), DEFAULT_AK_HANDLE)
        .err()
        .unwrap()
}

/// The digest of a handshake with this nonce.
fn digest(nonce: &str) -> RuntimeDigest {
    let key = TeeKey::generate().unwrap().public();
    let data = RuntimeData {
        nonce: nonce.to_owned(),
        tee_pubkey: key,
    };
    RuntimeDigest::primary(&data, "").unwrap()
}

/// One handshake's evidence, as a KBS verifies it.
fn attest(attester: &mut TpmAttester, nonce: &str) -> VerifiedQuote {
    let digest = digest(nonce);
    let evidence = attester.collect(&digest).unwrap();
    let evidence: TpmEvidence = serde_json::from_value(evidence).unwrap();
    tpm_quote(&evidence, &digest.report_data(Tee::Tpm)).unwrap()
}

fn collect_error(attester: &mut TpmAttester) -> TpmError {
    match attester.collect(&digest("nonce")) {
        Err(EvidenceError::Tpm(error)) => error,
        other => panic!("expected a TPM error, got {other:?}"),
    }
}

#[test]
fn the_key_is_created_once_and_names_the_node_for_ever() {
    let Some(mut tpm) = software_tpm() else {
        return;
    };
    let first = attester(&tpm).node_id();
    assert!(tpm.take_commands().contains(&"CreatePrimary".to_owned()));

    assert_eq!(attester(&tpm).node_id(), first);
    tpm.restart().unwrap();
    assert_eq!(attester(&tpm).node_id(), first);
    assert!(!tpm.take_commands().contains(&"CreatePrimary".to_owned()));
}

#[test]
fn clearing_the_tpm_does_not_change_the_node() {
    let Some(tpm) = software_tpm() else { return };
    let first = attester(&tpm).node_id();
    tpm.tool(&["clear"]).unwrap();
    assert_eq!(attester(&tpm).node_id(), first);
    assert!(
        tpm.take_commands().contains(&"CreatePrimary".to_owned()),
        "it was gone"
    );
}

#[test]
fn other_tpms_are_other_nodes() {
    let (Some(one), Some(other)) = (software_tpm(), software_tpm()) else {
        return;
    };
    assert_ne!(attester(&one).node_id(), attester(&other).node_id());
}

#[test]
fn the_key_is_what_we_promise_and_others_read_it_alike() {
    let Some(tpm) = software_tpm() else { return };
    let spki = attester(&tpm).ak_spki_der().to_vec();
    let shown = tpm
        .tool(&[
            "readpublic",
            "-c",
            "0x81010002",
            "-f",
            "der",
            "-o",
            "ak.der",
        ])
        .unwrap();
    let shown = shown.out();
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
    for expected in [attributes, "value: rsassa", "bits: 2048"] {
        assert!(shown.contains(expected), "{expected} not in:\n{shown}");
    }
    assert_eq!(
        tpm.read_file("ak.der").unwrap(),
        spki,
        "tpm2-tools writes another encoding"
    );
}

#[test]
fn evidence_convinces_a_verifier_and_shows_the_real_pcrs() {
    let Some(tpm) = software_tpm() else { return };
    tpm.extend(4, &[0xab; 32]).unwrap();
    let mut attester = attester(&tpm);
    let verified = attest(&mut attester, "first");
    assert_eq!(verified.pcrs, tpm.read_pcrs().unwrap());
    assert_ne!(verified.pcrs[4], [0; 32]);
    attest(&mut attester, "second");
    assert_eq!(attester.tee(), Tee::Tpm);
    assert_eq!(
        attester.node_key().map(NodeId::from_spki_der),
        Some(attester.node_id())
    );
}

#[test]
fn a_handshake_costs_six_commands() {
    let Some(tpm) = software_tpm() else { return };
    drop(attester(&tpm));
    tpm.take_commands();
    let mut attester = attester(&tpm);
    attest(&mut attester, "nonce");
    drop(attester);
    let expected = [
        "ReadPublic",
        "ReadPublic",
        "Quote",
        "PCR_Read",
        "PCR_Read",
        "PCR_Read",
    ];
    assert_eq!(tpm.take_commands(), expected);
}

#[test]
fn creating_the_key_leaves_nothing_behind() {
    let Some(tpm) = software_tpm() else { return };
    drop(attester(&tpm));
    let expected = [
        "ReadPublic",
        "CreatePrimary",
        "EvictControl",
        "FlushContext",
        "ReadPublic",
        "ReadPublic",
    ];
    assert_eq!(tpm.take_commands(), expected);
    assert_eq!(
        tpm.tool(&["getcap", "handles-transient"]).unwrap().out(),
        ""
    );
}

#[test]
fn a_pcr_that_changes_between_quote_and_read_is_quoted_again() {
    let Some(tpm) = software_tpm() else { return };
    let mut attester = attester(&tpm);
    tpm.take_commands();
    let mut extended = false;
    tpm.on_response(move |tpm, command, _| {
        if command == "Quote" && !extended {
            extended = true;
            tpm.extend(14, &[1; 32]).unwrap();
        }
    });
    let verified = attest(&mut attester, "nonce");
    assert_eq!(verified.pcrs, tpm.read_pcrs().unwrap());
    let quotes = tpm
        .take_commands()
        .iter()
        .filter(|name| *name == "Quote")
        .count();
    assert_eq!(quotes, 2);
}

#[test]
fn a_pcr_that_never_rests_is_an_error_after_five_attempts() {
    let Some(tpm) = software_tpm() else { return };
    let mut attester = attester(&tpm);
    tpm.on_response(|tpm, command, _| {
        if command == "Quote" {
            tpm.extend(14, &[1; 32]).unwrap();
        }
    });
    let error = collect_error(&mut attester);
    assert_eq!(
        error.to_string(),
        "PCRs changed during each of 5 attempts to quote them"
    );
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Machine, Persistence::Temporary)
    );
}

#[test]
fn a_tpm_that_contradicts_itself_is_not_retried_for_ever() {
    let Some(tpm) = software_tpm() else { return };
    let mut attester = attester(&tpm);
    tpm.on_response(|_, command, response| {
        if command == "PCR_Read" {
            *response.last_mut().unwrap() ^= 1;
        }
    });
    let error = collect_error(&mut attester);
    assert!(matches!(error, TpmError::Contradiction), "{error}");
    assert_eq!(error.persistence(), Persistence::Permanent);
}

#[test]
fn a_key_replaced_behind_our_back_does_not_sign_for_us() {
    let Some(tpm) = software_tpm() else { return };
    let mut attester = attester(&tpm);
    tpm.tool(&["evictcontrol", "-C", "o", "-c", "0x81010002"])
        .unwrap();
    keep(&tpm, "o", "rsa2048:rsassa-sha256:null", GOOD);
    let error = collect_error(&mut attester);
    assert_eq!(
        error.to_string(),
        "the key at 0x81010002 was replaced while this program used it"
    );
}

#[test]
fn four_power_cuts_do_not_lock_the_node_out() {
    let Some(mut tpm) = software_tpm() else {
        return;
    };
    for round in 0..4 {
        attest(&mut attester(&tpm), &format!("boot {round}"));
        tpm.power_cut().unwrap();
    }
    attest(&mut attester(&tpm), "after the storm");
    let report = inspect(&tpm.tcti(), DEFAULT_AK_HANDLE).unwrap();
    assert!(!report.lockout);
}

#[test]
fn a_locked_tpm_still_attests() {
    let Some(mut tpm) = software_tpm() else {
        return;
    };
    lock_out(&mut tpm);
    assert!(inspect(&tpm.tcti(), DEFAULT_AK_HANDLE).unwrap().lockout);
    // Creating the key and quoting with it both work in lockout.
    attest(&mut attester(&tpm), "nonce");
}

/// Three power cuts while a key without noDA is in use: what the AK must not do.
fn lock_out(tpm: &mut SoftTpm) {
    let attributes = GOOD.replace("noda|", "");
    for _ in 0..4 {
        tpm.tool(&[
            "createprimary",
            "-C",
            "e",
            "-G",
            SCHEME,
            "-a",
            &attributes,
            "-c",
            "da.ctx",
        ])
        .unwrap();
        if tpm
            .tool(&["quote", "-c", "da.ctx", "-l", "sha256:0"])
            .is_err()
        {
            break;
        }
        tpm.power_cut().unwrap();
    }
}

#[test]
fn an_interrupted_creation_converges() {
    // Before the key is kept (the power cut takes the transient key along), and after.
    for last in ["CreatePrimary", "EvictControl"] {
        let Some(mut tpm) = software_tpm() else {
            return;
        };
        tpm.on_response(move |_, command, response| {
            if command == last {
                // TPM_RC_FAILURE: the program stops here.
                *response = vec![0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1];
            }
        });
        let error = open_error(&tpm).to_string();
        assert!(error.contains("the TPM is in failure mode"), "{error}");
        tpm.power_cut().unwrap();
        tpm.on_response(|_, _, _| {});
        tpm.take_commands();
        let node = attester(&tpm).node_id();
        let created = tpm.take_commands().contains(&"CreatePrimary".to_owned());
        assert_eq!(created, last == "CreatePrimary");
        attest(&mut attester(&tpm), "nonce");
        assert_eq!(attester(&tpm).node_id(), node);
    }
}

#[test]
fn two_programs_that_race_get_the_same_key() {
    let Some(tpm) = software_tpm() else { return };
    let tcti = tpm.tcti();
    let ids: Vec<NodeId> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    TpmAttester::open(&tcti, DEFAULT_AK_HANDLE)
                        .unwrap()
                        .node_id()
                })
            })
            .collect();
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .collect()
    });
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn who_comes_second_uses_the_first_ones_key() {
    let Some(tpm) = software_tpm() else { return };
    // Between our look at the empty handle and our EvictControl another program stores a key there.
    let mut stored = false;
    tpm.on_response(move |tpm, command, response| {
        if command == "CreatePrimary" && !stored {
            stored = true;
            let handle: [u8; 4] = response[10..14].try_into().unwrap();
            tpm.evict_control(handle, DEFAULT_AK_HANDLE).unwrap();
        }
    });
    attest(&mut attester(&tpm), "nonce");
    let commands = tpm.take_commands();
    let expected = [
        "ReadPublic",
        "CreatePrimary",
        "EvictControl",
        "FlushContext",
        "ReadPublic",
        "ReadPublic",
    ];
    assert_eq!(commands[..6], expected);
}

/// Keeps a primary key made by tpm2-tools at the AK's handle.
fn keep(tpm: &SoftTpm, hierarchy: &str, algorithm: &str, attributes: &str) {
    tpm.tool(&[
        "createprimary",
        "-C",
        hierarchy,
        "-G",
        algorithm,
        "-a",
        attributes,
        "-c",
        "key.ctx",
    ])
    .unwrap();
    tpm.tool(&["evictcontrol", "-C", "o", "-c", "key.ctx", "0x81010002"])
        .unwrap();
}

const SCHEME: &str = "rsa2048:rsassa-sha256:null";
const GOOD: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";

#[test]
fn weak_keys_are_refused_by_name() {
    let cases = [
        (
            SCHEME,
            GOOD.replace("restricted|", ""),
            "restricted is clear",
        ),
        (
            "rsa2048:aes128cfb",
            GOOD.replace("sign", "decrypt"),
            "sign is clear",
        ),
        (SCHEME, GOOD.replace("noda|", ""), "noDA is clear"),
        (
            SCHEME,
            GOOD.replace("userwithauth|", ""),
            "userWithAuth is clear",
        ),
        (
            "rsa2048:rsapss-sha256:null",
            GOOD.to_owned(),
            "scheme is not RSASSA with SHA-256",
        ),
        (
            "rsa2048:rsassa-sha384:null",
            GOOD.to_owned(),
            "scheme is not RSASSA with SHA-256",
        ),
        (
            "ecc256:ecdsa-sha256:null",
            GOOD.to_owned(),
            "not an RSA key",
        ),
        (
            "rsa1024:rsassa-sha256:null",
            GOOD.to_owned(),
            "fewer than 2048 bits",
        ),
    ];
    for (algorithm, attributes, why) in cases {
        let Some(tpm) = software_tpm() else { return };
        keep(&tpm, "o", algorithm, &attributes);
        let error = open_error(&tpm);
        let sentence = error.to_string();
        assert!(
            sentence.starts_with("the key at 0x81010002 is not an attestation key"),
            "{why}"
        );
        assert!(sentence.contains(why), "{why}: {sentence}");
        assert!(
            error
                .advice()
                .contains("tpm2_evictcontrol -C o -c 0x81010002")
        );
        assert_eq!(
            (error.owner(), error.persistence()),
            (Owner::Machine, Persistence::Permanent)
        );
        match inspect(&tpm.tcti(), DEFAULT_AK_HANDLE).unwrap().ak {
            AkState::Weak { why, .. } => assert_eq!(why, sentence),
            other => panic!("{other:?}"),
        }
    }
}

/// A key that can leave the TPM is not a primary key, so this one needs a parent.
#[test]
fn a_movable_key_is_refused_by_name() {
    let Some(tpm) = software_tpm() else { return };
    let attributes = GOOD.replace("fixedtpm|fixedparent|", "");
    tpm.tool(&["createprimary", "-C", "o", "-c", "parent.ctx"])
        .unwrap();
    let create = [
        "create",
        "-C",
        "parent.ctx",
        "-G",
        SCHEME,
        "-a",
        &attributes,
        "-c",
        "key.ctx",
    ];
    tpm.tool(&create).unwrap();
    tpm.tool(&["evictcontrol", "-C", "o", "-c", "key.ctx", "0x81010002"])
        .unwrap();
    let sentence = open_error(&tpm).to_string();
    assert!(sentence.contains("fixedTPM is clear"), "{sentence}");
}

#[test]
fn a_tpm_without_a_sha256_bank_says_which_banks_it_has() {
    let Some(mut tpm) = software_tpm() else {
        return;
    };
    tpm.tool(&[
        "pcrallocate",
        "sha1:all+sha256:none+sha384:none+sha512:none",
    ])
    .unwrap();
    tpm.restart().unwrap();
    let error = collect_error(&mut attester(&tpm));
    assert_eq!(
        error.to_string(),
        "the TPM has no complete SHA-256 PCR bank, it keeps sha1"
    );
    assert!(error.advice().contains("tpm2_pcrallocate"));
    let report = inspect(&tpm.tcti(), DEFAULT_AK_HANDLE).unwrap();
    assert_eq!((report.banks, report.pcrs), (vec!["sha1".to_owned()], None));
}

#[test]
fn a_quote_over_other_pcrs_than_asked_for_is_not_passed_on() {
    let Some(tpm) = software_tpm() else { return };
    let mut attester = attester(&tpm);
    tpm.on_response(|_, command, response| {
        if command == "Quote" {
            let all = [0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0xff, 0xff];
            let at = response
                .windows(all.len())
                .position(|window| window == all)
                .unwrap();
            response[at + 7] = 0xfe;
        }
    });
    let error = collect_error(&mut attester);
    assert!(matches!(error, TpmError::NoSha256Bank { .. }), "{error}");
}

#[test]
fn hierarchy_passwords_are_told_apart() {
    for (hierarchy, doing, cure) in [
        ("e", "creating the attestation key", "tpm2_changeauth -c e"),
        ("o", "storing the attestation key", "tpm2_changeauth -c o"),
    ] {
        let Some(tpm) = software_tpm() else { return };
        tpm.tool(&["changeauth", "-c", hierarchy, "secret"])
            .unwrap();
        let error = open_error(&tpm);
        let expected = "failed: it needs an authorization that this program does not have";
        assert!(
            error
                .to_string()
                .starts_with(&format!("{doing} {expected}")),
            "{error}"
        );
        assert!(error.advice().contains(cure), "{}", error.advice());
        assert_eq!(
            tpm.tool(&["getcap", "handles-transient"]).unwrap().out(),
            ""
        );
    }
}

#[test]
fn a_key_with_a_password_is_reported_as_such() {
    let Some(tpm) = software_tpm() else { return };
    tpm.tool(&[
        "createprimary",
        "-C",
        "o",
        "-G",
        SCHEME,
        "-a",
        GOOD,
        "-p",
        "secret",
        "-c",
        "key.ctx",
    ])
    .unwrap();
    tpm.tool(&["evictcontrol", "-C", "o", "-c", "key.ctx", "0x81010002"])
        .unwrap();
    let error = collect_error(&mut attester(&tpm));
    assert!(
        error
            .to_string()
            .starts_with("quoting the PCRs failed: it needs an auth"),
        "{error}"
    );
    assert!(
        error
            .advice()
            .contains("the attestation key has a password")
    );
}

#[test]
fn no_software_tpm_no_such_kind_no_device() {
    let error = |tcti: &str| TpmAttester::open(tcti, DEFAULT_AK_HANDLE).err().unwrap();
    let nobody = error("swtpm:host=127.0.0.1,port=1");
    assert_eq!(
        nobody.to_string(),
        "no TPM answers at swtpm:host=127.0.0.1,port=1"
    );
    // Read by us, so that another kind is refused by its name and not by a library that is missing.
    let kind = error("tabrmd:bus_name=no.such.bus,bus_type=session");
    assert!(matches!(kind, TpmError::BadTcti { .. }), "{kind}");
    assert_eq!(kind.persistence(), Persistence::Permanent);
    let device = error("device:/dev/does-not-exist");
    assert_eq!(
        device.to_string(),
        "there is no TPM device /dev/does-not-exist"
    );
    // A file that is there, but no TPM.
    let file = error("device:/dev/null");
    assert_eq!(
        file.to_string(),
        "the device /dev/null does not answer as a TPM"
    );
    assert_eq!(file.owner(), Owner::Machine);
}

#[test]
fn a_tpm_that_shows_fewer_pcrs_at_once_is_asked_again() {
    let Some(tpm) = software_tpm() else { return };
    tpm.extend(5, &[7; 32]).unwrap();
    let mut attester = attester(&tpm);
    tpm.take_commands();
    tpm.on_response(|_, command, response| {
        if command == "PCR_Read" {
            keep_lowest_pcr(response);
        }
    });
    assert_eq!(
        attest(&mut attester, "nonce").pcrs,
        tpm.read_pcrs().unwrap()
    );
    let reads = tpm
        .take_commands()
        .iter()
        .filter(|name| *name == "PCR_Read")
        .count();
    assert_eq!(reads, 24);
}

/// Cuts a TPM2_PCR_Read response down to its first PCR: header 10, counter 4, selection 10 with the bitmap
/// in its last three bytes, count 4, then size and value for each.
fn keep_lowest_pcr(response: &mut Vec<u8>) {
    let bitmap = u32::from_le_bytes([response[21], response[22], response[23], 0]);
    let lowest = bitmap & bitmap.wrapping_neg();
    response[21..24].copy_from_slice(&lowest.to_le_bytes()[..3]);
    response[24..28].copy_from_slice(&[0, 0, 0, 1]);
    response.truncate(28 + 34);
    let size = u32::try_from(response.len()).unwrap().to_be_bytes();
    response[2..6].copy_from_slice(&size);
}

#[test]
fn the_report_changes_nothing() {
    let Some(tpm) = software_tpm() else { return };
    tpm.take_commands();
    let report = inspect(&tpm.tcti(), DEFAULT_AK_HANDLE).unwrap();
    assert_eq!(report.ak, AkState::Absent);
    assert_eq!(report.manufacturer, "IBM");
    assert!(
        report.banks.contains(&"sha256".to_owned()),
        "{:?}",
        report.banks
    );
    assert_eq!(report.pcrs.map(|pcrs| pcrs.len()), Some(24));
    let commands = tpm.take_commands();
    let reads = ["GetCapability", "PCR_Read", "ReadPublic"];
    assert!(
        commands.iter().all(|name| reads.contains(&name.as_str())),
        "{commands:?}"
    );

    let attester = attester(&tpm);
    let node_id = attester.node_id().to_string();
    let key = b64::encode(attester.ak_spki_der());
    drop(attester);
    match inspect(&tpm.tcti(), DEFAULT_AK_HANDLE).unwrap().ak {
        AkState::Ok {
            node_id: reported,
            spki_sha256,
            ak_public,
        } => {
            assert_eq!(reported, node_id);
            assert_eq!(spki_sha256[..8], node_id[..8]);
            assert_eq!(ak_public, key);
        }
        other => panic!("{other:?}"),
    }
}

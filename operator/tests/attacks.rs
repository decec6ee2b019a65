// SPDX-License-Identifier: Apache-2.0

//! The attack table of the enrolment, on real software TPMs. Each test begins with what works, so that
//! what does not work fails for the one reason it is about.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "in a test a panic is the report"
)]

mod enrolment;

use enrolment::{
    DAY, Forge, World, area, by_certificate, can_run, enroller, maker, not_ours, source,
    with_attributes,
};
use kbs_protocol::Secret;
use kbs_protocol::encoding::{b64, hex};
use kbs_protocol::enroll::{BeginWire, Refusal, RefusalKind, State};
use kbs_protocol::tpm::public::attribute;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use sheepfold_operator::register::Registrar;
use sheepfold_operator::register::config::Limits;
use sheepfold_operator::register::identity::Identity;
use sheepfold_operator::register::keys;
use sheepfold_operator::register::limit::Source;
use sheepfold_tests::swtpm::{Authority, SoftTpm};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

/// What a registrar said to a request that it must refuse.
fn refused(world: &World, wire: &BeginWire) -> (RefusalKind, String) {
    let refusal = world.begin(wire).unwrap_err();
    (refusal.error, refusal.detail)
}

#[test]
fn a_certified_tpm_enrols_and_enrols_again() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::certified(maker()).unwrap();
    let world = World::new(by_certificate(maker()));
    let mut node = enroller(&tpm);
    assert!(node.has_certificate());
    let first = world.enrol(&mut node).unwrap();
    assert_eq!(
        (first.node_id, first.state),
        (node.node_id(), State::Approved)
    );
    drop(node);
    let again = world.enrol(&mut enroller(&tpm)).unwrap();
    assert_eq!(again, first);

    let registered = world.registry().all().unwrap();
    assert_eq!(registered.len(), 1);
    assert_eq!(registered[0].keys.len(), 1, "idempotent");
    assert_eq!(
        registered[0].keys[0].ak_public,
        b64::encode(enroller(&tpm).ak_spki_der())
    );
    assert_eq!(registered[0].keys[0].product.as_deref(), Some("test box"));
    let audit = world.audit();
    let decisions: Vec<_> = audit
        .iter()
        .map(|line| line["decision"].as_str().unwrap())
        .collect();
    assert_eq!(
        decisions,
        ["challenged", "approved", "challenged", "approved"]
    );
    for line in &audit {
        assert_eq!(line["node_id"], first.node_id.to_string());
        assert_eq!(line["identity"], "ek-certificate");
        assert_eq!(line["source"], "192.0.2.1");
    }
}

/// P-256: swtpm_setup certifies P-384 only, so the certificate is ours.
#[test]
fn an_ecc_endorsement_key_enrols_as_well() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let forge = Forge::new();
    tpm.tool(&[
        "createek", "-Q", "-G", "ecc", "-c", "ek.ctx", "-u", "ek.pub",
    ])
    .unwrap();
    let ek = area(&b64::encode(tpm.read_file("ek.pub").unwrap()));
    tpm.write_file("ek.crt", &forge.certify(&ek, |_| {}))
        .unwrap();
    let size = tpm.read_file("ek.crt").unwrap().len().to_string();
    let attributes = "ppwrite|authread|ownerread|ppread|platformcreate|no_da|write_stclear";
    tpm.tool(&[
        "nvdefine",
        "-Q",
        "0x01c0000a",
        "-C",
        "p",
        "-s",
        &size,
        "-a",
        attributes,
    ])
    .unwrap();
    tpm.tool(&["nvwrite", "-Q", "0x01c0000a", "-C", "p", "-i", "ek.crt"])
        .unwrap();

    let world = World::new(forge.identity());
    // The seed is shared by ECDH: several times, because every ephemeral key is another case.
    for _ in 0..4 {
        let mut node = enroller(&tpm);
        assert_eq!(area(&node.begin().unwrap().ek_public), ek);
        assert_eq!(world.enrol(&mut node).unwrap().state, State::Approved);
    }
}

/// Some hypervisors define the index of the certificate and never write it.
#[test]
fn an_empty_certificate_index_is_no_certificate() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let attributes = "ppwrite|authread|ownerread|ppread|platformcreate|no_da|write_stclear";
    tpm.tool(&[
        "nvdefine",
        "-Q",
        "0x01c00002",
        "-C",
        "p",
        "-s",
        "800",
        "-a",
        attributes,
    ])
    .unwrap();
    let node = enroller(&tpm);
    assert!(!node.has_certificate());
    World::new(Identity::TrustOnFirstUse)
        .begin(&node.begin().unwrap())
        .unwrap();
}

/// What we wrap, another program opens; what another program wraps, we open.
#[test]
fn credentials_are_those_of_the_specification() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let world = World::new(Identity::TrustOnFirstUse);
    // Opened anew where it is used: other programs flush what is in this TPM.
    let begin = enroller(&tpm).begin().unwrap();
    for algorithm in ["rsa", "ecc"] {
        tpm.tool(&[
            "createek", "-Q", "-G", algorithm, "-c", "ek.ctx", "-u", "ek.pub",
        ])
        .unwrap();
        let wire = BeginWire {
            ek_public: b64::encode(tpm.read_file("ek.pub").unwrap()),
            ..begin.clone()
        };
        let challenge = world.begin(&wire).unwrap();
        let opened = activate_with_tools(
            &tpm,
            "0x81010002",
            &challenge.credential_blob,
            &challenge.secret,
        )
        .unwrap();
        let outcome = world
            .finish(&challenge.enrolment, &Secret::new(opened))
            .unwrap();
        assert_eq!(outcome.node_id, enroller(&tpm).node_id(), "{algorithm}");
    }

    // The other way round, with the RSA key that the agent uses.
    tpm.tool(&[
        "createek", "-Q", "-G", "rsa", "-c", "ek.ctx", "-u", "ek.pub",
    ])
    .unwrap();
    tpm.write_file("secret", b"from tpm2-tools").unwrap();
    let name = hex::encode(area(&begin.ak_public).name());
    tpm.tool(&[
        "makecredential",
        "-Q",
        "-e",
        "ek.pub",
        "-s",
        "secret",
        "-n",
        &name,
        "-o",
        "cred",
    ])
    .unwrap();
    let made = tpm.read_file("cred").unwrap();
    // Magic and version of tpm2-tools, then TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
    let blob_end = 8 + 2 + usize::from(u16::from_be_bytes([made[8], made[9]]));
    let challenge = kbs_protocol::enroll::Challenge {
        enrolment: "none".to_owned(),
        credential_blob: made[8..blob_end].to_vec(),
        secret: made[blob_end..].to_vec(),
    };
    assert_eq!(
        enroller(&tpm).activate(&challenge).unwrap().expose(),
        b"from tpm2-tools"
    );
}

/// TPM2_ActivateCredential by tpm2-tools, with the RSA or ECC endorsement key in `ek.ctx`.
fn activate_with_tools(
    tpm: &SoftTpm,
    ak: &str,
    blob: &[u8],
    secret: &[u8],
) -> anyhow::Result<Vec<u8>> {
    let header = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
    tpm.write_file("cred", &[&header[..], blob, secret].concat())?;
    tpm.tool(&[
        "startauthsession",
        "-Q",
        "--policy-session",
        "-S",
        "session.ctx",
    ])?;
    tpm.tool(&["policysecret", "-Q", "-S", "session.ctx", "-c", "e"])?;
    let opened = tpm.tool(&[
        "activatecredential",
        "-Q",
        "-c",
        ak,
        "-C",
        "ek.ctx",
        "-i",
        "cred",
        "-o",
        "opened",
        "-P",
        "session:session.ctx",
    ]);
    tpm.tool(&["flushcontext", "session.ctx"])?;
    opened?;
    tpm.read_file("opened")
}

#[test]
fn a_software_key_cannot_pose_as_an_attestation_key() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::certified(maker()).unwrap();
    let world = World::new(by_certificate(maker()));
    let honest = enroller(&tpm).begin().unwrap();
    tpm.tool(&[
        "createek", "-Q", "-G", "rsa", "-c", "ek.ctx", "-u", "ek.pub",
    ])
    .unwrap();

    // A modulus whose private half somebody has on a file, in an otherwise perfect public area.
    let mut forged = b64::decode(&honest.ak_public).unwrap();
    let modulus = forged.len() - 256;
    forged[modulus + 1..].fill(0x5b);
    let wire = BeginWire {
        ak_public: b64::encode(&forged),
        ..honest.clone()
    };
    let challenge = world.begin(&wire).unwrap();
    assert!(
        not_ours(&enroller(&tpm).activate(&challenge).err().unwrap()),
        "another name"
    );
    // The TPM loads such a public area, but will not activate for a key whose private half it lacks.
    tpm.write_file("forged.pub", &forged).unwrap();
    tpm.tool(&[
        "loadexternal",
        "-Q",
        "-C",
        "n",
        "-u",
        "forged.pub",
        "-c",
        "forged.ctx",
    ])
    .unwrap();
    let error = activate_with_tools(
        &tpm,
        "forged.ctx",
        &challenge.credential_blob,
        &challenge.secret,
    );
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("activatecredential"), "{error}");
    let guessed = world
        .finish(&challenge.enrolment, &Secret::new(vec![0; 32]))
        .unwrap_err();
    assert_eq!(guessed.error, RefusalKind::WrongSecret);
    assert_eq!(world.registry().all().unwrap(), []);

    // The same procedure with the true key.
    let challenge = world.begin(&honest).unwrap();
    let opened = activate_with_tools(
        &tpm,
        "0x81010002",
        &challenge.credential_blob,
        &challenge.secret,
    )
    .unwrap();
    assert_eq!(
        world
            .finish(&challenge.enrolment, &Secret::new(opened))
            .unwrap()
            .state,
        State::Approved
    );
}

#[test]
fn an_attestation_key_must_be_able_to_prove_something() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let world = World::new(Identity::TrustOnFirstUse);
    let honest = enroller(&tpm).begin().unwrap();
    world.begin(&honest).unwrap();
    let show = |ak_public: String| {
        let wire = BeginWire {
            ak_public,
            ..honest.clone()
        };
        refused(&world, &wire)
    };

    // Real keys that a TPM made: signing, but not restricted; of other sizes, schemes and kinds.
    let fixed = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign";
    for (algorithm, attributes, reason) in [
        (
            "rsa2048:rsassa-sha256:null",
            fixed.to_owned(),
            "not restricted",
        ),
        (
            "rsa2048:rsapss-sha256:null",
            format!("{fixed}|restricted"),
            "RSASSA",
        ),
        (
            "rsa2048:rsassa-sha1:null",
            format!("{fixed}|restricted"),
            "SHA-256",
        ),
        (
            "rsa3072:rsassa-sha256:null",
            format!("{fixed}|restricted"),
            "RSA-2048",
        ),
        (
            "ecc256:ecdsa-sha256:null",
            format!("{fixed}|restricted"),
            "RSASSA",
        ),
    ] {
        tpm.tool(&[
            "createprimary",
            "-Q",
            "-C",
            "e",
            "-G",
            algorithm,
            "-a",
            &attributes,
            "-c",
            "key.ctx",
        ])
        .unwrap();
        tpm.tool(&["readpublic", "-Q", "-c", "key.ctx", "-o", "key.pub"])
            .unwrap();
        let (kind, detail) = show(b64::encode(tpm.read_file("key.pub").unwrap()));
        assert_eq!(kind, RefusalKind::AkUnsuitable, "{algorithm}");
        assert!(detail.contains(reason), "{algorithm}: {detail}");
    }
    // Each attribute alone.
    for (attribute, reason) in [
        (attribute::RESTRICTED, "not restricted"),
        (attribute::SIGN, "does not sign"),
        (attribute::FIXED_TPM, "fixedTPM"),
        (attribute::FIXED_PARENT, "fixedParent"),
        (attribute::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
        (attribute::DECRYPT, "decrypts"),
    ] {
        let (kind, detail) = show(with_attributes(&honest.ak_public, |all| all ^ attribute));
        assert_eq!(kind, RefusalKind::AkUnsuitable);
        assert!(detail.contains(reason), "{reason}: {detail}");
    }
}

#[test]
fn an_endorsement_key_must_be_able_to_protect_a_credential() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let world = World::new(Identity::TrustOnFirstUse);
    let honest = enroller(&tpm).begin().unwrap();
    let show = |ek_public: String| {
        let wire = BeginWire {
            ek_public,
            ..honest.clone()
        };
        refused(&world, &wire)
    };
    for (attribute, reason) in [
        (attribute::RESTRICTED, "not restricted"),
        (attribute::DECRYPT, "does not decrypt"),
        (attribute::FIXED_TPM, "fixedTPM"),
        (attribute::FIXED_PARENT, "fixedParent"),
        (attribute::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
        (attribute::SIGN, "it signs"),
    ] {
        let (kind, detail) = show(with_attributes(&honest.ek_public, |all| all ^ attribute));
        assert_eq!(kind, RefusalKind::EkUnsuitable);
        assert!(detail.contains(reason), "{reason}: {detail}");
    }
    // A storage key with another cipher, and one of another size: whole keys of this TPM.
    let storage = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt";
    for (algorithm, reason) in [
        ("rsa2048:aes256cfb", "AES-128"),
        ("rsa3072:aes128cfb", "another length"),
    ] {
        tpm.tool(&[
            "createprimary",
            "-Q",
            "-C",
            "e",
            "-G",
            algorithm,
            "-a",
            storage,
            "-c",
            "key.ctx",
        ])
        .unwrap();
        tpm.tool(&["readpublic", "-Q", "-c", "key.ctx", "-o", "key.pub"])
            .unwrap();
        let (kind, detail) = show(b64::encode(tpm.read_file("key.pub").unwrap()));
        assert_eq!(kind, RefusalKind::EkUnsuitable, "{algorithm}");
        assert!(detail.contains(reason), "{algorithm}: {detail}");
    }
}

#[test]
fn a_stolen_certificate_opens_nothing() {
    if !can_run() {
        return;
    }
    let (victim, thief) = (
        SoftTpm::certified(maker()).unwrap(),
        SoftTpm::certified(maker()).unwrap(),
    );
    let world = World::new(by_certificate(maker()));
    let (theirs, mut ours) = (enroller(&victim).begin().unwrap(), enroller(&thief));
    let own = ours.begin().unwrap();

    // Endorsement key and certificate are public: anybody can send them. Only their TPM can answer.
    let wire = BeginWire {
        ak_public: own.ak_public.clone(),
        ..theirs.clone()
    };
    let challenge = world.begin(&wire).unwrap();
    assert!(not_ours(&ours.activate(&challenge).err().unwrap()));
    let guess = world
        .finish(&challenge.enrolment, &Secret::new(vec![1; 32]))
        .unwrap_err();
    assert_eq!(guess.error, RefusalKind::WrongSecret);
    // The victim's TPM answers, but not for a key that is in another one.
    assert!(not_ours(
        &enroller(&victim).activate(&challenge).err().unwrap()
    ));

    // The certificate with another endorsement key.
    let wire = BeginWire {
        ek_certificate: theirs.ek_certificate,
        ..own
    };
    let (kind, detail) = refused(&world, &wire);
    assert_eq!(kind, RefusalKind::EkCertificate);
    assert!(detail.contains("another key"), "{detail}");
    assert_eq!(world.registry().all().unwrap(), []);
}

#[test]
fn an_activation_counts_once() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let mut world = World::new(Identity::TrustOnFirstUse);
    let mut node = enroller(&tpm);
    let challenge = world.begin(&node.begin().unwrap()).unwrap();
    let secret = node.activate(&challenge).unwrap();
    world.finish(&challenge.enrolment, &secret).unwrap();
    let replayed = world.finish(&challenge.enrolment, &secret).unwrap_err();
    assert_eq!(replayed.error, RefusalKind::UnknownEnrolment);

    // Too late is like never.
    let challenge = world.begin(&node.begin().unwrap()).unwrap();
    let secret = node.activate(&challenge).unwrap();
    world.now += Limits::default().pending_time + Duration::from_secs(1);
    let late = world.finish(&challenge.enrolment, &secret).unwrap_err();
    assert_eq!(late.error, RefusalKind::UnknownEnrolment);
    assert!(!world.audit_text().contains(&b64::encode(secret.expose())));
    assert!(!world.audit_text().contains(&hex::encode(secret.expose())));
}

#[test]
fn a_swapped_credential_helps_nobody() {
    if !can_run() {
        return;
    }
    let (one, other) = (SoftTpm::start().unwrap(), SoftTpm::start().unwrap());
    let world = World::new(Identity::TrustOnFirstUse);
    let (mut node, mut neighbour) = (enroller(&one), enroller(&other));
    let for_node = world.begin(&node.begin().unwrap()).unwrap();
    let for_neighbour = world.begin(&neighbour.begin().unwrap()).unwrap();
    assert!(not_ours(&node.activate(&for_neighbour).err().unwrap()));

    let neighbours = neighbour.activate(&for_neighbour).unwrap();
    let swapped = world.finish(&for_node.enrolment, &neighbours).unwrap_err();
    assert_eq!(swapped.error, RefusalKind::WrongSecret);
    // One challenge is one try: the right answer comes too late.
    let right = node.activate(&for_node).unwrap();
    let burnt = world.finish(&for_node.enrolment, &right).unwrap_err();
    assert_eq!(burnt.error, RefusalKind::UnknownEnrolment);
    assert_eq!(
        world
            .finish(&for_neighbour.enrolment, &neighbours)
            .unwrap()
            .node_id,
        neighbour.node_id()
    );

    // Parts of two credentials make none.
    let mixed = kbs_protocol::enroll::Challenge {
        secret: world.begin(&node.begin().unwrap()).unwrap().secret,
        ..world.begin(&node.begin().unwrap()).unwrap()
    };
    assert!(not_ours(&node.activate(&mixed).err().unwrap()));
}

#[test]
fn an_unknown_maker_is_not_believed() {
    if !can_run() {
        return;
    }
    let nobody = Authority::new().unwrap();
    let tpm = SoftTpm::certified(&nobody).unwrap();
    let begin = enroller(&tpm).begin().unwrap();
    World::new(by_certificate(&nobody)).begin(&begin).unwrap();
    // The same names, other keys: swtpm_localca calls every authority alike.
    let world = World::new(by_certificate(maker()));
    let (kind, _) = refused(&world, &begin);
    assert_eq!(kind, RefusalKind::EkNotTrusted);
    // What the node sends along is no root.
    let chain = [nobody.intermediate().unwrap(), nobody.root().unwrap()];
    let der = |pem: &String| {
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        text
    };
    let wire = BeginWire {
        ek_chain: chain.iter().map(der).collect(),
        ..begin.clone()
    };
    let (kind, _) = refused(&world, &wire);
    assert_eq!(kind, RefusalKind::EkNotTrusted);
    let other = World::new(Forge::new().identity());
    assert_eq!(
        refused(&other, &wire).0,
        RefusalKind::EkNotTrusted,
        "another name"
    );

    let none = BeginWire {
        ek_certificate: None,
        ..begin
    };
    assert_eq!(refused(&world, &none).0, RefusalKind::EkCertificateMissing);
}

/// The chain may come from the TPM or from the registrar's own files; either way a root must end it.
#[test]
fn the_chain_may_come_from_the_node() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::certified(maker()).unwrap();
    let root_only = Identity::EkCertificate {
        roots: sheepfold_operator::register::certificate::Roots::parse(
            &maker().root().unwrap(),
            "",
        )
        .unwrap(),
        also_listed: BTreeSet::new(),
    };
    let world = World::new(root_only);
    let begin = enroller(&tpm).begin().unwrap();
    assert_eq!(refused(&world, &begin).0, RefusalKind::EkNotTrusted);
    let pem = maker().intermediate().unwrap();
    let intermediate: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    // In the TPM's own memory, as some makers deliver it.
    tpm.write_file("chain.der", &b64::decode(&intermediate).unwrap())
        .unwrap();
    let size = tpm.read_file("chain.der").unwrap().len();
    for (index, range) in [("0x01c00100", 0..700), ("0x01c00101", 700..size)] {
        let part = tpm.read_file("chain.der").unwrap()[range.clone()].to_vec();
        tpm.write_file("part", &part).unwrap();
        let attributes = "ppwrite|authread|ownerread|ppread|platformcreate|no_da|write_stclear";
        tpm.tool(&[
            "nvdefine",
            "-Q",
            index,
            "-C",
            "p",
            "-s",
            &part.len().to_string(),
            "-a",
            attributes,
        ])
        .unwrap();
        tpm.tool(&["nvwrite", "-Q", index, "-C", "p", "-i", "part"])
            .unwrap();
    }
    let mut node = enroller(&tpm);
    assert_eq!(node.begin().unwrap().ek_chain, [intermediate]);
    assert_eq!(world.enrol(&mut node).unwrap().state, State::Approved);
}

#[test]
fn a_certificate_must_be_a_good_one() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let forge = Forge::new();
    let mut world = World::new(forge.identity());
    let honest = enroller(&tpm).begin().unwrap();
    let ek = area(&honest.ek_public);
    let with = |certificate: &[u8]| BeginWire {
        ek_certificate: Some(b64::encode(certificate)),
        ..honest.clone()
    };
    let good = forge.certify(&ek, |_| {});
    world.begin(&with(&good)).unwrap();

    type Change = Box<dyn Fn(&mut rcgen::CertificateParams)>;
    let cases: [(&str, Change); 8] = [
        (
            "keyUsage lacks keyEncipherment",
            Box::new(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ),
        ("what its key is for", Box::new(|p| p.key_usages.clear())),
        (
            "tcg-kp-EKCertificate",
            Box::new(|p| p.extended_key_usages.clear()),
        ),
        (
            "tcg-kp-EKCertificate",
            Box::new(|p| {
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 2])]
            }),
        ),
        (
            "expired",
            Box::new(|p| p.not_after = rcgen::date_time_ymd(2020, 1, 1)),
        ),
        (
            "not valid yet",
            Box::new(|p| p.not_before = rcgen::date_time_ymd(4000, 1, 1)),
        ),
        (
            "of an authority",
            Box::new(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        ),
        (
            "critical extension",
            Box::new(|p| {
                let mut strange = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                strange.set_criticality(true);
                p.custom_extensions.push(strange);
            }),
        ),
    ];
    for (reason, change) in cases {
        let (kind, detail) = refused(&world, &with(&forge.certify(&ek, change)));
        assert_eq!(kind, RefusalKind::EkCertificate, "{reason}: {detail}");
        assert!(detail.contains(reason), "{reason}: {detail}");
    }

    for length in [0, 1, good.len() / 2, good.len() - 1] {
        assert_eq!(
            refused(&world, &with(&good[..length])).0,
            RefusalKind::EkCertificate,
            "{length} bytes"
        );
    }
    let longer = [&good[..], &[0]].concat();
    assert!(refused(&world, &with(&longer)).1.contains("1 bytes follow"));
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let (kind, detail) = refused(&world, &with(&changed));
    assert_eq!(kind, RefusalKind::EkNotTrusted);
    assert!(detail.contains("not signed by"), "{detail}");

    // Time passes.
    let short = forge.certify(&ek, |p| p.not_after = rcgen::date_time_ymd(2999, 1, 1));
    world.begin(&with(&short)).unwrap();
    world.now += DAY * 366 * 1000;
    assert!(refused(&world, &with(&short)).1.contains("expired"));
}

#[test]
fn a_list_of_endorsement_keys_lets_in_those_on_it() {
    if !can_run() {
        return;
    }
    let (listed, other) = (
        SoftTpm::certified(maker()).unwrap(),
        SoftTpm::certified(maker()).unwrap(),
    );
    let digest = enroller(&listed).ek_sha256().unwrap();
    assert_eq!(
        digest,
        keys::digest(&area(&enroller(&listed).begin().unwrap().ek_public)).unwrap()
    );
    // As an administrator computes it.
    listed
        .tool(&[
            "createek", "-Q", "-G", "rsa", "-c", "ek.ctx", "-f", "der", "-u", "ek.der",
        ])
        .unwrap();
    let spki = listed.read_file("ek.der").unwrap();
    assert_eq!(
        kbs_protocol::NodeId::from_spki_der(&spki).to_string()[..8],
        hex::encode(digest)[..8]
    );

    let list = BTreeSet::from([digest]);
    let Identity::EkCertificate { roots, .. } = by_certificate(maker()) else {
        panic!("by certificate")
    };
    for identity in [
        Identity::EkAllowList(list.clone()),
        Identity::EkCertificate {
            roots,
            also_listed: list,
        },
    ] {
        let world = World::new(identity);
        assert_eq!(
            world.enrol(&mut enroller(&listed)).unwrap().state,
            State::Approved
        );
        let (kind, detail) = refused(&world, &enroller(&other).begin().unwrap());
        assert_eq!(kind, RefusalKind::EkNotTrusted);
        assert!(detail.contains("not on the list"), "{detail}");
    }
}

#[test]
fn a_second_key_for_a_tpm_waits() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::certified(maker()).unwrap();
    let world = World::new(by_certificate(maker()));
    let first = world.enrol(&mut enroller(&tpm)).unwrap();

    // Another key of the same TPM that would be as good: from another hierarchy.
    tpm.tool(&["evictcontrol", "-Q", "-C", "o", "-c", "0x81010002"])
        .unwrap();
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
    tpm.tool(&[
        "createprimary",
        "-Q",
        "-C",
        "o",
        "-G",
        "rsa2048:rsassa-sha256:null",
        "-a",
        attributes,
        "-c",
        "k",
    ])
    .unwrap();
    tpm.tool(&["evictcontrol", "-Q", "-C", "o", "-c", "k", "0x81010002"])
        .unwrap();
    let mut node = enroller(&tpm);
    assert_ne!(node.node_id(), first.node_id);
    for _ in 0..2 {
        let second = world.enrol(&mut node).unwrap();
        assert_eq!(
            (second.node_id, second.state),
            (node.node_id(), State::Held)
        );
        assert!(second.reason.unwrap().contains("another attestation key"));
    }
    assert_eq!(world.audit().last().unwrap()["decision"], "held");

    assert!(world.registry().approve(node.node_id()).unwrap());
    assert_eq!(world.enrol(&mut node).unwrap().state, State::Approved);
    let registered = world.registry().all().unwrap();
    let approved: Vec<_> = registered[0]
        .keys
        .iter()
        .filter(|key| key.state == State::Approved)
        .collect();
    assert_eq!(
        approved.len(),
        1,
        "one attestation key for each endorsement key"
    );
}

#[test]
fn a_flood_fills_its_own_share_only() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let limits = Limits {
        pending: 6,
        pending_per_address: 3,
        requests_per_minute: 5,
        ..Limits::default()
    };
    let mut world = World::with_limits(Identity::TrustOnFirstUse, &limits);
    let mut node = enroller(&tpm);
    let begin = node.begin().unwrap();
    let mut flood = |last: u8| {
        world.source = source(last);
        let mut answers: Vec<Result<(), RefusalKind>> = Vec::new();
        for _ in 0..6 {
            answers.push(
                world
                    .begin(&begin)
                    .map(drop)
                    .map_err(|refusal| refusal.error),
            );
        }
        answers
    };
    let too_many = Err(RefusalKind::TooManyRequests);
    assert_eq!(
        flood(1),
        [Ok(()), Ok(()), Ok(()), too_many, too_many, too_many]
    );
    assert_eq!(flood(2)[..3], [Ok(()), Ok(()), Ok(())]);
    assert_eq!(flood(3)[0], Err(RefusalKind::Busy), "6 of 6");
    // Those who were first can finish, and the table empties by itself.
    world.now += limits.pending_time + Duration::from_secs(1);
    world.source = source(4);
    assert_eq!(world.enrol(&mut node).unwrap().state, State::Approved);
    // Requests count, whatever they are: also those that are not understood.
    type Call = fn(&Registrar, Source, &[u8], SystemTime) -> Result<Vec<u8>, Refusal>;
    let calls: [(u8, Call); 3] = [
        (5, Registrar::finish),
        (6, Registrar::begin),
        (7, Registrar::volumes),
    ];
    for (number, call) in calls {
        let garbage = || {
            let answer = call(&world.registrar, source(number), b"{", world.now);
            answer.unwrap_err().error
        };
        for _ in 0..5 {
            assert_eq!(garbage(), RefusalKind::Request);
        }
        assert_eq!(garbage(), RefusalKind::TooManyRequests);
    }
}

#[test]
fn what_a_stranger_writes_stays_on_one_line_of_the_log() {
    if !can_run() {
        return;
    }
    let tpm = SoftTpm::start().unwrap();
    let world = World::new(Identity::TrustOnFirstUse);
    let wire = BeginWire {
        product: Some("x\"}\n{\"decision\":\"approved\"".to_owned() + &"y".repeat(5000)),
        agent: "\u{1b}[2J".to_owned(),
        ..enroller(&tpm).begin().unwrap()
    };
    world.begin(&wire).unwrap();
    let audit = world.audit();
    assert_eq!(audit.len(), 1);
    assert_eq!(audit[0]["decision"], "challenged");
    assert!(audit[0]["product"].as_str().unwrap().len() <= 128);
    assert!(!world.audit_text().contains('\u{1b}'));
}

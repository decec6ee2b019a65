// SPDX-License-Identifier: Apache-2.0

//! The attack table of the attestation, on real software TPMs: a genuine key of an approved node, in the hands
//! of somebody who booted something else, came too late, or is not wanted any more. Each test begins with
//! what works, so that what does not work fails for the one reason it is about.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "in a test a panic is the report"
)]

mod common;
mod enrolment;

use common::{Challenged, Lab, object};
use enrolment::{World, by_certificate, can_run, enroller, maker};
use kbs_protocol::encoding::{b64, hex};
use kbs_protocol::enroll::State;
use kbs_protocol::tpm::{Attest, pcr_digest};
use kbs_protocol::{NodeId, Tee};
use serde_json::{Value, json};
use sheepfold_tests::swtpm::SoftTpm;
use trustee_agent::evidence::{Attester as _, DEFAULT_AK_HANDLE, TpmAttester};

/// A machine with a TPM of a known maker, which has booted what is approved.
struct Machine {
    tpm: SoftTpm,
    node: NodeId,
}

impl Machine {
    fn new() -> Self {
        let tpm = SoftTpm::certified(maker()).unwrap();
        let node = attester(&tpm).node_id();
        let machine = Self { tpm, node };
        machine.boot(&APPROVED);
        machine
    }

    fn boot(&self, measurements: &[(u8, [u8; 32])]) {
        for (pcr, digest) in measurements {
            self.tpm.extend(*pcr, digest).unwrap();
        }
    }

    fn ak_public(&self) -> String {
        b64::encode(attester(&self.tpm).ak_spki_der())
    }

    fn root(&self) -> String {
        format!("default/{}/root", self.node)
    }

    /// What the agent sends in this handshake.
    fn evidence(&self, challenged: &Challenged<'_>) -> Value {
        attester(&self.tpm).collect(&challenged.digest()).unwrap()
    }

    /// What somebody with the machine and without our agent can send: another selection, any PCR values beside it.
    fn quote(&self, challenged: &Challenged<'_>, selection: &str, pcrs: &[[u8; 32]]) -> Value {
        let extra_data = hex::encode(challenged.digest().report_data(Tee::Tpm));
        let args = ["quote", "-Q", "-c", "0x81010002", "-g", "sha256", "-q"];
        let rest = ["-l", selection, "-m", "quote.msg", "-s", "quote.sig"];
        self.tpm
            .tool(&[&args[..], &[&extra_data], &rest].concat())
            .unwrap();
        json!({
            "ak_public": self.ak_public(),
            "tpm_quote": {
                "message": b64::encode(self.tpm.read_file("quote.msg").unwrap()),
                "signature": b64::encode(self.tpm.read_file("quote.sig").unwrap()),
                "pcrs": pcrs.iter().map(hex::encode).collect::<Vec<_>>(),
            },
        })
    }

    /// The digest inside the last [`Machine::quote`].
    fn quoted_digest(&self) -> Vec<u8> {
        let message = self.tpm.read_file("quote.msg").unwrap();
        Attest::parse(&message).unwrap().pcr_digest
    }

    fn fetch(&self, lab: &Lab, path: &str) -> Option<Vec<u8>> {
        let challenged = lab.auth();
        let evidence = self.evidence(&challenged);
        challenged.attest(&evidence).unwrap().fetch(path)
    }
}

fn attester(tpm: &SoftTpm) -> TpmAttester {
    TpmAttester::open(&tpm.tcti(), DEFAULT_AK_HANDLE).unwrap()
}

/// The boot of these machines: what is measured into which PCR.
const APPROVED: [(u8, [u8; 32]); 3] = [(4, [4; 32]), (7, [7; 32]), (14, [14; 32])];

/// A KBS that knows this boot, and these machines.
fn provisioned(machines: &[(&str, &Machine)]) -> Lab {
    let lab = Lab::start();
    let pcrs = machines[0].1.tpm.read_pcrs().unwrap();
    let value = |index: usize| hex::encode(pcrs[index]);
    let tuple = json!([{ "pcr04": value(4), "pcr07": value(7), "pcr14": value(14) }]);
    let image = format!("  referenceValues:\n    bootTuples: {tuple}\n");
    lab.write("image.yaml", &object("ApprovedImage", "image", &image));
    for (name, machine) in machines {
        let text = common::machine(name, &machine.ak_public(), "approved");
        lab.write(&format!("{name}.yaml"), &text);
    }
    lab.provision();
    lab
}

#[test]
fn a_node_reads_its_own_secret_and_not_its_neighbours() {
    if !can_run() {
        return;
    }
    let (one, other) = (Machine::new(), Machine::new());
    let lab = provisioned(&[("one", &one), ("other", &other)]);
    for (asks, neighbour) in [(&one, &other), (&other, &one)] {
        assert!(asks.fetch(&lab, &asks.root()).is_some());
        assert_eq!(asks.fetch(&lab, &neighbour.root()), None);
    }
}

/// PCR 16 can be reset, so anybody can bring it to any value that a sequence of extensions reaches: also to the
/// PCR 4 of the approved boot. A quote that takes it in PCR 4's place has the approved digest.
#[test]
fn a_quote_over_other_registers_convinces_nobody() {
    if !can_run() {
        return;
    }
    let mut machine = Machine::new();
    let lab = provisioned(&[("m", &machine)]);
    assert!(machine.fetch(&lab, &machine.root()).is_some());
    let approved = machine.tpm.read_pcrs().unwrap();

    machine.tpm.restart().unwrap();
    machine.boot(&[(4, [0xbd; 32]), APPROVED[1], APPROVED[2]]);
    machine.boot(&[(16, APPROVED[0].1)]);
    let booted = machine.tpm.read_pcrs().unwrap();
    assert_ne!(booted[4], approved[4]);
    assert_eq!(booted[16], approved[4]);
    let mut claimed = booted.clone();
    claimed[4] = booted[16];

    // The tools quote as the agent does: the whole bank is believed, and the boot is not an approved one.
    let challenged = lab.auth();
    let evidence = machine.quote(&challenged, "sha256:all", &booted);
    let session = challenged.attest(&evidence).unwrap();
    assert_eq!(session.fetch(&machine.root()), None);
    assert_eq!(machine.fetch(&lab, &machine.root()), None);

    let refused = |selection: &str, pcrs: &[[u8; 32]], whole: bool, reason: &str| {
        let challenged = lab.auth();
        let evidence = machine.quote(&challenged, selection, pcrs);
        let consistent = machine.quoted_digest() == pcr_digest(pcrs);
        assert_eq!(consistent, whole, "{selection}: what the TPM signed over");
        let cause = challenged.attest(&evidence).err();
        let cause = cause.unwrap_or_else(|| panic!("{selection} is believed"));
        assert!(cause.contains(reason), "{selection}: {cause}");
    };
    let list = |numbers: std::ops::RangeInclusive<u8>| {
        let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
        numbers.join(",")
    };
    let substituted = format!("sha256:{}+sha256:16+sha256:{}", list(0..=3), list(5..=23));
    let form = "expected [0x000b:ffffff]";
    refused(&substituted, &claimed, true, form);
    // Fewer registers, more banks, another bank, none.
    let without_4 = format!("sha256:{}", [list(0..=3), list(5..=23)].join(","));
    let shorter = [&booted[..4], &booted[5..]].concat();
    refused(&without_4, &shorter, true, form);
    refused("sha256:all+sha384:all", &claimed, false, form);
    refused("sha384:all", &claimed, false, form);
    refused("sha256:none", &claimed, false, form);
    // The right registers, and other values told beside them.
    let told = "not the ones that were quoted";
    refused("sha256:all", &claimed, false, told);

    machine.tpm.restart().unwrap();
    machine.boot(&APPROVED);
    assert!(machine.fetch(&lab, &machine.root()).is_some());
}

#[test]
fn a_quote_counts_in_its_own_session_and_for_its_own_key() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    let lab = provisioned(&[("m", &machine)]);
    let first = lab.auth();
    let evidence = machine.evidence(&first);
    let data = first.runtime_data.clone();

    // Whoever saw it pass has a session, and a key, of his own.
    let cause = lab.auth().attest(&evidence).err().unwrap();
    assert!(cause.contains("another session or key"), "{cause}");
    let mut second = lab.auth();
    second.runtime_data = data.clone();
    let cause = second.attest(&evidence).err().unwrap();
    assert!(cause.contains("nonce is not the one"), "{cause}");
    // The right nonce, the right session, and the key of somebody in between.
    let mut between = lab.auth();
    let nonce = between.runtime_data.nonce.clone();
    let honest = machine.evidence(&between);
    between.runtime_data.tee_pubkey = data.tee_pubkey;
    assert_eq!(between.runtime_data.nonce, nonce);
    let cause = between.attest(&honest).err().unwrap();
    assert!(cause.contains("another session or key"), "{cause}");

    assert!(
        first
            .attest(&evidence)
            .unwrap()
            .fetch(&machine.root())
            .is_some()
    );
}

/// A handshake lasts seconds, and an administrator may say no in each of them. The token of a handshake that
/// came through stays valid for minutes, and the resource policy can only read the token: so what a
/// revocation takes away first is the secret itself. Before the token, the key's entry is gone as well.
#[test]
fn a_revocation_holds_at_every_moment_of_a_handshake() {
    if !can_run() {
        return;
    }
    let (machine, neighbour) = (Machine::new(), Machine::new());
    let lab = provisioned(&[("m", &machine), ("neighbour", &neighbour)]);
    let run = |arguments: &[&str]| {
        let output = lab.run(arguments);
        assert!(output.status.success(), "{output:?}");
    };
    for moment in MOMENTS {
        assert!(machine.fetch(&lab, &machine.root()).is_some(), "{moment}");
        let got = handshake(&lab, &machine, moment, || run(&["revoke", "m"]));
        assert_eq!(got, None, "{moment}");
        assert_eq!(machine.fetch(&lab, &machine.root()), None, "{moment}");
        assert!(neighbour.fetch(&lab, &neighbour.root()).is_some());
        run(&["revoke", "m", "--undo"]);
    }
}

/// The same by the registrar: a machine has one attestation key, and an administrator approves another one.
#[test]
fn the_registrars_word_holds_at_every_moment_of_a_handshake() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    let registrar = World::new(by_certificate(maker()));
    let first = registrar.enrol(&mut enroller(&machine.tpm)).unwrap();
    assert_eq!(
        (first.node_id, first.state),
        (machine.node, State::Approved)
    );
    replace_attestation_key(&machine.tpm);
    let second = registrar.enrol(&mut enroller(&machine.tpm)).unwrap();
    assert_eq!(second.state, State::Held);
    // The first key is a function of the TPM's seed: the agent makes it again.
    machine.tpm.tool(&EVICT).unwrap();
    assert_eq!(attester(&machine.tpm).node_id(), machine.node);

    let lab = provisioned(&[("m", &machine)]);
    let record = registrar.registry().all().unwrap().remove(0).ek_sha256;
    let record = registrar.dir.path().join("registry").join(record + ".json");
    let spec = format!("  recordFile: {record:?}\n  state: approved\n");
    lab.write("m.yaml", &object("Machine", "m", &spec));
    let approve = |node: NodeId| {
        assert!(registrar.registry().approve(node).unwrap());
        lab.provision();
    };
    for moment in MOMENTS {
        approve(machine.node);
        assert!(machine.fetch(&lab, &machine.root()).is_some(), "{moment}");
        let got = handshake(&lab, &machine, moment, || approve(second.node_id));
        assert_eq!(got, None, "{moment}");
        assert_eq!(machine.fetch(&lab, &machine.root()), None, "{moment}");
    }
}

const MOMENTS: [&str; 4] = [
    "before the challenge",
    "before the quote",
    "before the attestation",
    "before the request",
];

/// A whole handshake of this machine for its root secret, in which something happens at this moment.
fn handshake(lab: &Lab, machine: &Machine, moment: &str, event: impl Fn()) -> Option<Vec<u8>> {
    let at = |now: &str| {
        if now == moment {
            event();
        }
    };
    at(MOMENTS[0]);
    let challenged = lab.auth();
    at(MOMENTS[1]);
    let evidence = machine.evidence(&challenged);
    at(MOMENTS[2]);
    // Evidence is evidence, also of a machine that nobody knows: its token says so.
    let session = challenged.attest(&evidence).unwrap();
    at(MOMENTS[3]);
    session.fetch(&machine.root())
}

/// Another good key at the agent's handle, from the owner's hierarchy.
fn replace_attestation_key(tpm: &SoftTpm) {
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
    let scheme = "rsa2048:rsassa-sha256:null";
    tpm.tool(&EVICT).unwrap();
    let create = [
        "createprimary",
        "-Q",
        "-C",
        "o",
        "-G",
        scheme,
        "-a",
        attributes,
    ];
    tpm.tool(&[&create[..], &["-c", "k"]].concat()).unwrap();
    tpm.tool(&["evictcontrol", "-Q", "-C", "o", "-c", "k", "0x81010002"])
        .unwrap();
}

const EVICT: [&str; 6] = ["evictcontrol", "-Q", "-C", "o", "-c", "0x81010002"];

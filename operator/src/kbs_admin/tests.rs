// SPDX-License-Identifier: Apache-2.0

//! The client against the laboratory KBS, in all dialects, fit and unfit.

use super::error::Fault;
use super::{Access, AdminClient, Dialect, Error};
use crate::model::SecretId;
use crate::plan::{Observed, Write, plan};
use crate::policy;
use crate::testing::{cluster, node, sample_reference_values};
use kbs_protocol::resource::ResourcePath;
use kbs_protocol::{Blame, Owner, Persistence, Secret};
use lab_kbs::{Acl, Options, Server};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use tempfile::TempDir;

const DIALECTS: [lab_kbs::Dialect; 3] = [
    lab_kbs::Dialect::V0_20,
    lab_kbs::Dialect::V0_21,
    lab_kbs::Dialect::Main,
];

struct Lab {
    dir: TempDir,
    server: Server,
}

fn lab(change: impl FnOnce(&mut Options)) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    lab_kbs::keys::init(dir.path(), &lab_kbs::keys::InitOptions::default()).unwrap();
    let mut options = Options::new(dir.path());
    options.acls = vec![Acl {
        role: super::NAME.to_owned(),
        allowed_endpoints: "^/kbs/v0/.+$".to_owned(),
    }];
    change(&mut options);
    Lab {
        server: Server::start(options).unwrap(),
        dir,
    }
}

impl Lab {
    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(name)).unwrap()
    }

    fn access(&self) -> Access {
        let ca = String::from_utf8(self.file("ca.pem")).unwrap();
        Access::new(self.server.url(), &ca, Secret::new(self.file("admin.key")))
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&self.file("state.json")).unwrap()
    }
}

fn refusal(access: &Access) -> Error {
    AdminClient::connect(access)
        .err()
        .expect("this KBS must be refused")
}

fn fault(error: &Error) -> &Fault {
    match error {
        Error::Unfit { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

fn path() -> ResourcePath {
    "default/node/root".parse().unwrap()
}

#[test]
fn every_write_reaches_every_dialect() {
    for dialect in DIALECTS {
        let lab = lab(|options| options.dialect = dialect);
        let client = AdminClient::connect(&lab.access()).unwrap();
        let expected = match dialect {
            lab_kbs::Dialect::V0_20 => Dialect::V0_20,
            _ => Dialect::V0_21,
        };
        assert_eq!(client.dialect(), expected);
        client.set_resource_policy(policy::DENY_ALL).unwrap();
        client
            .set_attestation_policy(policy::ATTESTATION_ID, policy::ATTESTATION)
            .unwrap();
        client
            .set_resource(&path(), &Secret::new(b"first".to_vec()))
            .unwrap();
        client
            .set_resource(&path(), &Secret::new(b"second".to_vec()))
            .unwrap();
        client
            .set_reference_values([("a", json!({"k": "n"})), ("b", json!([]))])
            .unwrap();
        client.set_resource_policy(policy::RESOURCE).unwrap();

        let state = lab.state();
        assert_eq!(state["resource_policy"], policy::RESOURCE);
        assert_eq!(
            state["attestation_policies"]["default_cpu"],
            policy::ATTESTATION
        );
        assert_eq!(state["resources"]["default/node/root"], "c2Vjb25k");
        assert_eq!(
            client.reference_value("a").unwrap(),
            Some(json!({"k": "n"}))
        );
        assert_eq!(client.reference_value("b").unwrap(), Some(json!([])));
        assert_eq!(client.reference_value("c").unwrap(), None);
    }
}

#[test]
fn a_deleted_secret_is_gone_and_deleting_it_again_is_no_error() {
    for dialect in DIALECTS {
        let lab = lab(|options| options.dialect = dialect);
        let client = AdminClient::connect(&lab.access()).unwrap();
        client
            .set_resource(&path(), &Secret::new(b"secret".to_vec()))
            .unwrap();
        for _ in 0..2 {
            client.delete_resource(&path()).unwrap();
            assert_eq!(lab.state()["resources"], json!({}));
        }
    }
}

#[test]
fn a_storage_that_fails_to_delete_is_not_taken_for_an_empty_one() {
    let lab = lab(|_| {});
    let client = AdminClient::connect(&lab.access()).unwrap();
    client
        .set_resource(&path(), &Secret::new(b"secret".to_vec()))
        .unwrap();
    lab.server
        .faults()
        .set_text("error=admin:plugin-internal")
        .unwrap();
    let error = client.delete_resource(&path()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(
        (error.owner(), error.persistence()),
        (Owner::Server, Persistence::Temporary)
    );
}

#[test]
fn a_kbs_that_believes_forged_tokens_is_refused_with_the_line_to_change() {
    for (dialect, key) in [
        (lab_kbs::Dialect::V0_20, "insecure_key"),
        (lab_kbs::Dialect::V0_21, "insecure_header_jwk"),
        (lab_kbs::Dialect::Main, "insecure_header_jwk"),
    ] {
        // Whatever its policies say: the stock ones get as far as the storage, ours deny.
        for policies in [lab_kbs::PolicySet::Stock, lab_kbs::PolicySet::Strict] {
            let lab = lab(|options| {
                options.dialect = dialect;
                options.policies = policies;
                options.insecure_header_jwk = true;
            });
            let mut access = lab.access();
            let error = refusal(&access);
            assert_eq!(*fault(&error), Fault::ForgedTokens);
            assert!(
                error.advice().contains(&format!("{key} = true")),
                "{}",
                error.advice()
            );
            assert!(
                error.advice().contains("trusted_certs_paths"),
                "{}",
                error.advice()
            );
            access.accept_forged_tokens = true;
            assert!(AdminClient::connect(&access).is_ok(), "only by its name");
        }
    }
}

#[test]
fn an_unclear_answer_to_the_forged_token_is_a_refusal() {
    for answer in [
        "error=resource:token-not-found",
        "status=resource:502",
        "error=resource:plugin-not-found",
    ] {
        let lab = lab(|options| options.faults = vec![answer.to_owned()]);
        let error = refusal(&lab.access());
        assert!(
            matches!(fault(&error), Fault::Unclear { .. }),
            "{answer}: {error}"
        );
    }
    for answer in ["policy-deny", "policy-engine", "plugin-internal", "jwe"] {
        let lab = lab(|options| options.faults = vec![format!("error=resource:{answer}")]);
        assert_eq!(
            *fault(&refusal(&lab.access())),
            Fault::ForgedTokens,
            "{answer}"
        );
    }
}

#[test]
fn a_kbs_that_keeps_old_values_is_refused() {
    let lab = lab(|options| {
        options.dialect = lab_kbs::Dialect::V0_20;
        options.faults = vec!["never-overwrite".to_owned()];
    });
    let error = refusal(&lab.access());
    assert_eq!(*fault(&error), Fault::KeepsOldValues);
    assert!(error.advice().contains("LocalFs"), "{}", error.advice());
}

#[test]
fn whoever_is_no_administrator_learns_what_to_change() {
    for (dialect, line) in [
        (lab_kbs::Dialect::V0_20, "[[admin.personas]]"),
        (lab_kbs::Dialect::V0_21, "identity_providers"),
    ] {
        let lab = lab(|options| options.dialect = dialect);
        let other = tempfile::tempdir().unwrap();
        lab_kbs::keys::init(other.path(), &lab_kbs::keys::InitOptions::default()).unwrap();
        let mut access = lab.access();
        access.key_pem = Secret::new(std::fs::read(other.path().join("admin.key")).unwrap());
        let error = refusal(&access);
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert!(error.advice().contains(line), "{}", error.advice());
        assert_eq!(
            (error.owner(), error.persistence()),
            (Owner::Configuration, Persistence::UntilApproved)
        );
    }
    // A role that the access list does not know.
    let lab = lab(|options| options.dialect = lab_kbs::Dialect::V0_21);
    let mut access = lab.access();
    access.role = "stranger".to_owned();
    assert!(refusal(&access).to_string().contains("stranger"));
}

#[test]
fn tls_and_addresses() {
    let lab = lab(|_| {});
    let mut access = lab.access();
    access.url = access.url.replace("https", "http");
    assert!(
        matches!(refusal(&access), Error::Configuration(_)),
        "plain HTTP has to be asked for"
    );
    access.insecure_http = true;
    assert!(matches!(
        refusal(&access),
        Error::Unreachable { .. } | Error::Unknown { .. }
    ));
    for bad in ["", "127.0.0.1:1", "ftp://x", "file:///etc/passwd"] {
        access.url = bad.to_owned();
        assert!(matches!(refusal(&access), Error::Configuration(_)), "{bad}");
    }
    let mut access = lab.access();
    access.ca_pem = String::new();
    assert!(
        matches!(refusal(&access), Error::Configuration(_)),
        "no authority, no trust"
    );
    access.ca_pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    assert!(matches!(refusal(&access), Error::Configuration(_)));
    // The authority of another laboratory.
    let other = lab_ca();
    access.ca_pem = other;
    let error = refusal(&access);
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

fn lab_ca() -> String {
    let dir = tempfile::tempdir().unwrap();
    lab_kbs::keys::init(dir.path(), &lab_kbs::keys::InitOptions::default()).unwrap();
    std::fs::read_to_string(dir.path().join("ca.pem")).unwrap()
}

#[test]
fn invalid_policies_are_not_sent() {
    let lab = lab(|_| {});
    let client = AdminClient::connect(&lab.access()).unwrap();
    let before = lab.state();
    assert!(matches!(
        client.set_resource_policy("package policy\nallow := true"),
        Err(Error::Policy(_))
    ));
    let careless = "package policy\ntrust_claims := {\"hardware\": 2}";
    assert!(matches!(
        client.set_attestation_policy("default_cpu", careless),
        Err(Error::Policy(_))
    ));
    assert_eq!(lab.state(), before);
}

/// A server that gives the same answer to every request, over plain HTTP.
fn says(answer: &'static str) -> Access {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let lab = tempfile::tempdir().unwrap();
    lab_kbs::keys::init(lab.path(), &lab_kbs::keys::InitOptions::default()).unwrap();
    let key = Secret::new(std::fs::read(lab.path().join("admin.key")).unwrap());
    let mut access = Access::new(&url, "", key);
    access.insecure_http = true;
    access
}

#[test]
fn a_kbs_that_everybody_may_administrate_is_refused() {
    let access = says(
        "HTTP/1.1 200 OK\r\ncontent-length: 19\r\nconnection: close\r\n\r\n[\"resource-policy\"]",
    );
    let error = refusal(&access);
    assert_eq!(*fault(&error), Fault::OpenAdministration);
    assert!(error.advice().contains("Simple") && error.advice().contains("authorization_mode"));
}

#[test]
fn what_is_no_kbs_is_not_managed() {
    for answer in [
        "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\nconnection: close\r\n\r\n\u{1b}[2J",
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    ] {
        let error = refusal(&says(answer));
        assert!(matches!(error, Error::Unknown { .. }), "{error}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    let broken = says("HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\n[");
    assert!(matches!(refusal(&broken), Error::Unreachable { .. }));
}

/// What the planner, the client and a server make of a cluster, end to end and in pieces: the server holds
/// what is wanted, whichever writes were interrupted on the way.
#[test]
fn plans_arrive() {
    for dialect in DIALECTS {
        let lab = lab(|options| options.dialect = dialect);
        let client = AdminClient::connect(&lab.access()).unwrap();
        let mut observed = Observed::default();
        let secret = |id: &SecretId| Some(Secret::new(id.0.clone().into_bytes()));
        for machines in [5, 3, 8] {
            let desired = cluster(machines);
            // One write, then the process is killed before it hears of it.
            if let Some(write) = plan(&desired, &observed).writes.first() {
                observed.begin(write);
                client.carry_out(write, secret).unwrap();
            }
            for write in plan(&desired, &observed).writes {
                observed.begin(&write);
                client.carry_out(&write, secret).unwrap();
                observed.finish(&write);
            }
            let state = lab.state();
            for (name, value) in sample_reference_values(machines) {
                assert_eq!(state["reference_values"][&name], value, "{name}");
            }
            let resources = state["resources"].as_object().unwrap();
            let paths: Vec<_> = (0..machines)
                .map(|n| format!("default/{}/root", node(n)))
                .collect();
            assert_eq!(resources.len(), paths.len());
            assert!(paths.iter().all(|path| resources.contains_key(path)));
            assert_eq!(state["resource_policy"], policy::RESOURCE);
        }
        let write = Write::Resource {
            path: path(),
            secret: SecretId("lost".to_owned()),
        };
        let error = client.carry_out(&write, |_| None).unwrap_err();
        assert!(matches!(error, Error::NoSuchSecret(_)), "{error}");
    }
}
